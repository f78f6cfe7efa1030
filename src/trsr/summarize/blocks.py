"""Cuts a history into the blocks that are summarized, by items or by tokens of item text."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache

from trsr.summarize.settings import SummarizeSettings
from trsr.types import Block, Item, Message, Prompt, UserHistory

_CACHED_ITEMS = 1 << 16  # popular items come again and again


def item_measure(
    item_text: Callable[[Item], str], count_tokens: Callable[[Prompt], int]
) -> Callable[[Item], int]:
    """The tokens of an item's text, without those of the chat around it."""

    def tokens(text: str) -> int:
        return count_tokens(Prompt((Message("user", text),)))

    @lru_cache(_CACHED_ITEMS)
    def measure(item: Item) -> int:
        return max(1, tokens(item_text(item)) - around)

    around = tokens("")
    return measure


def cut_blocks(
    history: UserHistory, settings: SummarizeSettings, measure: Callable[[Item], int]
) -> Sequence[Block]:
    """The blocks to summarize, oldest first, from the first interaction on without a gap.

    A block by tokens ends before the item that would take it over `block_tokens`; a larger item is
    a block of its own. Earlier blocks never depend on later interactions. With
    `last_block = false` a block that a later interaction could still join is left out.
    """
    if not settings.block_tokens:
        blocks = history.blocks(settings.block_items)
        closed = [block for block in blocks if len(block.interactions) == settings.block_items]
        return blocks if settings.last_block else closed
    starts, room = [0], settings.block_tokens
    for position, item in enumerate(history.items):
        tokens = measure(item)
        if tokens > room and position > starts[-1]:
            starts.append(position)
            room = settings.block_tokens
        room -= tokens
    ends = [*starts[1:], len(history)]
    spans = [(start, end) for start, end in zip(starts, ends, strict=True) if end > start]
    cut = [Block(history.interactions[start:end], start) for start, end in spans]
    return cut if settings.last_block else cut[:-1]
