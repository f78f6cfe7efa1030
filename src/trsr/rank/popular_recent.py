"""Ranks by popularity in a window of time."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from trsr.rank.tune import QueryRanker, tuned
from trsr.types import Query

if TYPE_CHECKING:
    import polars as pl

    from trsr.rank.base import RankContext


class ItemTimes:
    """When each item was met in training.

    Args:
        interactions: Columns `item` (str) and `time` (f64).

    Attributes:
        first: The earliest time; 0 where there are no interactions.
        last: The latest one.
    """

    def __init__(self, interactions: pl.DataFrame) -> None:
        placed = interactions.select("item", "time").sort("item", "time")
        self._times = placed["time"].to_numpy()
        runs = placed["item"].rle().struct.unnest()
        ends = np.cumsum(runs["len"].to_numpy())
        starts = ends - runs["len"].to_numpy()
        self._span = dict(zip(runs["value"], zip(starts, ends, strict=True), strict=True))
        self.first = float(self._times.min()) if len(placed) else 0.0
        self.last = float(self._times.max()) if len(placed) else 0.0

    def count(self, item: str, begin: float, end: float, *, closed: bool) -> int:
        """How often an item was met from `begin` on and before `end` (`closed`: or at it)."""
        start, stop = self._span.get(item, (0, 0))
        times = self._times[start:stop]
        to = int(np.searchsorted(times, end, side="right" if closed else "left"))
        return max(to - int(np.searchsorted(times, begin, side="left")), 0)


class PopularRecentRanker(QueryRanker):
    """A candidate's number of training interactions in [end − window, end).

    `end` is the time of the history's last interaction, and what happened at that very moment is
    not counted: nothing is that the query could not know. With `until` = training, and for an
    empty history, the window is [last − window, last] of the training interactions; where data is
    split by user, those may be later than the query. An item without an interaction in the window
    scores 0. Data without times has places in the history for times: then the window says little.

    Args:
        times: When each item was met.
        share: The window's length, as a share of the time that the interactions span.
        until: `query` or `training`.
    """

    def __init__(self, times: ItemTimes, share: float, until: str = "query") -> None:
        self.times = times
        self.window = share * (times.last - times.first)
        self.until = until

    def scores(self, query: Query) -> Sequence[float]:
        """One count a candidate."""
        asked = bool(len(query.history)) and self.until == "query"
        end = query.history.interactions[-1].time if asked else self.times.last
        return [
            float(self.times.count(item.id, end - self.window, end, closed=not asked))
            for item in query.candidates
        ]


def make_popular_recent(context: RankContext) -> PopularRecentRanker:
    """Recent popularity, its window tuned on the validation cases."""
    own = context.settings.popular_recent
    make = functools.partial(PopularRecentRanker, ItemTimes(context.interactions), until=own.until)
    return tuned("popular_recent", context, [{"share": share} for share in own.share], make)
