"""Prepares data: reads, filters, splits, samples candidates and writes the five files."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import polars as pl

from trsr.data.cases import (
    FULL_SCHEMA,
    SCHEMA,
    PlannedCases,
    check_negatives,
    full_catalog_cases,
    history_lengths,
    new_targets,
    sampled_cases,
)
from trsr.data.dataset import HELD_OUT, HELD_OUT_SCHEMA
from trsr.data.images import split_images, write_images
from trsr.data.impressions import impression_cases
from trsr.data.negatives import Weights
from trsr.data.readers.base import Reader, Source
from trsr.data.records import SPLITS, Ints, Mask, Records, records
from trsr.data.report import DataReport, RowCounts
from trsr.data.service_log import ServiceLog
from trsr.data.settings import READERS, DataSettings
from trsr.data.splits import Targets, split_targets
from trsr.data.text import catalog
from trsr.progress import Progress, Silent
from trsr.storage import files

_MANY_REPEATS = 0.05
"""The share of repeated interactions from which on it is worth a warning."""


def filtered(records: Records, settings: DataSettings, row_counts: RowCounts) -> Records:
    """Applies the filters of the settings; each counts what it leaves out.

    The order: `min_rating`, `drop_repeats`, `max_items_per_user`, `k_core`. A k-core also takes
    the items outside it from the catalog: else they would be negatives easy to tell.

    Raises:
        DataError: If nothing is left; the message has the counts of each filter.
    """
    if settings.min_rating is not None and records.rating is not None:
        # A missing rating is NaN and compares as false.
        records = _keep(
            records, records.rating >= settings.min_rating, "below_min_rating", row_counts
        )
    if settings.drop_repeats:
        records = _keep(records, records.first_times(), "repeats", row_counts)
    else:
        _count_repeats(records, settings, row_counts)
    if settings.max_items_per_user:
        short = records.lengths <= settings.max_items_per_user
        row_counts.add("long_users", int((~short).sum()))
        records = _keep(records, short[records.user], "long_users_interactions", row_counts)
    if settings.k_core > 1:
        records = _core(records, settings.k_core, row_counts)
    lengths = records.lengths
    users = int((lengths > 0).sum())
    if not users:
        raise row_counts.error(
            "the filters leave no interaction (data.min_rating, data.max_items_per_user, "
            "data.k_core)"
        )
    row_counts.add("interactions", len(records))
    row_counts.add("users", users)
    row_counts.add("mean_interactions", len(records) / users)
    return records


def _keep(records: Records, keep: Mask, name: str, row_counts: RowCounts) -> Records:
    row_counts.add(name, int((~keep).sum()))
    return records.only(keep)


def _count_repeats(records: Records, settings: DataSettings, row_counts: RowCounts) -> None:
    """Counts interactions with an item that the user already had, and warns of many."""
    again = int((~records.first_times()).sum())
    row_counts.add("repeats_kept", again)
    if again <= _MANY_REPEATS * len(records) or settings.candidates not in ("uniform", "popular"):
        return
    row_counts.warn(
        f"{again / len(records):.0%} of the interactions are with an item that the user already "
        "had. So targets may stand in the history, which tells them from negatives: set "
        "data.drop_repeats = true to recommend what is new"
    )


def _core(records: Records, k: int, row_counts: RowCounts) -> Records:
    """Leaves out users and items with fewer than k interactions until none is left."""
    users = int((records.lengths > 0).sum())
    keep = np.ones(len(records), dtype=np.bool_)
    user, item = records.user, records.item
    while True:
        user_counts = np.bincount(user[keep], minlength=len(records.users))
        item_counts = np.bincount(item[keep], minlength=len(records.items))
        stays = keep & (user_counts >= k)[user] & (item_counts >= k)[item]
        if stays.sum() == keep.sum():
            break
        keep = stays
    core = _keep(records, keep, "k_core_interactions", row_counts)
    row_counts.add("k_core_users", users - int((core.lengths > 0).sum()))
    row_counts.add("k_core_items", int((item_counts < k).sum()))
    return _with_items(core, item_counts >= k)


def _with_items(records: Records, keep: Mask) -> Records:
    """The records over a smaller catalog, which holds all items that they use."""
    code = (np.cumsum(keep) - 1).astype(np.uint32)
    stays = keep[records.seen_item]
    return replace(
        records,
        items=records.items.filter(pl.Series(keep)),
        item=code[records.item],
        seen_user=records.seen_user[stays],
        seen_item=code[records.seen_item[stays]],
    )


_STEPS = 7
_CHUNK = 1_000_000
"""Interactions written at a time."""

FIT_SCHEMA = pl.Schema({"user": pl.String(), "item": pl.String(), "time": pl.Float64()})
"""The columns of `interactions.parquet`: what may be fitted on."""


def prepare(
    settings: DataSettings, out: Path | None, *, seed: int, progress: Progress
) -> DataReport:
    """Reads the data and writes items, interactions for fitting, and cases into `out`.

    The order of work: read; leave out rows without ids or time, and unknown items; filter (see
    `filtered`); split (see `split_targets`); sample candidates. The same input and seed give the
    same files, in whatever order the input's rows stand, as long as no user has two interactions
    at the same time, or `ties` draws their order.

    Args:
        settings: Where the data is and what is kept of it; paths are absolute.
        out: An empty folder; None: nothing is written, and no case is made, only counted.
        seed: The run's.
        progress: Shows each step.

    Returns:
        What was read, kept and left out.

    Raises:
        DataError: If the data cannot be used.
    """
    progress.begin(_STEPS, "steps")
    reader: Reader = READERS.load(settings.reader)()
    with READERS.blamed(settings.reader, "read"):
        source = reader.read(settings)
    row_counts = RowCounts(dict(source.counts), list(source.warnings))
    if settings.impressions is not None and source.impressions_path is None:
        row_counts.warn(
            f"{settings.impressions}: is not read: data.impressions is for reader = table with "
            f"candidates = given; here are {settings.reader} and {settings.candidates}"
        )
    texts, images = split_images(source, settings)
    items = catalog(replace(source, items=texts), row_counts)
    log = ServiceLog.read(settings.service_log) if settings.service_log else None
    items = log.add_items(items, row_counts) if log else items
    progress.advance(1, f"{len(items)} items")
    every = records(source, items["id"], settings, seed, row_counts, log)
    found = filtered(every, settings, row_counts)
    progress.advance(1, f"{len(found)} interactions")
    fit, cases = _cases(found, source, settings, seed, row_counts)
    progress.advance(1, "split")
    items = items.filter(pl.col("id").is_in(found.items.implode()))
    row_counts.add("train_interactions", int(fit.sum()))
    if out is not None:
        files.stream_parquet(iter([items]), items.schema, out / "items.parquet")
        files.stream_parquet(_rows(found, fit), FIT_SCHEMA, out / "interactions.parquet")
        held_out = itertools.chain(_rows(found, ~fit), _only_seen(found))
        files.stream_parquet(held_out, HELD_OUT_SCHEMA, out / HELD_OUT)
    items = items.select("id")
    progress.advance(1, "items and interactions")
    for split in SPLITS:
        if out is None:
            _count(cases[split].lengths(), split, row_counts)
        else:
            # Cases of a full catalog have a column more, also where there is none.
            full = settings.candidates == "full" and split == "test"
            frames = _counted(cases[split].make(), split, row_counts)
            schema = FULL_SCHEMA if full else SCHEMA
            files.stream_parquet(frames, schema, out / f"cases.{split}.parquet")
        progress.advance(1, f"{row_counts.counts[f'cases_{split}']} {split} cases")
    if images is not None:
        write_images(images, items["id"].to_list(), settings, out, row_counts, progress)
    return _report(row_counts)


def located(settings: DataSettings) -> DataSettings:
    """Data settings with a named data set fetched and its folder filled in."""
    if not settings.dataset:
        return settings
    from trsr.hub import get

    return settings.model_copy(update={"interactions": get(settings.dataset)})


def inspect(settings: DataSettings, *, seed: int) -> DataReport:
    """The report that `prepare` would give, without writing anything.

    Raises:
        DataError: If the data cannot be used.
    """
    return prepare(settings, None, seed=seed, progress=Silent())


def _cases(
    found: Records, source: Source, settings: DataSettings, seed: int, row_counts: RowCounts
) -> tuple[Mask, dict[str, PlannedCases]]:
    """What may be fitted on, and each split's cases."""
    if settings.candidates == "given":
        return impression_cases(found, source, settings, seed, row_counts)
    targets = split_targets(found, settings, seed, row_counts)
    cases = {split: _sampled(found, targets, split, settings, seed) for split in SPLITS}
    if settings.candidates == "full":
        test = targets.of["test"]
        new = new_targets(found, test)
        row_counts.add("repeats_test", len(test) - len(new))
        limits = {"max_history": settings.max_history, "history_step": settings.history_step}
        cases["test"] = PlannedCases(
            partial(full_catalog_cases, found, new, targets.fit, "test", **limits),
            partial(history_lengths, found, new, *limits.values()),
        )
    return targets.fit, cases


def _sampled(
    found: Records, targets: Targets, split: str, settings: DataSettings, seed: int
) -> PlannedCases:
    """One split's cases with sampled candidates."""
    positions = targets.of[split]
    limits = {"max_history": settings.max_history, "history_step": settings.history_step}
    n = settings.train_negatives if split == "train" else settings.negatives

    def make() -> Iterator[pl.DataFrame]:
        weights = None
        if settings.candidates == "popular":
            fitted = found.item[targets.fit].astype(np.int64)
            weights = Weights.by_popularity(fitted, len(found.items))
        return sampled_cases(found, positions, split, **limits, n=n, seed=seed, weights=weights)

    def lengths() -> Ints:
        check_negatives(found, positions, n)
        return history_lengths(found, positions, *limits.values())

    return PlannedCases(make, lengths)


def _rows(found: Records, chosen: Mask) -> Iterator[pl.DataFrame]:
    """The chosen interactions, some at a time."""
    for begin in range(0, len(found), _CHUNK):
        rows = begin + np.flatnonzero(chosen[begin : begin + _CHUNK])
        columns = [
            found.users.gather(found.user[rows]),
            found.items.gather(found.item[rows]),
            pl.Series(found.time[rows]),
        ]
        yield pl.DataFrame(columns, schema=FIT_SCHEMA)


def _only_seen(found: Records) -> Iterator[pl.DataFrame]:
    """What users have seen in interactions that filters left out; without a time."""
    size = len(found.items)
    for begin in range(0, len(found.seen_user), _CHUNK):
        user = found.seen_user[begin : begin + _CHUNK].astype(np.int64)
        item = found.seen_item[begin : begin + _CHUNK]
        own = slice(found.starts[user[0]], found.starts[user[-1] + 1])
        counted = found.user[own].astype(np.int64) * size + found.item[own]
        rows = np.flatnonzero(np.isin(user * size + item, counted, invert=True))
        names = [found.users.gather(user[rows]), found.items.gather(item[rows])]
        times = pl.repeat(None, len(rows), dtype=pl.Float64, eager=True)
        yield pl.DataFrame([*names, times], schema=HELD_OUT_SCHEMA)


def _counted(
    frames: Iterator[pl.DataFrame], split: str, row_counts: RowCounts
) -> Iterator[pl.DataFrame]:
    """The frames, and how many cases they hold and how long these histories are."""
    cases = items = 0
    for frame in frames:
        cases += len(frame)
        items += int(frame["items"].list.len().sum())
        yield frame
    _add(split, cases, items, row_counts)


def _count(lengths: Ints, split: str, row_counts: RowCounts) -> None:
    _add(split, len(lengths), int(lengths.sum()), row_counts)


def _add(split: str, cases: int, items: int, row_counts: RowCounts) -> None:
    row_counts.add(f"cases_{split}", cases)
    if cases:
        row_counts.add(f"history_{split}", items / cases)


def _report(row_counts: RowCounts) -> DataReport:
    """The report, with a warning for each split that is empty."""
    counts = row_counts.counts
    if not any(counts[f"cases_{split}"] for split in SPLITS):
        raise row_counts.error("no case is left")
    for split, name in (("train", "training"), ("valid", "validation"), ("test", "test")):
        if not counts[f"cases_{split}"]:
            row_counts.warn(f"there is no {name} case")
    return row_counts.report()
