"""The stages of a method over a run directory, one function each, and all in order."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from trsr.config import Config
from trsr.config.validation import used_parts
from trsr.engine import workers_kept
from trsr.errors import ConfigError
from trsr.methods import METHODS, Method
from trsr.pipeline import runner
from trsr.pipeline.artifacts import used_splits
from trsr.pipeline.runner import Outcome, Stage, advance, refuse_stale
from trsr.pipeline.sharding import check_reach
from trsr.pipeline.stages import PREPARE, STAGE_TABLE, STAGES
from trsr.pipeline.training import refuse_own_start, start_config
from trsr.progress import Progress, Silent
from trsr.registry import blamed
from trsr.storage import files
from trsr.storage.addresses import shown
from trsr.storage.remote_run import run_directory
from trsr.storage.run_directory import RunDirectory

__all__ = [
    "STAGE_NAMES",
    "Outcome",
    "check_before",
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
    "stage_names",
    "stages_of",
]

STAGE_NAMES = tuple(stage.name for stage in STAGES)
"""Of all methods that come with trsr."""

Bars = Callable[[str], Progress]


def stages_of(config: Config) -> tuple[Stage, ...]:
    """The stages of a configuration's method, in order."""
    method: Method = METHODS.load(config.method)
    return tuple(STAGE_TABLE.load(name) for name in method.stages)


def stage_names(config: Config) -> tuple[str, ...]:
    """The names of the stages of a configuration's method, in order."""
    method: Method = METHODS.load(config.method)
    return method.stages


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
        progress: Shows how far the work is.
        donors: Other runs: a stage that one of them has made with the same settings and inputs is
            copied.
        alone: Whether this stage alone is to be made: then files made outside that are in its
            place are an error; else they are taken as they are.

    Raises:
        ConfigError: If the configuration's method has no such stage.
        PluginError: If a part of another package fails.
        StaleRunError: If an earlier stage is missing or was made with other settings.
        StoreError: If trsr has not made a file that the stage writes, or the run directory cannot
            be written, or another process writes it.
    """
    if name not in stage_names(config):
        raise ConfigError(
            f"the method {config.method} has no stage {name}: there are "
            f"{', '.join(stage_names(config))}"
        )
    directory = run_directory(config.run.folder)
    with directory.locked():
        directory.write_config(config.to_toml())
        stages = stages_of(config)
        with blamed([(STAGE_TABLE, name), *used_parts(config)], f"the stage {name}"):
            return advance(
                stages, name, config, directory, progress or Silent(), donors, alone=alone
            )


def is_finished(config: Config) -> bool:
    """Whether all stages are made in the run directory, and still hold.

    Raises:
        StoreError: If the manifest cannot be read.
    """
    return runner.is_finished(stages_of(config), config, RunDirectory(config.run.folder))


def stage_key(config: Config, name: str) -> str:
    """A hash of all that a stage's output depends on, the earlier stages' files among it."""
    stage = next(one for one in stages_of(config) if one.name == name)
    return stage.key(config, RunDirectory(config.run.folder))


def check_before(config: Config, names: Sequence[str]) -> list[str]:
    """Looks at what later stages reach, where one of these stages has never been made.

    Args:
        config: All settings.
        names: The stages that are asked for.

    Returns:
        What was found, for people.

    Raises:
        ConfigError: If an address is wrong, the cluster cannot be used, or training cannot go on
            from the run that is named.
        StoreError: If the shared cache cannot be used.
    """
    run = RunDirectory(config.run.folder)
    served = files.exists(config.run.folder / "serve.sqlite")
    if served and config.data.service_log and not runner.is_finished((PREPARE,), config, run):
        raise ConfigError(
            f"run.folder: {shown(config.run.folder)} is a run that was served, and "
            "data.service_log would make its data anew: name another folder for the next run"
        )
    made = run.records()
    left = [name for name in names if name not in ("prepare", "evaluate", *made)]
    if "train" in names:
        refuse_own_start(config)
    if "train" in left:
        start_config(config)
    asks = config.rank.those("uses_llm") or (config.summarize.uses_llm and used_splits(config))
    return list(check_reach(config)) if left and asks else []


def run(config: Config, bars: Bars = lambda stage: Silent()) -> Iterator[Outcome]:
    """Does all stages in order; those whose output still holds are skipped.

    Args:
        config: All settings.
        bars: Gives each stage, by name, its progress.

    Yields:
        What became of each stage, as it ends.
    """
    with workers_kept():
        check_before(config, stage_names(config))
        for name in stage_names(config):
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
