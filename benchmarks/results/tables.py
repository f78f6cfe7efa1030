"""The tables of docs/results.md, made of the file of values."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from benchmarks.results.values import paired, rows_of
from trsr.errors import ConfigError
from trsr.metrics.compute import estimate
from trsr.metrics.report import NOTHING, number, over_seeds, p_value, signed
from trsr.metrics.significance import significance
from trsr.report.costs import brief_seconds
from trsr.report.markdown_report import cell
from trsr.report.systems import System, SystemsReport, compare_systems

PLAN = Path(__file__).with_name("tables.toml")


@dataclass(frozen=True)
class Plan:
    """One table of the page.

    Attributes:
        name: In tables.toml, in the page's marks and on the command line.
        rows: As printed → `RUN:RANKER`; the first is the baseline of the differences.
        metrics: A column each.
        tested: The metrics whose differences to the baseline are tested.
        recipe: What makes the runs again.
    """

    name: str
    rows: Mapping[str, str]
    metrics: Sequence[str]
    tested: Sequence[str]
    recipe: str


def plans(path: Path = PLAN) -> dict[str, Plan]:
    """The page's tables, by name."""
    found = tomllib.loads(path.read_text("utf-8"))
    return {
        name: Plan(
            name, one["rows"], one["metrics"], one.get("tested", one["metrics"]), one["recipe"]
        )
        for name, one in found.items()
    }


def compared(
    values: pl.DataFrame, rows: Mapping[str, str], metrics: Sequence[str]
) -> SystemsReport:
    """All rows against the first, query by query, with Holm's correction over all."""
    systems, users = paired(values, rows, metrics)
    return compare_systems(systems, next(iter(rows)), users, metrics)


def table(values: pl.DataFrame, plan: Plan) -> str:
    """One table of the page as Markdown, and below it what it is of."""
    report = compared(values, plan.rows, plan.tested)
    differences = {(one.system, one.metric): one for one in report.results}
    systems, users = paired(values, plan.rows, plan.metrics)
    header = ["ranker", *plan.metrics]
    for metric in plan.tested:
        header += [f"Δ {metric}", "p"]
    lines = []
    for side in systems:
        cells = means(side, plan.metrics)
        for metric in plan.tested:
            one = differences[side.name, metric]
            mean = one.difference.mean if one.difference else None
            mark = significance(mean, one.p_holm) if mean is not None else ""
            cells += [f"{signed(mean)} {mark}".strip(), p_value(one.p_holm)]
        lines.append(cells)
    times = [_seconds(values, name) for name in plan.rows.values()]
    if any(one != NOTHING for one in times):
        header.append("time a query")
        lines = [[*cells, one] for cells, one in zip(lines, times, strict=True)]
    about = " · ".join(_about(values, plan, len(users), len(set(users))))
    return f"{_markdown(header, lines)}\n\n{about}"


def means(side: System, metrics: Sequence[str]) -> list[str]:
    """A row's name, and its mean of each metric with the spread."""
    return [side.name, *(number(*over_seeds(map(estimate, side.values[one]))) for one in metrics)]


def _markdown(header: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    rule = ["---", *("---:" for _ in header[1:])]
    return "\n".join(f"| {' | '.join(map(cell, one))} |" for one in (header, rule, *lines))


def _seconds(values: pl.DataFrame, name: str) -> str:
    known = rows_of(values, name)["seconds_a_query"].drop_nulls()
    return NOTHING if known.is_empty() else brief_seconds(float(known[0]))


def _about(values: pl.DataFrame, plan: Plan, queries: int, users: int) -> Iterator[str]:
    rows = pl.concat([rows_of(values, name) for name in plan.rows.values()])

    def every(column: str) -> list[str]:
        return sorted({str(one) for one in rows[column].unique()} - {""})

    yield f"{queries:,} queries of {users:,} users"
    if every("format"):
        yield " and ".join(sorted({word for one in every("format") for word in one.split("/")}))
    yield "; ".join(every("machine"))
    dates = every("date")
    yield dates[0] if len(dates) == 1 else f"{dates[0]} to {dates[-1]}"
    yield f"`{plan.recipe}`"
    yield f"`python -m benchmarks.results table {plan.name}`"


def put(page: str, name: str, text: str) -> str:
    """The page with a table between its marks.

    Raises:
        ConfigError: If the page has no such marks.
    """
    begin, end = f"<!-- table {name} -->\n", "<!-- end -->"
    before, found, after = page.partition(begin)
    _, closed, rest = after.partition(end)
    if not found or not closed:
        raise ConfigError(f"the page has no {begin.strip()} with an {end} below it")
    return f"{before}{begin}{text}\n{end}{rest}"
