"""The sides of a table of differences, made of finished runs' values: which metrics, and whose."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import polars as pl

from trsr.errors import ConfigError
from trsr.evaluate.metrics import USUAL, parse_metric
from trsr.evaluate.sides import Side
from trsr.pipeline.finished import FinishedRun
from trsr.plugins import like


def shared_metrics(runs: Sequence[FinishedRun]) -> list[str]:
    """The metrics that all of the runs have; there is at least one run."""
    return [name for name in runs[0].metrics if all(name in run.metrics for run in runs)]


def wanted_metrics(runs: Sequence[FinishedRun], wanted: Sequence[str]) -> list[str]:
    """The wanted metrics, each once; all that the runs share where none is named.

    Raises:
        ConfigError: If a run lacks a wanted one, or the runs share none.
    """
    shared = shared_metrics(runs)
    for name in wanted:
        if name in shared:
            continue
        if _together(name):
            raise ConfigError(
                f"{name} is one value of all lists together, so it cannot be compared by query; it "
                "stands in the runs' report.json"
            )
        lacking = [str(run.folder) for run in runs if name not in run.metrics]
        raise ConfigError(
            f"{lacking[0]} has no metric {name!r}{like(name, shared)}; all runs have "
            f"{', '.join(shared)}; to add one, name it in evaluate.metrics and give `trsr evaluate`"
        )
    if not shared:
        raise ConfigError("the runs have no metric in common; set the same evaluate.metrics")
    return list(dict.fromkeys(wanted)) or shared


def _together(name: str) -> bool:
    """Whether a metric has one value for all lists."""
    try:
        return parse_metric(name).family.together is not None
    except ConfigError:
        return False


def usual(metrics: Sequence[str]) -> str:
    """The metric to look at where none is named."""
    return USUAL if USUAL in metrics else metrics[0]


def make_side(
    name: str,
    runs: Sequence[FinishedRun],
    ranker: str,
    metrics: Sequence[str],
    queries: pl.DataFrame | None = None,
) -> Side:
    """One ranker of one run, or of several that differ by their seed alone.

    Args:
        name: As it is printed.
        runs: One for each seed; they ranked the same queries.
        ranker: The ranker.
        metrics: Which of the runs' metrics.
        queries: Only these `query` count; None: all.
    """
    tables = [run.of(ranker, queries) for run in runs]
    values = {one: np.stack([rows[one].to_numpy() for rows in tables]) for one in metrics}
    bounds = frozenset().union(*(run.bounds[ranker] for run in runs))
    return Side(name, values, bounds & values.keys())
