"""`trsr sweep`: runs or lists a sweep, and prints its table."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from trsr.cli.terminal import complain, out, table
from trsr.experiments.sweep import read_plan, sweep
from trsr.progress import Progress


def list_runs(path: Path, only: Sequence[str] = ()) -> list[str]:
    """The names of a sweep's runs, or what a search chooses from."""
    plan = read_plan(path)
    asked = plan.only(only)
    if plan.file.search is None:
        return [str(plan.folder / run.name) for run in asked]
    return [f"{key}: {space}" for key, space in plan.space().items()]


def run_sweep(path: Path, processes: int, progress: Progress, only: Sequence[str] = ()) -> bool:
    """Runs a sweep and prints its table; whether every run succeeded."""
    swept = sweep(read_plan(path), progress, processes, only)
    header, rows = swept.table()
    if rows:
        table(header, rows)
    for note in swept.notes():
        out.print(note, markup=False)
    out.print(f"table: {swept.plan.folder / 'sweep.md'}", markup=False)
    if swept.failed:
        complain(f"{len(swept.failed)} of {len(swept.outcomes)} runs failed; see their error.txt")
    return not swept.failed
