"""A stop at a known step, as of a process that ends there, for tests of what goes on afterwards."""

from __future__ import annotations

from trsr.progress import Silent


class StopHereError(Exception):
    pass


class Stopping(Silent):
    """Progress that ends the work when it has been told of so many steps.

    Attributes:
        told: The steps of each report so far.
    """

    def __init__(self, steps: int) -> None:
        self.left = steps
        self.told: list[int] = []

    def advance(self, steps: int = 1, note: str = "") -> None:
        self.told.append(steps)
        self.left -= steps
        if self.left <= 0:
            raise StopHereError
