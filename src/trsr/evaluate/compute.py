"""Computes metrics for ranked lists, query by query, and sums them up."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import numpy.typing as npt
import polars as pl

from trsr.errors import DataError
from trsr.evaluate.answers import AnswerKey
from trsr.evaluate.comparison import compare_rankers
from trsr.evaluate.metrics import Metric, parse_metric
from trsr.evaluate.notes import notes
from trsr.evaluate.ranks import Ranks
from trsr.evaluate.report import Estimate, Report, Scores
from trsr.types import Case, RankedList

MAIN = "llm"
"""The ranker that a report is about, where it is among the rankers; else the last one is."""


def evaluate(
    cases: Iterable[Case] | AnswerKey,
    rankings: Mapping[str, Iterable[RankedList]],
    metrics: Sequence[str],
    *,
    sampled: bool = True,
    drawn: str = "",
) -> Report:
    """Computes the metrics of every ranker on the same cases.

    A query that a ranker gave no list for has 0 in every metric and stays in the mean. Standard
    errors take queries as independent: sample standard deviation / √queries.

    Args:
        cases: Read once; a `FullAnswerKey` where the candidates are the whole catalogue.
        rankings: ranker → its lists, each read once and in any order.
        metrics: As `parse_metric` reads them; repeated ones count once.
        sampled: Whether the candidates were drawn, which the report then warns about.
        drawn: How, where it is known: uniform or popular.

    Raises:
        ConfigError: If a metric is unknown.
        DataError: If there are no rankings, if a query stands twice among the cases, or if a
            ranker's lists do not answer the cases (see `AnswerKey.check`).
    """
    wanted = [parse_metric(text) for text in dict.fromkeys(metrics)]
    if not rankings:
        raise DataError("there are no rankings to evaluate; rank first")
    key = cases if isinstance(cases, AnswerKey) else AnswerKey(cases)
    found = {name: _per_query(key, name, lists, wanted) for name, lists in rankings.items()}
    tables = [table for table, _ in found.values()]
    scores = tuple(_sum_up(table, name, wanted, cut) for name, (table, cut) in found.items())
    bounds = {one.ranker: one.bounds for one in scores}
    unclear = frozenset().union(*bounds.values())
    chance = Ranks.at_random(key.relevant, key.candidates)
    sizes = (int(key.candidates.min()), int(key.candidates.max())) if len(key) else (0, 0)
    main = MAIN if MAIN in rankings else scores[-1].ranker
    per_query = pl.concat(tables)
    return Report(
        main=main,
        rankers=scores,
        chance={
            str(metric): None if str(metric) in unclear else estimate(metric.values(chance)).mean
            for metric in wanted
        },
        candidates=sizes,
        per_query=per_query,
        notes=(),
        comparisons=compare_rankers(
            per_query, list(rankings), main, [str(metric) for metric in wanted], bounds
        ),
    ).noted(notes(key, scores, sampled=sampled, drawn=drawn))


def _per_query(
    key: AnswerKey, ranker: str, lists: Iterable[RankedList], metrics: Sequence[Metric]
) -> tuple[pl.DataFrame, bool]:
    """A row for each query; and whether lists leave out candidates."""
    values = np.zeros((len(metrics), len(key)))
    ambiguous = np.zeros(len(key), np.bool_)
    missing = np.ones(len(key), np.bool_)
    cut = False
    for batch in key.check(ranker, lists):
        cut |= batch.cut
        missing[batch.rows] = False
        ambiguous[batch.rows] = batch.ranks.ambiguous
        for place, metric in enumerate(metrics):
            values[place, batch.rows] = metric.values(batch.ranks)
    table = pl.DataFrame(
        {
            "ranker": pl.repeat(ranker, len(key), dtype=pl.String, eager=True),
            "query": pl.Series(key.queries, dtype=pl.String),
            "user": pl.Series(key.users, dtype=pl.String),
            "history": key.history,
            "candidates": key.candidates,
            **{str(metric): values[place] for place, metric in enumerate(metrics)},
            "tied": ambiguous,
            "missing": missing,
        }
    )
    return table, cut


def _sum_up(table: pl.DataFrame, ranker: str, metrics: Sequence[Metric], cut: bool) -> Scores:
    missing = int(table["missing"].sum())
    answered = table.height - missing
    return Scores(
        ranker=ranker,
        metrics={str(metric): estimate(table[str(metric)].to_numpy()) for metric in metrics},
        queries=table.height,
        tied=int(table["tied"].sum()) / answered if answered else None,
        missing=missing,
        bounds=frozenset(str(metric) for metric in metrics if cut and metric.whole),
    )


def estimate(values: npt.NDArray[np.float64]) -> Estimate:
    """The mean of queries' values, and its standard error."""
    n = len(values)
    mean = float(values.mean()) if n else None
    return Estimate(mean, float(values.std(ddof=1)) / math.sqrt(n) if n > 1 else None)
