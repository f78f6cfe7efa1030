"""Rankers set against one of them, on the queries of one report."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from trsr.metrics.significance import LEVEL, Difference, compare_columns, holm

if TYPE_CHECKING:
    import polars as pl

BETTER, WORSE = "↑", "↓"
"""Ends what is significantly better or worse than what it is compared with."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """One ranker against the one that a report is about, in one metric.

    Attributes:
        ranker: Its name.
        baseline: The name of the other.
        metric: What is compared.
        difference: Ranker minus baseline.
        p_holm: Its p-value, corrected for all comparisons of the table.
    """

    ranker: str
    baseline: str
    metric: str
    difference: Difference
    p_holm: float | None

    @property
    def mark(self) -> str:
        """`BETTER` or `WORSE` where the difference is significant, else empty."""
        return significance(self.difference.mean, self.p_holm)

    def to_json(self) -> dict[str, Any]:
        """Plain values; what cannot be said is null."""
        names = {"ranker": self.ranker, "baseline": self.baseline, "metric": self.metric}
        return names | difference_json(self.difference) | {"p_holm": self.p_holm}


def difference_json(difference: Difference) -> dict[str, Any]:
    """Plain values; the mean is called `difference`."""
    values = asdict(difference)
    return {"difference": values.pop("mean")} | values


def significance(mean: float | None, p_holm: float | None) -> str:
    """`BETTER` or `WORSE` where the corrected p-value is below `LEVEL`, else empty."""
    if mean is None or p_holm is None or p_holm >= LEVEL or mean == 0:
        return ""
    return BETTER if mean > 0 else WORSE


def compare_rankers(
    per_query: pl.DataFrame,
    rankers: Sequence[str],
    main: str,
    metrics: Sequence[str],
    bounds: Mapping[str, Collection[str]] | None = None,
) -> tuple[Comparison, ...]:
    """Every other ranker against the main one in every metric, Holm over all of them.

    What is a lower bound on one side at least is left out: such a difference says nothing.

    Args:
        per_query: As in `Report`.
        rankers: The rankers' names.
        main: The one that the others are compared with.
        metrics: Columns of `per_query`.
        bounds: ranker → which of the metrics are lower bounds for it.
    """
    bounds = bounds or {}
    others = [name for name in rankers if name != main]
    pairs = [
        (name, metric)
        for name in others
        for metric in metrics
        if metric not in bounds.get(name, ()) and metric not in bounds.get(main, ())
    ]
    if not pairs:
        return ()
    tables = per_query.partition_by("ranker", as_dict=True)
    if not tables:
        users: list[str] = []
        differences = np.zeros((0, len(pairs)))
    else:
        differences = np.hstack(
            [
                tables[name,].select(wanted).to_numpy() - tables[main,].select(wanted).to_numpy()
                for name in others
                if (wanted := [metric for ranker, metric in pairs if ranker == name])
            ]
        )
        users = tables[main,]["user"].to_list()
    found = compare_columns(differences, users)
    corrected = holm([one.p for one in found])
    return tuple(
        Comparison(name, main, metric, difference, p)
        for (name, metric), difference, p in zip(pairs, found, corrected, strict=True)
    )
