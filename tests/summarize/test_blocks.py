"""Blocks cover a history from its beginning, and earlier ones never depend on later items."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from trsr.summarize.scheduler import cut_blocks
from trsr.summarize.settings import SummarizeSettings
from trsr.types import Block, Interaction, Item, UserHistory

sizes = st.lists(st.integers(1, 30), max_size=30)


def history(lengths: list[int]) -> UserHistory:
    items = [Item(str(n), (("size", str(size)),)) for n, size in enumerate(lengths)]
    return UserHistory("u", tuple(Interaction(item, 0.0) for item in items))


def cut(lengths: list[int], **settings: object) -> list[Block]:
    return list(cut_blocks(history(lengths), SummarizeSettings(**settings)))


@given(sizes, st.integers(1, 7), st.booleans())
def test_blocks_cover_the_beginning_of_a_history_without_a_gap(
    lengths: list[int], items: int, last: bool
) -> None:
    blocks = cut(lengths, block_items=items, last_block=last)
    at = 0
    for block in blocks:
        assert block.start == at
        assert block.interactions
        at = block.end
    read = [item for block in blocks for item in block.items]
    assert read == list(history(lengths).items[: len(read)])
    if last:
        assert len(read) == len(lengths)
    for block in blocks:
        assert len(block.items) == items or (last and block is blocks[-1])


@given(sizes, sizes, st.integers(1, 7))
def test_the_full_blocks_of_a_history_are_those_of_any_longer_one(
    lengths: list[int], more: list[int], items: int
) -> None:
    settings = {"block_items": items, "last_block": False}
    short, long = cut(lengths, **settings), cut(lengths + more, **settings)
    assert long[: len(short)] == short


def test_a_history_shorter_than_one_full_block_has_none() -> None:
    assert cut([1, 1], block_items=3, last_block=False) == []
    assert len(cut([1, 1], block_items=3)) == 1
    assert cut([], block_items=3) == []
