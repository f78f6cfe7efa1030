"""Prepares data: reads, filters, splits, samples candidates and writes the five files."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl

from trsr.data.cases import FULL_SCHEMA, SCHEMA, full_catalog_cases, new_targets, sampled_cases
from trsr.data.images import split_images, write_images
from trsr.data.impressions import impression_cases
from trsr.data.negatives import Weights
from trsr.data.readers.base import Reader, Source
from trsr.data.records import SPLITS, Mask, Records, records
from trsr.data.report import DataReport, RowCounts
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
        records = _keep(records, _first_times(records), "repeats", row_counts)
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
    pairs = pl.Series(records.user.astype(np.int64) * len(records.items) + records.item)
    again = len(pairs) - pairs.n_unique()
    row_counts.add("repeats_kept", again)
    if again <= _MANY_REPEATS * len(pairs) or settings.candidates not in ("uniform", "popular"):
        return
    row_counts.warn(
        f"{again / len(pairs):.0%} of the interactions are with an item that the user already had. "
        "So targets may stand in the history, which tells them from negatives: set "
        "data.drop_repeats = true to recommend what is new"
    )


def _first_times(records: Records) -> Mask:
    pairs = pl.DataFrame({"user": records.user, "item": records.item})
    return pairs.select(pl.struct("user", "item").is_first_distinct()).to_series().to_numpy()


def _core(records: Records, k: int, row_counts: RowCounts) -> Records:
    """Leaves out users and items with fewer than k interactions until none is left."""
    users = int((records.lengths > 0).sum())
    keep = np.ones(len(records), dtype=np.bool_)
    user, item = records.user, records.item
    while True:
        user_counts = np.bincount(user[keep], minlength=len(records.users))
        item_counts = np.bincount(item[keep], minlength=len(records.items))
        stays = keep & (user_counts[user] >= k) & (item_counts[item] >= k)
        if stays.sum() == keep.sum():
            break
        keep = stays
    core = _keep(records, keep, "k_core_interactions", row_counts)
    row_counts.add("k_core_users", users - int((core.lengths > 0).sum()))
    row_counts.add("k_core_items", int((item_counts < k).sum()))
    return _with_items(core, item_counts >= k)


def _with_items(records: Records, keep: Mask) -> Records:
    """The records over a smaller catalog, which holds all items that they use."""
    code = np.cumsum(keep) - 1
    old_user, old_item = np.divmod(records.known, len(records.items))
    stays = keep[old_item]
    size = int(keep.sum())
    return replace(
        records,
        items=records.items.filter(pl.Series(keep)),
        item=code[records.item].astype(np.uint32),
        known=old_user[stays] * size + code[old_item[stays]],
    )


_STEPS = 7


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
        out: An empty folder; None: nothing is written.
        seed: The run's.
        progress: Shows each step.

    Returns:
        What was read, kept and left out.

    Raises:
        DataError: If the data cannot be used.
    """
    progress.begin(_STEPS, "steps")
    reader: Reader = READERS.load(settings.reader)()
    source = reader.read(settings)
    row_counts = RowCounts(dict(source.counts), list(source.warnings))
    if settings.impressions is not None and source.impressions_path is None:
        row_counts.warn(
            f"{settings.impressions}: is not read: data.impressions is for reader = table with "
            f"candidates = given; here are {settings.reader} and {settings.candidates}"
        )
    texts, images = split_images(source, settings)
    items = catalog(replace(source, items=texts), row_counts)
    progress.advance(1, f"{len(items)} items")
    found = filtered(records(source, items["id"], settings, seed, row_counts), settings, row_counts)
    progress.advance(1, f"{len(found)} interactions")
    fit, cases = _cases(found, source, settings, seed, row_counts)
    progress.advance(1, "split")
    items = items.filter(pl.col("id").is_in(found.items.implode()))
    _write(items, out, "items.parquet")
    kept = items["id"].to_list()
    del items
    _write(_fitting(found, fit, row_counts), out, "interactions.parquet")
    progress.advance(1, "items and interactions")
    for split in SPLITS:
        # Cases of a full catalog have a column more, also where there is none.
        full = settings.candidates == "full" and split == "test"
        frame = pl.concat([(FULL_SCHEMA if full else SCHEMA).to_frame(), *cases[split]])
        row_counts.add(f"cases_{split}", len(frame))
        if len(frame):
            row_counts.add(f"history_{split}", float(str(frame["items"].list.len().mean())))
        _write(frame, out, f"cases.{split}.parquet")
        progress.advance(1, f"{len(frame)} {split} cases")
    if images is not None:
        write_images(images, kept, settings, out, row_counts, progress)
    return _report(row_counts)


def inspect(settings: DataSettings, *, seed: int) -> DataReport:
    """The same as `prepare`, but writes nothing and shows no progress.

    Raises:
        DataError: If the data cannot be used.
    """
    return prepare(settings, None, seed=seed, progress=Silent())


def _cases(
    found: Records, source: Source, settings: DataSettings, seed: int, row_counts: RowCounts
) -> tuple[Mask, dict[str, Iterator[pl.DataFrame]]]:
    """What may be fitted on, and each split's cases, made when they are needed."""
    if settings.candidates == "given":
        return impression_cases(found, source, settings, seed, row_counts)
    targets = split_targets(found, settings, seed, row_counts)
    cases = {split: _sampled(found, targets, split, settings, seed) for split in SPLITS}
    if settings.candidates == "full":
        test = targets.of["test"]
        new = new_targets(found, test)
        row_counts.add("repeats_test", len(test) - len(new))
        cases["test"] = full_catalog_cases(
            found,
            new,
            targets.fit,
            "test",
            max_history=settings.max_history,
            history_step=settings.history_step,
        )
    return targets.fit, cases


def _sampled(
    found: Records, targets: Targets, split: str, settings: DataSettings, seed: int
) -> Iterator[pl.DataFrame]:
    """One split's cases with sampled candidates."""
    candidates = (split == "train" and settings.train_candidates) or settings.candidates
    weights = None
    if candidates == "popular":
        weights = Weights.by_popularity(found.item[targets.fit].astype(np.int64), len(found.items))
    return sampled_cases(
        found,
        targets.of[split],
        split,
        max_history=settings.max_history,
        history_step=settings.history_step,
        n=settings.train_negatives if split == "train" else settings.negatives,
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
        files.write_parquet(frame, out / name)


def _report(row_counts: RowCounts) -> DataReport:
    """The report, with a warning for each split that is empty."""
    counts = row_counts.counts
    if not any(counts[f"cases_{split}"] for split in SPLITS):
        raise row_counts.error("no case is left")
    for split, name in (("train", "training"), ("valid", "validation"), ("test", "test")):
        if not counts[f"cases_{split}"]:
            row_counts.warn(f"there is no {name} case")
    return row_counts.report()
