"""Prepares data: reads, filters, splits, draws candidates and writes the five files."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import polars as pl

from trsr.data.cases import OPEN_SCHEMA, SCHEMA, new_targets, open_cases, sampled_cases
from trsr.data.filters import filtered
from trsr.data.impressions import impression_cases
from trsr.data.negatives import Weights
from trsr.data.readers.base import Reader, Source
from trsr.data.records import PARTS, Mask, Records, records
from trsr.data.report import DataReport, RowCounts
from trsr.data.settings import READERS, DataSettings
from trsr.data.splits import Targets, split
from trsr.data.text import catalog
from trsr.errors import DataError
from trsr.progress import Progress, Silent

_STEPS = 7


def prepare(settings: DataSettings, out: Path, *, seed: int, progress: Progress) -> DataReport:
    """Reads the data and writes items, interactions for fitting, and cases into `out`.

    The order of work: read; leave out what has no ids or time, and unknown items; filter (see
    `filtered`); split (see `split`); leave out short histories; draw as many cases as asked for;
    draw candidates. The same input and seed give the same files, in whatever order the input's
    rows stand, as long as no user has two interactions at the same time, or `ties` draws their
    order.

    Args:
        settings: Where the data is and what is kept of it; paths are absolute.
        out: An empty folder.
        seed: The run's.
        progress: Told of each step.

    Returns:
        What was read, kept and left out.

    Raises:
        DataError: If the data cannot be used.
    """
    return _prepare(settings, out, seed, progress)


def inspect(settings: DataSettings, *, seed: int) -> DataReport:
    """The same as `prepare`, but writes nothing.

    Raises:
        DataError: If the data cannot be used.
    """
    return _prepare(settings, None, seed, Silent())


def _prepare(settings: DataSettings, out: Path | None, seed: int, progress: Progress) -> DataReport:
    row_counts = RowCounts()
    progress.begin(_STEPS, "steps")
    reader: Reader = READERS.load(settings.reader)()
    source = reader.read(settings)
    for name, number in source.counts.items():
        row_counts.add(name, number)
    for warning in source.warnings:
        row_counts.warn(warning)
    if settings.impressions is not None and source.impressions_path is None:
        row_counts.warn(
            f"{settings.impressions}: is not read: data.impressions is for reader = table with "
            f"candidates = given; here are {settings.reader} and {settings.candidates}"
        )
    items = catalog(source, row_counts)
    progress.advance(1, f"{len(items)} items")
    found = filtered(records(source, items["id"], settings, seed, row_counts), settings, row_counts)
    progress.advance(1, f"{len(found)} interactions")
    fit, cases = _made(found, source, settings, seed, row_counts)
    progress.advance(1, "split")
    items = items.filter(pl.col("id").is_in(found.items.implode()))
    _write(items, out, "items.parquet")
    del items
    _write(_fitting(found, fit, row_counts), out, "interactions.parquet")
    progress.advance(1, "items and interactions")
    for part in PARTS:
        # Cases of a whole catalog have a column more, also where there is none.
        whole = settings.candidates == "full" and part == "test"
        empty = (OPEN_SCHEMA if whole else SCHEMA).to_frame()
        frame = pl.concat([empty, *cases[part]])
        _count(frame, part, row_counts)
        _write(frame, out, f"cases.{part}.parquet")
        progress.advance(1, f"{len(frame)} {part} cases")
    return _judged(row_counts)


def _made(
    found: Records, source: Source, settings: DataSettings, seed: int, row_counts: RowCounts
) -> tuple[Mask, dict[str, Iterator[pl.DataFrame]]]:
    """What may be fitted on, and each part's cases, made when they are asked for."""
    if settings.candidates == "given":
        return impression_cases(found, source, settings, seed, row_counts)
    targets = split(found, settings, seed, row_counts)
    cases = {part: _cases(found, targets, part, settings, seed) for part in PARTS}
    if settings.candidates == "full":
        asked = targets.of["test"]
        new = new_targets(found, asked)
        row_counts.add("repeats_test", len(asked) - len(new))
        cases["test"] = open_cases(
            found,
            new,
            targets.fit,
            "test",
            most=settings.max_history,
            step=settings.history_step,
        )
    return targets.fit, cases


def _cases(
    found: Records, targets: Targets, part: str, settings: DataSettings, seed: int
) -> Iterator[pl.DataFrame]:
    """One part's cases with drawn candidates."""
    drawn = (part == "train" and settings.train_candidates) or settings.candidates
    weights = None
    if drawn == "popular":
        fitted = found.item[targets.fit].astype(np.int64)
        weights = Weights.by_popularity(fitted, len(found.items), settings.popularity_smoothing)
    return sampled_cases(
        found,
        targets.of[part],
        part,
        most=settings.max_history,
        step=settings.history_step,
        n=settings.train_negatives if part == "train" else settings.negatives,
        seed=seed,
        weights=weights,
    )


def _fitting(found: Records, fit: Mask, row_counts: RowCounts) -> pl.DataFrame:
    row_counts.add("train_interactions", int(fit.sum()))
    return pl.DataFrame(
        {
            "user": found.users.gather(found.user[fit]),
            "item": found.items.gather(found.item[fit]),
            "time": found.time[fit],
        }
    )


def _write(frame: pl.DataFrame, out: Path | None, name: str) -> None:
    if out is not None:
        frame.write_parquet(out / name)


def _count(frame: pl.DataFrame, part: str, row_counts: RowCounts) -> None:
    row_counts.add(f"cases_{part}", len(frame))
    if len(frame):
        mean = frame["items"].list.len().mean()
        row_counts.add(f"history_{part}", float(str(mean)))


def _judged(row_counts: RowCounts) -> DataReport:
    """The report, with a warning for each part that is empty."""
    counts = row_counts.counts
    if not any(counts[f"cases_{part}"] for part in PARTS):
        raise DataError("no case is left:\n" + "\n".join(row_counts.report().lines()))
    for part, name in (("train", "training"), ("valid", "validation"), ("test", "test")):
        if not counts[f"cases_{part}"]:
            row_counts.warn(f"there is no {name} case")
    return row_counts.report()
