"""The stored model: never asks twice, answers what it knows at once, keeps what it was told."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from chains import answered_in_turn
from hypothesis import given
from hypothesis import strategies as st

from trsr.errors import ModelError, StoreError
from trsr.models.base import Feed, Sampling, ScoringModel
from trsr.models.cached import cached
from trsr.storage.response_cache import ResponseCache, response_key
from trsr.types import Message, Prompt


def prompt(text: str) -> Prompt:
    return Prompt((Message("user", text),))


class Writer:
    """A text model that works as backends do: fills a batch, then yields what is finished."""

    identity = "writer"
    context_tokens = 100

    def __init__(self, batch: int = 3, fails_at: int = -1) -> None:
        self.batch = batch
        self.fails_at = fails_at
        self.asked: list[str] = []
        self.batches: list[int] = []

    def count_tokens(self, prompt: Prompt) -> int:
        return len(prompt.messages[0].content)

    def generate(self, prompts: Feed, sampling: Sampling) -> Iterator[tuple[int, str]]:
        position = 0
        ended = False
        source = iter(prompts)
        while not ended:
            batch: list[tuple[int, str]] = []
            while len(batch) < self.batch:
                try:
                    one = next(source)
                except StopIteration:
                    ended = True
                    break
                if one is None:
                    assert batch, "None, though nothing is being made"
                    break
                batch.append((position, one.messages[0].content))
                position += 1
            if batch:
                self.batches.append(len(batch))
            for index, text in reversed(batch):
                if len(self.asked) == self.fails_at:
                    raise ModelError("the endpoint is gone")
                self.asked.append(text)
                yield index, text.upper()


class Scorer(Writer):
    calls = 0

    def score(self, prompts: Sequence[Prompt], answers: Sequence[str]) -> npt.NDArray[np.float64]:
        self.calls += 1
        self.asked += [one.messages[0].content for one in prompts]
        return np.array(
            [[-len(one.messages[0].content) - len(word) / 7 for word in answers] for one in prompts]
        ).reshape(len(prompts), len(answers))


@pytest.fixture
def store(tmp_path: Path) -> Iterator[ResponseCache]:
    with ResponseCache(tmp_path / "responses.sqlite") as opened:
        yield opened


def texts(words: Sequence[str]) -> list[Prompt]:
    return [prompt(word) for word in words]


def test_each_prompt_is_answered_once_and_asked_at_most_once(store: ResponseCache) -> None:
    words = ["a", "b", "a", "c", "d", "b", "e"]
    inner = Writer()
    model = cached(inner, store)
    answers = dict(model.generate(texts(words), Sampling()))
    assert answers == {i: word.upper() for i, word in enumerate(words)}
    assert sorted(inner.asked) == ["a", "b", "c", "d", "e"]
    assert (model.counts.hits, model.counts.asked) == (2, 5)
    again = cached(Writer(), store)
    assert dict(again.generate(texts(words), Sampling())) == answers
    assert (again.counts.hits, again.counts.asked) == (7, 0)


@given(
    words=st.lists(st.sampled_from("abcdefgh"), max_size=60),
    known=st.sets(st.sampled_from("abcdefgh")),
    batch=st.integers(1, 5),
)
def test_any_mix_of_known_and_new_is_answered_exactly_once(
    words: list[str], known: set[str], batch: int
) -> None:
    with ResponseCache(Path(":memory:")) as store:
        list(cached(Writer(), store).generate(texts(sorted(known)), Sampling()))
        inner = Writer(batch)
        got = list(cached(inner, store).generate(texts(words), Sampling()))
        assert sorted(got) == [(i, word.upper()) for i, word in enumerate(words)]
        assert sorted(inner.asked) == sorted(set(words) - known)


def test_stored_answers_come_before_the_model_is_asked_and_batches_stay_full(
    store: ResponseCache,
) -> None:
    words = [f"w{n}" for n in range(30)]
    known = words[1::2]
    list(cached(Writer(), store).generate(texts(known), Sampling()))
    inner = Writer(batch=5)
    order = [words[i] for i, _ in cached(inner, store).generate(texts(words), Sampling())]
    assert order[: len(known)] == known
    assert inner.batches == [5, 5, 5]


def test_the_feed_is_read_lazily(store: ResponseCache) -> None:
    taken = 0

    def endless() -> Iterator[Prompt]:
        nonlocal taken
        while True:
            taken += 1
            yield prompt(str(taken))

    answers = cached(Writer(), store).generate(endless(), Sampling())
    for _ in range(10):
        next(answers)
    assert taken < 200


def test_chains_of_prompts_run_through_the_pull_feed(store: ResponseCache) -> None:
    users, steps = [f"{user}:" for user in range(7)], 5

    def drive(batch: int) -> tuple[list[str], int]:
        inner = Writer(batch)
        return answered_in_turn(cached(inner, store), users, prompt, steps), len(inner.asked)

    first, asked = drive(3)
    assert asked == len(users) * steps
    # A stored run and a run that is stored in part give the same.
    assert drive(2) == (first, 0)
    rows = store._connection.execute("SELECT key FROM outputs").fetchall()
    for (key,) in rows[::3]:
        store._connection.execute("DELETE FROM outputs WHERE key=?", (key,))
    assert drive(4) == (first, len(rows[::3]))


def test_a_failing_model_keeps_what_was_answered(store: ResponseCache) -> None:
    words = list("abcdefgh")
    with pytest.raises(ModelError):
        list(cached(Writer(fails_at=5), store).generate(texts(words), Sampling()))
    assert len(store) == 5
    inner = Writer()
    assert len(list(cached(inner, store).generate(texts(words), Sampling()))) == 8
    assert len(inner.asked) == 3


def test_an_answer_is_stored_before_it_is_yielded(store: ResponseCache) -> None:
    for done, _ in enumerate(cached(Writer(), store).generate(texts("abc"), Sampling()), 1):
        assert len(store) == done


def test_sampling_and_identity_are_part_of_the_key(store: ResponseCache) -> None:
    inner = Writer()
    list(cached(inner, store).generate(texts("a"), Sampling()))
    list(cached(inner, store).generate(texts("a"), Sampling(max_tokens=5)))
    inner.identity = "another"
    list(cached(inner, store).generate(texts("a"), Sampling()))
    assert inner.asked == ["a", "a", "a"]
    key = response_key("writer", prompt("a"), {"generate": Sampling().model_dump()})
    assert store.get([key]) == {key: "A"}


def test_only_a_scoring_model_is_wrapped_into_one(store: ResponseCache) -> None:
    assert isinstance(cached(Scorer(), store), ScoringModel)
    assert not isinstance(cached(Writer(), store), ScoringModel)


def test_scores_are_asked_once_in_one_call_and_come_back_exactly(store: ResponseCache) -> None:
    inner = Scorer()
    model = cached(inner, store)
    assert isinstance(model, ScoringModel)
    first = model.score(texts(["a", "bbb", "a"]), ["Yes", "No"])
    assert (inner.calls, inner.asked) == (1, ["a", "bbb"])
    both = model.score(texts(["cc", "bbb", "dddd"]), ["Yes", "No"])
    assert (inner.calls, inner.asked) == (2, ["a", "bbb", "cc", "dddd"])
    expected = Scorer().score(texts(["cc", "bbb", "dddd"]), ["Yes", "No"])
    np.testing.assert_array_equal(both, expected)
    np.testing.assert_array_equal(first[1], both[1])
    assert first.dtype == np.float64
    model.score(texts(["a"]), ["No", "Yes"])
    assert inner.calls == 3
    assert model.score([], ["Yes", "No"]).shape == (0, 2)


def test_a_value_of_the_wrong_kind_is_refused(store: ResponseCache) -> None:
    key = response_key("writer", prompt("a"), {"generate": Sampling().model_dump()})
    store.put(key, [1.0])
    with pytest.raises(StoreError, match="not a text"):
        list(cached(Writer(), store).generate(texts("a"), Sampling()))


def test_a_model_that_forgets_a_prompt_or_answers_one_twice_is_caught(store: ResponseCache) -> None:
    class Forgetful(Writer):
        def generate(self, prompts: Feed, sampling: Sampling) -> Iterator[tuple[int, str]]:
            for index, text in super().generate(prompts, sampling):
                if index != 1:
                    yield index, text

    class Eager(Writer):
        def generate(self, prompts: Feed, sampling: Sampling) -> Iterator[tuple[int, str]]:
            for index, text in super().generate(prompts, sampling):
                yield index, text
                yield index, text

    with pytest.raises(RuntimeError, match="unanswered"):
        list(cached(Forgetful(), store).generate(texts("abc"), Sampling()))
    with pytest.raises(RuntimeError, match="twice"):
        list(cached(Eager(), store).generate(texts("xyz"), Sampling()))


class Slow(Scorer):
    """Takes a time that a clock sees for each call and each text."""

    def generate(self, prompts: Feed, sampling: Sampling) -> Iterator[tuple[int, str]]:
        for found in super().generate(prompts, sampling):
            time.sleep(0.01)
            yield found

    def score(self, prompts: Sequence[Prompt], answers: Sequence[str]) -> npt.NDArray[np.float64]:
        time.sleep(0.05)
        return super().score(prompts, answers)


def test_stored_answers_tell_what_they_had_taken_each_once(store: ResponseCache) -> None:
    words = ["a", "bb", "a", "ccc", "bb"]
    first = cached(Slow(batch=2), store)
    began = time.perf_counter()
    dict(first.generate(texts(words), Sampling()))
    took = time.perf_counter() - began
    assert (first.counts.asked, first.counts.tokens) == (3, 6)
    assert (
        first.counts.cached_seconds,
        first.counts.cached_tokens,
        first.counts.cached_unknown,
    ) == (
        0,
        0,
        0,
    )
    again = cached(Slow(), store)
    dict(again.generate(texts([*words, "d"]), Sampling()))
    assert (again.counts.asked, again.counts.tokens) == (1, 1)
    assert (again.counts.cached_tokens, again.counts.cached_unknown) == (6, 0)
    assert 0.03 <= again.counts.cached_seconds <= took


def test_stored_scores_tell_what_they_had_taken_each_once(store: ResponseCache) -> None:
    model = cached(Slow(), store)
    assert isinstance(model, ScoringModel)
    model.score(texts(["a", "bb", "a"]), ["x", "y"])
    assert (model.counts.tokens, model.counts.cached_tokens) == (3, 0)
    again = cached(Slow(), store)
    assert isinstance(again, ScoringModel)
    again.score(texts(["a", "bb", "a", "dddd"]), ["x", "y"])
    assert (
        again.counts.hits,
        again.counts.tokens,
        again.counts.cached_tokens,
        again.counts.cached_unknown,
    ) == (3, 4, 3, 0)
    assert 0.05 <= again.counts.cached_seconds < 0.5
    again.score(texts(["a"]), ["x"])  # another question: asked anew
    assert (again.counts.cached_tokens, again.counts.tokens) == (3, 5)


def test_a_prompt_that_is_asked_again_counts_its_tokens_and_is_not_from_the_store(
    store: ResponseCache,
) -> None:
    model = cached(Slow(), store)
    assert isinstance(model, ScoringModel)
    model.score(texts(["a", "bb", "bb"]), ["x", "y"])  # within a call
    model.score(texts(["a", "bb", "ccc"]), ["x", "y"])  # and in the next one
    counts = model.counts
    assert (counts.asked, counts.hits, counts.repeated) == (3, 3, 3)
    assert (counts.tokens, counts.repeated_tokens) == (1 + 2 + 3, 2 + 1 + 2)
    assert (counts.cached_tokens, counts.cached_seconds) == (0, 0)
    counts.known.clear()  # as another ranker counts
    model.score(texts(["a"]), ["x", "y"])
    assert (counts.repeated, counts.cached_tokens) == (3, 1)

    written = cached(Slow(batch=2), store)
    dict(written.generate(texts(["a", "bb", "bb", "a"]), Sampling()))
    dict(written.generate(texts(["bb"]), Sampling()))
    assert (written.counts.hits, written.counts.repeated) == (3, 3)
    assert written.counts.repeated_tokens == 2 + 1 + 2
    assert written.counts.cached_tokens == 0


def test_answers_of_a_store_that_does_not_tell_are_counted_as_unknown(store: ResponseCache) -> None:
    kind = {"generate": Sampling().model_dump()}
    store.put(response_key("writer", prompt("a"), kind), "A")
    model = cached(Writer(), store)
    assert dict(model.generate(texts(["a", "a", "b"]), Sampling())) == {0: "A", 1: "A", 2: "B"}
    assert (model.counts.hits, model.counts.cached_unknown, model.counts.cached_tokens) == (2, 1, 0)
