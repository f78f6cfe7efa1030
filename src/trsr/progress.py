"""How a long job tells that it goes on, and when it will end; the command line draws it."""

from __future__ import annotations

import time
from collections import deque
from typing import Protocol

SURE = 0.05
"""The share that must be done before an estimate means anything; of slow jobs `FEWEST` steps do."""

SLOW = 30.0
"""Seconds that the first steps took, from which on a job is slow: a twentieth of it may be long."""

RECENT = 120.0
"""Seconds over which speed is measured: what an earlier run or a store brought came at once."""

FEWEST = 5
"""Steps, and the beginning before them, over which speed is measured however long they took."""


class Progress(Protocol):
    """One long job's progress."""

    def begin(self, total: int | None, unit: str) -> None:
        """The job has `total` steps (None: not known) of this unit, such as `queries`."""

    def advance(self, steps: int = 1, note: str = "") -> None:
        """Some steps are done; `note` is a few words shown beside the bar."""


class Silent:
    """Progress that nobody watches."""

    def begin(self, total: int | None, unit: str) -> None:
        """Does nothing."""

    def advance(self, steps: int = 1, note: str = "") -> None:
        """Does nothing."""


class Pace:
    """How fast a job goes, and so when it ends.

    Attributes:
        total: Its steps; None where they are not known.
        done: Those that are done.
    """

    def __init__(self) -> None:
        self.begin(None)

    def begin(self, total: int | None) -> None:
        """The job has `total` steps."""
        self.total, self.done = total, 0
        self._seen: deque[tuple[float, int]] = deque([(time.monotonic(), 0)])

    def advance(self, steps: int) -> None:
        """Some steps are done."""
        self.done += steps
        now = time.monotonic()
        if self.done == steps and steps > 1:  # done by an earlier run
            self._seen[0] = (now, steps)
        if steps:
            self._seen.append((now, self.done))
        while len(self._seen) > FEWEST and self._seen[1][0] < now - RECENT:
            self._seen.popleft()

    def left(self) -> str:
        """The estimate in words; empty where the total is not known."""
        if not self.total:
            return ""
        seconds = self.seconds_left()
        return "too early to estimate" if seconds is None else f"about {duration(seconds)} left"

    def seconds_left(self) -> float | None:
        """The estimate; None where the total is not known, or it is too early."""
        (began, before), (last, _) = self._seen[0], self._seen[-1]
        if not self.total or self.done == before:
            return None
        slow = self.done - before >= FEWEST and last - began >= SLOW
        if self.done < self.total * SURE and not slow:
            return None
        each = (last - began) / (self.done - before)
        waited = time.monotonic() - last
        # a step that takes longer than the others is guessed to have a quarter more before it
        step = max(each - waited, waited / 4) if self.done < self.total else 0
        return each * max(self.total - self.done - 1, 0) + step


def duration(seconds: float) -> str:
    """Seconds as people say them."""
    if seconds < 90:
        return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 90 else f"{minutes / 60:.1f} h"
