"""What people see on a terminal: bars, tables, complaints."""

from __future__ import annotations

import json
import logging
import shlex
import sys
from collections.abc import Iterable, Sequence
from types import TracebackType

import typer
from rich.markup import escape

from trsr import bars
from trsr.bars import SafeConsole, err, visible, visible_name

# An id such as `u:x:1` is no picture.
out = SafeConsole(
    highlight=False, soft_wrap=True, emoji=False, width=None if sys.stdout.isatty() else 160
)


def say(lines: Iterable[object]) -> None:
    """Prints lines on standard output, each as soon as it is there."""
    for line in lines:
        out.print(line, markup=False)


def say_json(value: object) -> None:
    """Prints one JSON object on standard output."""
    out.print(json.dumps(value, indent=1, ensure_ascii=False), markup=False)


def complain(message: str) -> None:
    """Prints an error on standard error."""
    err.print(f"[bold red]error:[/] {escape(message)}")


class Bar(bars.Bar):
    """A command's progress. Stopped from the keyboard, it ends with one line and exit code 130."""

    def __init__(self, name: str, *, resumes: bool = True) -> None:
        super().__init__(name)
        self._resumes = resumes

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        super().__exit__(kind, error, trace)
        if kind is KeyboardInterrupt:
            command = shlex.join(["trsr", *sys.argv[1:]])
            kept = f"; what is done is kept. Continue with: {command}" if self._resumes else ""
            err.print(f"stopped in {self.name}{kept}", markup=False)
            raise typer.Exit(130) from None


def command(name: str, *words: object, options: Sequence[str] = ()) -> str:
    """A command of trsr as a shell takes it: ids and paths are quoted, and are never options."""
    texts = [visible_name(str(word)) for word in words]
    dashed = any(text.startswith("-") for text in texts)
    line = [*options, "--", *texts] if dashed else [*texts, *options]
    return shlex.join(["trsr", name, *line])


class LogLines(logging.Handler):
    """Shows log lines: they may hold texts of files and endpoints, which could steer a terminal."""

    def emit(self, record: logging.LogRecord) -> None:
        """Prints one."""
        err.print(self.format(record), markup=False)


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Prints a table: the first column to the left, the others to the right."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    drawn = Table(header_style="bold", box=SIMPLE_HEAD, pad_edge=False)
    for position, name in enumerate(header):
        drawn.add_column(name, justify="left" if position == 0 else "right")
    for row in rows:
        drawn.add_row(*(escape(visible(cell)) for cell in row))
    out.print(drawn)
