"""The first stage of a large catalog: text_knn's candidates by an index, without scoring all."""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterable, Sequence
from typing import Any

import numpy as np

from trsr.data.matching import Where
from trsr.errors import DataError
from trsr.rankers import QueryBatch
from trsr.rankers.baselines.text_knn import TextKnnRanker
from trsr.rankers.batch import Floats
from trsr.rankers.item_text import DIGITS
from trsr.rankers.new_items import LARGE, VectorIndex
from trsr.recommender import Recommender
from trsr.types import Item, UserHistory

_SHORTLIST = 4  # times as many as are wanted come out of the index, to be scored exactly


class Retriever:
    """Proposes candidates.

    Catalogs with more than `large` items are searched by an index.
    """

    def __init__(self, recommender: Recommender, large: int = LARGE) -> None:
        self._recommender = recommender
        self._catalog = recommender.catalog
        self._rank = recommender.config.rank
        self._large = large
        self._lock = threading.Lock()
        self._index: tuple[VectorIndex, Any] | None = None

    def propose(
        self,
        history: UserHistory,
        n: int,
        new: Iterable[Item],
        excluded: Collection[str] = frozenset(),
        where: Where | None = None,
    ) -> tuple[Item, ...]:
        """The `n` items that the run's retriever puts first, without those of the history.

        `where` is as for `Recommender.recommend`; what matches is scored without the index.

        Raises:
            DataError: If the history holds every item, or nothing matches.
        """
        ranker = self._recommender.fitted(self._rank.retriever)
        seen = {item.id for item in history.items} | set(excluded)
        fresh = [item for item in new if item.id not in seen]
        found: tuple[Item, ...] = ()
        if not where and isinstance(ranker, TextKnnRanker) and len(self._catalog) > self._large:
            found = self._by_index(ranker, history, n, fresh, seen)
        found = found or self._recommender.propose(history, n, fresh, seen, where)
        if not found:
            which = "that matches" if where else "there is"
            raise DataError(f"the history holds every item {which}, so there is none to propose")
        return found

    def _by_index(
        self,
        ranker: TextKnnRanker,
        history: UserHistory,
        n: int,
        fresh: Sequence[Item],
        seen: Collection[str],
    ) -> tuple[Item, ...]:
        """What the index finds near the history, and all new items, scored exactly."""
        index, items_of = self._vectors(ranker)
        (asked,) = ranker.asked(QueryBatch.whole([("propose", history, None)], self._catalog))
        if not len(asked):
            return ()
        changed = {item.id for item in fresh if item.id in self._catalog}
        wanted = _SHORTLIST * (n + len(seen)) + len(changed)
        found = np.unique(np.concatenate([index.search(one, wanted)[0] for one in asked]))
        pairs: list[tuple[float, Item]] = []
        for row, score in zip(
            found.tolist(), _likeness(asked, ranker.vectors_[found]), strict=True
        ):
            pairs += [(score, self._catalog.at(int(number))) for number in items_of[row]]
        if fresh:
            pairs = [pair for pair in pairs if pair[1].id not in changed]
            vectors = ranker.vectors_of(fresh)
            if vectors.shape[1]:
                pairs += zip(_likeness(asked, vectors), fresh, strict=True)
        pairs = [pair for pair in pairs if pair[1].id not in seen]
        # ties in the catalog's order, new items last
        return tuple(item for _, item in sorted(pairs, key=lambda pair: -pair[0])[:n])

    def _vectors(self, ranker: TextKnnRanker) -> tuple[VectorIndex, Any]:
        """The index of the ranker's vectors, and the catalog numbers of each."""
        with self._lock:
            if self._index is None:
                order = np.argsort(ranker.rows_, kind="stable")
                starts = np.searchsorted(ranker.rows_[order], np.arange(len(ranker.vectors_) + 1))
                items_of = np.split(order, starts)[1:-1]
                self._index = VectorIndex(ranker.vectors_, self._large), items_of
            return self._index


def _likeness(asked: Floats, vectors: Any) -> list[float]:
    """A text_knn score for each vector: the mean of its three largest products with the asked."""
    products = np.sort(asked @ np.asarray(vectors, np.float64).T, axis=0)[-3:]
    found: list[float] = np.round(products.mean(axis=0), DIGITS).tolist()
    return found
