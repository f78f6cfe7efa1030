"""The rankers that need no model: random, and by popularity."""

from __future__ import annotations

import hashlib
from typing import Self

import numpy as np

from trsr.rankers.base import FitData, FitOptions, Ranker
from trsr.rankers.batch import Floats, Ints, QueryBatch, ScoreBatch
from trsr.rankers.settings import Traits
from trsr.rankers.tuning import tune


class RandomRanker(Ranker):
    """Scores each candidate at random, between 0 and 1.

    A candidate's score follows from the seed, the query and the item alone: neither the order of
    the queries nor that of the candidates changes it.

    Attributes:
        seed_: The run's seed.
    """

    seed_: int = 0

    def fit(self, data: FitData, options: FitOptions) -> None:
        """Keeps the seed."""
        self.seed_ = options.seed

    def score(self, batch: QueryBatch) -> ScoreBatch:
        """[queries, columns] random scores."""
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


class PopularRecentRanker(Ranker):
    """A candidate's number of training interactions in [end − window, end).

    `end` is the time of the history's last interaction, and what happened at that very moment is
    not counted: nothing is that the query could not know. For an empty history the window is
    [last − window, last] of the training interactions. An item without one in the window scores 0.
    Data without times has places in the history for times: then the window says little.

    Attributes:
        times_: [interactions] the times of all training interactions, ascending.
        items_: [interactions] the item of each: its place in the catalog.
        keys_: [interactions] item · interactions + place in `times_`, ascending: where an item's
            interactions up to any moment end.
        window_: The window's length.
    """

    traits = Traits(tuned=True)
    tried = tuple({"share": share} for share in (0.1, 0.03, 0.3, 1.0))
    """The window as a share of the time that the training interactions span."""
    times_: Floats
    items_: Ints
    keys_: Ints
    window_: float

    def fit(self, data: FitData, options: FitOptions) -> None:
        """Sorts the interactions, and chooses the window on the validation cases."""
        in_catalog = data.catalog.frame.select(item="id")
        known = data.interactions.select("item", "time").join(in_catalog, on="item", how="semi")
        known = known.sort("time")
        self.times_ = known["time"].to_numpy().astype(np.float64)
        self.items_ = data.catalog.numbers(known["item"])
        self.keys_ = np.sort(self.items_ * len(known) + np.arange(len(known)))
        tune(self, data, options, self.tried, self.with_share)

    def with_share(self, share: float) -> Self:
        """The same with a window of this share of the time that the interactions span."""
        span = float(self.times_[-1] - self.times_[0]) if len(self.times_) else 0.0
        return self.altered(window_=share * span)

    def score(self, batch: QueryBatch) -> ScoreBatch:
        """[queries, columns] counts."""
        begin, end = self._ends(batch)
        items = batch.extended(np.arange(len(batch.catalog)), -1)[batch.columns]
        found = batch.blank()
        if batch.full:
            for row, (first, last) in enumerate(zip(begin, end, strict=True)):
                found[row] = np.bincount(self.items_[first:last], minlength=len(items))
            return ScoreBatch(found)
        # of few candidates: where in the item's own interactions the window begins and ends
        size = len(self.times_)
        found[:] = np.searchsorted(self.keys_, items * size + end[:, None])
        found -= np.searchsorted(self.keys_, items * size + begin[:, None])
        found[:, items < 0] = 0.0
        return ScoreBatch(found)

    def _ends(self, batch: QueryBatch) -> tuple[Ints, Ints]:
        """[queries] the first interaction of each query's window, and the one after its last."""
        last = float(self.times_[-1]) if len(self.times_) else 0.0
        asked = batch.histories.lengths > 0
        end = np.full(len(batch), last)
        end[asked] = batch.times[batch.histories.starts[1:][asked] - 1]
        begin = np.searchsorted(self.times_, end - self.window_, side="left")
        before = np.searchsorted(self.times_, end, side="left")
        until = np.searchsorted(self.times_, end, side="right")
        stop = np.where(asked, before, until)
        return np.minimum(begin, stop), stop
