"""Cuts a history into the blocks that are summarized."""

from __future__ import annotations

from collections.abc import Sequence

from trsr.summarize.settings import SummarizeSettings
from trsr.types import Block, UserHistory


def cut_blocks(history: UserHistory, settings: SummarizeSettings) -> Sequence[Block]:
    """The blocks to summarize, oldest first, from the first interaction on without a gap.

    Earlier blocks never depend on later interactions. With `last_block = false` a block that a
    later interaction could still join is left out.
    """
    blocks = history.blocks(settings.block_items)
    full = [block for block in blocks if len(block.interactions) == settings.block_items]
    return blocks if settings.last_block else full
