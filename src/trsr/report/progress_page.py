"""Writes `progress.html` while a run goes on: one file that opens anywhere, without a script."""

from __future__ import annotations

import contextlib
import datetime
import socket
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from trsr.errors import RunBusyError, StoreError
from trsr.progress import Pace, Progress, duration
from trsr.report.html import pages, write_page
from trsr.storage import files

EVERY = 5
"""Seconds between two pages."""


class _Row:
    """A stage on the page; as a `Progress`, it also passes on each advance."""

    def __init__(self, name: str) -> None:
        self.name, self.state, self.note = name, "waits", ""
        self._pace, self._unit, self._began = Pace(), "", 0.0
        self.bar: Progress | None = None

    def begin(self, total: int | None, unit: str) -> None:
        self._pace.begin(total)
        self._unit = unit
        if self.bar:
            self.bar.begin(total, unit)

    def advance(self, steps: int = 1, note: str = "") -> None:
        self._pace.advance(steps)
        self.note = note or self.note
        if self.bar:
            self.bar.advance(steps, note)

    def start(self, bar: Progress) -> Progress:
        self.bar, self.state, self._began = bar, "", time.monotonic()
        return self

    def end(self, state: str) -> None:
        self.bar, self.state, self.note = None, state, ""

    @property
    def done(self) -> str:
        """In words."""
        if self.bar is None:
            return self.state
        total = f" of {self._pace.total:,}" if self._pace.total else ""
        return f"{self._pace.done:,}{total} {self._unit}" if self._unit else "begins"

    @property
    def share(self) -> float | None:
        """From 0 to 1; None where that is not known, or the stage is not under way."""
        return min(self._pace.done / self._pace.total, 1) if self.bar and self._pace.total else None

    @property
    def time(self) -> str:
        """So far, what is left, and when it ends."""
        if self.bar is None:
            return ""
        so_far = duration(time.monotonic() - self._began)
        seconds = self._pace.seconds_left()
        if seconds is None:
            return so_far
        end = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=seconds)
        return f"{so_far}; about {duration(seconds)} left, until {end:%H:%M} UTC"


class ProgressPage:
    """A page of a run's stages, renewed until the block ends."""

    def __init__(self, path: Path, title: str, stages: Sequence[str]) -> None:
        self._path, self._title = path, title
        self._rows = {name: _Row(name) for name in stages}
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._renew, name="trsr-page", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._ended.set()
        self._thread.join()
        for row in self._rows.values():
            if row.bar:
                row.end("stopped")
        if isinstance(error, RunBusyError):  # the page is that of the command that writes the run
            return
        self._write("ended" if error is None else "stopped; the command itself says why")

    def watch(self, stage: str, bar: Progress) -> Progress:
        """A stage begins: its progress, which the page shows too."""
        return self._rows[stage].start(bar)

    def end(self, stage: str, state: str) -> None:
        """A stage has ended: how, in a few words."""
        self._rows[stage].end(state)

    def _renew(self) -> None:
        while not self._ended.is_set():
            # a stage that begins meanwhile has half its numbers: the next page is right
            with contextlib.suppress(ArithmeticError, TypeError):
                self._write("")
            self._ended.wait(EVERY)

    def _write(self, ended: str) -> None:
        now = datetime.datetime.now(datetime.UTC)
        text = (
            pages()
            .get_template("progress.html")
            .render(
                title=self._title,
                now=f"{now:%Y-%m-%d %H:%M:%S} UTC",
                host=socket.gethostname(),
                every=EVERY,
                ended=ended,
                report=bool(ended) and files.is_file(self._path.with_name("report.html")),
                rows=list(self._rows.values()),
            )
        )
        with contextlib.suppress(OSError, StoreError):  # a page is not worth a run
            if files.is_folder(self._path.parent):  # else there is no run yet
                write_page(text, self._path)
