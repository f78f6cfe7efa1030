"""The report's numbers as text, for tables."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import TYPE_CHECKING, NamedTuple

from trsr.metrics.metrics import parse_metric
from trsr.metrics.significance import BETTER, LEVEL, WORSE, Difference, significance

if TYPE_CHECKING:
    from trsr.metrics.report import Estimate, Report

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

    Args:
        estimate: Any estimate.
        spread: The standard deviation of several seeds' means: `.460 ±.029 (±.012)`.
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


def best_mean(report: Report, metric: str) -> float | None:
    """The highest mean; None where it is not the best, nothing to compare, or a lower bound."""
    if metric in report.bounds or parse_metric(metric).family.accuracy is None:
        return None
    means = [scores.metrics[metric].mean for scores in report.rankers]
    return max((mean for mean in means if mean is not None), default=None) if means[1:] else None
