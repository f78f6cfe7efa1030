"""Writes the page of results; what people wrote into it by hand is kept."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trsr.errors import ConfigError, DataError, StoreError
from trsr.evaluate.sides import SidesReport
from trsr.evaluate.table import BOUND
from trsr.markdown import cell, without_paths
from trsr.pipeline.comparable import check_comparable
from trsr.pipeline.notes import Told, merged, run_notes
from trsr.results.file import END, MARK, TOP, Plan, Section
from trsr.results.groups import group_table
from trsr.results.runs import Run, Variant, open_runs, variants
from trsr.results.tables import (
    Table,
    compared,
    difference_table,
    main_table,
    make_rows,
    metrics_of,
    run_names,
    stage_table,
)
from trsr.results.texts import SIGN, details_text, page_text
from trsr.store.rundir import explained, write_atomic


@dataclass(frozen=True)
class Written:
    """What became of a page.

    Attributes:
        path: The page.
        sections: How many it has.
        runs: How many runs it shows.
        left_out: The runs that it leaves out, and why.
        as_it_was: The sections of which no run is there, and which stand as they stood.
    """

    path: Path
    sections: int
    runs: int
    left_out: tuple[str, ...]
    as_it_was: tuple[str, ...]


def write_results(plan: Plan, path: Path, *, skip: bool = False) -> Written:
    """Writes the page, or writes it again with its hand-written notes untouched.

    Nothing is written where anything is wrong.

    Args:
        plan: What it shows.
        path: The Markdown file.
        skip: Whether runs that are not finished are left out and counted, instead of refused. A
            section of which none is there then stays as the page has it.

    Raises:
        StoreError: Naming every run that is missing, not finished or stale.
        DataError: If runs of one section ranked other queries or candidates; says which.
        ConfigError: If a section's baseline or metric is none of its runs', or the page there is
            was not written by this function, or has notes of a section that is no more.
    """
    old = _old_page(path)
    notes = _kept(plan, path, old)
    missed: list[str] = []
    opened = {
        section.name: open_runs(section.runs, lambda folder, why: missed.append(why))
        for section in plan.sections
    }
    total = sum(len(section.runs) for section in plan.sections)
    if missed and not skip:
        raise StoreError(
            "\n  ".join((f"{len(missed)} of {total} runs cannot be shown", *missed))
            + "\nfinish them, or leave them out with --skip"
        )
    written = {} if not skip else bodies_of(old)
    sections = [
        {"name": section.name, "body": written[section.name]}
        if section.name in written and not opened[section.name]
        else _section(section, opened[section.name], apart=bool(plan.details))
        for section in plan.sections
    ]
    pages = {
        path.parent / plan.details / f"{one['name']}.md": one
        for one in sections
        if one.get("details")
    }
    for detail in pages:
        _old_page(detail)  # refuses what it did not write
    for detail, one in pages.items():
        with explained(detail.parent):
            detail.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(detail, details_text(plan, one, path.name))
    write_atomic(path, page_text(plan, sections, notes))
    stayed = tuple(one["name"] for one in sections if "body" in one)
    return Written(path, len(sections), total - len(missed), tuple(missed), stayed)


def _old_page(path: Path) -> str:
    """The page that is there; empty where there is none."""
    if not path.exists():
        return ""
    try:
        text = path.read_text("utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"{path}: not UTF-8 text (byte {error.start}): save it as UTF-8, move it away, or name "
            "another page with --page"
        ) from error
    if SIGN not in text:
        raise ConfigError(
            f"{path} was not written by `trsr results`, and would be lost: move it away, or name "
            "another page with --page"
        )
    return text


def _kept(plan: Plan, path: Path, old: str) -> dict[str, str]:
    """The hand-written notes of the page that is there."""
    notes = notes_of(old, str(path))
    known = {TOP, END, *(section.name for section in plan.sections)}
    lost = [name for name, note in notes.items() if name not in known and note.strip()]
    if lost:
        raise ConfigError(
            f"{path} has notes of {', '.join(lost)}, which {plan.path} does not name: give the "
            "section its name back, or move the notes elsewhere"
        )
    return notes


def notes_of(text: str, where: str) -> dict[str, str]:
    """What stands between each pair of marks of a page, as it stands, by name.

    Raises:
        ConfigError: If marks do not stand in pairs, or a name stands in two.
    """
    marks = list(MARK.finditer(text))
    found: dict[str, str] = {}
    for first, last in zip(marks[::2], [*marks[1::2], None], strict=False):
        name = first[1]
        if last is None or last[1] != name or name in found:
            raise ConfigError(
                f"{where}: the notes of {name} do not stand between one pair of marks, "
                f"{first[0]} before and behind them"
            )
        found[name] = text[first.end() : last.start()]
    return found


def bodies_of(text: str) -> dict[str, str]:
    """What stands between the notes of a page, by the name of the notes behind it."""
    marks = list(MARK.finditer(text))
    return {
        after[1]: text[before.end() : after.start()].strip("\n")
        for before, after in zip(marks[1::2], marks[2::2], strict=False)
        if after[1] != END
    }


def _section(section: Section, runs: Sequence[Run], *, apart: bool) -> dict[str, Any]:
    """What the templates are told of a section.

    Args:
        section: Its settings.
        runs: Those that are there.
        apart: Whether its long tables stand on a page of their own.
    """
    settings = section.settings
    told: dict[str, Any] = {
        "name": section.name,
        "title": settings.title,
        "command": section.command,
        "about": settings.about,
        "left_out": len(section.runs) - len(runs),
        "of": len(section.runs),
        "facts": [],
        "tables": [],
        "details": [],
        "grouped": False,
        "warnings": [],
    }
    if not runs:
        return told
    try:
        check_comparable([run.finished for run in runs])
    except DataError as error:
        raise DataError(
            f"sections.{section.name}: runs of one table must have ranked the same; put others in "
            f"a section of their own: {error}"
        ) from error
    try:
        metrics = metrics_of(runs, settings.metrics)
        told |= _tables(section, variants(runs, section.labels), metrics, apart=apart)
    except ConfigError as error:
        raise ConfigError(f"sections.{section.name}: {error}") from error
    return told


def _tables(
    section: Section, found: Sequence[Variant], metrics: Sequence[str], *, apart: bool
) -> dict[str, Any]:
    runs = [run for variant in found for run in variant.runs]
    compare = metrics_of(runs, section.settings.compare) if section.settings.compare else []
    rows = make_rows(found, list(dict.fromkeys((*metrics, *compare))))
    report = compared(rows, compare, section.settings.baseline)
    chance = runs[0].report["chance"]
    legend = _legend(rows, report, metrics, apart=apart)
    differences = difference_table(report)
    stages = stage_table(found)
    bins = section.settings.history_bins
    main = _told("", main_table(rows, metrics, chance, report if apart else None), legend)
    long = [
        *(
            [_told(_how(report, "" if apart else legend), differences, "")]
            if differences[1]
            else []
        ),
        *([_told(*group_table(rows, report, bins))] if bins else []),
        *([_told("What each stage took:", stages, _stage_notes(stages))] if stages[1] else []),
    ]
    return {
        "facts": [*_facts(section, runs, report)],
        "tables": [main] if apart else [main, *long],
        "details": long if apart else [],
        "grouped": bool(bins),
        "warnings": [without_paths(note) for note in _warnings(found)],
    }


def _told(lead: str, table: Table, note: str) -> dict[str, Any]:
    header, rows = table
    return {
        "lead": without_paths(lead),
        "header": [cell(one) for one in header],
        "rows": [[cell(one) for one in row] for row in rows],
        "note": note,
    }


def _facts(section: Section, runs: Sequence[Run], report: SidesReport) -> Iterator[str]:
    sizes = runs[0].report["candidates"]
    fewest, most = sizes["fewest"], sizes["most"]
    each = f"{fewest:,}" if fewest == most else f"{fewest:,} to {most:,}"
    kind = "test" if runs[0].finished.split == "test" else "validation"
    yield (
        f"{report.queries:,} {kind} {'query' if report.queries == 1 else 'queries'} of "
        f"{report.users:,} {'user' if report.users == 1 else 'users'}, {each} candidates each "
        f'(`data.candidates = "{runs[0].config.data.candidates}"`)'
    )
    seeds = sorted({run.seed for run in runs})
    told = ", ".join(map(str, seeds))
    yield f"one seed ({told})" if len(seeds) == 1 else f"{len(seeds)} seeds ({told})"
    kinds = dict.fromkeys(_machine(run, section.settings.machine) for run in runs)
    yield "; ".join(kinds)
    if formats := _formats(runs):
        yield formats
    dates = sorted({run.date for run in runs if run.date})
    if dates:
        yield dates[0] if len(dates) == 1 else f"{dates[0]} to {dates[-1]}"


def _machine(run: Run, said: str) -> str:
    if not run.made:
        return said or "machine not recorded"
    return f"{run.made['on']}, {run.made['gpu'] or 'no GPU'}"


def _formats(runs: Sequence[Run]) -> str:
    """The number formats of the language models; with the runs of each, where they differ."""
    found: dict[str, list[str]] = {}
    for run in runs:
        for name in run.formats:
            found.setdefault(name, []).append(run.folder.name)
    if len(found) < 2:
        return "".join(f"language model in {name}" for name in found)
    told = (f"{name} ({', '.join(sorted(set(found[name])))})" for name in sorted(found))
    return f"language model in {' and in '.join(told)}"


def _legend(
    rows: Sequence[Any], report: SidesReport, metrics: Sequence[str], *, apart: bool
) -> str:
    queries = "query" if report.queries == 1 else "queries"
    words = [f"±: one standard error over {report.queries:,} {queries}"]
    if any(row.estimate(name)[1] is not None for row in rows for name in row.side.values):
        words.append("(±): standard deviation over seeds")
    if len(rows) > 1:
        words.append("bold: highest mean, no claim of significance")
    tests = sum(one.compared for one in report.results)
    if apart and tests:
        words.append(
            f"Δ: difference to {without_paths(report.baseline)}; ↑ ↓: p < .05 over users after "
            f"Holm's correction for {tests} {'comparison' if tests == 1 else 'comparisons'}"
        )
    words.append("tied: queries in which a right item has a wrong one's score")
    words += [BOUND] if any(row.side.bounds for row in rows) else []
    return "; ".join(words) + "."


def _how(report: SidesReport, legend: str) -> str:
    """What the differences are of and how they were found, as `trsr compare` says it.

    What the legend of the table above has said is not said again.
    """
    notes = [note for note in report.notes[1:] if note not in legend]
    told = " ".join(note if note.endswith(".") else f"{note}." for note in notes)
    # Where nothing can be tested the notes do not name the baseline.
    lead = "" if told.startswith("differences to ") else f"Differences to {report.baseline}. "
    return f"{lead}{told[:1].upper()}{told[1:]}".strip()


def _stage_notes(table: Table) -> str:
    cells = [cell for row in table[1] for cell in row]
    words = []
    if "copied" in cells:
        words.append("copied: another run had made the same, and its time counts there")
    if any("from the store" in cell for cell in cells):
        words.append("from the store: asked before, so not computed again")
    if any("tokens" in cell for cell in cells):
        words.append("tokens: of the prompts that were computed, each counted whole")
    return f"{'; '.join(words)}." if words else ""


def _warnings(found: Sequence[Variant]) -> Iterator[str]:
    """What the runs' own reports say that a reader must know; ties have a column."""
    return merged(
        [
            Told(
                name,
                run.finished.rankers,
                [note for note in run_notes(run.finished) if not note.on_ties],
            )
            for name, run in run_names(found)
        ]
    )
