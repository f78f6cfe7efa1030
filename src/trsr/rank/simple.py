"""The rankers that need no model: by lot, and by popularity."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from trsr.settings import derive_seed
from trsr.types import Query, RankedList

if TYPE_CHECKING:
    import polars as pl

    from trsr.rank.base import RankContext


class RandomRanker:
    """Scores each candidate by lot, between 0 and 1.

    A candidate's lot follows from the seed, the query and the item alone: neither the order of the
    queries nor that of the candidates changes it.

    Args:
        seed: The run's seed.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def rank(self, queries: Iterable[Query]) -> Iterator[RankedList]:
        """Yields one list a query, in their order."""
        for query in queries:
            yield RankedList.of(query, [self._lot(query.id, item.id) for item in query.candidates])

    def _lot(self, query: str, item: str) -> float:
        return derive_seed(self.seed, "random ranker", query, item) / 2**63


class PopularRanker:
    """Scores each candidate by its number of training interactions; unseen items score 0.

    Equally popular items share a score: no hidden order decides between them.

    Args:
        counts: item → number of interactions.
    """

    def __init__(self, counts: dict[str, int]) -> None:
        self.counts = counts

    def rank(self, queries: Iterable[Query]) -> Iterator[RankedList]:
        """Yields one list a query, in their order."""
        for query in queries:
            scores = [float(self.counts.get(item.id, 0)) for item in query.candidates]
            yield RankedList.of(query, scores)


def popularity(interactions: pl.DataFrame) -> dict[str, int]:
    """The number of interactions of each item; items without any are left out.

    Args:
        interactions: Column `item` (str); each row is one interaction.
    """
    return dict(interactions["item"].value_counts().iter_rows())


def make_random(context: RankContext) -> RandomRanker:
    """The ranker by lot, with the run's seed."""
    return RandomRanker(context.seed)


def make_popular(context: RankContext) -> PopularRanker:
    """The popularity ranker, fitted on the training interactions."""
    return PopularRanker(popularity(context.interactions))
