"""A stop at a known step, as of a process that ends there, for tests of what goes on afterwards."""

from __future__ import annotations

import multiprocessing

import pytest

from trsr.config import Config
from trsr.pipeline import run_stage
from trsr.progress import Silent


class StopHereError(Exception):
    pass


class Stopping(Silent):
    """Progress that ends the work when it has been told of so many steps.

    Attributes:
        told: The steps of each report so far.
        begun: Of each work the steps in all, and what they are.
    """

    def __init__(self, steps: int) -> None:
        self.left = steps
        self.told: list[int] = []
        self.begun: list[tuple[int | None, str]] = []

    def begin(self, total: int | None, unit: str) -> None:
        self.begun.append((total, unit))

    def advance(self, steps: int = 1, note: str = "") -> None:
        self.told.append(steps)
        self.left -= steps
        if self.left <= 0:
            raise StopHereError


class KillsWorker(Stopping):
    """Ends a worker at the first look at steps, and the whole when so many more were made."""

    killed = False

    def advance(self, steps: int = 1, note: str = "") -> None:
        if steps and not self.killed:
            self.killed = True
            child = multiprocessing.active_children()[-1]
            assert child.pid is not None
            child.kill()
            return  # steps until here need no other worker
        super().advance(steps, note)


def train_with_breaks(alone: Config, *, lost: bool) -> None:
    """Trains alone, then with a second worker, of which one may be lost, then alone to the end."""
    with pytest.raises(StopHereError):
        run_stage(alone, "train", Stopping(3))
    both = alone.model_copy(update={"run": alone.run.model_copy(update={"workers": 2})})
    progress = KillsWorker(8) if lost else Stopping(4)  # the workers make some more steps meanwhile
    with pytest.raises(StopHereError):
        run_stage(both, "train", progress)
    assert not isinstance(progress, KillsWorker) or progress.killed
    run_stage(alone, "train")
