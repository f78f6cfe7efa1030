"""The five stages over a run directory, one function each, and all in order."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from trsr.config import Config
from trsr.pipeline import stair
from trsr.pipeline.finished import refuse_kept
from trsr.pipeline.stages import STAGES
from trsr.pipeline.stair import Outcome, advance, refuse_stale
from trsr.progress import Progress, Silent
from trsr.store.rundir import RunDirectory

__all__ = [
    "STAGE_NAMES",
    "Outcome",
    "is_finished",
    "refuse_stale",
    "run",
    "run_evaluate",
    "run_prepare",
    "run_rank",
    "run_stage",
    "run_summarize",
    "run_train",
    "stage_key",
]

STAGE_NAMES = tuple(stage.name for stage in STAGES)
Bars = Callable[[str], Progress]


def run_stage(
    config: Config,
    name: str,
    progress: Progress | None = None,
    donors: Sequence[RunDirectory] = (),
    *,
    alone: bool = False,
) -> Outcome:
    """Does one stage in the run directory, unless what it made before still holds.

    Args:
        config: All settings.
        name: The stage.
        progress: Told how far the work is.
        donors: Other runs: a stage that one of them has made with the same settings and inputs is
            copied.
        alone: Whether this stage alone was asked for: then files made elsewhere that are in its
            place are an error; else they are taken as they are.

    Raises:
        StaleRunError: If an earlier stage is missing or was made with other settings.
        StoreError: If trsr has not made a file that the stage writes, or the run directory cannot
            be written, is a kept copy, or another process writes it.
    """
    directory = RunDirectory(config.run.folder)
    refuse_kept(directory.folder)
    with directory.locked():
        directory.write_config(config.to_toml())
        return advance(STAGES, name, config, directory, progress or Silent(), donors, alone=alone)


def is_finished(config: Config) -> bool:
    """Whether all stages are made in the run directory, and still hold.

    Raises:
        StoreError: If the manifest cannot be read.
    """
    return stair.is_finished(STAGES, config, RunDirectory(config.run.folder))


def stage_key(config: Config, name: str) -> str:
    """A hash of all that a stage's output depends on, the earlier stages' files among it."""
    return stair.stage_key(STAGES, name, config, RunDirectory(config.run.folder))


def run(config: Config, bars: Bars = lambda stage: Silent()) -> Iterator[Outcome]:
    """Does all stages in order; those whose output still holds are skipped.

    Args:
        config: All settings.
        bars: Gives each stage, by name, its progress.

    Yields:
        What became of each stage, as it ends.
    """
    for name in STAGE_NAMES:
        yield run_stage(config, name, bars(name))


def run_prepare(config: Config, progress: Progress | None = None) -> Outcome:
    """Reads, filters and splits the data, and draws the candidates."""
    return run_stage(config, "prepare", progress, alone=True)


def run_summarize(config: Config, progress: Progress | None = None) -> Outcome:
    """Summarizes the histories of all cases that a later stage reads."""
    return run_stage(config, "summarize", progress, alone=True)


def run_train(config: Config, progress: Progress | None = None) -> Outcome:
    """Fine-tunes the model on the training cases."""
    return run_stage(config, "train", progress, alone=True)


def run_rank(config: Config, progress: Progress | None = None) -> Outcome:
    """Orders the candidates of the test queries with every ranker."""
    return run_stage(config, "rank", progress, alone=True)


def run_evaluate(config: Config, progress: Progress | None = None) -> Outcome:
    """Computes the metrics and writes the reports."""
    return run_stage(config, "evaluate", progress, alone=True)
