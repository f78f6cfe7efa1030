"""`trsr tune-summarizer`: the table of rounds, and what was kept."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from trsr.cli.terminal import err, out, table
from trsr.config import load_config
from trsr.progress import Progress
from trsr.tune_summarizer import tune_summarizer


def tune(config: Path, settings: Sequence[str], folder: Path, progress: Progress) -> None:
    """Tunes, and prints what was found."""
    tuned = tune_summarizer(load_config(config, settings), folder, progress)
    if not tuned.made:
        err.print("tune-summarizer: up to date", markup=False)
    header, rows = tuned.table()
    table(header, rows)
    out.print(tuned.why, markup=False)
    if tuned.kept:
        out.print(f"use it: summarize.model.name={tuned.folder}", markup=False)
    out.print(f"page: {tuned.folder / 'summarizer.md'}", markup=False)
