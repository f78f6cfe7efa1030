"""Quality by the length of the history: where a method gains, and where it does not."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from trsr.metrics.significance import Difference, compare_columns

if TYPE_CHECKING:
    from trsr.metrics.report import Report


@dataclass(frozen=True, slots=True)
class HistoryGroup:
    """The queries whose histories have about the same length.

    Attributes:
        shortest: Interactions of the shortest history in it.
        longest: Of the longest.
        queries: How many there are.
        means: (ranker, metric) → the mean and its 95 % bootstrap interval (`low`, `high`; None
            for one user's queries).
        against: (ranker, metric) → the ranker minus the main one, within the group, without
            p-values: groups describe, they do not decide. Without lower bounds.
    """

    shortest: int
    longest: int
    queries: int
    means: dict[tuple[str, str], Difference]
    against: dict[tuple[str, str], Difference]

    @property
    def name(self) -> str:
        """`4` or `5 to 9`."""
        return name_of(self.shortest, self.longest)

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        rankers: dict[str, dict[str, Any]] = {}
        for (ranker, metric), one in self.means.items():
            values: dict[str, Any] = {"mean": one.mean, "low": one.low, "high": one.high}
            found = self.against.get((ranker, metric))
            if found:
                values["against_main"] = {
                    "difference": found.mean,
                    "low": found.low,
                    "high": found.high,
                }
            rankers.setdefault(ranker, {})[metric] = values
        ends = {"shortest": self.shortest, "longest": self.longest}
        return ends | {"queries": self.queries, "rankers": rankers}


def name_of(shortest: int, longest: int) -> str:
    """`4` or `5 to 9`: how a group of histories is called."""
    return str(shortest) if shortest == longest else f"{shortest} to {longest}"


def history_groups(report: Report) -> list[HistoryGroup]:
    """Sums up each metric by length of history, shortest first; no group is empty.

    Args:
        report: The evaluation. The groups are the quartiles of its queries' lengths. Queries of one
            length are never parted, so there may be fewer than four.
    """
    table = report.per_query
    lengths = table.filter(pl.col("ranker") == report.main)["history"].to_numpy()
    if not len(lengths):
        return []
    edges = sorted({int(edge) for edge in np.quantile(lengths, [0.25, 0.5, 0.75], method="higher")})
    place = np.searchsorted(edges, table["history"].to_numpy(), side="right")
    parts = table.with_columns(pl.Series("_group", place)).partition_by("_group", as_dict=True)
    return [_group(parts[key], report) for key in sorted(parts)]


def _group(table: pl.DataFrame, report: Report) -> HistoryGroup:
    rankers = [scores.ranker for scores in report.rankers]
    by_ranker = table.partition_by("ranker", as_dict=True)
    values = {name: by_ranker[name,].select(report.paired).to_numpy() for name in rankers}
    users = by_ranker[report.main,]["user"].to_list()
    keys = [(name, metric) for name in rankers for metric in report.paired]
    means = compare_columns(np.hstack([values[name] for name in rankers]), users, tests=False)
    others = [name for name in rankers if name != report.main]
    against: dict[tuple[str, str], Difference] = {}
    if others:
        found = compare_columns(
            np.hstack([values[name] - values[report.main] for name in others]), users, tests=False
        )
        pairs = [(name, metric) for name in others for metric in report.paired]
        unclear = report[report.main].bounds
        against = {
            (name, metric): one
            for (name, metric), one in zip(pairs, found, strict=True)
            if metric not in unclear | report[name].bounds
        }
    lengths = table["history"]
    shortest, longest = int(str(lengths.min())), int(str(lengths.max()))
    return HistoryGroup(shortest, longest, len(users), dict(zip(keys, means, strict=True)), against)
