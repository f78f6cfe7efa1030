"""Several texts for each prompt: which is kept, what follows from it, and what is written down."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_scheduler import Noted, keyed, run

from trsr.models.base import Sampling
from trsr.models.scripted import ScriptedModel
from trsr.storage.response_cache import response_key
from trsr.summarize.strategies import agreement, most_agreed
from trsr.types import Message, Prompt

DRAWN = Sampling(max_tokens=10**6, temperature=0.7)
KIND = {"generate": DRAWN.model_dump()}


def prompt_of(*said: str, begun: str = "") -> Prompt:
    turns = [Message("user", one) for one in said]
    return Prompt((*turns, *([Message("assistant", begun)] if begun else [])))


def one_slip(prompt: Prompt) -> str:
    """The second and third texts say the same in other words; the first is a slip."""
    return (
        "Submarines, gravel.",
        "Comedies and dramas about school.",
        "Dramas, comedies about schools.",
    )[prompt.draw]


@pytest.mark.parametrize("strategy", ["hierarchical", "recurrent"])
def test_the_text_that_agrees_with_the_others_is_kept_and_goes_on(strategy):
    model = Noted(one_slip, in_flight=2, shuffle=3)
    (summary,) = run(keyed([6]), model, strategy=strategy, samples=3, sampling=DRAWN).values()
    assert summary.text == "Comedies and dramas about school."
    # Each prompt was asked three times, and later ones tell the kept text alone.
    plain = [Prompt(prompt.messages) for prompt in model.prompts]
    assert all(plain.count(one) % 3 == 0 for one in plain)
    later = [one for one in plain if "school" in one.messages[-1].content]
    assert later
    assert not any("Submarines" in message.content for one in plain for message in one.messages)
    # The summary's sources are the kept draws: one of three.
    keys = {response_key(model.identity, one, KIND): one.draw for one in model.prompts}
    assert [keys[source] for source in summary.sources] == [1] * (len(plain) // 3)


def test_an_empty_text_is_kept_only_where_all_are():
    texts = ["", "", "Gravel."]
    (summary,) = run(
        keyed([2]), ScriptedModel(lambda prompt: texts[prompt.draw], context_tokens=10**6),
        strategy="recurrent", samples=3, sampling=DRAWN,
    ).values()  # fmt: skip
    assert summary.text == "Gravel."
    (summary,) = run(
        keyed([2]), ScriptedModel(lambda prompt: "", context_tokens=10**6),
        strategy="recurrent", samples=3, sampling=DRAWN,
    ).values()  # fmt: skip
    assert (summary.text, summary.covers) == ("", 0)


words = st.lists(st.sampled_from(["comedy", "drama", "school", "war", "love"]), max_size=6)


@given(st.lists(words, min_size=1, max_size=6))
def test_what_is_kept_is_best_by_the_measure_and_the_first_of_equals(drawn):
    texts = [" ".join(one) for one in drawn]
    best = most_agreed(texts)

    def value(text: str) -> tuple[bool, float]:
        return bool(text), agreement(text, texts)

    assert value(texts[best]) == max(map(value, texts))
    assert all(value(text) < value(texts[best]) for text in texts[:best])
    assert all(0 <= agreement(text, texts) <= 1 for text in texts)


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 20), st.integers(0, 10**6), st.sampled_from(["hierarchical", "recurrent"]))
def test_order_and_batch_size_change_nothing(in_flight, seed, strategy):
    def reply(prompt: Prompt) -> str:
        return f"[{prompt.messages[-1].content[-30:]} {'ab'[prompt.draw % 2]}]"

    def summaries(**options: Any) -> Any:
        model = ScriptedModel(reply, context_tokens=10**6, **options)
        return run(keyed([7, 3, 0, 5]), model, strategy=strategy, samples=3, sampling=DRAWN)

    assert summaries(in_flight=in_flight, shuffle=seed) == summaries(in_flight=1)


def test_a_draw_has_a_key_and_random_numbers_of_its_own_and_the_first_those_of_before():
    first, second = Prompt((Message("user", "hi"),)), Prompt((Message("user", "hi"),), 1)
    assert response_key("m", first, KIND) != response_key("m", second, KIND)
    before = '{"kind":{},"model":"m","prompt":[["user","hi"]]}'
    assert response_key("m", first, {}) == hashlib.sha256(before.encode()).hexdigest()
    assert first.seed_parts == ("user", "hi")
    assert second.seed_parts != first.seed_parts
