"""The tables of one section: all rows side by side, differences, and what each stage took."""

from __future__ import annotations

import functools
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import polars as pl

from trsr.errors import ConfigError
from trsr.evaluate.comparison import significance
from trsr.evaluate.compute import estimate
from trsr.evaluate.cost_chart import brief_count, brief_seconds
from trsr.evaluate.report import Estimate, over_seeds
from trsr.evaluate.sides import Side, SidesReport, compare_sides
from trsr.evaluate.table import (
    DIFFERENCES,
    NOTHING,
    decimals,
    difference_cells,
    least,
    number,
    share,
    signed,
)
from trsr.evaluate.words import duration
from trsr.pipeline import STAGE_NAMES
from trsr.pipeline.compare import make_side, usual, wanted_metrics
from trsr.pipeline.finished import counted
from trsr.plugins import like
from trsr.results.runs import Run, Variant, folder_names

Table = tuple[list[str], list[list[str]]]
"""A header, and rows as long as it."""


@dataclass(frozen=True)
class Row:
    """One ranker of one variant, or of all where their settings change nothing for it.

    Attributes:
        side: Its values, under the name that is printed; one seed where all seeds gave the same.
        ranker: The ranker.
        runs: Where it ranked.
        tied: Share of the answered queries with a tie; None where none is answered.
        missing: Queries without a result.
    """

    side: Side
    ranker: str
    runs: tuple[Run, ...]
    tied: float | None
    missing: int

    @property
    def name(self) -> str:
        """As it is printed."""
        return self.side.name

    def estimate(self, metric: str) -> tuple[Estimate, float | None]:
        """Over its seeds (see `over_seeds`)."""
        return over_seeds(map(estimate, self.side.values[metric]))

    def cost(self, of: str) -> float | None:
        """The mean over its runs of a cost a query; None where no run knows it."""
        found = [
            getattr(run.costs[self.ranker], of) for run in self.runs if self.ranker in run.costs
        ]
        known = [one for one in found if one is not None]
        return statistics.fmean(known) if known else None


def metrics_of(runs: Sequence[Run], wanted: Sequence[str]) -> list[str]:
    """The wanted metrics, else all that every run has (see `wanted_metrics`)."""
    return wanted_metrics([run.finished for run in runs], wanted)


def make_rows(variants: Sequence[Variant], metrics: Sequence[str]) -> list[Row]:
    """A row for each ranker and variant, rankers in the runs' order.

    A ranker whose values are the same in several variants, query by query, does not depend on what
    they differ in: it has one row for all.
    """
    runs = [run for variant in variants for run in variant.runs]
    rows = []
    for ranker in dict.fromkeys(name for run in runs for name in run.finished.rankers):
        having = [(variant, _having(ranker, variant)) for variant in variants]
        made = [_row(ranker, variant.label, own, metrics) for variant, own in having if own]
        if len(made) > 1 and all(_equal(made[0].side, one.side) for one in made):
            every = tuple(run for one in made for run in one.runs)
            bounds = frozenset().union(*(one.side.bounds for one in made))
            side = replace(made[0].side, name=ranker, bounds=bounds)
            made = [replace(made[0], side=side, runs=every)]
        rows += made
    return rows


def _having(ranker: str, variant: Variant) -> list[Run]:
    """The variant's runs with the ranker, one for each seed."""
    found: dict[tuple[int, int], Run] = {}
    for run in variant.runs:
        if ranker in run.finished.rankers:
            found.setdefault(run.finished.seeds, run)
    return list(found.values())


def _row(ranker: str, label: str, runs: Sequence[Run], metrics: Sequence[str]) -> Row:
    seeds = counted(runs, lambda run: run.finished.answers(ranker, metrics))
    name = f"{ranker}, {label}" if label else ranker
    tables = [run.finished.of(ranker) for run in runs]
    tied = [_tied(table) for table in tables]
    known = [one for one in tied if one is not None]
    return Row(
        make_side(name, [run.finished for run in seeds], ranker, metrics),
        ranker,
        tuple(runs),
        statistics.fmean(known) if known else None,
        max(int(table["missing"].sum()) for table in tables),
    )


def _tied(table: pl.DataFrame) -> float | None:
    answered = table.height - int(table["missing"].sum())
    return int(table["tied"].sum()) / answered if answered else None


def _equal(one: Side, other: Side) -> bool:
    return all(np.array_equal(values, other.values[name]) for name, values in one.values.items())


def main_table(
    rows: Sequence[Row],
    metrics: Sequence[str],
    chance: Mapping[str, Any],
    differences: SidesReport | None = None,
) -> Table:
    """All rows side by side, the best of each metric in bold, and chance.

    Args:
        rows: At least one.
        metrics: A column each.
        chance: Metric → its value by random orders.
        differences: Those that are told in columns too, without their intervals.
    """
    best = {name: _best(rows, name) for name in metrics}
    more = {**_less(differences), **_columns(rows)}
    header = ["", *metrics, *more]
    lines = [
        [
            row.name,
            *(_cell(row, name, best[name]) for name in metrics),
            *(told(row) for told in more.values()),
        ]
        for row in rows
    ]
    clear = {name: chance.get(name) for name in metrics if not _bounded(rows, name)}
    lines.append(["chance", *(decimals(clear.get(name)) for name in metrics), *("" for _ in more)])
    return header, lines


def _best(rows: Sequence[Row], metric: str) -> float | None:
    """The highest mean; None where there is nothing to compare, or a lower bound."""
    if not rows[1:] or _bounded(rows, metric):
        return None
    means = [row.estimate(metric)[0].mean for row in rows]
    return max((one for one in means if one is not None), default=None)


def _bounded(rows: Sequence[Row], metric: str) -> bool:
    """Whether a metric is a lower bound for some row."""
    return any(metric in row.side.bounds for row in rows)


def _less(found: SidesReport | None) -> dict[str, Callable[[Row], str]]:
    """A column of differences for each metric that has any; of lower bounds there are none."""
    columns: dict[str, dict[str, str]] = {}
    for one in found.results if found else ():
        if one.difference is not None and one.compared:
            mark = significance(one.difference.mean, one.p_holm)
            told = f"{signed(one.difference.mean)} {mark}".rstrip()
            columns.setdefault(f"Δ {one.metric}", {})[one.side] = told
    return {name: functools.partial(_told, cells) for name, cells in columns.items()}


def _told(cells: Mapping[str, str], row: Row) -> str:
    return cells.get(row.name, NOTHING)


def _columns(rows: Sequence[Row]) -> dict[str, Callable[[Row], str]]:
    """What stands beside the metrics, where it says anything."""
    found: dict[str, Callable[[Row], str]] = {"tied": lambda row: share(row.tied)}
    if any(row.missing for row in rows):
        found["missing"] = lambda row: f"{row.missing:,}"
    if any(row.side.seeds > 1 for row in rows):
        found["seeds"] = lambda row: str(row.side.seeds)
    if any(row.cost("seconds_a_query") is not None for row in rows):
        found["time a query"] = lambda row: brief_seconds(row.cost("seconds_a_query"))
    if any(row.cost("tokens_a_query") is not None for row in rows):
        found["tokens a query"] = lambda row: brief_count(row.cost("tokens_a_query"))
    return found


def _cell(row: Row, metric: str, best: float | None) -> str:
    found, spread = row.estimate(metric)
    text = least(row.side.bounds, metric) + number(found, spread)
    return f"**{text}**" if best is not None and found.mean == best else text


def compared(rows: Sequence[Row], metrics: Sequence[str], baseline: str) -> SidesReport:
    """Every row against the baseline, query by query.

    Args:
        rows: At least one.
        metrics: Which metrics; else ndcg@10, or the first that there is.
        baseline: A row's name; else the first of the ranker that reports are about.

    Raises:
        ConfigError: If there is no such row.
    """
    names = [row.name for row in rows]
    main = next((row.name for row in rows if row.ranker == row.runs[0].finished.main), names[0])
    chosen = baseline or main
    if chosen not in names:
        raise ConfigError(
            f"baseline: there is no row {chosen!r}{like(chosen, names)}; there are "
            f"{'; '.join(names)}"
        )
    wanted = list(metrics) or [usual(list(rows[0].side.values))]
    users = rows[0].runs[0].finished.of(rows[0].ranker)["user"].to_list()
    return compare_sides([row.side for row in rows], chosen, users, wanted)


def difference_table(found: SidesReport) -> Table:
    """The differences, a row each; of lower bounds there is none."""
    lines = [
        [one.side, one.metric, *difference_cells(one.difference, one.p_holm)]
        for one in found.results
        if one.difference is not None and one.compared
    ]
    return ["", "metric", *DIFFERENCES], lines


def stage_table(variants: Sequence[Variant]) -> Table:
    """What each stage of each run took; empty where no run says."""
    runs = [(name, run) for name, run in run_names(variants) if run.records]
    stages = [name for name in STAGE_NAMES if any(name in run.records for _, run in runs)]
    peaks = [_peak(run) for _, run in runs]
    remembered = any(one is not None for one in peaks)
    lines = [
        [
            told,
            *(_stage_cell(name, run) for name in stages),
            duration(_own_seconds(run)),
            *([_gigabytes(peak)] if remembered else []),
        ]
        for (told, run), peak in zip(runs, peaks, strict=True)
    ]
    return ["", *stages, "all", *(["peak memory"] if remembered else [])], lines


def run_names(variants: Sequence[Variant]) -> list[tuple[str, Run]]:
    """Every run, by what tells it apart: settings, seed or folder."""
    pairs = [(variant, run) for variant in variants for run in variant.runs]
    folders = folder_names([run for _, run in pairs]) if pairs[1:] else ["the run"]
    return [
        (_run_name(variant, run, folder), run)
        for (variant, run), folder in zip(pairs, folders, strict=True)
    ]


def _run_name(variant: Variant, run: Run, folder: str) -> str:
    seeds = [one.seed for one in variant.runs]
    words = [variant.label] if variant.label else []
    words += [f"seed {run.seed}"] if len(set(seeds)) > 1 else []
    words += [folder] if seeds.count(run.seed) > 1 or not words else []
    return ", ".join(words)


def _stage_cell(name: str, run: Run) -> str:
    record = run.records.get(name)
    if record is None:
        return NOTHING
    info = record.info
    if "taken_from" in info:
        return "copied"
    return "; ".join([duration(_seconds(info)), *_counts(name, run, info)])


def _counts(name: str, run: Run, info: Mapping[str, Any]) -> Iterator[str]:
    if name == "summarize" and "asked" in info:
        yield f"{info['asked']:,} texts"
        if info.get("from_store"):
            yield f"{info['from_store']:,} from the store{_took(info)}"
    tokens, costs = info.get("tokens"), run.costs.values() if name == "rank" else ()
    if costs:
        tokens = sum(one.tokens for one in costs)
        stored = sum(one.from_store for one in costs)
        if stored:
            yield f"{stored:,} answers from the store"
    usage = info.get("usage", {})
    if usage:
        tokens = usage.get("prompt_tokens", 0) + usage.get("answer_tokens", 0)
    if tokens:
        distinct = info.get("distinct_tokens")
        yield f"{tokens:,} tokens" + (f" ({distinct:,} distinct)" if distinct else "")


def _took(info: Mapping[str, Any]) -> str:
    """What stored texts had taken; nothing where that is not known of all."""
    known = info.get("stored_unknown") == 0 and info.get("stored_seconds")
    return f" ({duration(info['stored_seconds'])} when computed)" if known else ""


def _own_seconds(run: Run) -> float:
    """Of the stages that this run made itself."""
    infos = [record.info for record in run.records.values()]
    return sum(_seconds(one) or 0 for one in infos if "taken_from" not in one)


def _seconds(info: Mapping[str, Any]) -> float | None:
    """What a stage took; an older trsr counted only the last sitting of a training that went on."""
    found = [float(info[key]) for key in ("seconds", "step_seconds") if key in info]
    return max(found, default=None)


def _peak(run: Run) -> int | None:
    """The most memory of any stage of its own, in bytes."""
    found = [
        record.info.get("made", {}).get("peak_memory_bytes")
        for record in run.records.values()
        if "taken_from" not in record.info
    ]
    return max((one for one in found if one is not None), default=None)


def _gigabytes(count: int | None) -> str:
    return NOTHING if count is None else f"{count / 1e9:.1f} GB"
