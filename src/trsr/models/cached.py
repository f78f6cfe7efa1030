"""A model behind the response cache: no prompt is asked twice."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from trsr.errors import StoreError
from trsr.models.base import Feed, FeedReader, LanguageModel, ModelWrapper, Sampling, ScoringModel
from trsr.storage.response_cache import Cost, ResponseCache, response_key
from trsr.types import Prompt

_AHEAD = 64  # prompts that wait for the model
_STASH = 256  # cached answers found while the model fills its batch


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
    """

    hits: int = 0
    asked: int = 0
    tokens: int = 0
    cached_seconds: float = 0.0
    cached_tokens: int = 0
    cached_unknown: int = 0


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
        self.counts.cached_seconds += sum(one.seconds for one in costs.values())
        self.counts.cached_tokens += sum(one.tokens for one in costs.values())
        self.counts.cached_unknown += len(keys) - len(costs)

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
        found = {key: _row(value, key) for key, value in self.store.get(keys).items()}
        self._found(list(found))
        by_key = dict(zip(keys, prompts, strict=True))
        missing = {key: prompt for key, prompt in by_key.items() if key not in found}
        if missing:
            began = time.perf_counter()
            scores = self.inner.score(list(missing.values()), answers)
            share = (time.perf_counter() - began) / len(missing)
            fresh = {key: row.tolist() for key, row in zip(missing, scores, strict=True)}
            costs = {key: Cost(share, self.count_tokens(one)) for key, one in missing.items()}
            self.store.put_all(fresh, costs)
            self.counts.tokens += sum(one.tokens for one in costs.values())
            found |= fresh
        self.counts.asked += len(missing)
        self.counts.hits += len(keys) - len(missing)
        rows = [found[key] for key in keys]
        return np.array(rows, dtype=np.float64).reshape(len(prompts), len(answers))


def cached(model: LanguageModel, store: ResponseCache) -> CachedModel:
    """Puts the cache in front of a model; the result scores exactly where the model does."""
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
        self.counted: set[bytes] = set()  # keys, shortened, whose cost is counted
        self.tokens: dict[str, int] = {}  # key → of its prompt, while it is under way
        self.taken: dict[int, str] = {}  # the inner model's positions → keys

    def run(self) -> Iterator[tuple[int, str]]:
        answers = self.model.inner.generate(self._feed(), self.sampling)
        while True:
            yield from self._look_ahead()
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
            self.under_way[key].append(position)
            return True
        known = {key: ""} if key in self.model.empty else self.model.store.get([key])
        if key in known:
            self.model.counts.hits += 1
            if self._is_new(key):
                self.model._found([key])
            self.stash.append((position, _text(known[key], key)))
            return True
        self._is_new(key)
        self.model.counts.asked += 1
        self.tokens[key] = self.model.count_tokens(prompt)
        self.model.counts.tokens += self.tokens[key]
        self.under_way[key] = [position]
        self.queue.append((key, prompt))
        return True

    def _is_new(self, key: str) -> bool:
        """Whether this call did not ask or find this before."""
        short = bytes.fromhex(key)[:8]
        new = short not in self.counted
        self.counted.add(short)
        return new

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
            elif self.feed.ended and not self.stash:
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
