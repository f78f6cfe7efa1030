"""How far a job is, as people see it: a bar on a terminal or in a notebook, else lines of text."""

from __future__ import annotations

import re
import sys
import time
from types import TracebackType
from typing import Any

from rich.console import Console

from trsr.progress import Pace
from trsr.storage.addresses import in_addresses

_COMMANDS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")
"""What a terminal obeys instead of showing it: control characters and changes of direction."""


def visible(text: str) -> str:
    """The text with what a terminal would obey spelled out as in JSON."""
    return _COMMANDS.sub(_spelled, text)


def visible_name(text: str) -> str:
    """The same for an id within a line: line ends are spelled too, so that it fakes no lines."""
    return re.sub("[\t\n\u2028\u2029]", _spelled, visible(text))


def _spelled(found: re.Match[str]) -> str:
    return f"\\u{ord(found[0]):04x}"


class SafeConsole(Console):
    """Ids and titles come from other people's files, and could steer the terminal."""

    def print(self, *objects: Any, **options: Any) -> None:
        """Prints as rich does, texts with what a terminal would obey spelled out."""
        shown = (visible(in_addresses(one)) if isinstance(one, str) else one for one in objects)
        super().print(*shown, **options)


err = SafeConsole(stderr=True, highlight=False, soft_wrap=True, emoji=False, force_jupyter=False)

BESIDE = 85
"""Characters of a terminal's line that the bar, counts and times take beside a note."""

EVERY = 20.0
"""Seconds between lines of progress where there is no terminal to draw on."""

REDRAWN = 0.2
"""Seconds between two pictures of a bar in a notebook."""


class Bar:
    """A job's progress: a bar on a terminal or in a notebook, else a line now and then."""

    def __init__(self, name: str) -> None:
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeElapsedColumn,
        )

        self.name = name
        self._unit = "steps"
        self._shown = time.monotonic()
        self._pace = Pace()
        self._cell = _cell()
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
        if self._cell:
            self._cell.update({"text/plain": ""}, raw=True)

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
        if err.is_terminal or now - self._shown < (REDRAWN if self._cell else EVERY):
            return
        self._shown = now
        total = f" of {self._pace.total}" if left else ""
        state = f"{self._pace.done}{total} {self._unit}{left and f', {left}'}"
        line = f"{self.name}: {state}{note and f'; {note}'}"
        if self._cell:
            self._cell.update({"text/plain": visible(line)}, raw=True)
        else:
            err.print(line, markup=False)


def _cell() -> Any:
    """Where a notebook shows what changes; None outside of a notebook."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    if shell is None or not hasattr(shell, "kernel"):
        return None
    from IPython.display import display

    return display({"text/plain": ""}, raw=True, display_id=True)
