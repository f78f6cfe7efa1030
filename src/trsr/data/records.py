"""Holds all interactions as sorted columns of numbers: the form in which they are filtered."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl

from trsr.data import inputs
from trsr.data.ids import (
    finite,
    id_text,
    is_missing,
    likely_cause,
    number,
    report_ids,
    to_text,
)
from trsr.data.readers.base import Source
from trsr.data.report import RowCounts
from trsr.data.settings import DataSettings
from trsr.data.times import seconds
from trsr.errors import DataError
from trsr.settings import derive_seed

Ints = npt.NDArray[np.int64]
Codes = npt.NDArray[np.uint32]
Floats = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]

MANY_TIES = 0.05
"""The share of neighbours at one time from which on it is worth a warning."""

SPLITS = ("train", "valid", "test")
SPLIT_NAMES = {
    **{"train": 0, "training": 0, "valid": 1, "val": 1, "validation": 1, "dev": 1},
    **{"test": 2, "testing": 2, "eval": 2},
}


@dataclass(frozen=True)
class Records:
    """Interactions as columns, users in the order of their ids, oldest first within a user.

    Attributes:
        users: Ids, by code.
        items: Ids of the catalog, by code; sorted.
        user: [n] code of the user, never falling.
        item: [n] code of the item.
        time: [n] never falling within a user.
        rating: [n] or None; NaN where there is none.
        split: [n] index into `SPLITS` as the data gives it, or None.
        known: [m] `user * len(items) + item` of every pair ever seen, also of interactions that
            filters left out; sorted, each once.
        timed: Whether the data has times; else `time` is the place in the user's history.
        steps: Whether interactions of a user at one time are one step: none is in another's
            history.
    """

    users: pl.Series
    items: pl.Series
    user: Codes
    item: Codes
    time: Floats
    rating: Floats | None
    split: npt.NDArray[np.uint8] | None
    known: Ints
    timed: bool
    steps: bool = False

    def __len__(self) -> int:
        return len(self.user)

    @cached_property
    def starts(self) -> Ints:
        """[users + 1] where each user's interactions begin; the last entry is their number."""
        return np.searchsorted(self.user, np.arange(len(self.users) + 1)).astype(np.int64)

    @cached_property
    def place(self) -> Ints:
        """[n] position in the user's history, from 0."""
        return np.arange(len(self), dtype=np.int64) - self.starts[self.user]

    @cached_property
    def before(self) -> Ints:
        """[n] how many interactions the history before each one holds."""
        if not self.steps or not len(self):
            return self.place
        new = (np.diff(self.user, prepend=self.user[:1]) != 0) | (
            np.diff(self.time, prepend=self.time[:1]) != 0
        )
        first = np.maximum.accumulate(np.where(new, np.arange(len(self)), 0))
        return (first - self.starts[self.user]).astype(np.int64)

    @property
    def lengths(self) -> Ints:
        """[users] interactions of each user."""
        return np.diff(self.starts)

    def only(self, keep: Mask) -> Records:
        """Some of the interactions; without times the places are counted anew."""
        kept = replace(
            self,
            user=self.user[keep],
            item=self.item[keep],
            time=self.time[keep],
            rating=None if self.rating is None else self.rating[keep],
            split=None if self.split is None else self.split[keep],
        )
        return kept if self.timed else replace(kept, time=kept.place.astype(np.float64))


def records(
    source: Source, items: pl.Series, settings: DataSettings, seed: int, row_counts: RowCounts
) -> Records:
    """Reads the interactions and sorts them by user, time and place in the file.

    Args:
        source: What the reader found.
        items: The catalog's ids, sorted.
        settings: `max_unknown`, and which columns a split or filter needs.
        seed: For the order of interactions at one time, if the settings want a random one.
        row_counts: Counts what is left out.

    Raises:
        DataError: If the file cannot be read, no interaction is left, or too many items are
            unknown.
    """
    with inputs.located(source.interactions_path, source.encoding):
        frame = source.interactions.collect(engine="streaming")
    row_counts.add("interactions_read", len(frame))
    if frame.is_empty():
        raise DataError(f"{source.interactions_path}: there is no interaction in it")
    typed = _typed(frame, source, settings, row_counts)
    del frame  # the texts are by far the largest
    coded, users = _coded(typed, items, source, settings, row_counts)
    found = _columns(_sorted(coded, users, items, settings, seed, source, row_counts), users, items)
    return replace(found, steps=settings.ties == "step" and found.timed)


def _typed(
    frame: pl.DataFrame, source: Source, settings: DataSettings, row_counts: RowCounts
) -> pl.DataFrame:
    """Ids as text, times and numbers as float64, splits by index; rows without them left out."""
    path = source.interactions_path
    typed = pl.DataFrame(_typed_columns(frame, source, settings, row_counts))
    for count, needs, keep in (
        ("other_events", "event", pl.col("event")),
        ("rows_without_ids", "user", pl.col("user").is_not_null() & pl.col("item").is_not_null()),
        ("cancelled", "quantity", pl.col("quantity") > 0),
        ("rows_without_time", "time", pl.col("time").is_not_null()),
    ):
        if needs in typed.columns:
            typed = dropped(typed, typed.filter(keep), count, row_counts)
    if typed.is_empty():
        raise row_counts.error(f"{path}: no line has a user, an item and, if there is one, a time")
    return typed


def _typed_columns(
    frame: pl.DataFrame, source: Source, settings: DataSettings, row_counts: RowCounts
) -> list[pl.Series]:
    path = source.interactions_path
    columns = [id_text(frame[name], path, source.encoding).alias(name) for name in ("user", "item")]
    for ids in columns:
        report_ids(frame[ids.name], ids, ids.name, path, row_counts)
    for name in {"time", "order"} & set(frame.columns):
        times = seconds(frame[name], path, settings.time_format if name == "time" else "")
        # a row without an order comes last at its time
        values = times.values.fill_null(np.inf) if name == "order" else times.values
        columns.append(values.alias(name))
        row_counts.warnings += times.notes
    if "event" in frame.columns:
        columns.append(_kept_events(frame["event"], settings, path, row_counts))
    if settings.min_rating is not None:
        columns.append(_ratings(frame, path, settings))
    if "split" in frame.columns:
        columns.append(_splits(frame["split"], path))
    if "quantity" in frame.columns:
        columns.append(_number(frame["quantity"], path, "quantity"))
    return columns


def dropped(
    before: pl.DataFrame, after: pl.DataFrame, count: str, row_counts: RowCounts
) -> pl.DataFrame:
    """The rows that are left, and how many are not counted under a name."""
    row_counts.add(count, len(before) - len(after))
    return after


def _kept_events(
    column: pl.Series, settings: DataSettings, path: Path, row_counts: RowCounts
) -> pl.Series:
    """Whether each row is of a kind of event that is kept."""
    kinds = to_text(column, path).str.strip_chars().alias("event")
    absent = set(settings.events) - set(kinds.unique())
    if absent:
        found = ", ".join(sorted(filter(None, kinds.unique())))[:200]
        raise DataError(
            f"data.events names {', '.join(sorted(absent))}, but no row is of it; there is {found}"
        )
    kept = kinds.is_in(settings.events).fill_null(value=False)
    others = kinds.filter(~kept).fill_null("none").value_counts(sort=True).head(9).rows()
    if others:
        named = ", ".join(f"{kind} ({count:,})" for kind, count in others)
        row_counts.warn(f"{path}: events that data.events does not name: {named}")
    return kept


def _ratings(frame: pl.DataFrame, path: Path, settings: DataSettings) -> pl.Series:
    if "rating" in frame.columns:
        return _number(frame["rating"], path, "rating")
    raise DataError(f"{path}: data.min_rating needs ratings: set data.columns.rating")


def _number(column: pl.Series, path: Path, what: str) -> pl.Series:
    """Numbers, null where there is none; decimal commas are read too."""
    plain = column.cast(pl.Float64, strict=False) if column.dtype == pl.String else None
    if plain is not None and plain.null_count() == column.null_count():
        return finite(plain.alias(what))
    frame = pl.DataFrame({"text": to_text(column, path).str.strip_chars()})
    frame = frame.select(pl.when(~is_missing("text")).then("text"))
    numbers = frame.select(number("text").alias(what)).to_series()
    bad = frame["text"].filter(numbers.is_null() & frame["text"].is_not_null())
    if len(bad):
        raise DataError(f"{path}: the {what} {bad[0]!r} (and {len(bad) - 1} more) is not a number")
    return finite(numbers)


def _splits(column: pl.Series, path: Path) -> pl.Series:
    """Indexes into `SPLITS`; null (an item before the named ones of a sequence) is training."""
    names = column.cast(pl.String).str.strip_chars().str.to_lowercase()
    splits = names.replace_strict(SPLIT_NAMES, default=None, return_dtype=pl.UInt8)
    wrong = names.filter(splits.is_null() & names.is_not_null())
    if len(wrong):
        raise DataError(
            f"{path}: {wrong[0]!r} is no split: data.columns.split must hold train, valid or test"
        )
    return splits.fill_null(0).alias("split")


def _coded(
    frame: pl.DataFrame,
    items: pl.Series,
    source: Source,
    settings: DataSettings,
    row_counts: RowCounts,
) -> tuple[pl.DataFrame, pl.Series]:
    """Ids as codes, without the interactions whose item the catalog does not have."""
    codes = frame["item"].cast(pl.Enum(items), strict=False).to_physical().cast(pl.UInt32)
    missing = frame["item"].filter(codes.is_null())
    row_counts.add("unknown_items", len(missing))
    if len(missing):
        share = len(missing) / len(frame)
        message = (
            f"{source.interactions_path}: {share:.1%} of the interactions have an item that "
            f"{source.items_path} does not have, such as "
            f"{', '.join(missing.unique(maintain_order=True).head(3))}"
        )
        if cause := likely_cause(missing, items):
            message = f"{message}. {cause}"
        if share > settings.max_unknown or len(missing) == len(frame):
            raise DataError(
                f"{message}; check data.columns.item and data.columns.item_id, or raise "
                f"data.max_unknown (now {settings.max_unknown:.1%})"
            )
        row_counts.warn(message)
    frame = frame.with_columns(codes.alias("item")).drop_nulls("item")
    users = frame["user"].unique().sort()
    user = frame["user"].cast(pl.Enum(users)).to_physical().cast(pl.UInt32)
    return frame.with_columns(user.alias("user")), users


def _sorted(
    frame: pl.DataFrame,
    users: pl.Series,
    items: pl.Series,
    settings: DataSettings,
    seed: int,
    source: Source,
    row_counts: RowCounts,
) -> pl.DataFrame:
    """By user, time and row; without the same user, item and time again; `timed` is kept in it."""
    frame = frame.with_row_index("row")
    at = [name for name in ("time", "order") if name in frame.columns]
    if not at:
        frame = frame.sort("user", "row")
        return frame.with_columns(
            time=pl.int_range(pl.len(), dtype=pl.Int64).over("user").cast(pl.Float64),
            timed=pl.lit(value=False),
        )
    if "time" not in at:
        frame, at = frame.rename({"order": "time"}), ["time"]
    drawn = settings.ties != "file"
    if drawn:
        frame = frame.with_columns(_random_order(frame, users, items, seed))
    frame = frame.sort("user", *at, *(["random"] if drawn else []), "row")
    keys = [pl.col(name) for name in ("user", *at)]
    ties = pl.all_horizontal(key.eq_missing(key.shift(1)) for key in keys)
    frame = frame.with_columns(tie=ties)
    tied = frame.filter(pl.col("tie") | pl.col("tie").shift(-1, fill_value=False))
    twice = tied.filter(~pl.struct("user", "item", *at).is_first_distinct())["row"]
    row_counts.add("duplicates", len(twice))
    if len(twice):
        frame = frame.filter(~pl.col("row").is_in(twice.implode())).with_columns(tie=ties)
    tie = pl.col("tie")
    neighbours = pl.col("user") == pl.col("user").shift(1)
    unsorted = neighbours & (pl.col("row") < pl.col("row").shift(1)) & ~tie
    rising = tie & (pl.col("rank") > pl.col("rank").shift(1))
    ranked = frame.with_columns(_rank(frame["item"], items))
    counts = ranked.select(unsorted.sum(), t=tie.sum(), r=rising.sum(), n=neighbours.sum()).row(0)
    row_counts.add("unsorted", counts[0])
    row_counts.add("equal_times", counts[1])
    if counts[1] and counts[1] >= MANY_TIES * counts[3]:
        share, rising_share = counts[1] / counts[3], counts[2] / counts[1]
        row_counts.warn(_ties_warning(share, rising_share, drawn, source))
    return frame.with_columns(timed=pl.lit(value=True))


def _rank(item: pl.Series, items: pl.Series) -> pl.Series:
    """[n] numbers that grow as ids do: as numbers where all of them are."""
    numbers = items.cast(pl.Float64, strict=False)
    codes = numbers.gather(item) if not numbers.null_count() else item
    return codes.alias("rank")


def _random_order(frame: pl.DataFrame, users: pl.Series, items: pl.Series, seed: int) -> pl.Series:
    """[n] a number of each user and item, so that the rows' order changes nothing."""
    user, item = (
        np.fromiter((derive_seed(seed, "ties", name) for name in names), np.uint64, len(names))
        for names in (users, items)
    )
    return pl.Series("random", user[frame["user"].to_numpy()] ^ item[frame["item"].to_numpy()])


def _ties_warning(share: float, rising: float, drawn: bool, source: Source) -> str:
    """Says that the order within one moment is not known; it may be that of the ids."""
    message = (
        f"{source.interactions_path}: {share:.0%} of a user's neighbouring interactions have the "
        "same time"
    )
    if drawn:
        return f"{message}; their order is random (data.ties)"
    if rising > 0.95 or rising < 0.05:
        message += " and stand in the order of item ids, which tells the next item"
    return (
        f"{message}; is there a column that orders them (data.columns.order)? Else set data.ties = "
        '"drawn", or "step" for baskets'
    )


def _columns(frame: pl.DataFrame, users: pl.Series, items: pl.Series) -> Records:
    pairs = frame["user"].cast(pl.Int64) * len(items) + frame["item"]
    rating = frame["rating"].fill_null(np.nan) if "rating" in frame.columns else None
    return Records(
        users=users,
        items=items,
        user=frame["user"].to_numpy(),
        item=frame["item"].to_numpy(),
        time=frame["time"].to_numpy(),
        rating=None if rating is None else rating.to_numpy(),
        split=frame["split"].to_numpy() if "split" in frame.columns else None,
        known=pairs.unique().sort().to_numpy(),
        timed=bool(frame["timed"][0]),
    )
