"""Runs a sweep: each run in its folder, with what others have made copied and failures told."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

from trsr.errors import StoreError, TrsrError
from trsr.pipeline import STAGE_NAMES, run_stage
from trsr.progress import Progress, Silent
from trsr.store.rundir import RunDirectory
from trsr.sweep.plan import Plan, Planned
from trsr.sweep.table import Outcome, Swept, read_report

ERROR = "error.txt"
"""In a failed run's folder: the whole trace."""

TRAINED = STAGE_NAMES[: STAGE_NAMES.index("train") + 1]
"""The stages that come before any test case is asked."""


def sweep(plan: Plan, progress: Progress | None = None) -> Swept:
    """Makes all runs of a sweep, those that are done already left as they are.

    Stages with the same settings and inputs are made once and copied, and language models' outputs
    are shared through one store. After each run `sweep.json` and `sweep.md` are written. A run that
    fails is reported, and the others go on; after a kill the same call goes on where it was.

    Args:
        plan: What to run.
        progress: Told of each run, with what its stages are at.

    Raises:
        ConfigError: If the settings of any run are wrong: told before the first one begins.
        StoreError: If another process is at this sweep, or its folder cannot be written.
    """
    progress = progress or Silent()
    if plan.file.search is not None:
        from trsr.sweep.search import search

        with RunDirectory(plan.folder).locked():
            return search(plan, progress)
    runs = plan.grid()
    with RunDirectory(plan.folder).locked():
        progress.begin(len(runs), "runs")
        outcomes: list[Outcome] = []
        for run in runs:
            outcomes.append(make_run(run, plan.folder, STAGE_NAMES, progress, _tested))
            Swept(plan, tuple(outcomes)).write()
            if any(outcome.made for outcome in outcomes):
                progress.advance(1, run.name)
            else:  # runs that were there already say nothing of how long one takes
                progress.begin(len(runs) - len(outcomes), "runs")
    return Swept(plan, tuple(outcomes))


def _tested(run: Planned, outcome: Outcome) -> Outcome:
    return Outcome(
        outcome.name,
        outcome.settings,
        outcome.seed,
        rankers=read_report(run.config.run.folder),
        taken=outcome.taken,
        made=outcome.made,
    )


def make_run(
    run: Planned,
    folder: Path,
    stages: Sequence[str],
    progress: Progress,
    finish: Callable[[Planned, Outcome], Outcome],
) -> Outcome:
    """Does stages of one run, and never raises for what is wrong with that run alone.

    Args:
        run: The run.
        folder: The sweep's folder, in which other runs may have made the same.
        stages: Which stages, in order.
        progress: Its note says what is going on.
        finish: Adds to the outcome what the run has found.
    """
    own = run.config.run.folder
    note = own / ERROR
    outcome = Outcome(run.name, run.settings, run.seed)
    try:
        taken, worked = [], False
        for stage in stages:
            inner = _Inner(progress, f"{run.name}: {stage}")
            made = run_stage(run.config, stage, inner, _donors(folder, own))
            worked |= made.made
            if "taken_from" in made.info:
                taken.append(stage)
        begun = Outcome(run.name, run.settings, run.seed, taken=tuple(taken), made=worked)
        outcome = finish(run, begun)
    except Exception as error:  # the other runs go on, whatever is wrong with this one
        own.mkdir(parents=True, exist_ok=True)
        note.write_text(traceback.format_exc(), "utf-8")
        said = str(error) if isinstance(error, TrsrError) else f"{type(error).__name__}: {error}"
        return Outcome(run.name, run.settings, run.seed, error=said, made=True)
    note.unlink(missing_ok=True)
    return outcome


def _donors(folder: Path, own: Path) -> list[RunDirectory]:
    """The other runs in the folder whose manifest can be read."""
    found = []
    for path in sorted(folder.iterdir()):
        donor = RunDirectory(path)
        if path == own or not path.is_dir():
            continue
        try:
            if donor.records():
                found.append(donor)
        except StoreError:
            continue
    return found


class _Inner:
    """A stage's progress as a note beside the bar of runs."""

    def __init__(self, outer: Progress, name: str) -> None:
        self._outer = outer
        self._name = name
        self._total: int | None = None
        self._done = 0

    def begin(self, total: int | None, unit: str) -> None:
        self._total, self._done = total, 0
        self._outer.advance(0, self._name)

    def advance(self, steps: int = 1, note: str = "") -> None:
        self._done += steps
        whole = f"/{self._total}" if self._total else ""
        self._outer.advance(0, f"{self._name} {self._done}{whole}")
