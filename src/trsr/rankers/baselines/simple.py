"""The rankers that need no model: by lot, and by popularity."""

from __future__ import annotations

import hashlib

import numpy as np

from trsr.rankers.base import FitData, FitOptions, Ranker
from trsr.rankers.batch import QueryBatch, ScoreBatch


class RandomRanker(Ranker):
    """Scores each candidate by lot, between 0 and 1.

    A candidate's lot follows from the seed, the query and the item alone: neither the order of the
    queries nor that of the candidates changes it.

    Attributes:
        seed_: The run's seed.
    """

    seed_: int = 0

    def fit(self, data: FitData, options: FitOptions) -> None:
        """Keeps the seed."""
        self.seed_ = options.seed

    def score(self, batch: QueryBatch) -> ScoreBatch:
        """[queries, columns] lots."""
        items = [item.encode() for item in batch.item_ids(batch.columns)]
        found = batch.blank()
        for row, query in enumerate(batch.ids):
            # the digest of `derive_seed(seed, "random ranker", query, item)`, begun once a query
            begun = hashlib.sha256(f"{self.seed_}\x1frandom ranker\x1f{query}\x1f".encode())
            for at in batch.places[row]:
                one = begun.copy()
                one.update(items[at])
                found[row, at] = (int.from_bytes(one.digest()[:8], "big") >> 1) / 2**63
        return ScoreBatch(found)


class PopularRanker(Ranker):
    """Scores each candidate by its number of training interactions; unseen items score 0.

    Equally popular items share a score: no hidden order decides between them.

    Attributes:
        counts_: [catalog] interactions of each item.
    """

    counts_: np.ndarray

    def fit(self, data: FitData, options: FitOptions) -> None:
        """Counts the training interactions."""
        counts = dict(data.interactions["item"].value_counts().iter_rows())
        self.counts_ = np.array([counts.get(item, 0) for item in data.catalog.ids], np.float64)

    def score(self, batch: QueryBatch) -> ScoreBatch:
        """[queries, columns] counts."""
        counts = batch.extended(self.counts_, 0.0)[batch.columns]
        return ScoreBatch(np.broadcast_to(counts, (len(batch), len(counts))))
