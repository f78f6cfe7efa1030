"""`python -m benchmarks prepare`: how time and memory of preparing data grow with the data."""

from __future__ import annotations

import json
import math
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.events import Format, write_events
from benchmarks.options import PrepareOptions
from benchmarks.records import Place, Result, Work, record, speed_ratio
from benchmarks.timing import Timing
from trsr.data.settings import DataSettings
from trsr.errors import DataError
from trsr.progress import Progress

ROOT = Path(__file__).parents[1]


def bench_prepare(options: PrepareOptions, progress: Progress) -> Result:
    """Prepares made-up data of growing size, each time in a process of its own.

    The smallest size is the reference: a ratio of 1 is time that grows as the data does. Seconds
    are those of preparing, without the start of Python.

    Args:
        options: Sizes, most cases of a kind, repeats, the seed of the data and the format.
        progress: Shows each run.

    Raises:
        DataError: If a process fails, with what it said.
    """
    repeats, seed, cases = options.repeats, options.seed, options.cases
    format: Format = "csv" if options.csv else "parquet"
    order = sorted(set(options.interactions))
    progress.begin((repeats + 1) * len(order), "runs")
    timings = {size: Timing() for size in order}
    with tempfile.TemporaryDirectory(prefix="benchmarks-") as folder:
        settings: dict[int, DataSettings] = {}
        for size in order:
            home = Path(folder, str(size))
            home.mkdir()
            most = {"train_users": cases, "valid_cases": cases, "test_cases": cases}
            made = write_events(home, size, seed=seed, format=format)
            settings[size] = made.model_copy(update=most)
            progress.advance(1, f"{size:,} interactions written")
        for _ in range(repeats):
            for size in order:
                _time(settings[size], seed, timings[size])
                progress.advance(1, f"{size:,} interactions")
    place = Place("cpu", "")
    reference, first = timings[order[0]], Work(order[0])
    records = tuple(
        record(
            "prepare",
            f"{size}-interactions",
            place,
            timings[size],
            Work(size),
            speed_ratio(timings[size], Work(size), reference, first),
        )
        for size in order
    )
    notes = [_growth(order[0], size, reference, timings[size]) for size in order[1:]]
    rates = (f"{size:,}: {size / timings[size].median:,.0f}" for size in order)
    notes.append(f"interactions a second: {'; '.join(rates)}")
    how = "all users' cases" if not cases else f"at most {cases:,} cases of a kind"
    return Result(f"prepare, made-up data ({format}), {how}", records, tuple(notes))


def _growth(small: int, large: int, reference: Timing, timing: Timing) -> str:
    bound = large * math.log(large) / (small * math.log(small))
    return (
        f"{large:,} interactions took {timing.median / reference.median:.2f} times as long as "
        f"{small:,}; n log n allows {bound:.2f} times"
    )


def _time(settings: DataSettings, seed: int, timing: Timing) -> None:
    with tempfile.TemporaryDirectory(prefix="benchmarks-") as out:
        found = measured(settings, Path(out), seed)
    timing.seconds.append(found["seconds"])
    if found["peak"] is not None:
        timing.peak_memory = max(found["peak"], timing.peak_memory or 0)


def measured(settings: DataSettings, out: Path, seed: int) -> dict[str, Any]:
    """Prepares in a process of its own: its seconds and its peak memory in bytes.

    Raises:
        DataError: If it fails.
    """
    words = ["-m", "benchmarks.child", settings.model_dump_json(), str(out), str(seed)]
    done = subprocess.run(  # noqa: S603 - our own module
        [sys.executable, *words], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if done.returncode:
        last = done.stderr.strip().splitlines()[-1:] or [f"exit code {done.returncode}"]
        raise DataError(f"preparing the made-up data failed: {last[0]}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found
