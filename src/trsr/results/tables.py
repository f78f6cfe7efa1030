"""The tables of one section: all rows side by side, differences, and what each stage took."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from trsr.errors import ConfigError
from trsr.evaluate.comparison import significance
from trsr.evaluate.compute import estimate
from trsr.evaluate.cost_chart import brief_count, brief_seconds
from trsr.evaluate.metrics import USUAL
from trsr.evaluate.report import Estimate
from trsr.evaluate.resampling import Floats
from trsr.evaluate.sides import Side, SidesReport, compare_sides
from trsr.evaluate.table import NOTHING, decimals, p_value, share, signed, span
from trsr.evaluate.words import duration
from trsr.pipeline import STAGE_NAMES
from trsr.pipeline.finished import FIXED, counted
from trsr.plugins import like
from trsr.results.runs import Run, Variant, folder_names

Table = tuple[list[str], list[list[str]]]
"""A header, and rows as long as it."""


@dataclass(frozen=True)
class Row:
    """One ranker of one variant, or of all where their settings change nothing for it.

    Attributes:
        name: As it is printed.
        ranker: The ranker.
        runs: Where it ranked.
        values: metric → [seeds, queries]; one seed where all seeds gave the same.
        tied: Share of the answered queries with a tie; None where none is answered.
        missing: Queries without a result.
    """

    name: str
    ranker: str
    runs: tuple[Run, ...]
    values: Mapping[str, Floats]
    tied: float | None
    missing: int

    def estimate(self, metric: str) -> tuple[Estimate, float | None]:
        """The mean over seeds with the mean standard error over queries; the seeds' spread."""
        each = [estimate(values) for values in self.values[metric]]
        means = [one.mean for one in each if one.mean is not None]
        errors = [one.se for one in each if one.se is not None]
        found = Estimate(
            statistics.fmean(means) if means else None,
            statistics.fmean(errors) if errors else None,
        )
        return found, statistics.stdev(means) if len(means) > 1 else None

    def cost(self, of: str) -> float | None:
        """The mean over its runs of a cost a query; None where no run knows it."""
        found = [
            getattr(run.costs[self.ranker], of) for run in self.runs if self.ranker in run.costs
        ]
        known = [one for one in found if one is not None]
        return statistics.fmean(known) if known else None


def metrics_of(runs: Sequence[Run], wanted: Sequence[str]) -> list[str]:
    """The wanted metrics, else all that every run has.

    Raises:
        ConfigError: If a run lacks a wanted one, or there is none in common.
    """
    shared = [
        name
        for name in runs[0].finished.values.columns
        if name not in FIXED and all(name in run.finished.values.columns for run in runs)
    ]
    for name in wanted:
        if name not in shared:
            raise ConfigError(
                f"not all runs have the metric {name!r}{like(name, shared)}; they have "
                f"{', '.join(shared)}; to add one, name it in evaluate.metrics and give "
                "`trsr evaluate`"
            )
    if not shared:
        raise ConfigError("the runs have no metric in common; set the same evaluate.metrics")
    return list(dict.fromkeys(wanted)) or shared


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
        if len(made) > 1 and all(_equal(made[0], one) for one in made):
            every = tuple(run for one in made for run in one.runs)
            made = [Row(ranker, ranker, every, made[0].values, made[0].tied, made[0].missing)]
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
    tables = [run.finished.values.filter(pl.col("ranker") == ranker) for run in runs]
    values = {
        name: np.stack([table[name].to_numpy() for table in tables[: len(seeds)]])
        for name in metrics
    }
    tied = [_tied(table) for table in tables]
    known = [one for one in tied if one is not None]
    return Row(
        f"{ranker}, {label}" if label else ranker,
        ranker,
        tuple(runs),
        values,
        statistics.fmean(known) if known else None,
        max(int(table["missing"].sum()) for table in tables),
    )


def _tied(table: pl.DataFrame) -> float | None:
    answered = table.height - int(table["missing"].sum())
    return int(table["tied"].sum()) / answered if answered else None


def _equal(one: Row, other: Row) -> bool:
    return all(np.array_equal(values, other.values[name]) for name, values in one.values.items())


def main_table(rows: Sequence[Row], metrics: Sequence[str], chance: Mapping[str, Any]) -> Table:
    """All rows side by side, the best of each metric in bold, and chance."""
    found = {(row.name, name): row.estimate(name) for row in rows for name in metrics}
    best = {
        name: _best(one for (_, of), (one, _) in found.items() if of == name) for name in metrics
    }
    more = _columns(rows)
    header = ["", *metrics, *more]
    lines = [
        [
            row.name,
            *(
                _cell(*found[row.name, name], best[name] if len(rows) > 1 else None)
                for name in metrics
            ),
            *(told(row) for told in more.values()),
        ]
        for row in rows
    ]
    lines.append(["chance", *(decimals(chance.get(name)) for name in metrics), *("" for _ in more)])
    return header, lines


def _best(each: Iterable[Estimate]) -> float | None:
    return max((one.mean for one in each if one.mean is not None), default=None)


def _columns(rows: Sequence[Row]) -> dict[str, Callable[[Row], str]]:
    """What stands beside the metrics, where it says anything."""
    found: dict[str, Callable[[Row], str]] = {"tied": lambda row: share(row.tied)}
    if any(row.missing for row in rows):
        found["missing"] = lambda row: f"{row.missing:,}"
    if any(_seeds(row) > 1 for row in rows):
        found["seeds"] = lambda row: str(_seeds(row))
    if any(row.cost("seconds_a_query") is not None for row in rows):
        found["time a query"] = lambda row: brief_seconds(row.cost("seconds_a_query"))
    if any(row.cost("tokens_a_query") is not None for row in rows):
        found["tokens a query"] = lambda row: brief_count(row.cost("tokens_a_query"))
    return found


def _seeds(row: Row) -> int:
    return len(next(iter(row.values.values())))


def _cell(one: Estimate, spread: float | None, best: float | None) -> str:
    if one.mean is None:
        return NOTHING
    text = decimals(one.mean) + ("" if one.se is None else f" ±{decimals(one.se)}")
    text += "" if spread is None else f" (±{decimals(spread)})"
    return f"**{text}**" if best is not None and one.mean == best else text


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
    there = list(rows[0].values)
    wanted = list(metrics) or [USUAL if USUAL in there else there[0]]
    table = rows[0].runs[0].finished.values
    users = table.filter(pl.col("ranker") == rows[0].ranker)["user"].to_list()
    return compare_sides([Side(row.name, row.values) for row in rows], chosen, users, wanted)


def difference_table(found: SidesReport) -> Table:
    """The differences, a row each."""
    header = ["", "metric", "difference", "95 % interval", "p", "p Holm", "d_z", ""]
    lines = [
        [
            one.side,
            one.metric,
            signed(one.difference.mean),
            span(one.difference.low, one.difference.high),
            p_value(one.difference.p),
            p_value(one.p_holm),
            signed(one.difference.d_z),
            significance(one.difference.mean, one.p_holm),
        ]
        for one in found.results
        if one.difference is not None
    ]
    return header, lines


def stage_table(variants: Sequence[Variant]) -> Table:
    """What each stage of each run took; empty where no run says."""
    runs = [(variant, run) for variant in variants for run in variant.runs if run.records]
    stages = [name for name in STAGE_NAMES if any(name in run.records for _, run in runs)]
    peaks = [_peak(run) for _, run in runs]
    remembered = any(one is not None for one in peaks)
    folders = folder_names([run for _, run in runs]) if runs else []
    lines = [
        [
            _run_name(variant, run, folder if len(runs) > 1 else "the run"),
            *(_stage_cell(name, run) for name in stages),
            duration(_own_seconds(run)),
            *([_gigabytes(peak)] if remembered else []),
        ]
        for (variant, run), folder, peak in zip(runs, folders, peaks, strict=True)
    ]
    return ["", *stages, "all", *(["peak memory"] if remembered else [])], lines


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
