"""What people see on a terminal: bars, tables, complaints."""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Sequence
from types import TracebackType

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
)
from rich.table import Table

# An id such as `u:x:1` is no picture.
out = Console(
    highlight=False, soft_wrap=True, emoji=False, width=None if sys.stdout.isatty() else 160
)
err = Console(stderr=True, highlight=False, soft_wrap=True, emoji=False)

SURE = 0.05
"""The share that must be done before an estimate means anything."""

RECENT = 120.0
"""Seconds over which speed is measured: what an earlier run or a store brought came at once."""

BESIDE = 85
"""Characters of a terminal's line that the bar, counts and times take beside a note."""

FEWEST = 5
"""Steps, and the beginning before them, over which speed is measured however long they took."""

EVERY = 20.0
"""Seconds between lines of progress where there is no terminal to draw on."""


def complain(message: str) -> None:
    """Says what was wrong, on standard error."""
    err.print(f"[bold red]error:[/] {escape(message)}")


class Bar:
    """A job's progress: a bar on a terminal, else a line now and then; always with an estimate."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._total: int | None = None
        self._done = 0
        self._unit = "steps"
        self._said = time.monotonic()
        self._seen: deque[tuple[float, int]] = deque([(self._said, 0)])
        self._bar = Progress(
            TextColumn("{task.description}", style="bold", markup=False),
            BarColumn(bar_width=30),
            MofNCompleteColumn(),
            TextColumn("{task.fields[unit]}", markup=False),
            TimeElapsedColumn(),
            TextColumn("elapsed{task.fields[left]}  {task.fields[note]}", markup=False),
            console=err,
            transient=True,
        )
        self._task = self._bar.add_task(name, total=None, unit="", note="", left="", visible=False)

    def __enter__(self) -> Bar:
        if err.is_terminal:
            self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if err.is_terminal:
            self._bar.stop()

    def begin(self, total: int | None, unit: str) -> None:
        """The job has `total` steps of this unit."""
        self._total, self._unit, self._done = total, unit, 0
        self._said = time.monotonic()
        self._seen = deque([(self._said, 0)])
        self._bar.reset(self._task, total=total, unit=unit, note="", left="", visible=True)

    def advance(self, steps: int = 1, note: str = "") -> None:
        """Some steps are done."""
        self._done += steps
        now = time.monotonic()
        if self._done == steps and steps > 1:  # done by an earlier run
            self._seen[0] = (now, steps)
        if steps:
            self._seen.append((now, self._done))
        while len(self._seen) > FEWEST and self._seen[1][0] < now - RECENT:
            self._seen.popleft()
        left = self._left(now)
        room = max(err.width - BESIDE - len(self.name), 10)
        shown = note if len(note) <= room else f"{note[: room - 1]}…"
        self._bar.update(self._task, advance=steps, note=shown, left=left and f", {left}")
        if not err.is_terminal and now - self._said >= EVERY:
            self._said = now
            whole = f" of {self._total}, {left}," if self._total else ""
            err.print(f"{self.name}: {self._done}{whole} {self._unit} {escape(note)}")

    def _left(self, now: float) -> str:
        """The estimate in words; empty where the total is not known."""
        if not self._total:
            return ""
        (began, before), (last, _) = self._seen[0], self._seen[-1]
        if self._done < self._total * SURE or self._done == before:
            return "too early to estimate"
        each = (last - began) / (self._done - before)
        waited = now - last
        # a step that takes longer than the others is guessed to have a quarter more before it
        step = max(each - waited, waited / 4) if self._done < self._total else 0
        left = each * max(self._total - self._done - 1, 0) + step
        return f"about {duration(left)} left"


def duration(seconds: float) -> str:
    """Seconds as people say them."""
    if seconds < 90:
        return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 90 else f"{minutes / 60:.1f} h"


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Prints a table: the first column to the left, the others to the right."""
    drawn = Table(header_style="bold", box=SIMPLE_HEAD, pad_edge=False)
    for position, name in enumerate(header):
        drawn.add_column(name, justify="left" if position == 0 else "right")
    for row in rows:
        drawn.add_row(*(escape(cell) for cell in row))
    out.print(drawn)
