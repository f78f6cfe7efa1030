"""Leaves interactions out by rating, repetition, length and k-core, in this order."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import polars as pl

from trsr.data.records import Mask, Records
from trsr.data.report import RowCounts
from trsr.data.settings import DataSettings


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
