"""Shares the runs of a sweep among the processes that are at it: one makes each."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import filelock

from trsr.errors import StoreError
from trsr.store.rundir import RunDirectory
from trsr.sweep.plan import Planned
from trsr.sweep.table import PLACE, Outcome

ERROR = "error.txt"
"""In a failed run's folder: why, and where there is one the whole trace."""

MAKING = ".making"
"""In the sweep's folder while it goes on: locks of runs and of stages that are being made."""

TRACE = "\n\nTraceback "
"""Begins the trace in a failed run's note."""

WAIT = 30.0
"""Seconds to wait for another process that writes the table."""


class Claims:
    """What one process has to know of the others at its sweep.

    Locks of the file system keep it, so what a killed process was making is free again.

    Args:
        folder: The sweep's.
        runs: Its runs. Of one that another process fails to make from now on, no second try is
            made.
    """

    def __init__(self, folder: Path, runs: Iterable[Planned] = ()) -> None:
        self._folder = folder
        self._making = folder / MAKING
        self._before = {run.name: _noted(run) for run in runs}

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Keeps every other process out, as a search must.

        Raises:
            StoreError: If another process is at a sweep in this folder, or it cannot be written.
        """
        with RunDirectory(self._folder).locked(PLACE):
            if not self._free():
                raise StoreError(
                    f"{self._folder}: another trsr is making runs in this folder; wait for it, or "
                    f"choose another one with {PLACE}"
                )
            yield

    @contextlib.contextmanager
    def record(self) -> Iterator[None]:
        """Keeps others from writing the table, or claiming a run, for a moment.

        Raises:
            StoreError: If another process keeps the folder to itself, or it cannot be written.
        """
        with RunDirectory(self._folder).locked(PLACE, wait=WAIT):
            yield

    def make(self, run: Planned, made: Callable[[], Outcome]) -> Outcome | None:
        """What making a run comes to; None where another process is making it.

        Args:
            run: The run.
            made: Makes it.

        Raises:
            StoreError: As `record`.
        """
        with self._claimed(run) as ours:
            if not ours:
                return None
            return self.failed_elsewhere(run) or made()

    def failed_elsewhere(self, run: Planned) -> Outcome | None:
        """The outcome of a run that another process failed to make since this one began."""
        noted = _noted(run)
        if noted is None or noted == self._before.get(run.name):
            return None
        try:
            said = (run.config.run.folder / ERROR).read_text("utf-8").partition(TRACE)[0]
        except OSError:  # somebody makes it again
            return None
        return Outcome(run.name, run.settings, run.seed, error=said.rstrip("\n"))

    def clean(self) -> None:
        """Removes the locks, where nobody is making a run any more."""
        with contextlib.suppress(StoreError), self.record():
            if self._free():
                shutil.rmtree(self._making, ignore_errors=True)

    @contextlib.contextmanager
    def _claimed(self, run: Planned) -> Iterator[bool]:
        with self.record():  # so that nobody removes the locks meanwhile
            lock = self._lock(run)
            ours = _acquired(lock)
        try:
            yield ours
        finally:
            lock.release()

    def _lock(self, run: Planned) -> filelock.FileLock:
        self._making.mkdir(parents=True, exist_ok=True)
        return filelock.FileLock(self._making / f"{run.name}.run")

    def _free(self) -> bool:
        for path in self._making.glob("*.run"):
            lock = filelock.FileLock(path)
            if not _acquired(lock):
                return False
            lock.release()
        return True


@contextlib.contextmanager
def making(folder: Path, key: str, waits: Callable[[], None]) -> Iterator[None]:
    """Keeps runs side by side from making the same stage: the second waits, and then copies.

    Args:
        folder: The sweep's.
        key: Of all that the stage's output depends on.
        waits: Is called where another run makes the same.
    """
    place = folder / MAKING
    place.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(place / f"{key}.lock")
    if not _acquired(lock):
        waits()
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def failed(outcome: Outcome, folder: Path, trace: str = "") -> Outcome:
    """A run that failed; its folder says why.

    Args:
        outcome: What became of it.
        folder: The run's.
        trace: The whole trace, where there is one.
    """
    with contextlib.suppress(OSError):  # it is told in any case
        folder.mkdir(parents=True, exist_ok=True)
        parts = [outcome.error, *([trace] if trace else [])]
        (folder / ERROR).write_text("\n\n".join(parts) + "\n", "utf-8")
    return outcome


def _acquired(lock: filelock.FileLock) -> bool:
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        return False
    return True


def _noted(run: Planned) -> int | None:
    """When a run's failure was written down; None where none is."""
    try:
        return (run.config.run.folder / ERROR).stat().st_mtime_ns
    except OSError:
        return None
