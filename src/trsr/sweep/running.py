"""Runs a sweep: each run in its folder, with what others have made copied and failures told."""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import filelock

from trsr.errors import ConfigError, StoreError, TrsrError
from trsr.pipeline import STAGE_NAMES, is_finished, run_stage, stage_key
from trsr.progress import Progress, Silent
from trsr.store.rundir import RunDirectory
from trsr.sweep.plan import Plan, Planned
from trsr.sweep.read import answers, cases_digest, foreign, read_report
from trsr.sweep.table import PLACE, Outcome, Swept

ERROR = "error.txt"
"""In a failed run's folder: the whole trace."""

MAKING = ".making"
"""In the sweep's folder while it goes on: a lock for each stage that a run is making."""

AHEAD = ".ahead-"
"""Begins the folders, beside the runs while a search goes on, of data prepared to be looked at."""

TRAINED = STAGE_NAMES[: STAGE_NAMES.index("train") + 1]
"""The stages that come before any test case is asked."""


def sweep(
    plan: Plan, progress: Progress | None = None, jobs: int = 1, only: Sequence[str] = ()
) -> Swept:
    """Makes all runs of a sweep, those that are done already left as they are.

    Stages with the same settings and inputs are made once and copied, and language models' outputs
    are shared through one store. After each run `sweep.json` and `sweep.md` are written. A run that
    fails is reported, and the others go on; after a kill the same call goes on where it was.

    Args:
        plan: What to run.
        progress: Told of each run, with what its stages are at.
        jobs: How many runs are made at a time; more than one, each in a process of its own. What
            they come to is the same, but for what the number of threads changes in rounding.
        only: Names of the variants or runs to make now; empty for all. What others have come to
            already stands in the table too.

    Raises:
        ConfigError: If the settings of any run are wrong, or a name is none of them: told before
            the first one begins; or if a search is to try several settings at a time, or only some.
        StoreError: If another process is at this sweep, or its folder cannot be written.
    """
    progress = progress or Silent()
    if jobs < 1 or (jobs > 1 and plan.file.search is not None):
        raise ConfigError(
            f"{plan.path}: jobs: {jobs} cannot be; a search tries one run at a time, as it goes by "
            "what it has found, and a grid one or more"
        )
    asked = plan.only(only)
    with RunDirectory(plan.folder).locked(PLACE):
        try:
            if plan.file.search is None:
                return _grid(plan, asked, progress, jobs)
            from trsr.sweep.search import search

            return search(plan, progress)
        finally:
            for path in (plan.folder / MAKING, *plan.folder.glob(f"{AHEAD}*")):
                shutil.rmtree(path, ignore_errors=True)


def _grid(plan: Plan, asked: Sequence[Planned], progress: Progress, jobs: int) -> Swept:
    runs = plan.grid()
    found: dict[str, Outcome] = {}

    def swept() -> Swept:
        done = tuple(found[run.name] for run in runs if run.name in found)
        return Swept(plan, done, left=tuple(run.name for run in runs if run.name not in known))

    def alone(which: Iterable[Planned]) -> Iterator[Outcome]:
        return (make_run(run, plan.folder, STAGE_NAMES, progress, as_it_is) for run in which)

    # runs that were there already say nothing of how long one takes
    there = [run for run in runs if _is_there(run)]
    left = [run for run in asked if run not in there]
    known = {run.name for run in (*there, *left)}
    for run, outcome in zip(there, alone(there), strict=True):
        found[run.name] = tested(run, outcome)
    if there:
        swept().write()
    progress.begin(len(left), "runs")
    named = {run.name: run for run in left}
    if jobs == 1 or not left:
        making = alone(left)
    else:
        from trsr.sweep.side_by_side import make_side_by_side

        making = make_side_by_side(plan, left, jobs, progress)
    for outcome in making:
        found[outcome.name] = tested(named[outcome.name], outcome)
        swept().write()
        progress.advance(1, outcome.name)
    return swept()


def _is_there(run: Planned) -> bool:
    try:
        return is_finished(run.config) and not foreign(run.config.run.folder)
    except TrsrError:  # told when it is made
        return False


def as_it_is(run: Planned, outcome: Outcome) -> Outcome:
    """The outcome, with nothing added."""
    return outcome


def tested(run: Planned, outcome: Outcome) -> Outcome:
    """The outcome with what its run came to on its cases; failed where that cannot be read."""
    if outcome.error:
        return outcome
    folder, split = run.config.run.folder, run.config.rank.split
    try:
        return dataclasses.replace(
            outcome,
            rankers=read_report(folder),
            split=split,
            cases=cases_digest(folder, split),
            answers=answers(folder),
        )
    except StoreError as error:
        return failed(dataclasses.replace(outcome, error=str(error)), folder)


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
        taken = []
        if "evaluate" in stages:
            for path in foreign(own):  # made again, as one that is cut off
                path.unlink()
        for stage in stages:
            inner = _Inner(progress, f"{run.name}: {stage}")
            with _alone(run, stage, folder, progress):
                made = run_stage(run.config, stage, inner, _donors(folder, own))
            if "taken_from" in made.info:
                taken.append(stage)
        begun = Outcome(run.name, run.settings, run.seed, taken=tuple(taken))
        outcome = finish(run, begun)
    except Exception as error:  # the other runs go on, whatever is wrong with this one
        said = str(error) if isinstance(error, TrsrError) else f"{type(error).__name__}: {error}"
        return failed(dataclasses.replace(outcome, error=said), own, traceback.format_exc())
    note.unlink(missing_ok=True)
    return outcome


def failed(outcome: Outcome, folder: Path, trace: str = "") -> Outcome:
    """A run that failed; its folder says why.

    Args:
        outcome: What became of it.
        folder: The run's.
        trace: The whole trace, where there is one.
    """
    with contextlib.suppress(OSError):  # it is told in any case
        folder.mkdir(parents=True, exist_ok=True)
        (folder / ERROR).write_text(trace or outcome.error + "\n", "utf-8")
    return outcome


@contextlib.contextmanager
def _alone(run: Planned, stage: str, folder: Path, progress: Progress) -> Iterator[None]:
    """Keeps runs side by side from making the same: the second waits, and then copies."""
    making = folder / MAKING
    making.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(making / f"{stage_key(run.config, stage)}.lock")
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        progress.advance(0, f"{run.name}: waits for a run that makes the same {stage}")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


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
