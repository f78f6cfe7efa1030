"""What sampled candidates say of the whole catalogue: Krichene and Rendle's corrected metrics.

Krichene and Rendle, "On sampled metrics for item recommendation" (KDD 2020), propose to replace
a metric M of the rank among the whole catalogue by another function M̂ of the rank among the
candidates, chosen so that its expectation comes near M. This is their corrected metric that trades
bias against variance: over the ranks r = 1 … n of a catalogue of n items, all with weight
p(r) = 1/n, M̂ has the least

    Σ p(r) [ (E[M̂(s) | r] − M(r))² + γ Var(M̂(s) | r) ],

s being the rank among m sampled items and the right one. With A = √p(r) P(s | r), b = √p(r) M(r)
and c(s) = Σ p(r) P(s | r), setting the derivative to 0 gives

    M̂ = ((1 − γ) AᵀA + γ diag(c))⁻¹ Aᵀ b.

They draw candidates with replacement, which makes s − 1 binomial; trsr draws without, so s − 1 is
hypergeometric: m draws from n − 1 items of which r − 1 stand above the right one. With m = n − 1
and γ = 0 the correction gives M itself.

The estimate rests on the weights p(r). Few samples say little about the first ranks: with 20
samples from 3,000 items, nothing tells rank 1 from rank 50. Ranking the whole catalogue is better.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import polars as pl

from trsr.evaluate.answers import AnswerKey
from trsr.evaluate.compute import estimate
from trsr.evaluate.metrics import Metric, parse_metric
from trsr.evaluate.ranks import Ranks
from trsr.evaluate.report import Estimate, Report
from trsr.evaluate.resampling import Floats
from trsr.types import Case, RankedList

GAMMA = 0.1
"""γ; 0 asks for the least bias, whatever the variance."""

SUFFIX = "~full"
"""Ends the names of corrected metrics in `per_query.parquet`."""


def corrected_note(metrics: Iterable[str]) -> str:
    """What to know of those among the metrics that are corrected; empty where none is."""
    names = [name for name in metrics if name.endswith(SUFFIX)]
    if not names:
        return ""
    which = f"metrics that end in {SUFFIX}: estimates" if names[1:] else f"{names[0]}: an estimate"
    return (
        f"{which} over the whole catalogue from the ranks among sampled candidates (Krichene and "
        "Rendle, KDD 2020), and no ranking of it: values of single queries, and means, may be "
        "negative or above 1, and standard errors and intervals do not hold the bias"
    )


_CELLS = 4_000_000  # entries of A held at a time


@dataclass(frozen=True, slots=True)
class Corrected:
    """Corrected metrics of one report.

    Attributes:
        population: n, how many items a whole ranking would hold.
        samples: m, how many were drawn beside the right one; 0 where a correction is not possible.
        gamma: γ.
        means: ranker → metric → mean over queries; empty where a correction is not possible.
        note: What to know, or why it is not possible.
    """

    population: int
    samples: int
    gamma: float
    means: Mapping[str, Mapping[str, Estimate]]
    note: str

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "population": self.population,
            "samples": self.samples,
            "gamma": self.gamma,
            "rankers": {
                ranker: {name: {"mean": one.mean, "se": one.se} for name, one in means.items()}
                for ranker, means in self.means.items()
            },
            "note": self.note,
        }


def correct(
    report: Report,
    cases: Iterable[Case],
    rankings: Mapping[str, Iterable[RankedList]],
    population: int,
    gamma: float = GAMMA,
) -> tuple[Corrected, Report]:
    """Estimates a report's metrics over the whole catalogue.

    Args:
        report: Of the same cases and rankings.
        cases: Read once.
        rankings: ranker → its lists, read once each.
        population: How many items a whole ranking would hold, the right one included.
        gamma: γ.

    Returns:
        The estimates, and the report with a column `METRIC~full` a metric in `per_query`. Where
        queries have several right answers, or unlike numbers of candidates, no correction is
        defined: the note says so and the report is as it was.
    """
    key = AnswerKey(cases)
    samples = report.candidates[0] - 1
    why = _impossible(report, key, population)
    if why:
        note = f"No estimate for the whole catalogue: {why}."
        return Corrected(population, 0, gamma, {}, note), report
    metrics = [parse_metric(name) for name in report.metrics]
    values = corrected_values(metrics, population, samples, gamma)
    found = {}
    for ranker, lists in rankings.items():
        rows = np.zeros((len(key), len(metrics)))
        for batch in key.check(ranker, lists):
            rows[batch.rows] = at_ranks(values, batch.ranks)
        found[ranker] = rows
    names = [f"{metric}{SUFFIX}" for metric in metrics]
    stacked = np.vstack([found[scores.ranker] for scores in report.rankers])
    per_query = report.per_query.with_columns(
        pl.Series(name, stacked[:, place]) for place, name in enumerate(names)
    )
    means = {
        ranker: {str(m): estimate(rows[:, place]) for place, m in enumerate(metrics)}
        for ranker, rows in found.items()
    }
    note = (
        f"Estimates for ranking all {population:,} items, from the ranks among {samples + 1:,} "
        f"candidates (Krichene and Rendle, KDD 2020; γ = {gamma:g}; uniform samples). They rest on "
        "every rank being as likely beforehand, and samples say little about the first ranks: "
        "the standard error does not hold that bias. Ranking the whole catalogue is better."
    )
    return Corrected(population, samples, gamma, means, note), replace(report, per_query=per_query)


def _impossible(report: Report, key: AnswerKey, population: int) -> str:
    """Why the correction is not defined; empty where it is."""
    fewest, most = report.candidates
    if not len(key):
        return "there are no queries"
    if int(key.relevant.max()) > 1:
        return "there are queries with several right answers"
    if fewest < most:
        return "the queries have unlike numbers of candidates"
    if not 1 < fewest <= population:
        return f"{fewest} candidates are no sample of {population} items"
    return ""


def corrected_values(
    metrics: Sequence[Metric], population: int, samples: int, gamma: float = GAMMA
) -> Floats:
    """M̂ at each rank among the candidates.

    Args:
        metrics: Of one relevant item.
        population: n, the right item included.
        samples: m, at most n − 1.
        gamma: γ, from 0 up and below 1.

    Returns:
        [samples + 1, metrics]; may lie outside 0 and 1, only means are to be read.

    Raises:
        ValueError: If the numbers do not go together.
    """
    if not 0 < samples < population:
        raise ValueError(f"{samples} samples cannot be drawn beside one of {population} items")
    size = samples + 1
    square, target, weight = np.zeros((size, size)), np.zeros((size, len(metrics))), np.zeros(size)
    step = max(1, _CELLS // size)
    for first in range(1, population + 1, step):
        ranks = np.arange(first, min(first + step, population + 1))
        chance = sampled_rank(ranks, population, samples)
        np.add(square, chance.T @ chance, out=square)
        np.add(target, chance.T @ metric_at(metrics, ranks, population), out=target)
        np.add(weight, chance.sum(axis=0), out=weight)
    # Every term carries p(r) = 1/n, which falls out. lstsq, as AᵀA may be singular at γ = 0.
    matrix = (1 - gamma) * square + gamma * np.diag(weight)
    return np.asarray(np.linalg.lstsq(matrix, target, rcond=None)[0], dtype=np.float64)


def sampled_rank(ranks: Any, population: int, samples: int) -> Floats:
    """[ranks, samples + 1] the chance of each rank among the candidates, given the whole one."""
    logs = np.zeros(population + 1)
    np.cumsum(np.log(np.arange(1, population + 1)), out=logs[1:])
    above = np.asarray(ranks)[:, None] - 1
    drawn = np.arange(samples + 1)[None, :]
    below = population - 1 - above
    possible = (drawn <= above) & (samples - drawn <= below)

    def choose(of: Any, take: Any) -> Floats:
        # Where it is not possible any number will do: it is put to 0 below.
        safe = np.clip(take, 0, of)
        return np.asarray(logs[of] - logs[safe] - logs[of - safe], dtype=np.float64)

    total = choose(np.array(population - 1), np.array(samples))
    chance = np.exp(choose(above, drawn) + choose(below, samples - drawn) - total)
    found: Floats = np.where(possible, chance, 0.0)
    return found


def metric_at(metrics: Sequence[Metric], ranks: Any, population: int) -> Floats:
    """[ranks, metrics] each metric of one relevant item at a rank among the whole catalogue."""
    ranks = np.asarray(ranks, dtype=np.int64)
    ones = np.ones_like(ranks)
    places = Ranks(np.arange(len(ranks)), ranks - 1, ones, ones, ones, ones * population)
    return np.stack([metric.values(places) for metric in metrics], axis=1)


def at_ranks(values: Floats, ranks: Ranks) -> Floats:
    """[queries, metrics] M̂ where each query's one relevant item stands; its mean over a tie."""
    upto = np.zeros((len(values) + 1, values.shape[1]))
    np.cumsum(values, axis=0, out=upto[1:])
    found = np.zeros((len(ranks.relevant), values.shape[1]))
    totals = upto[ranks.above + ranks.tied] - upto[ranks.above]
    found[ranks.row] = totals / ranks.tied[:, None]
    return found
