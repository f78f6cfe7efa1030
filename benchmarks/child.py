"""Prepares data in a process of its own, and tells seconds and peak memory: `python -m` runs it."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

from trsr.data.settings import DataSettings
from trsr.machine import peak_resident


class Steps:
    """Progress that keeps each step's seconds.

    Attributes:
        seconds: By the step's note.
    """

    def __init__(self) -> None:
        self.seconds: list[tuple[str, float]] = []
        self._last = time.perf_counter()

    def begin(self, total: int | None, unit: str) -> None:
        """Does nothing."""

    def advance(self, steps: int = 1, note: str = "") -> None:
        """Keeps the time since the last step."""
        now = time.perf_counter()
        self.seconds.append((note, now - self._last))
        self._last = now


def main(settings: str, out: str, seed: str) -> None:
    """Prepares, and prints one JSON object.

    Args:
        settings: `DataSettings` as JSON.
        out: An empty folder.
        seed: The run's.
    """
    from trsr.data import prepare

    steps = Steps()
    report = prepare(
        DataSettings.model_validate_json(settings), Path(out), seed=int(seed), progress=steps
    )
    found = {
        "seconds": sum(took for _, took in steps.seconds),
        "steps": steps.seconds,
        "peak": peak_resident(),
        "cases": report.counts["cases_test"],
    }
    sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
