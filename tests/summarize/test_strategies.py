"""Strategies decide what is asked; they are driven here by hand, without any model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pytest

from trsr.summarize import STRATEGIES, Hierarchical, KeywordSummary, NoSummary, Recurrent
from trsr.summarize.settings import SummarizeSettings
from trsr.summarize.strategies import Flow, Options, Writer
from trsr.testing import PlainWriter, check_strategy, drive
from trsr.types import Block, Interaction, Item, Prompt


@dataclass(frozen=True)
class FanIn:
    fan_in: int
    keywords: int = 16


def blocks(count: int) -> list[Block]:
    return [Block((Interaction(Item(f"i{n}"), float(n)),), n) for n in range(count)]


def said(prompts: Sequence[Prompt]) -> list[str]:
    return [prompt.messages[-1].content for prompt in prompts]


def test_recurrent_revises_its_summary_with_each_block() -> None:
    flow = Recurrent(PlainWriter(), FanIn(2)).flow(blocks(3))
    assert said(next(flow)) == ["write i0"]
    assert said(flow.send(["A"])) == ["revise [A] i1"]
    assert said(flow.send(["B"])) == ["revise [B] i2"]
    with pytest.raises(StopIteration) as end:
        flow.send(["C"])
    assert end.value.value == "C"


def test_hierarchical_writes_all_blocks_at_once_and_merges_level_by_level() -> None:
    flow = Hierarchical(PlainWriter(), FanIn(2)).flow(blocks(5))
    assert said(next(flow)) == [f"write i{n}" for n in range(5)]
    assert said(flow.send(list("ABCDE"))) == ["merge [A] [B]", "merge [C] [D]"]
    assert said(flow.send(["AB", "CD"])) == ["merge [AB] [CD]"]
    assert said(flow.send(["ABCD"])) == ["merge [ABCD] [E]"]
    with pytest.raises(StopIteration) as end:
        flow.send(["all"])
    assert end.value.value == "all"


def test_a_fan_in_of_all_blocks_is_one_merge_of_all() -> None:
    _, rounds = drive(Hierarchical(PlainWriter(), FanIn(5)).flow(blocks(5)), lambda p: "x")
    assert [len(prompts) for prompts in rounds] == [5, 1]


def test_one_block_is_its_own_summary_without_a_merge() -> None:
    assert drive(Hierarchical(PlainWriter(), FanIn(5)).flow(blocks(1)), lambda p: "x") == (
        "x",
        [[PlainWriter().write([Item("i0")])]],
    )


def test_a_longer_history_asks_the_same_of_its_beginning() -> None:
    def asked(make: type[Hierarchical] | type[Recurrent], count: int) -> set[Prompt]:
        flow = make(PlainWriter(), FanIn(3)).flow(blocks(count))
        return {one for round_ in drive(flow, lambda p: said([p])[0])[1] for one in round_}

    assert asked(Recurrent, 6) < asked(Recurrent, 7)
    assert asked(Hierarchical, 3) < asked(Hierarchical, 4)
    assert len(asked(Hierarchical, 10) - asked(Hierarchical, 9)) <= 3


def test_what_the_model_did_not_write_costs_only_its_own_part() -> None:
    silent = {"write i1", "revise [i2] i1", "merge [write i0] [write i2]"}

    def answer(prompt: Prompt) -> str:
        words = said([prompt])[0]
        return "" if words in silent else words

    text, rounds = drive(Hierarchical(PlainWriter(), FanIn(2)).flow(blocks(3)), answer)
    assert said(rounds[-1]) == ["merge [write i0] [write i2]"]
    assert text == "write i2"
    text, rounds = drive(
        Recurrent(PlainWriter(), FanIn(2)).flow(blocks(3)),
        lambda p: "" if said([p])[0].endswith("i1") else "S",
    )
    assert said(rounds[-1]) == ["revise [S] i2"]
    assert text == "S"


def test_no_summary_asks_nothing() -> None:
    assert drive(NoSummary(PlainWriter(), FanIn(2)).flow(blocks(3)), lambda p: "x") == ("", [])


def test_keywords_are_of_all_blocks_without_a_prompt() -> None:
    flow = KeywordSummary(PlainWriter(), FanIn(2, keywords=4)).flow(blocks(6))
    assert drive(flow, lambda p: "x") == ("i0 i1 i2 i3", [])


@pytest.mark.parametrize("name", ["hierarchical", "recurrent", "keywords", "none"])
def test_the_strategies_of_the_table_are_strategies(name: str) -> None:
    asks = SummarizeSettings(strategy=name).uses_llm
    assert asks == (name in ("hierarchical", "recurrent"))
    check_strategy(STRATEGIES.load(name), reads=name != "none", asks=asks)
    if asks:
        with pytest.raises(AssertionError, match="it uses a model though"):
            check_strategy(STRATEGIES.load(name), asks=False)


class Forgetful:
    """Leaves the first of many blocks out."""

    def __init__(self, writer: Writer, options: Options) -> None:
        self.inner = Hierarchical(writer, options)

    def flow(self, blocks: Sequence[Block]) -> Flow:
        return self.inner.flow(blocks[1:] if len(blocks) > 6 else blocks)


class Endless(Forgetful):
    def flow(self, blocks: Sequence[Block]) -> Flow:
        while True:
            yield [PlainWriter().write(blocks[0].items)]


@pytest.mark.parametrize(
    ("strategy", "words"), [(Forgetful, "has not read <0>"), (Endless, "has not ended")]
)
def test_the_check_finds_a_strategy_that_forgets_or_never_ends(
    strategy: type[Forgetful], words: str
) -> None:
    with pytest.raises(AssertionError, match=words):
        check_strategy(strategy)
