"""Computes metrics for ranked lists, query by query, and sums them up."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import numpy.typing as npt
import polars as pl

from trsr.errors import ConfigError, DataError
from trsr.metrics.answers import AnswerKey, Lists, Ranks
from trsr.metrics.beyond_accuracy import ItemFacts, Places, Shown, first_places
from trsr.metrics.metrics import Metric, Values, parse_metric
from trsr.metrics.report import Estimate, Report, Scores, notes
from trsr.metrics.significance import compare_rankers
from trsr.progress import Progress, Silent
from trsr.types import Case, RankedList

MAIN = ("blend", "llm")
"""The rankers that a report is about, the first that is there; else the last of them is."""


def evaluate(
    cases: Iterable[Case] | AnswerKey,
    rankings: Mapping[str, Lists],
    metrics: Sequence[str],
    *,
    sampled: bool = True,
    drawn: str = "",
    items: ItemFacts | None = None,
    progress: Progress | None = None,
) -> Report:
    """Computes the metrics of every ranker on the same cases.

    A query that a ranker gave no list for has 0 in every metric and stays in the mean. Standard
    errors take queries as independent: sample standard deviation / √queries.

    Args:
        cases: Read once.
        rankings: ranker → its lists, each read once and in any order.
        metrics: As `parse_metric` reads them; repeated ones count once.
        sampled: Whether the candidates were drawn, which the report then warns about.
        drawn: How, where it is known: uniform or popular.
        items: What metrics that look beyond accuracy must know, in the key's order of items.
        progress: Advances by each list.

    Raises:
        ConfigError: If a metric is unknown, or looks beyond accuracy and there are no `items`.
        DataError: If there are no rankings, if a query stands twice among the cases, or if a
            ranker's lists do not answer the cases (see `AnswerKey.check`).
    """
    wanted = [parse_metric(text) for text in dict.fromkeys(metrics)]
    if not rankings:
        raise DataError("there are no rankings to evaluate; rank first")
    key = cases if isinstance(cases, AnswerKey) else AnswerKey.of(cases)
    found = {
        name: _measure(key, name, lists, wanted, items, progress or Silent())
        for name, lists in rankings.items()
    }
    scores = tuple(scores for _, scores in found.values())
    bounds = {one.ranker: one.bounds for one in scores}
    main = next((name for name in MAIN if name in rankings), scores[-1].ranker)
    per_query = pl.concat([table for table, _ in found.values()])
    paired = [str(metric) for metric in wanted if metric.family.together is None]
    return Report(
        main=main,
        rankers=scores,
        chance=_chance(key, wanted, frozenset().union(*bounds.values())),
        candidates=(int(key.candidates.min()), int(key.candidates.max())) if len(key) else (0, 0),
        per_query=per_query,
        notes=(),
        comparisons=compare_rankers(per_query, list(rankings), main, paired, bounds),
    ).noted(notes(key, scores, sampled=sampled, drawn=drawn))


def tuning_quality(cases: Sequence[Case], lists: Sequence[RankedList]) -> Mapping[str, float]:
    """NDCG@10 and, between equals, AUC: by these a ranker chooses its own settings."""
    return evaluate(cases, {"tuned": lists}, ("ndcg@10", "auc")).means("tuned")


def _chance(
    key: AnswerKey, metrics: Sequence[Metric], unclear: frozenset[str]
) -> dict[str, float | None]:
    """Expectations under random orders, of accuracy metrics that are no lower bounds."""
    ranks = Ranks.at_random(key.relevant, key.candidates)
    return {
        str(metric): None
        if str(metric) in unclear or metric.family.accuracy is None
        else estimate(metric.values(ranks)).mean
        for metric in metrics
    }


def _measure(
    key: AnswerKey,
    ranker: str,
    lists: Lists,
    metrics: Sequence[Metric],
    items: ItemFacts | None,
    progress: Progress,
) -> tuple[pl.DataFrame, Scores]:
    """A row for each query, and the means."""
    ranked = [metric for metric in metrics if metric.family.accuracy]
    cuts = {metric.k or 0 for metric in metrics if not metric.family.accuracy}
    values: dict[str, Values] = {str(metric): np.zeros(len(key)) for metric in ranked}
    places: dict[int, list[Places]] = {k: [] for k in cuts}
    tied, missing = np.zeros(len(key), np.bool_), np.ones(len(key), np.bool_)
    cut = False
    for batch in key.check(ranker, lists):
        cut |= batch.cut
        missing[batch.rows] = False
        tied[batch.rows] = batch.ranks.ambiguous
        for metric in ranked:
            values[str(metric)][batch.rows] = metric.values(batch.ranks)
        for k, found in places.items():
            found.append(first_places(batch, k))
        progress.advance(len(batch.rows), ranker)
    shown = {k: Shown.of(found, len(key)) for k, found in places.items()}
    one_value: dict[str, float] = {}
    for metric in metrics:
        _beyond(metric, shown, key, items, values, one_value)
    names = [str(metric) for metric in metrics]
    table = pl.DataFrame(
        {
            "ranker": pl.repeat(ranker, len(key), dtype=pl.String, eager=True),
            "query": key.queries,
            "user": key.users,
            "history": key.history,
            "candidates": key.candidates,
            **{name: values[name] for name in names if name in values},
            "tied": tied,
            "missing": missing,
        }
    )
    answered = int((~missing).sum())
    unit = {str(metric): metric.family.unit for metric in metrics}
    return table, Scores(
        ranker=ranker,
        metrics={
            name: estimate(values[name], unit=unit[name])
            if name in values
            else Estimate(one_value[name] if len(key) else None, None, unit[name])
            for name in names
        },
        queries=len(key),
        tied=int(tied.sum()) / answered if answered else None,
        missing=len(key) - answered,
        bounds=frozenset(str(one) for one in ranked if cut and one.needs_all),
    )


def _beyond(
    metric: Metric,
    shown: Mapping[int, Shown],
    key: AnswerKey,
    items: ItemFacts | None,
    values: dict[str, Values],
    one_value: dict[str, float],
) -> None:
    """Adds a metric of what is shown, where it is one."""
    family = metric.family
    if family.accuracy:
        return
    if items is None:
        raise ConfigError(f"{metric} needs the items' texts and interactions, which are not known")
    if list(items.ids) != key.items.to_list():
        raise ValueError("the items' facts are in another order than the key's items")
    found = shown[metric.k or 0]
    if family.lists:
        values[str(metric)] = family.lists(found, key, items)
    elif family.together:
        one_value[str(metric)] = family.together(found, key, items)


def estimate(values: npt.NDArray[np.float64], *, unit: bool = True) -> Estimate:
    """The mean of queries' values, and its standard error.

    Values have the shape (queries,); with `unit` they lie between 0 and 1.
    """
    n = len(values)
    mean = float(values.mean()) if n else None
    return Estimate(mean, float(values.std(ddof=1)) / math.sqrt(n) if n > 1 else None, unit)
