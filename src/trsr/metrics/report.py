"""What an evaluation found, as values; printing and drawing are others' work."""

from __future__ import annotations

import statistics
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from trsr.metrics.answers import AnswerKey
from trsr.metrics.metrics import parse_metric
from trsr.metrics.significance import BETTER, LEVEL, WORSE, Difference, significance

if TYPE_CHECKING:
    import polars as pl

    from trsr.metrics.significance import Comparison


NOTHING = "–"
"""What stands where a number cannot be said."""

BEST = "*"
"""Ends the cells that hold the highest mean of their column."""


LEAST = "≥ "
"""Begins the cells that hold a lower bound."""

LOWER = (
    f"{LEAST}a lower bound: lists leave out candidates, and a relevant item that is left out "
    "counts as last"
)
"""What `LEAST` means."""

BOUND = f"{LOWER}; of lower bounds there is no chance level, no highest mean and no test"
"""The same below a table that has these of other metrics."""


class Table(NamedTuple):
    """A table of text.

    Attributes:
        header: The columns' heads; the first column names the rows.
        rows: As long as the header each.
        notes: What to print below it.
    """

    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...]


def make_table(report: Report) -> Table:
    """A row for each ranker and one for chance.

    The best mean of each metric ends in `BEST`; what is significantly better or worse than the
    main ranker ends in an arrow. Lower bounds begin with `LEAST`, and have neither.
    """
    best = {name: best_mean(report, name) for name in report.metrics}
    rows = [
        (
            scores.ranker,
            *(
                least(scores.bounds, name)
                + number(one)
                + mark(one, best[name])
                + arrow(report, scores.ranker, name)
                for name, one in scores.metrics.items()
            ),
            share(scores.tied),
            str(scores.missing),
        )
        for scores in report.rankers
    ]
    chance = ("chance", *(decimals(mean) for mean in report.chance.values()), "", "")
    header = ("ranker", *report.metrics, "tied", "missing")
    queries = "1 query" if report.queries == 1 else f"{report.queries:,} queries"
    means = "mean ± standard error (× 1.96: 95 % interval)"
    legend = f"{queries}; {means}; {BEST} highest mean; chance: random order"
    return Table(header, (*rows, chance), (legend, *_marks(report), *report.notes))


def _marks(report: Report) -> Iterator[str]:
    """What the arrows and `LEAST` mean, where there are any."""
    if report.bounds:
        yield BOUND
    if any(one.mark for one in report.comparisons):
        yield (
            f"{BETTER} {WORSE} significantly higher or lower than {report.main}: paired "
            f"randomization test, p < {decimals(LEVEL, 2)} after Holm's correction for the "
            f"{len(report.comparisons)} comparisons of the table; no arrow says only that no "
            "difference was shown"
        )


def number(estimate: Estimate, spread: float | None = None) -> str:
    """`.460 ±.029`, or `.460` where there is no standard error.

    `spread` is the standard deviation of several seeds' means: `.460 ±.029 (±.012)`.
    """
    error = "" if estimate.se is None else f" ±{decimals(estimate.se)}"
    seeds = "" if spread is None else f" (±{decimals(spread)})"
    return decimals(estimate.mean) + error + seeds


def decimals(value: float | None, places: int = 3) -> str:
    """`.460`, `−.011`: no digit before the point below 1, as the field's tables have it."""
    if value is None:
        return NOTHING
    text = f"{abs(value):.{places}f}"
    sign = "−" if value < 0 and float(text) else ""
    return sign + (text[1:] if text.startswith("0.") else text)


def interval_text(estimate: Estimate) -> str:
    """`.460 (.404 to .516)`: a mean with its 95 % interval, where there is one."""
    ends = estimate.interval
    return decimals(estimate.mean) + (
        f" ({decimals(ends[0])} to {decimals(ends[1])})" if ends else ""
    )


def share(value: float | None) -> str:
    """`4 %`; what rounds to 0 but is not says so."""
    if value is None:
        return NOTHING
    if 0 < value < 0.005:
        return "< 1 %"
    return f"{100 * value:.0f} %"


def least(bounds: Collection[str], metric: str) -> str:
    """`LEAST` where a metric is among those that are lower bounds, else empty."""
    return LEAST if metric in bounds else ""


def mark(estimate: Estimate, best: float | None) -> str:
    """`BEST` where the estimate is the highest."""
    return f" {BEST}" if best is not None and estimate.mean == best else ""


def arrow(report: Report, ranker: str, metric: str) -> str:
    """` ↑` or ` ↓` where a ranker is significantly better or worse than the main one."""
    found = report.comparison(ranker, metric)
    return f" {found.mark}" if found and found.mark else ""


def p_value(p: float | None) -> str:
    """`.012`, or `< .001`."""
    if p is None:
        return NOTHING
    return "< .001" if p < 0.001 else decimals(p)


def signed(value: float | None) -> str:
    """`+.014`, `−.020`: a difference always shows its sign."""
    if value is None:
        return NOTHING
    return ("−" if value < 0 else "+") + decimals(abs(value))


def span(low: float | None, high: float | None) -> str:
    """`−.010 to +.050`: the interval of a difference."""
    return NOTHING if low is None or high is None else f"{signed(low)} to {signed(high)}"


DIFFERENCES = ("difference", "95 % interval", "p", "p Holm", "d_z", "")
"""The columns of `difference_cells`."""


def difference_cells(found: Difference, p_holm: float | None) -> tuple[str, ...]:
    """A difference with its tests, as `DIFFERENCES` names its cells."""
    return (
        signed(found.mean),
        span(found.low, found.high),
        p_value(found.p),
        p_value(p_holm),
        signed(found.d_z),
        significance(found.mean, p_holm),
    )


def difference_rows(report: Report) -> list[tuple[str, ...]]:
    """A row for each comparison: ranker, metric and `DIFFERENCES`."""
    return [
        (one.ranker, one.metric, *difference_cells(one.difference, one.p_holm))
        for one in report.comparisons
    ]


def differences_note(report: Report) -> str:
    """How the differences were found."""
    return (
        "Paired over queries: BCa bootstrap intervals and randomization tests over users, Holm's "
        f"correction over the {len(report.comparisons)} rows; d_z is mean / standard deviation of "
        "the differences."
    )


def about(report: Report) -> str:
    """Which ranker the others are compared with, and why it is that one."""
    return (
        f"{report.main} is the ranker that this report is about (blend where there is one, else "
        "llm, else the last one): every other ranker is compared with it."
    )


def best_mean(report: Report, metric: str) -> float | None:
    """The highest mean; None where it is not the best, nothing to compare, or a lower bound."""
    if metric in report.bounds or parse_metric(metric).family.accuracy is None:
        return None
    means = [scores.metrics[metric].mean for scores in report.rankers]
    return max((mean for mean in means if mean is not None), default=None) if means[1:] else None


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


FEW = 30
"""Below this many queries a normal interval is rough."""

TIED_OFTEN = 0.05
"""From this share of queries on, ties are worth a sentence."""

_TIES = "each tie counts as its expected value over random orders."
"""Ends that sentence."""


def notes(
    key: AnswerKey,
    rankers: Sequence[Scores],
    *,
    sampled: bool,
    drawn: str = "",
) -> Iterator[Note]:
    """Yields the sentences that these results call for."""
    yield from _about_size(key)
    if len(key):
        yield from _about_candidates(key, sampled, drawn)
        yield from _about_cuts(key, rankers[0].metrics)
    for scores in rankers:
        yield from _about_ranker(scores)


def _about_size(key: AnswerKey) -> Iterator[Note]:
    users = len(set(key.users))
    if not len(key):
        yield Note("There are no queries: nothing can be said about any ranker.", serious=True)
    elif len(key) == 1:
        yield Note(
            "There is one query: its values are shown, but one query has no standard error, and "
            "nothing can be said about others.",
            serious=True,
        )
    elif len(key) < FEW:
        yield Note(f"{len(key)} queries are few: the standard errors are rough.", serious=True)
    if users < len(key):
        yield Note(
            f"The {len(key):,} queries are of {users:,} {'user' if users == 1 else 'users'}; "
            "the standard errors take them as independent, so they are too small where a user's "
            "queries are alike."
        )


def _about_candidates(key: AnswerKey, sampled: bool, drawn: str) -> Iterator[Note]:
    fewest, most = int(key.candidates.min()), int(key.candidates.max())
    if sampled:
        how = {"uniform": ", drawn uniformly", "popular": ", drawn by popularity"}.get(drawn, "")
        yield Note(
            f"Candidates are sampled ({_range(fewest, most)} a query{how}): these values are far "
            f"above those of ranking the whole catalog, may order rankers differently, and "
            "compare only with values of the same protocol (Krichene and Rendle, KDD 2020).",
            serious=True,
        )
    if fewest < most:
        yield Note(
            f"Queries have {_range(fewest, most)} candidates: fewer candidates make higher values, "
            "so compare rankers within this table only."
        )
    alike = int(np.count_nonzero(key.relevant == key.candidates))
    if alike:
        yield Note(
            f"In {alike:,} {_queries(alike)} all candidates are relevant: every order is right, so "
            "they tell rankers apart in nothing (auc is .5 there)."
        )


UNORDERED = ("recall", "hit", "precision")
"""Metrics that see which items the first k are, and not in what order."""


def _about_cuts(key: AnswerKey, metrics: Iterable[str]) -> Iterator[Note]:
    """Notes where the first k are all candidates: there a metric says nothing of the order."""
    by_k: dict[int, list[str]] = {}
    for name in metrics:
        family, _, _ = name.partition("@")
        if family in UNORDERED:
            by_k.setdefault(parse_metric(name).k or 0, []).append(name)
    for k, names in sorted(by_k.items()):
        within = int(np.count_nonzero(key.candidates <= k))
        if not within:
            continue
        every = within == len(key)
        where = "Every query has" if every else f"{within:,} of {len(key):,} queries have"
        most = int(key.candidates.max()) if every else k
        yield Note(
            f"{where} at most {most} candidates, so every order has the same {' and '.join(names)} "
            f"{'' if every else 'there '}(recall and hit: 1 by construction).",
            serious=every,
        )


def _about_ranker(scores: Scores) -> Iterator[Note]:
    if scores.missing:
        yield Note(
            f"{scores.ranker}: {scores.missing:,} of {scores.queries:,} {_queries(scores.queries)} "
            "without a result; each counts as 0 and stays in the mean.",
            serious=True,
        )
    if scores.tied is not None and scores.tied >= TIED_OFTEN:
        yield Note(
            f"{scores.ranker}: in {share(scores.tied)} of the queries a relevant item ties with "
            f"another candidate; {_TIES}"
        )


def on_errors(note: str) -> bool:
    """Whether a note is about standard errors over queries, which a table may have none of."""
    return "standard error" in note


def _range(fewest: int, most: int) -> str:
    return f"{fewest:,}" if fewest == most else f"{fewest:,} to {most:,}"


def _queries(count: int) -> str:
    return "query" if count == 1 else "queries"
