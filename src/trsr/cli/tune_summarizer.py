"""`trsr tune-summarizer`: what was found, and how to use it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from trsr.cli.terminal import err, out
from trsr.config import load_config
from trsr.experiments.tune_summarizer import tune_summarizer
from trsr.progress import Progress


def tune(config: Path, settings: Sequence[str], folder: Path, progress: Progress) -> None:
    """Tunes, and prints what was found."""
    tuned = tune_summarizer(load_config(config, settings), folder, progress)
    if not tuned.made:
        err.print("tune-summarizer: up to date", markup=False)
    lines = [tuned.verdict, f"figures and examples: {tuned.folder / 'summarizer.json'}"]
    if tuned.found["better"]:
        lines.append(f"use it: summarize.model.name={tuned.folder}")
    for line in lines:
        out.print(line, markup=False)
