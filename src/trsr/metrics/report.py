"""What an evaluation found, as values; printing and drawing are others' work."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from trsr.metrics.tables import Table, make_table

if TYPE_CHECKING:
    import polars as pl

    from trsr.metrics.comparison import Comparison

Z95 = 1.96
"""Standard errors on each side of a normal 95 % interval."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean over queries.

    Attributes:
        mean: None where there is no query.
        se: Its standard error; None where there are fewer than two queries, or where the metric
            has no values of single queries.
        unit: Whether it lies between 0 and 1.
    """

    mean: float | None
    se: float | None
    unit: bool = True

    @property
    def interval(self) -> tuple[float, float] | None:
        """The normal 95 % interval, where there is a standard error."""
        if self.mean is None or self.se is None:
            return None
        low, high = self.mean - Z95 * self.se, self.mean + Z95 * self.se
        return (max(0.0, low), min(1.0, high)) if self.unit else (low, high)


def over_seeds(each: Iterable[Estimate]) -> tuple[Estimate, float | None]:
    """One estimate of several seeds' runs.

    Returns:
        The mean over seeds with the mean of their standard errors over queries; the standard
        deviation of the seeds' means, None of fewer than two.
    """
    known = [one for one in each if one.mean is not None]
    means = [one.mean for one in known if one.mean is not None]
    errors = [one.se for one in known if one.se is not None]
    found = Estimate(
        statistics.fmean(means) if means else None,
        statistics.fmean(errors) if errors else None,
    )
    return found, statistics.stdev(means) if len(means) > 1 else None


@dataclass(frozen=True, slots=True)
class Scores:
    """One ranker's metrics.

    Attributes:
        ranker: Its name.
        metrics: metric → its mean over all queries.
        queries: How many there are, those without a result included.
        tied: Share of the queries with a result in which a relevant candidate ties with another
            one; None where no query has a result.
        missing: How many queries have no result; they have 0 in every metric.
        bounds: The metrics that are lower bounds, as its lists leave out candidates.
    """

    ranker: str
    metrics: Mapping[str, Estimate]
    queries: int
    tied: float | None
    missing: int
    bounds: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Note:
    """A sentence that a reader of the numbers must know.

    Attributes:
        text: The sentence.
        serious: Whether the numbers are easily taken for what they are not without it, so that it
            is to be read before them.
    """

    text: str
    serious: bool = False


@dataclass(frozen=True, slots=True)
class Report:
    """What an evaluation found.

    Attributes:
        main: The ranker that the report is about.
        rankers: All rankers, in the order given; at least one.
        chance: metric → its expectation under random orders; None where there is no query, or a
            lower bound to be set against it.
        candidates: The fewest and the most candidates of a query.
        per_query: A row for each ranker and query: `ranker`, `query`, `user`, `history` (its
            length), `candidates` (how many), a column for each metric, `tied`, `missing`. The
            queries stand in the same order for each ranker, so that differences can be paired.
        notes: What a reader must know, in plain sentences.
        comparisons: Every other ranker against the main one, in every metric that is no lower
            bound.
        warnings: Those of the notes that are serious.
    """

    main: str
    rankers: tuple[Scores, ...]
    chance: Mapping[str, float | None]
    candidates: tuple[int, int]
    per_query: pl.DataFrame
    notes: tuple[str, ...]
    comparisons: tuple[Comparison, ...] = ()
    warnings: tuple[str, ...] = ()

    @property
    def queries(self) -> int:
        """How many queries were evaluated, those without a result included."""
        return self.rankers[0].queries

    @property
    def metrics(self) -> tuple[str, ...]:
        """The metrics' names, in the order of the settings."""
        return tuple(self.chance)

    @property
    def paired(self) -> tuple[str, ...]:
        """Those of them that have a value for each query."""
        return tuple(name for name in self.metrics if name in self.per_query.columns)

    def __getitem__(self, ranker: str) -> Scores:
        for scores in self.rankers:
            if scores.ranker == ranker:
                return scores
        raise KeyError(ranker)

    def means(self, ranker: str) -> dict[str, float]:
        """One ranker's means by metric; empty where there is no query."""
        found = self[ranker].metrics.items()
        return {name: one.mean for name, one in found if one.mean is not None}

    def comparison(self, ranker: str, metric: str) -> Comparison | None:
        """A ranker against the main one; None for the main one itself and for lower bounds."""
        for one in self.comparisons:
            if (one.ranker, one.metric) == (ranker, metric):
                return one
        return None

    def noted(self, notes: Iterable[Note]) -> Report:
        """The report with these notes too."""
        found = list(notes)
        return replace(
            self,
            notes=(*self.notes, *(note.text for note in found)),
            warnings=(*self.warnings, *(note.text for note in found if note.serious)),
        )

    @property
    def remarks(self) -> tuple[str, ...]:
        """The notes that are not serious."""
        return tuple(note for note in self.notes if note not in self.warnings)

    @property
    def bounds(self) -> frozenset[str]:
        """The metrics that are a lower bound for some ranker."""
        return frozenset().union(*(scores.bounds for scores in self.rankers))

    def rows(self) -> Table:
        """The table for a terminal: a header, a row for each ranker and one for chance."""
        return make_table(self)

    def to_json(self) -> dict[str, Any]:
        """Plain values: the main ranker's at the top, every ranker's under `rankers`.

        A number that cannot be said, such as the standard error of one query, is null.
        """
        return {
            "main": self.main,
            **_plain(self[self.main]),
            "candidates": {"fewest": self.candidates[0], "most": self.candidates[1]},
            "chance": dict(self.chance),
            "notes": list(self.notes),
            "rankers": {scores.ranker: _plain(scores) for scores in self.rankers},
            "comparisons": [one.to_json() for one in self.comparisons],
        }


def _plain(scores: Scores) -> dict[str, Any]:
    return {
        "metrics": {name: {"mean": one.mean, "se": one.se} for name, one in scores.metrics.items()},
        "queries": scores.queries,
        "tied": scores.tied,
        "missing": scores.missing,
        "lower_bounds": sorted(scores.bounds),
    }
