"""`python -m benchmarks prepare`: how time and memory of preparing data grow with the data."""

from __future__ import annotations

import json
import math
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import polars as pl

from benchmarks.options import PrepareOptions
from benchmarks.records import Place, Result, Work, record, speed_ratio
from benchmarks.timing import Timing
from trsr.data.settings import Columns, DataSettings
from trsr.errors import DataError
from trsr.progress import Progress
from trsr.settings import derive_seed
from trsr.storage.files import stream_parquet

Format = Literal["parquet", "csv"]

_NOUNS = (
    *("hinge", "lamp", "valve", "brush", "cable", "mask", "glove", "drill", "bolt", "tape"),
    *("filter", "pump", "ladder", "sensor", "switch", "clamp", "nozzle", "bearing", "gasket"),
)
_KINDS = (
    *("brass", "steel", "copper", "plastic", "ceramic", "rubber", "nylon", "wooden", "sealed"),
    *("small", "large", "heavy", "light", "quiet", "fast", "safe", "plain", "coated", "folding"),
)
_YEARS = 3 * 365 * 86400
_CHUNK = 5_000_000
"""Rows made at a time."""
MOST_ITEMS = 1_000_000


def write_events(
    folder: Path, interactions: int, *, seed: int = 0, format: Format = "parquet"
) -> DataSettings:
    """Writes a data set with a tenth as many users as interactions, and as many items.

    There are at most `MOST_ITEMS` of these. Users are drawn evenly; items with a probability that
    falls as 1/rank (Zipf's law); times over three years. Each item has a title of four words and a
    description of twelve.

    Returns:
        The settings that read it.
    """
    draw = np.random.default_rng(derive_seed(seed, "events", str(interactions)))
    users = max(interactions // 10, 1)
    items = min(users, MOST_ITEMS)
    names = draw.permutation(items)
    paths = folder / f"interactions.{format}", folder / f"items.{format}"
    catalog = (
        _catalog(draw, min(_CHUNK, items - begin), begin) for begin in range(0, items, _CHUNK)
    )
    _written(catalog, paths[1], format)
    sizes = (min(_CHUNK, interactions - begin) for begin in range(0, interactions, _CHUNK))
    _written((_events(draw, size, users, names) for size in sizes), paths[0], format)
    columns = Columns(user="user", item="item", time="time", item_id="item")
    return DataSettings(interactions=paths[0], items=paths[1], columns=columns)


def _events(
    draw: np.random.Generator, size: int, users: int, names: npt.NDArray[np.int64]
) -> pl.DataFrame:
    ranks = np.minimum(len(names) ** draw.random(size), len(names)) - 1
    frame = pl.DataFrame(
        {
            "user": draw.integers(users, size=size),
            "item": names[ranks.astype(np.int64)],
            "time": 1_600_000_000 + draw.integers(_YEARS, size=size),
        }
    )
    return frame.with_columns(
        pl.format("u{}", "user").alias("user"), pl.format("i{}", "item").alias("item")
    )


def _catalog(draw: np.random.Generator, size: int, begin: int) -> pl.DataFrame:
    return pl.DataFrame({"item": np.arange(begin, begin + size)}).select(
        pl.format("i{}", "item").alias("item"),
        _words(draw, size, 4).alias("title"),
        _words(draw, size, 12).alias("description"),
    )


def _written(frames: Iterator[pl.DataFrame], path: Path, format: Format) -> None:
    """Writes a table piece by piece: it may be larger than memory."""
    if format == "parquet":
        first = next(frames)
        stream_parquet(chain([first], frames), first.schema, path)
        return
    with path.open("wb") as file:
        for place, frame in enumerate(frames):
            frame.write_csv(file, include_header=not place)


def _words(draw: np.random.Generator, rows: int, count: int) -> pl.Series:
    """[rows] texts of `count` words, kinds and nouns in turn."""
    columns = [
        pl.Series(str(place), np.array(words, dtype=object)[_picks(draw, len(words), rows)])
        for place in range(count)
        for words in [_NOUNS if place % 4 == 3 else _KINDS]
    ]
    return pl.DataFrame(columns).select(pl.concat_str(pl.all(), separator=" ")).to_series()


def _picks(draw: np.random.Generator, size: int, rows: int) -> npt.NDArray[np.int64]:
    return draw.integers(size, size=rows)


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
    notes += [f"{size:,}: {timings[size].result}" for size in order]
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
    timing.result = "; ".join(f"{note} {took:.1f} s" for note, took in found["steps"])
    if found["peak"] is not None:
        timing.peak_memory = max(found["peak"], timing.peak_memory or 0)


def measured(settings: DataSettings, out: Path, seed: int) -> dict[str, Any]:
    """Prepares in a process of its own: its seconds, those of each step, and peak memory in bytes.

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
