"""What people see on a terminal: bars, tables, complaints."""

from __future__ import annotations

import re
import shlex
import sys
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Any

import typer
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

from trsr.progress import Pace

_COMMANDS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")
"""What a terminal obeys instead of showing it: control characters and changes of direction."""


def visible(text: str) -> str:
    """The text with what a terminal would obey spelled out as in JSON."""
    return _COMMANDS.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


class _Console(Console):
    """Ids and titles come from other people's files, and could steer the terminal."""

    def print(self, *objects: Any, **options: Any) -> None:
        shown = (visible(one) if isinstance(one, str) else one for one in objects)
        super().print(*shown, **options)


# An id such as `u:x:1` is no picture.
out = _Console(
    highlight=False, soft_wrap=True, emoji=False, width=None if sys.stdout.isatty() else 160
)
err = _Console(stderr=True, highlight=False, soft_wrap=True, emoji=False)

BESIDE = 85
"""Characters of a terminal's line that the bar, counts and times take beside a note."""

EVERY = 20.0
"""Seconds between lines of progress where there is no terminal to draw on."""


def complain(message: str) -> None:
    """Prints an error on standard error."""
    err.print(f"[bold red]error:[/] {escape(message)}")


class Bar:
    """A job's progress: a bar on a terminal, else a line now and then, with an estimate.

    A job that is stopped from the keyboard ends with one line and exit code 130.

    Args:
        name: Of the job, such as a stage.
        resumes: Whether the same command continues a stopped job.
    """

    def __init__(self, name: str, *, resumes: bool = True) -> None:
        self.name = name
        self._resumes = resumes
        self._unit = "steps"
        self._shown = time.monotonic()
        self._pace = Pace()
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
        if kind is KeyboardInterrupt:
            command = shlex.join(["trsr", *sys.argv[1:]])
            kept = f"; what is done is kept. Continue with: {command}" if self._resumes else ""
            err.print(f"stopped in {self.name}{kept}", markup=False)
            raise typer.Exit(130) from None

    def begin(self, total: int | None, unit: str) -> None:
        """The job has `total` steps of this unit."""
        self._unit, self._shown = unit, time.monotonic()
        self._pace.begin(total)
        self._bar.reset(self._task, total=total, unit=unit, note="", left="", visible=True)

    def advance(self, steps: int = 1, note: str = "") -> None:
        """Some steps are done."""
        self._pace.advance(steps)
        left = self._pace.left()
        room = max(err.width - BESIDE - len(self.name), 10)
        shown = note if len(note) <= room else f"{note[: room - 1]}…"
        self._bar.update(self._task, advance=steps, note=visible(shown), left=left and f", {left}")
        now = time.monotonic()
        if not err.is_terminal and now - self._shown >= EVERY:
            self._shown = now
            total = f" of {self._pace.total}" if left else ""
            state = f"{self._pace.done}{total} {self._unit}{left and f', {left}'}"
            err.print(f"{self.name}: {state}{escape(note and f'; {note}')}")


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Prints a table: the first column to the left, the others to the right."""
    drawn = Table(header_style="bold", box=SIMPLE_HEAD, pad_edge=False)
    for position, name in enumerate(header):
        drawn.add_column(name, justify="left" if position == 0 else "right")
    for row in rows:
        drawn.add_row(*(escape(visible(cell)) for cell in row))
    out.print(drawn)
