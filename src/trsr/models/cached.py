"""A model behind the response cache: no prompt is asked twice."""

from __future__ import annotations

import contextlib
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from trsr.errors import StoreError
from trsr.models.base import (
    Feed,
    FeedReader,
    LanguageModel,
    ModelWrapper,
    Sampling,
    ScoringModel,
    Table,
    TextScoringModel,
)
from trsr.settings import digest
from trsr.storage.response_cache import Cost, ResponseCache, response_key
from trsr.types import Prompt

_AHEAD = 64  # prompts that wait for the model
_KNOWN = 1 << 20  # keys that are remembered as asked
_STASH = 256  # cached answers found while the model fills its batch

POLL = 0.25
"""Seconds between two looks for answers that another worker is asking for."""

Numbers = list[float]


@dataclass(slots=True)
class CacheCounts:
    """What a model was asked so far; outlives the model.

    Attributes:
        hits: Prompts answered from the cache, or together with an equal one under way.
        asked: Prompts that went to the inner model.
        tokens: Tokens of those, shared prefixes counted each time.
        cached_seconds: What the cached answers had taken when they were computed.
        cached_tokens: Likewise.
        cached_unknown: Cached answers of which that is not known.
        repeated: Of the hits those whose prompt was asked or found before.
        repeated_tokens: Tokens of those, each time.
        known: The keys, shortened, of what was; who counts anew clears them.
    """

    hits: int = 0
    asked: int = 0
    tokens: int = 0
    cached_seconds: float = 0.0
    cached_tokens: int = 0
    cached_unknown: int = 0
    repeated: int = 0
    repeated_tokens: int = 0
    known: set[bytes] = field(default_factory=set, repr=False)


class CachedModel(ModelWrapper):
    """A `LanguageModel` with a response cache: each answer is committed before it is yielded.

    Empty answers are remembered only while this model is open: a filter may be lifted.

    Attributes:
        counts: What it was asked.
        empty: Keys of the answers without a text.
    """

    def __init__(self, inner: LanguageModel, store: ResponseCache) -> None:
        super().__init__(inner)
        self.store = store
        self.counts = CacheCounts()
        self.empty: set[str] = set()

    def _found(self, keys: Sequence[str]) -> None:
        """Counts what the cached answers to these keys had taken."""
        costs = self.store.costs(keys)
        new = [key for key in keys if self._is_new(key)]
        known = [costs[key] for key in new if key in costs]
        self.counts.cached_seconds += sum(one.seconds for one in known)
        self.counts.cached_tokens += sum(one.tokens for one in known)
        self.counts.cached_unknown += len(new) - len(known)
        again = sum(one.tokens for one in costs.values()) - sum(one.tokens for one in known)
        self._repeats(len(keys) - len(new), again)

    def _repeats(self, prompts: int, tokens: int) -> None:
        """Counts prompts that were asked before: each has its tokens again, and takes no time."""
        self.counts.repeated += prompts
        self.counts.repeated_tokens += tokens

    def _is_new(self, key: str) -> bool:
        """Whether this was not asked or found before."""
        short, known = bytes.fromhex(key)[:8], self.counts.known
        new = short not in known
        if len(known) >= _KNOWN:  # a long run repeats itself within what came last
            known.clear()
        known.add(short)
        return new

    def generate(self, prompts: Feed, sampling: Sampling) -> Iterator[tuple[int, str]]:
        """Yields (position, text) as `LanguageModel.generate` does, cached answers first.

        Raises:
            ModelError: If the inner model fails; its answers so far are cached.
            StoreError: If the cache fails.
        """
        return _Generation(self, prompts, sampling).run()


class CachedScoringModel(CachedModel):
    """A `ScoringModel` with a response cache for texts and scores."""

    inner: ScoringModel

    def score(self, prompts: Sequence[Prompt], answers: Sequence[str]) -> npt.NDArray[np.float64]:
        """Log-probabilities as `ScoringModel.score` gives; one call asks for all that is missing.

        Raises:
            ModelError: If the inner model fails.
            PromptError: If a prompt with an answer exceeds the context.
            StoreError: If the cache fails.
        """
        kind = {"score": list(answers)}
        keys = [response_key(self.identity, prompt, kind) for prompt in prompts]
        by_key = dict(zip(keys, prompts, strict=True))

        def compute(missing: Sequence[str]) -> Iterator[list[float]]:
            for row in self.inner.score([by_key[key] for key in missing], answers):
                yield row.tolist()

        def one_by_one(missing: Sequence[str]) -> dict[str, list[float]]:
            return self._as_they_come(by_key, missing, answers)

        each = hasattr(self.inner, "score_each")
        found = self._numbers(by_key, compute, one_by_one if each else None)
        self._equal(keys)
        rows = [found[key] for key in keys]
        return np.array(rows, dtype=np.float64).reshape(len(prompts), len(answers))

    def _equal(self, keys: Sequence[str]) -> None:
        """Counts the equal prompts of one call, all but the first of each; they are answered."""
        often = {key: count - 1 for key, count in Counter(keys).items() if count > 1}
        if often:
            costs = self.store.costs(list(often))
            self.counts.hits += sum(often.values())
            again = sum(often[key] * one.tokens for key, one in costs.items())
            self._repeats(sum(often.values()), again)

    def _numbers(
        self,
        prompts: Mapping[str, Prompt],
        compute: Callable[[Sequence[str]], Iterable[Numbers]],
        keep: Callable[[Sequence[str]], dict[str, Numbers]] | None = None,
    ) -> dict[str, Numbers]:
        """The numbers that answer each key; what nobody else has, or is computing, is computed.

        Args:
            prompts: By key; tells what an answer cost.
            compute: Gives the numbers of keys, in their order.
            keep: Gives them in its place, and keeps them itself.
        """
        keep = keep or (lambda missing: self._computed(prompts, missing, compute))
        found: dict[str, Numbers] = {}
        while True:
            stored, mine = self.store.take([key for key in prompts if key not in found])
            found |= {key: _row(value, key) for key, value in stored.items()}
            self._found(list(stored))
            self.counts.hits += len(stored)
            missing = [key for key in prompts if key in mine]
            for key in missing:
                self._is_new(key)
            if missing:
                try:
                    found |= keep(missing)
                except BaseException:
                    with contextlib.suppress(StoreError):
                        self.store.release(missing)
                    raise
            if len(found) == len(prompts):
                return found
            if not stored and not missing:
                time.sleep(POLL)

    def _computed(
        self,
        prompts: Mapping[str, Prompt],
        missing: Sequence[str],
        compute: Callable[[Sequence[str]], Iterable[Numbers]],
    ) -> dict[str, Numbers]:
        began = time.perf_counter()
        fresh = dict(zip(missing, compute(missing), strict=True))
        share = (time.perf_counter() - began) / len(missing)
        every = {id(prompts[key]): prompts[key] for key in missing}  # many texts are of one prompt
        tokens = {name: self.count_tokens(prompt) for name, prompt in every.items()}
        costs = {key: Cost(share, tokens[id(prompts[key])]) for key in missing}
        self.store.put_all(fresh, costs)
        self.counts.tokens += sum(one.tokens for one in costs.values())
        self.counts.asked += len(missing)
        return fresh

    def _as_they_come(
        self, prompts: Mapping[str, Prompt], missing: Sequence[str], answers: Sequence[str]
    ) -> dict[str, Numbers]:
        """Each score is kept as it comes: what an endpoint has answered is not paid twice."""
        fresh: dict[str, Numbers] = {}
        began = time.perf_counter()
        inner: Any = self.inner
        for place, row in inner.score_each([prompts[key] for key in missing], answers):
            key, now = missing[place], time.perf_counter()
            cost = Cost(now - began, self.count_tokens(prompts[key]))
            self.store.put(key, row, cost)
            self.counts.tokens += cost.tokens
            self.counts.asked += 1
            fresh[key], began = row, now
        return fresh


class CachedTextScoringModel(CachedScoringModel):
    """A `TextScoringModel` with a response cache: each text's score, and each search, is kept."""

    inner: TextScoringModel

    def score_texts(self, prompts: Sequence[Prompt], texts: Sequence[Sequence[str]]) -> list[Table]:
        """As `TextScoringModel.score_texts`; asks for what is missing, and raises as it does."""
        asked = [
            [(prompt, {"text": text}) for text in own]
            for prompt, own in zip(prompts, texts, strict=True)
        ]

        def compute(rows: Mapping[int, Sequence[int]]) -> Iterator[list[list[float]]]:
            some = [[texts[row][at] for at in places] for row, places in rows.items()]
            for table in self.inner.score_texts([prompts[row] for row in rows], some):
                yield table.tolist()

        found = self._kept(asked, compute)
        return [np.array(own, np.float64).reshape(len(own), 2) for own in found]

    def search_texts(
        self, prompts: Sequence[Prompt], texts: Sequence[Sequence[str]], beams: int
    ) -> list[Table]:
        """As `TextScoringModel.search_texts`; asks for what is missing, and raises as it does."""
        asked = [
            [(prompt, {"search": digest(list(own)), "beams": beams})]
            for prompt, own in zip(prompts, texts, strict=True)
        ]

        def compute(rows: Mapping[int, Sequence[int]]) -> Iterator[list[list[float]]]:
            some = [texts[row] for row in rows]
            for scores in self.inner.search_texts([prompts[row] for row in rows], some, beams):
                places = np.flatnonzero(np.isfinite(scores))
                yield [[float(one) for at in places for one in (at, scores[at])]]

        found = []
        for own, (pairs,) in zip(texts, self._kept(asked, compute), strict=True):
            scores = np.full(len(own), -np.inf)
            scores[np.array(pairs[::2], np.int64)] = pairs[1::2]
            found.append(scores)
        return found

    def _kept(
        self,
        asked: Sequence[Sequence[tuple[Prompt, Mapping[str, object]]]],
        compute: Callable[[Mapping[int, Sequence[int]]], Iterable[list[list[float]]]],
    ) -> list[list[list[float]]]:
        """The numbers that answer each question, row by row; what is not cached is computed.

        Args:
            asked: (prompt, what is asked) a row.
            compute: Row → places in it, in order; gives a row's numbers at these places.
        """
        keys = [[response_key(self.identity, *one) for one in own] for own in asked]
        places: dict[str, tuple[int, int]] = {}
        for row, own in enumerate(keys):
            for at, key in enumerate(own):
                places.setdefault(key, (row, at))

        def in_rows(missing: Sequence[str]) -> Iterator[list[float]]:
            rows: dict[int, list[int]] = {}
            for key in missing:
                rows.setdefault(places[key][0], []).append(places[key][1])
            for answers in compute(rows):
                yield from answers

        prompts = {key: asked[row][0][0] for key, (row, _) in places.items()}
        found = self._numbers(prompts, in_rows)
        self._equal([key for own in keys for key in own])
        return [[found[key] for key in own] for own in keys]


def keep_reference(model: LanguageModel, store: ResponseCache) -> None:
    """Caches what an endpoint is held to, so that the weights here are opened once."""
    reference = getattr(model, "reference", None)
    if reference is not None:
        model.reference = cached(reference, store)  # type: ignore[attr-defined]


def cached(model: LanguageModel, store: ResponseCache) -> CachedModel:
    """Puts the cache in front of a model; the result scores exactly where the model does."""
    keep_reference(model, store)
    if isinstance(model, TextScoringModel):
        return CachedTextScoringModel(model, store)
    if isinstance(model, ScoringModel):
        return CachedScoringModel(model, store)
    return CachedModel(model, store)


class _Generation:
    """One call of `generate`, between the feed and the inner model.

    Cached answers are yielded while prompts for the model gather in `queue`. Those found while the
    model fills its batch wait in `stash` until it yields.
    """

    def __init__(self, model: CachedModel, prompts: Feed, sampling: Sampling) -> None:
        self.model = model
        self.feed = FeedReader(prompts)
        self.sampling = sampling
        self.kind = {"generate": sampling.model_dump()}
        self.queue: deque[tuple[str, Prompt]] = deque()
        self.stash: deque[tuple[int, str]] = deque()
        self.under_way: dict[str, list[int]] = {}  # key → positions that wait for its answer
        self.tokens: dict[str, int] = {}  # key → of its prompt, while it is under way
        self.taken: dict[int, str] = {}  # the inner model's positions → keys
        self.elsewhere: dict[str, tuple[Prompt, list[int]]] = {}  # that another worker asks
        self.looked = 0.0

    def run(self) -> Iterator[tuple[int, str]]:
        try:
            yield from self._run()
        finally:
            with contextlib.suppress(StoreError):
                self.model.store.release(list(self.under_way))

    def _run(self) -> Iterator[tuple[int, str]]:
        answers = self.model.inner.generate(self._feed(), self.sampling)
        while True:
            self._look_elsewhere()
            yield from self._look_ahead()
            if not self.under_way and self.elsewhere:
                time.sleep(POLL)
                continue
            if not self.under_way:
                self.feed.check_ended()
                break
            began = time.perf_counter()
            index, text = next(answers, (-1, ""))
            # of all that are under way: only the sum over answers means something
            seconds = time.perf_counter() - began
            if index < 0:
                raise RuntimeError(f"the model ended with {len(self.under_way)} prompts unanswered")
            yield from self._drain()
            key = self._taken_key(index)
            cost = Cost(seconds, self.tokens.pop(key))
            if text.strip():
                self.model.store.put(key, text, cost)
            else:
                self.model.empty.add(key)
                self.model.store.release([key])
            for position in self.under_way.pop(key):
                yield position, text
        for index, _ in answers:  # also lets the model close what it opened
            self._taken_key(index)

    def _taken_key(self, index: int) -> str:
        """The key that the inner model's position stands for, each once."""
        if index not in self.taken:
            raise RuntimeError(f"the model answered prompt {index} twice, or was never given it")
        return self.taken.pop(index)

    def _look_ahead(self) -> Iterator[tuple[int, str]]:
        """Takes prompts until the model has enough to do, yielding cached answers."""
        yield from self._drain()
        while len(self.queue) < _AHEAD and self._take():
            yield from self._drain()

    def _drain(self) -> Iterator[tuple[int, str]]:
        while self.stash:
            yield self.stash.popleft()

    def _take(self) -> bool:
        """Takes one prompt of the feed; False when nothing is ready now, or ever."""
        entry = self.feed.take()
        if entry is None:
            return False
        position, prompt = entry
        key = response_key(self.model.identity, prompt, self.kind)
        if key in self.under_way:
            self.model.counts.hits += 1
            self.model._repeats(1, self.tokens[key])
            self.under_way[key].append(position)
            return True
        if key in self.elsewhere:
            self.elsewhere[key][1].append(position)
            return True
        if key in self.model.empty:
            known, mine = dict[str, object]({key: ""}), set[str]()
        else:
            known, mine = self.model.store.take([key])
        if key in known:
            self._stored(key, known[key], [position])
        elif key in mine:
            self._ask(key, prompt, [position])
        else:
            self.elsewhere[key] = prompt, [position]
        return True

    def _stored(self, key: str, value: object, positions: list[int]) -> None:
        self.model.counts.hits += len(positions)
        for _ in positions:
            self.model._found([key])
        text = _text(value, key)
        self.stash.extend((position, text) for position in positions)

    def _ask(self, key: str, prompt: Prompt, positions: list[int]) -> None:
        self.model._is_new(key)
        self.model.counts.asked += 1
        self.tokens[key] = self.model.count_tokens(prompt)
        again = len(positions) - 1
        self.model.counts.hits += again
        self.model._repeats(again, again * self.tokens[key])
        self.model.counts.tokens += self.tokens[key]
        self.under_way[key] = positions
        self.queue.append((key, prompt))

    def _look_elsewhere(self) -> None:
        """Takes what other workers have answered, or have left, since the last look."""
        if not self.elsewhere or time.monotonic() < self.looked + POLL:
            return
        self.looked = time.monotonic()
        known, mine = self.model.store.take(list(self.elsewhere))
        for key, value in known.items():
            self._stored(key, value, self.elsewhere.pop(key)[1])
        for key in mine:
            self._ask(key, *self.elsewhere.pop(key))

    def _feed(self) -> Iterator[Prompt | None]:
        """What the inner model pulls from."""
        count = 0
        while True:
            while not self.queue and len(self.stash) < _STASH and self._take():
                pass
            if self.queue:
                key, prompt = self.queue.popleft()
                self.taken[count] = key
                count += 1
                yield prompt
            elif self.feed.ended and not self.stash and not self.elsewhere:
                return
            else:
                yield None


def _text(value: object, key: str) -> str:
    if not isinstance(value, str):
        raise StoreError(f"the stored answer {key} is not a text: move the response cache away")
    return value


def _row(value: object, key: str) -> list[float]:
    if not isinstance(value, list):
        raise StoreError(f"the stored answer {key} holds no scores: move the response cache away")
    return [float(number) for number in value]
