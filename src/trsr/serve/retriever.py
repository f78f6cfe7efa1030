"""The first stage: candidates for a user, also among items that the run never saw.

Any ranker of the run proposes. An item that came after the run stands where the catalog's items
nearest to its text stand.
"""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Collection, Iterable, Sequence
from typing import Any

import numpy as np

from trsr.errors import DataError
from trsr.rankers import QueryBatch, Ranker, ScoreBatch, ranked, scored
from trsr.rankers.baselines.text_knn import TextKnnRanker
from trsr.rankers.batch import Floats, Ragged
from trsr.rankers.item_text import DIGITS, item_text, text_vectors
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
        self._new_items = recommender.new_items

    def propose(
        self,
        history: UserHistory,
        n: int,
        new: Iterable[Item],
        excluded: Collection[str] = frozenset(),
    ) -> tuple[Item, ...]:
        """The `n` items that the run's retriever puts first, without those of the history.

        Raises:
            DataError: If the history holds every item.
        """
        ranker = self._recommender.fitted(self._rank.retriever)
        seen = {item.id for item in history.items} | set(excluded)
        fresh = [item for item in new if item.id not in seen]
        batch = QueryBatch.whole([("propose", history, None)], self._catalog)
        if isinstance(ranker, TextKnnRanker) and len(self._catalog) > self._large:
            pairs = self._by_index(ranker, batch, n + len(seen), fresh)
        else:
            pairs = self._by_scores(ranker, batch, n + len(seen), fresh)
        pairs = [pair for pair in pairs if pair[1].id not in seen]
        if not pairs:
            raise DataError("the history holds every item there is, so there is none to propose")
        # ties in the catalog's order, new items last
        return tuple(item for _, item in sorted(pairs, key=lambda pair: -pair[0])[:n])

    def _by_scores(
        self, ranker: Ranker, batch: QueryBatch, n: int, fresh: Sequence[Item]
    ) -> list[tuple[float, Item]]:
        """The first of the catalog, and new items by the mean score of their neighbours."""
        # of the whole catalog: what stands in for a new item of the history is a candidate too
        batch = dataclasses.replace(batch, excluded=Ragged.empty(1))
        row = scored(ranker, batch).scores[0]
        best = ranked(batch, ScoreBatch(row[None]), n, self._recommender.config.run.seed).items[0]
        pairs = [(float(row[number]), self._catalog.at(int(number))) for number in best]
        for item in fresh:
            numbers, weights = self._new_items.neighbours(item)
            if len(numbers):
                pairs.append((float(np.average(row[numbers], weights=weights)), item))
        return pairs

    def _by_index(
        self, ranker: TextKnnRanker, batch: QueryBatch, n: int, fresh: Sequence[Item]
    ) -> list[tuple[float, Item]]:
        """What the index finds near the history, and all new items, scored exactly."""
        index, items_of = self._vectors(ranker)
        (asked,) = ranker.asked(batch)
        if not len(asked):
            return self._by_scores(ranker, batch, n, fresh)
        found = np.unique(np.concatenate([index.search(one, _SHORTLIST * n)[0] for one in asked]))
        pairs = []
        for row, score in zip(
            found.tolist(), _likeness(asked, ranker.vectors_[found]), strict=True
        ):
            pairs += [(score, self._catalog.at(int(number))) for number in items_of[row]]
        if fresh:
            texts = [item_text(item, self._rank) for item in fresh]
            vectors = text_vectors(texts, ranker.embed)
            if vectors.shape[1]:
                pairs += zip(_likeness(asked, vectors), fresh, strict=True)
        return pairs

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
