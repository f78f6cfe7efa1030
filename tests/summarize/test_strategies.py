"""Strategies decide what is asked; they are driven here by hand, without any model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trsr.errors import ConfigError, ModelError, PromptError
from trsr.models import ModelSettings, open_model
from trsr.models.base import Feed, Sampling
from trsr.models.scripted import ScriptedModel
from trsr.prompts import PromptSettings, PromptWriter
from trsr.summarize import STRATEGIES, Hierarchical, KeywordSummary, NoSummary, Recurrent
from trsr.summarize.scheduler import cut_blocks
from trsr.summarize.settings import SummarizeSettings
from trsr.summarize.strategies import Flow, Options, Writer
from trsr.testing import (
    PlainWriter,
    check_language_model,
    check_scoring_model,
    check_strategy,
    drive,
)
from trsr.types import Block, Interaction, Item, Message, Prompt, Query, UserHistory


@dataclass(frozen=True)
class FanIn:
    fan_in: int


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
    flow = KeywordSummary(PlainWriter(), FanIn(2)).flow(blocks(4))
    assert drive(flow, lambda p: "x") == ("i0 i1 i2 i3", [])


@pytest.mark.parametrize("name", ["hierarchical", "recurrent", "keywords", "soft", "none"])
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


# --- Blocks cover a history from its beginning, and earlier ones never depend on later items


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


# --- The public fake is a model like any other, and the checks of models find those that are no


SETTINGS = ModelSettings(backend="scripted")


def ask(text: str) -> Prompt:
    return Prompt((Message("user", text),))


@pytest.mark.parametrize("in_flight", [1, 3, 16])
@pytest.mark.parametrize("shuffle", [None, 1])
def test_the_scripted_model_keeps_the_contract(in_flight: int, shuffle: int | None) -> None:
    model = ScriptedModel(in_flight=in_flight, shuffle=shuffle)
    check_language_model(model)
    check_scoring_model(model)


def test_it_says_what_a_function_or_a_table_says() -> None:
    table = ScriptedModel({"tea": " hot leaves.", "": " nothing."})
    assert list(table.generate([ask("tea?"), ask("?")], Sampling())) == [
        (0, " hot leaves."),
        (1, " nothing."),
    ]
    with pytest.raises(ModelError, match="no answer"):
        list(ScriptedModel({"tea": "x"}).generate([ask("?")], Sampling()))
    assert list(table.generate([ask("tea")], Sampling(max_tokens=2))) == [(0, " hot")]


def test_scores_are_log_probabilities_of_what_the_function_says() -> None:
    model = ScriptedModel(scores=lambda prompt, answer: 2.0 if answer == "Yes" else 0.0)
    scores = model.score([ask("?")], ("Yes", "No", "Maybe"))
    assert np.exp(scores).sum() == pytest.approx(1)
    assert scores[0, 0] - scores[0, 1] == pytest.approx(2)


def test_as_a_backend_it_prefers_candidates_that_share_words_with_recent_items() -> None:
    model = open_model(SETTINGS)
    titles = ("Blue Steel Rivets", "Garden Hose Reel", "Steel Rivets Red")
    first, *candidates = (Item(str(n), (("title", name),)) for n, name in enumerate(titles))
    past = UserHistory("u", (Interaction(first, 0.0),))
    writer = PromptWriter(
        PromptSettings(domain="products"), model.count_tokens, model.context_tokens
    )
    prompts = writer.rank(Query("q", past, tuple(candidates)))
    scores = model.score(prompts, writer.answers)
    assert scores[1, 0] - scores[1, 1] > scores[0, 0] - scores[0, 1]
    assert model.identity == open_model(SETTINGS).identity


def test_as_a_backend_it_summarizes_different_items_differently() -> None:
    model = open_model(SETTINGS)
    writer = PromptWriter(
        PromptSettings(style="worked"), model.count_tokens, model.context_tokens, 96
    )
    prompts = [writer.write([Item("1", (("title", name),))]) for name in ("Tea", "Milk jug")]
    texts = [writer.finish(prompts[n], text) for n, text in model.generate(prompts, Sampling())]
    assert texts == ["The user likes Tea.", "The user likes Milk jug."]


def test_it_refuses_what_a_model_would() -> None:
    model = ScriptedModel(context_tokens=20)
    with pytest.raises(PromptError, match="exceeds"):
        list(model.generate([ask("word " * 30)], Sampling()))
    with pytest.raises(PromptError, match="exceeds"):
        model.score([ask("word " * 16)], ("Yes", "No"))
    with pytest.raises(ConfigError, match="adapter"):
        open_model(SETTINGS, adapter=Path("a"))


class Wrong(ScriptedModel):
    """A model with one fault."""

    fault = ""

    def count_tokens(self, prompt: Prompt) -> int:
        return 1 if self.fault == "counts" else super().count_tokens(prompt)

    def generate(self, prompts: Feed, sampling: Sampling) -> Iterator[tuple[int, str]]:
        if self.fault == "eager":
            prompts = [prompt for prompt in prompts if prompt is not None]
        for index, text in super().generate(prompts, sampling):
            if self.fault == "lost" and index == 3:
                continue
            yield index, f"{text} {index}" if self.fault == "company" else text
            if self.fault == "twice":
                yield index, text

    def score(self, prompts: Sequence[Prompt], answers: Sequence[str]) -> np.ndarray:
        if self.fault == "same answers" and len(set(answers)) < len(answers):
            return np.zeros((len(prompts), len(answers))) - 1
        scores = super().score(prompts, answers)
        if self.fault == "logits":
            return scores + 3
        if self.fault == "padding":
            return scores - len(prompts) * 0.01
        return scores.astype(np.float32) if self.fault == "float32" else scores


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("counts", "count tokens"),
        ("eager", "without finishing"),
        ("lost", "once|unfinished|without"),
        ("company", "company"),
        ("twice", "once"),
    ],
)
def test_the_check_finds_a_language_model_with(fault: str, words: str) -> None:
    model = Wrong()
    model.fault = fault
    with pytest.raises(AssertionError, match=words):
        check_language_model(model)


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("same answers", "told apart"),
        ("logits", "above zero"),
        ("padding", "company"),
        ("float32", "float32"),
    ],
)
def test_the_check_finds_a_scoring_model_with(fault: str, words: str) -> None:
    model = Wrong()
    model.fault = fault
    with pytest.raises(AssertionError, match=words):
        check_scoring_model(model)
