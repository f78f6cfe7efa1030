"""Keeps account of what each ranker takes while the rank stage writes its lists."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable, Iterator
from typing import Any

from trsr.models.cached import CacheCounts
from trsr.rankers import RankedBatch
from trsr.report.costs import RankerCost


class CostBook:
    """What each ranker took, as far as it is known until now.

    Lists are pulled one by one by whoever writes them, so the clock runs only while the ranker
    is asked for the next one. Rankers come one after the other: what the language models were
    asked meanwhile is that ranker's.
    """

    def __init__(self) -> None:
        self._model_counts: list[CacheCounts] = []
        self._preparing: dict[str, float] = {}
        self._found: dict[str, RankerCost] = {}

    def watch(self, counts: CacheCounts) -> None:
        """Counts what a model is asked from now on.

        Args:
            counts: The model's (see `CachedModel`): the model may go when its ranker is done.
        """
        self._model_counts.append(counts)

    @contextlib.contextmanager
    def preparing(self, name: str) -> Iterator[None]:
        """What is done within counts as this ranker's preparation."""
        started = time.perf_counter()
        yield
        self._preparing[name] = time.perf_counter() - started

    def ranking(self, name: str, lists: Iterable[RankedBatch]) -> Iterator[RankedBatch]:
        """Yields the lists as they are; when all are there, their cost is in the book.

        Args:
            name: The ranker.
            lists: What it makes.
        """
        before = self._counts()
        seconds, queries, source = 0.0, 0, iter(lists)
        while True:
            started = time.perf_counter()
            ranked = next(source, None)
            seconds += time.perf_counter() - started
            if ranked is None:
                break
            queries += len(ranked)
            yield ranked
        found = {key: count - before[key] for key, count in self._counts().items()}
        self._found[name] = RankerCost(
            name,
            queries,
            round(self._preparing.get(name, 0.0), 3),
            # a cheap ranker's queries take microseconds
            round(seconds, 6),
            prompts=int(found["asked"] + found["hits"]),
            from_store=int(found["hits"]),
            tokens=int(found["tokens"]),
            cached_seconds=round(found["cached_seconds"], 6),
            cached_tokens=int(found["cached_tokens"]),
            cached_unknown=int(found["cached_unknown"]),
        )

    def to_json(self) -> dict[str, Any]:
        """Plain values by ranker."""
        return {name: one.to_json() for name, one in self._found.items()}

    def _counts(self) -> dict[str, float]:
        names = ("asked", "hits", "tokens", "cached_seconds", "cached_tokens", "cached_unknown")
        return {name: sum(getattr(one, name) for one in self._model_counts) for name in names}
