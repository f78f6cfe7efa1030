"""One run of a sweep in a process of its own: `python -m trsr.sweep.worker FOLDER RUN CORE…`.

Standard input gives its settings as one JSON object. Standard output takes one JSON object a line:
`{"note": …}` while it works, and at the end one with `error`, `taken` and `again`. What libraries
print goes to standard error.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any, TextIO

from trsr.config import Config
from trsr.pipeline import STAGE_NAMES
from trsr.sweep.plan import Planned
from trsr.sweep.running import make_run

EVERY = 0.2
"""Seconds between two notes."""

WATCH = 1.0
"""Seconds between two looks at whether the sweep is still there."""


def main(folder: str, name: str, *cores: str) -> None:
    """Makes the run of this name, and tells what became of it.

    The settings are told, not read again: a file that is edited while the sweep goes on must not
    give its later runs others than its first ones.

    Args:
        folder: The sweep's.
        name: The run's.
        cores: The cores to keep to; none: all.
    """
    if cores:
        os.sched_setaffinity(0, map(int, cores))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the sweep is told, and ends its workers
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    with os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8") as lines:
        os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
        run = Planned(name, {}, None, Config.model_validate(json.load(sys.stdin)))
        made = make_run(run, Path(folder), STAGE_NAMES, _Notes(lines), lambda run, outcome: outcome)
        told = {"error": made.error, "taken": list(made.taken), "again": list(made.again)}
        _tell(lines, told)


def _end_with(parent: int) -> None:
    """Ends this process when the sweep was killed: a run must not go on unseen."""
    while os.getppid() == parent:
        time.sleep(WATCH)
    os._exit(1)


def _tell(lines: TextIO, value: dict[str, Any]) -> None:
    try:
        lines.write(json.dumps(value) + "\n")
        lines.flush()
    except BrokenPipeError:  # nobody is there to hear it
        os._exit(1)


class _Notes:
    """A run's progress, a line now and then."""

    def __init__(self, lines: TextIO) -> None:
        self._lines = lines
        self._said = 0.0

    def begin(self, total: int | None, unit: str) -> None:
        """The sweep counts runs, not steps."""

    def advance(self, steps: int = 1, note: str = "") -> None:
        now = time.monotonic()
        if now - self._said >= EVERY:
            self._said = now
            _tell(self._lines, {"note": note})


if __name__ == "__main__":
    main(*sys.argv[1:])
