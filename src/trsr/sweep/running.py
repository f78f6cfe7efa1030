"""Runs a sweep: each run in its folder, with what others have made copied and failures told."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import shutil
import traceback
from collections.abc import Callable, Generator, Sequence
from pathlib import Path

from trsr.errors import ConfigError, StoreError, TrsrError
from trsr.pipeline import STAGE_NAMES, is_finished, run_stage, stage_key, stage_names
from trsr.pipeline.finished import FinishedRun
from trsr.pipeline.notes import run_notes
from trsr.progress import Pace, Progress, Silent
from trsr.store.rundir import RunDirectory
from trsr.sweep.claims import ERROR, MAKING, Claims, failed, making
from trsr.sweep.plan import Plan, Planned
from trsr.sweep.read import answers, cases_digest, read_report
from trsr.sweep.table import Outcome, Swept

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

    Several processes may be at one grid, on machines that share its folder too: each makes runs
    that nobody else is making, and what the others come to stands in everybody's table.

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
        StoreError: If another process is at a search, or at a grid where this is a search; or if
            the folder cannot be written.
    """
    progress = progress or Silent()
    if jobs < 1 or (jobs > 1 and plan.file.search is not None):
        raise ConfigError(
            f"{plan.path}: jobs: {jobs} cannot be; a search tries one run at a time, as it goes by "
            "what it has found, and a grid one or more"
        )
    asked = plan.only(only)
    if plan.file.search is None:
        return _grid(plan, asked, progress, jobs)
    from trsr.sweep.search import search

    with Claims(plan.folder).alone():
        try:
            return search(plan, progress)
        finally:
            for path in (plan.folder / MAKING, *plan.folder.glob(f"{AHEAD}*")):
                shutil.rmtree(path, ignore_errors=True)


def _grid(plan: Plan, asked: Sequence[Planned], progress: Progress, jobs: int) -> Swept:
    board = _Board(plan, asked)
    # runs that were there already say nothing of how long one takes
    left = board.begin()
    progress.begin(len(left), "runs")
    try:
        if jobs == 1 or not left:
            made = _one_by_one(plan, left, board.claims, progress)
        else:
            from trsr.sweep.side_by_side import make_side_by_side

            made = make_side_by_side(plan, left, board.claims, jobs, progress)
        with contextlib.closing(made):
            for run, outcome in made:
                board.enter(run, outcome)
                # what another makes says nothing of how long one takes
                progress.advance(0 if outcome is None else 1, run.name)
        return board.swept()
    finally:
        board.claims.clean()


def _one_by_one(
    plan: Plan, runs: Sequence[Planned], claims: Claims, progress: Progress
) -> Generator[tuple[Planned, Outcome | None]]:
    for run in runs:
        make = functools.partial(make_run, run, plan.folder, STAGE_NAMES, progress, as_it_is)
        yield run, claims.make(run, make)


class _Board:
    """What is known of a grid's runs: this process's, and those that others have made.

    Args:
        plan: The sweep.
        asked: The runs to make now.
    """

    def __init__(self, plan: Plan, asked: Sequence[Planned]) -> None:
        self._plan = plan
        self._asked = asked
        self._runs = plan.grid()
        self._found: dict[str, Outcome] = {}
        self._elsewhere: set[str] = set()
        self.claims = Claims(plan.folder, self._runs)

    def begin(self) -> list[Planned]:
        """Looks at what is there; the runs that are left to make."""
        self._look()
        if self._found:
            self._write()
        return [run for run in self._asked if run.name not in self._found]

    def enter(self, run: Planned, outcome: Outcome | None) -> None:
        """Enters what became of a run, and writes the table.

        Args:
            run: The run.
            outcome: What making it came to; None where another process is making it.
        """
        if outcome is None:
            self._elsewhere.add(run.name)
        else:
            self._found[run.name] = tested(run, outcome)
        self._look()
        self._write()

    def swept(self) -> Swept:
        """The runs as far as they are known."""
        unknown = [run.name for run in self._runs if run.name not in self._found]
        asked = {run.name for run in self._asked}
        return Swept(
            self._plan,
            tuple(self._found[run.name] for run in self._runs if run.name in self._found),
            left=tuple(name for name in unknown if name not in asked),
            elsewhere=tuple(name for name in unknown if name in self._elsewhere),
        )

    def _write(self) -> None:
        with self.claims.record():
            self._look()  # again, and quick now: nobody's row may be written over
            self.swept().write()

    def _look(self) -> None:
        """Takes in what others have come to since."""
        for run in self._runs:
            known = self._found.get(run.name)
            if known is not None and not known.error:
                continue
            there = _there(run) if _is_there(run) else self.claims.failed_elsewhere(run)
            if there is not None and (known is None or not there.error):
                self._found[run.name] = tested(run, there)


def _there(run: Planned) -> Outcome:
    records = RunDirectory(run.config.run.folder).records()
    taken = tuple(name for name, one in records.items() if "taken_from" in one.info)
    return Outcome(run.name, run.settings, run.seed, taken=taken)


def _is_there(run: Planned) -> bool:
    try:
        return is_finished(run.config)
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
    finished = FinishedRun(folder)
    try:
        return dataclasses.replace(
            outcome,
            rankers=read_report(folder),
            bounds=finished.bounds,
            notes=run_notes(finished),
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
        again: tuple[str, ...] = ()
        for stage in (one for one in stages if one in stage_names(run.config)):
            if stage == STAGE_NAMES[-1]:
                again = _altered(own)
            inner = _Inner(progress, f"{run.name}: {stage}")
            key = stage_key(run.config, stage)
            with making(folder, key, functools.partial(_waits, progress, run, stage)):
                made = run_stage(run.config, stage, inner, _donors(folder, own))
            if "taken_from" in made.info:
                taken.append(stage)
        begun = Outcome(run.name, run.settings, run.seed, taken=tuple(taken), again=again)
        outcome = finish(run, begun)
    except Exception as error:  # the other runs go on, whatever is wrong with this one
        said = str(error) if isinstance(error, TrsrError) else f"{type(error).__name__}: {error}"
        return failed(dataclasses.replace(outcome, error=said), own, traceback.format_exc())
    note.unlink(missing_ok=True)
    return outcome


def _altered(folder: Path) -> tuple[str, ...]:
    """The files of a run's report that somebody changed since they were written."""
    run = RunDirectory(folder)
    record = run.records().get(STAGE_NAMES[-1])
    return tuple(run.altered(record)) if record else ()


def _waits(progress: Progress, run: Planned, stage: str) -> None:
    progress.advance(0, f"{run.name}: waits for a run that makes the same {stage}")


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
        self._pace = Pace()

    def begin(self, total: int | None, unit: str) -> None:
        self._pace.begin(total)
        self._outer.advance(0, self._name)

    def advance(self, steps: int = 1, note: str = "") -> None:
        self._pace.advance(steps)
        whole = f"/{self._pace.total}, {self._pace.left()}" if self._pace.total else ""
        self._outer.advance(0, f"{self._name} {self._pace.done}{whole}")
