"""`trsr sweep`, `trsr audit` and `trsr tune-summarizer`: what they print."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table

from trsr.bars import err
from trsr.cli.terminal import complain, out, say, table
from trsr.progress import Progress

STYLES = {"ok": "green", "finding": "bold red", "warning": "yellow", "skipped": "dim"}
PLURAL = ("finding", "warning")


def list_runs(path: Path, only: Sequence[str] = ()) -> list[str]:
    """The names of a sweep's runs, or what a search chooses from.

    Raises:
        ConfigError: If the settings of a run are wrong.
        DataError: If the data of a run is not there.
    """
    from trsr.data.inputs import existing
    from trsr.experiments.sweep.plan import flat, read_plan

    plan = read_plan(path)
    runs = plan.only(only)
    for run in runs:
        data = run.config.data
        for key in ("interactions", "items"):
            if getattr(data, key) is not None and not data.dataset:
                existing(getattr(data, key), key, key)
    if plan.file.search is None:
        return [str(plan.folder / run.name) for run in runs]
    return [f"{key}: {values}" for key, values in flat(plan.search.space).items()]


def run_sweep(path: Path, processes: int, progress: Progress, only: Sequence[str] = ()) -> bool:
    """Runs a sweep and prints its table; whether every run succeeded."""
    from trsr.experiments.sweep import read_plan, sweep

    swept = sweep(read_plan(path), progress, processes, only)
    for header, rows in swept.tables():
        table(header, rows)
    say(swept.notes())
    out.print(f"table: {swept.plan.folder / 'sweep.md'}", markup=False)
    if swept.failed:
        complain(f"{len(swept.failed)} of {len(swept.outcomes)} runs failed; see their error.txt")
    return not swept.failed


def show_audit(run: Path, as_json: bool, llm_queries: int, progress: Progress) -> bool:
    """Audits a run and prints the table of checks; whether there are no findings."""
    from trsr.experiments.audit import audit

    report = audit(run, llm_queries, progress)
    if as_json:
        out.print_json(json.dumps(report.to_json(), ensure_ascii=False))
        return not report.findings
    header = ("check", "result", "what was seen")
    drawn = Table(*header, header_style="bold", box=SIMPLE_HEAD, pad_edge=False)
    for one in report.checks:
        drawn.add_row(escape(one.name), f"[{STYLES[one.state]}]{one.state}[/]", escape(one.seen))
    out.print(drawn)
    states: Counter[str] = Counter(check.state for check in report.checks)
    counts = ", ".join(
        f"{states[state]} {state}{'s' if state in PLURAL and states[state] > 1 else ''}"
        for state in STYLES
        if states[state]
    )
    out.print(f"{counts} of {len(report.checks)} checks", markup=False)
    return not report.findings


def tune(config: Path, settings: Sequence[str], folder: Path, progress: Progress) -> None:
    """Tunes the summarizer, and prints the result and how to use it."""
    from trsr.config import load_config
    from trsr.experiments.tune_summarizer import tune_summarizer

    tuned = tune_summarizer(load_config(config, settings), folder, progress)
    if not tuned.made:
        err.print("tune-summarizer: up to date", markup=False)
    lines = [tuned.verdict, f"figures and examples: {tuned.folder / 'summarizer.json'}"]
    if tuned.found["better"]:
        lines.append(f"use it: summarize.model.name={tuned.folder}")
    say(lines)
