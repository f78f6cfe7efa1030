"""Prepares data in a process of its own, and tells seconds and peak memory: `python -m` runs it."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

from trsr.data.settings import DataSettings
from trsr.machine import peak_resident
from trsr.progress import Silent


def main(settings: str, out: str, seed: str) -> None:
    """Prepares, and prints one JSON object.

    Args:
        settings: `DataSettings` as JSON.
        out: An empty folder.
        seed: The run's.
    """
    from trsr.data import prepare

    started = time.perf_counter()
    report = prepare(
        DataSettings.model_validate_json(settings), Path(out), seed=int(seed), progress=Silent()
    )
    took = time.perf_counter() - started
    found = {"seconds": took, "peak": peak_resident(), "cases": report.counts["cases_test"]}
    sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
