"""The public fake is a model like any other, and the checks of models find those that are not."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from trsr.errors import ConfigError, ModelError, PromptError
from trsr.models import ModelSettings, open_model
from trsr.models.base import Feed, Sampling
from trsr.models.scripted import ScriptedModel
from trsr.prompts import PromptSettings, PromptWriter
from trsr.testing import check_language_model, check_scoring_model
from trsr.types import Interaction, Item, Message, Prompt, Query, UserHistory

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
