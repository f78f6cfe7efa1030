"""Rankers of one run or several, compared with one of them: `trsr compare`'s table."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from trsr.metrics.metrics import parse_metric
from trsr.metrics.report import (
    BEST,
    BOUND,
    DIFFERENCES,
    FEW,
    LEAST,
    Table,
    decimals,
    difference_cells,
)
from trsr.metrics.significance import (
    BETTER,
    LEVEL,
    WORSE,
    Difference,
    Floats,
    compare_seeds,
    difference_json,
    holm,
)

TRAININGS = (
    "p, intervals and arrows are over users, for these trainings: another training may differ"
)
"""What differences say, and what they do not, where no seeds are pooled."""


@dataclass(frozen=True, slots=True)
class System:
    """One row of the table.

    Attributes:
        name: As it is printed.
        values: metric → [seeds, queries]; the queries stand in the same order for all systems.
        bounds: The metrics that are lower bounds, as lists leave out candidates.
    """

    name: str
    values: Mapping[str, Floats]
    bounds: frozenset[str] = frozenset()

    @property
    def seeds(self) -> int:
        """How many training runs are pooled."""
        return len(next(iter(self.values.values())))


@dataclass(frozen=True, slots=True)
class SystemResult:
    """One system in one metric.

    Attributes:
        system: Its name.
        metric: What is compared.
        seeds: How many training runs are pooled.
        mean: Over queries and seeds; None where there is no query.
        seed_sd: Standard deviation of the seeds' means; None for one seed.
        difference: To the baseline; None for the baseline itself. Where one of the two is a lower
            bound, nothing can be said of it.
        p_holm: Its p-value corrected for all comparisons of the table.
        bound: Whether the mean is a lower bound.
    """

    system: str
    metric: str
    seeds: int
    mean: float | None
    seed_sd: float | None
    difference: Difference | None
    p_holm: float | None
    bound: bool = False

    @property
    def compared(self) -> bool:
        """Whether there is a difference of which something can be said."""
        return self.difference is not None and self.difference.mean is not None


@dataclass(frozen=True, slots=True)
class SystemsReport:
    """All systems against the baseline."""

    baseline: str
    queries: int
    users: int
    results: tuple[SystemResult, ...]
    notes: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain values; what cannot be said is null."""
        return {
            "baseline": self.baseline,
            "queries": self.queries,
            "users": self.users,
            "comparisons": [_plain(one) for one in self.results],
            "notes": list(self.notes),
        }

    def table(self) -> Table:
        """A row for each metric and system, the baseline first of its metric."""
        pooled = any(one.seeds > 1 for one in self.results)
        metrics = list(dict.fromkeys(one.metric for one in self.results))
        rows = [
            tuple(_cells(one, best, pooled))
            for metric in metrics
            for best in [self._best(metric)]
            for one in self.results
            if one.metric == metric
        ]
        seeds = ("seeds",) if pooled else ()
        return Table(("", "metric", *seeds, "mean", *DIFFERENCES), tuple(rows), self.notes)

    def _best(self, metric: str) -> float | None:
        """The highest mean; None where it is not the best, or any is a lower bound."""
        if parse_metric(metric).family.accuracy is None:
            return None
        those = [one for one in self.results if one.metric == metric]
        means = [one.mean for one in those if one.mean is not None]
        return None if any(one.bound for one in those) else max(means, default=None)


def compare_systems(
    systems: Sequence[System], baseline: str, users: Sequence[str], metrics: Sequence[str]
) -> SystemsReport:
    """Compares every system with the baseline, Holm's correction over all.

    What is a lower bound for one of the two is not compared: such a difference says nothing.
    """
    base = next(system for system in systems if system.name == baseline)
    ordered = [base, *(system for system in systems if system is not base)]
    pairs = [(metric, system) for metric in metrics for system in ordered]
    known = len(set(users))
    unclear = Difference(len(users), known)
    differences = [
        None
        if system is base
        else unclear
        if metric in system.bounds | base.bounds
        else compare_seeds(system.values[metric], base.values[metric], users)
        for metric, system in pairs
    ]
    corrected = holm([one.p if one else None for one in differences])
    results = tuple(
        SystemResult(
            system.name,
            metric,
            system.seeds,
            *_mean(system.values[metric]),
            difference,
            p,
            metric in system.bounds,
        )
        for (metric, system), difference, p in zip(pairs, differences, corrected, strict=True)
    )
    notes = tuple(_notes(results, baseline, len(users), known))
    return SystemsReport(baseline, len(users), known, results, notes)


def _mean(values: Floats) -> tuple[float | None, float | None]:
    if not values.shape[1]:
        return None, None
    means = values.mean(axis=1)
    return float(np.mean(means)), float(means.std(ddof=1)) if len(means) > 1 else None


def _cells(one: SystemResult, best: float | None, pooled: bool) -> Iterator[str]:
    yield one.system
    yield one.metric
    spread = "" if one.seed_sd is None else f" ±{decimals(one.seed_sd)}"
    if pooled:
        yield str(one.seeds)
    top = f" {BEST}" if best is not None and one.mean == best else ""
    yield (LEAST if one.bound else "") + decimals(one.mean) + spread + top
    if one.difference is None:
        yield from ("baseline", "", "", "", "", "")
        return
    yield from difference_cells(one.difference, one.p_holm)


def _notes(
    results: Sequence[SystemResult], baseline: str, queries: int, users: int
) -> Iterator[str]:
    tests = [one for one in results if one.compared]
    pooled = any(one.seeds > 1 for one in results)
    if not queries:
        yield "There are no queries: nothing can be said about any ranker."
        return
    words = "1 query" if queries == 1 else f"{queries:,} queries"
    yield f"{words} of {users:,} {'user' if users == 1 else 'users'}; {BEST} highest mean"
    if users == 1:
        yield (
            "There is one user: the values are shown, but one user has no interval and no test, "
            "and nothing can be said about others."
        )
    elif tests:
        # Of pooled seeds the note below says what p and intervals are for.
        trained = "" if pooled else f"; {TRAININGS}"
        yield (
            f"differences to {baseline}: paired, BCa bootstrap intervals and randomization tests "
            f"over users; {BETTER} {WORSE} p < {decimals(LEVEL, 2)} after Holm's correction for "
            f"the {len(tests)} {'comparison' if len(tests) == 1 else 'comparisons'} of the table; "
            f"no arrow says only that no difference was shown{trained}"
        )
        if users < FEW:
            yield f"{users} users are few: the intervals are rough."
    if any(one.bound for one in results):
        yield BOUND
    if pooled:
        yield (
            "±: standard deviation over seeds; where seeds are pooled, interval and p are of "
            "Student's t with the variance over users and over seeds, and a system with one seed "
            "counts as if its seed did not matter"
        )


def _plain(one: SystemResult) -> dict[str, Any]:
    empty = difference_json(Difference(0, 0)) | {"queries": None, "users": None}
    found = empty if one.difference is None else difference_json(one.difference)
    named = {"name": one.system, "metric": one.metric, "seeds": one.seeds, "mean": one.mean}
    named |= {"lower_bound": one.bound}
    return named | {"seed_sd": one.seed_sd} | found | {"p_holm": one.p_holm}
