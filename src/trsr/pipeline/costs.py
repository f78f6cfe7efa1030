"""Keeps account of what each ranker takes while the rank stage writes its lists."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable, Iterator
from typing import Any

from trsr.evaluate.costs import RankerCost
from trsr.types import RankedList


class CostBook:
    """What each ranker took, as far as it is known until now.

    Lists are pulled one by one by whoever writes them, so the clock runs only while the ranker
    is asked for the next one. Rankers come one after the other: what the language models were
    asked meanwhile is that ranker's.
    """

    def __init__(self) -> None:
        self._models: list[Any] = []
        self._preparing: dict[str, float] = {}
        self._found: dict[str, RankerCost] = {}

    def watch(self, model: Any) -> None:
        """Counts what this model (see `StoredModel`) is asked from now on."""
        self._models.append(model)

    @contextlib.contextmanager
    def preparing(self, name: str) -> Iterator[None]:
        """What is done within counts as this ranker's preparation."""
        started = time.perf_counter()
        yield
        self._preparing[name] = time.perf_counter() - started

    def ranking(
        self, name: str, lists: Iterable[RankedList], members: Iterable[str] = ()
    ) -> Iterator[RankedList]:
        """Yields the lists as they are; when all are there, their cost is in the book.

        Args:
            name: The ranker.
            lists: What it makes.
            members: The rankers whose scores it reads.
        """
        asked, hits, tokens = self._counts()
        seconds, queries, source = 0.0, 0, iter(lists)
        while True:
            started = time.perf_counter()
            ranked = next(source, None)
            seconds += time.perf_counter() - started
            if ranked is None:
                break
            queries += 1
            yield ranked
        now_asked, now_hits, now_tokens = self._counts()
        self._found[name] = RankerCost(
            name,
            queries,
            round(self._preparing.get(name, 0.0), 3),
            # a cheap ranker's queries take microseconds
            round(seconds, 6),
            prompts=now_asked - asked + now_hits - hits,
            from_store=now_hits - hits,
            tokens=now_tokens - tokens,
            members=tuple(members),
        )

    def to_json(self) -> dict[str, Any]:
        """Plain values by ranker."""
        return {name: one.to_json() for name, one in self._found.items()}

    def _counts(self) -> tuple[int, int, int]:
        return (
            sum(model.asked for model in self._models),
            sum(model.hits for model in self._models),
            sum(model.tokens for model in self._models),
        )
