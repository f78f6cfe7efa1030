"""Holds all interactions as sorted columns of numbers: the form in which they are filtered."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl

from trsr.data import files
from trsr.data.ids import finite, id_text, merged, seconds
from trsr.data.report import Tally
from trsr.data.settings import DataSettings
from trsr.data.source import Source
from trsr.errors import DataError

Ints = npt.NDArray[np.int64]
Codes = npt.NDArray[np.uint32]
Floats = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]

PARTS = ("train", "valid", "test")
PART_NAMES = {
    **{"train": 0, "training": 0, "valid": 1, "val": 1, "validation": 1, "dev": 1},
    **{"test": 2, "testing": 2, "eval": 2},
}


@dataclass(frozen=True)
class Records:
    """Interactions as columns, users in the order of their ids, oldest first within a user.

    Attributes:
        users: Ids, by code.
        items: Ids of the catalogue, by code; sorted.
        user: [n] code of the user, never falling.
        item: [n] code of the item.
        time: [n] never falling within a user.
        rating: [n] or None; NaN where there is none.
        part: [n] index into `PARTS` as the data gives it, or None.
        known: [m] `user * len(items) + item` of every pair ever met, also of interactions that
            filters left out; sorted, each once.
        timed: Whether the data has times; else `time` is the place in the user's history.
    """

    users: pl.Series
    items: pl.Series
    user: Codes
    item: Codes
    time: Floats
    rating: Floats | None
    part: npt.NDArray[np.uint8] | None
    known: Ints
    timed: bool

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
            part=None if self.part is None else self.part[keep],
        )
        return kept if self.timed else replace(kept, time=kept.place.astype(np.float64))


def records(source: Source, items: pl.Series, settings: DataSettings, tally: Tally) -> Records:
    """Reads the interactions and sorts them by user, time and place in the file.

    Args:
        source: What the reader found.
        items: The catalogue's ids, sorted.
        settings: `max_unknown`, and which columns a split or filter needs.
        tally: Counts what is left out.

    Raises:
        DataError: If the file cannot be read, no interaction is left, or too many items are
            unknown.
    """
    with files.located(source.interactions_path, source.encoding):
        frame = source.interactions.collect(engine="streaming")
    tally.add("interactions_read", len(frame))
    if frame.is_empty():
        raise DataError(f"{source.interactions_path}: there is no interaction in it")
    typed = _typed(frame, source, settings, tally)
    del frame  # the texts are by far the largest
    coded, users = _coded(typed, items, source, settings, tally)
    return _columns(_sorted(coded, tally), users, items)


def _typed(
    frame: pl.DataFrame, source: Source, settings: DataSettings, tally: Tally
) -> pl.DataFrame:
    """Ids as text, time and rating as float64, part as its number; rows without them left out."""
    path = source.interactions_path
    columns = [id_text(frame["user"]).alias("user"), id_text(frame["item"]).alias("item")]
    for ids in columns:
        if found := merged(frame[ids.name], ids):
            tally.add(f"{ids.name}s_merged", found)
    if "time" in frame.columns:
        columns.append(seconds(frame["time"], path).alias("time"))
    if settings.min_rating is not None:
        columns.append(_ratings(frame, path))
    if "split" in frame.columns:
        columns.append(_parts(frame["split"], path))
    typed = pl.DataFrame(columns)
    named = typed.filter(pl.col("user").is_not_null() & pl.col("item").is_not_null())
    tally.add("rows_without_ids", len(typed) - len(named))
    if "time" in named.columns:
        timed = named.filter(pl.col("time").is_not_null())
        tally.add("rows_without_time", len(named) - len(timed))
        named = timed
    if named.is_empty():
        raise DataError(f"{path}: no line has a user, an item and, where there is one, a time")
    return named


def _ratings(frame: pl.DataFrame, path: Path) -> pl.Series:
    if "rating" not in frame.columns:
        raise DataError(f"{path}: data.min_rating needs ratings: set data.columns.rating")
    try:
        return finite(frame["rating"].cast(pl.Float64).alias("rating"))
    except pl.exceptions.PolarsError:
        number = frame["rating"].cast(pl.Float64, strict=False)
        bad = frame["rating"].filter(number.is_null() & frame["rating"].is_not_null())
        raise DataError(
            f"{path}: the rating {bad[0]!r} (and {len(bad) - 1} more) is not a number"
        ) from None


def _parts(column: pl.Series, path: Path) -> pl.Series:
    """Part numbers; null (an item before the named ones of a sequence) is training."""
    names = pl.DataFrame({"name": column.cast(pl.String).str.strip_chars().str.to_lowercase()})
    parts = names["name"].replace_strict(PART_NAMES, default=None, return_dtype=pl.UInt8)
    wrong = names.filter(parts.is_null() & pl.col("name").is_not_null())
    if len(wrong):
        raise DataError(
            f"{path}: {wrong['name'][0]!r} is no part: data.columns.split must hold train, valid "
            "or test"
        )
    return parts.fill_null(0).alias("part")


def _coded(
    frame: pl.DataFrame, items: pl.Series, source: Source, settings: DataSettings, tally: Tally
) -> tuple[pl.DataFrame, pl.Series]:
    """Ids as codes, without the interactions whose item the catalogue does not have."""
    codes = frame["item"].cast(pl.Enum(items), strict=False).to_physical().cast(pl.UInt32)
    unknown = codes.is_null()
    missing = int(unknown.sum())
    tally.add("unknown_items", missing)
    if missing:
        _check_unknown(frame.filter(unknown)["item"], len(frame), source, settings, tally)
    frame = frame.with_columns(codes.alias("item")).filter(pl.col("item").is_not_null())
    users = frame["user"].unique().sort()
    user = frame["user"].cast(pl.Enum(users)).to_physical().cast(pl.UInt32)
    return frame.with_columns(user.alias("user")), users


def _check_unknown(
    missing: pl.Series, total: int, source: Source, settings: DataSettings, tally: Tally
) -> None:
    share = len(missing) / total
    examples = ", ".join(missing.unique(maintain_order=True).head(3))
    said = (
        f"{source.interactions_path}: {share:.1%} of the interactions have an item that "
        f"{source.items_path} does not have, such as {examples}"
    )
    if share > settings.max_unknown or len(missing) == total:
        raise DataError(
            f"{said}; check data.columns.item and data.columns.item_id, or raise data.max_unknown "
            f"(now {settings.max_unknown:.1%})"
        )
    tally.warn(said)


def _sorted(frame: pl.DataFrame, tally: Tally) -> pl.DataFrame:
    """By user, time and row; without the same user, item and time again; `timed` is kept in it."""
    frame = frame.with_row_index("row")
    if "time" not in frame.columns:
        frame = frame.sort("user", "row")
        return frame.with_columns(
            time=pl.int_range(pl.len(), dtype=pl.Int64).over("user").cast(pl.Float64),
            timed=pl.lit(value=False),
        )
    frame = frame.sort("user", "time", "row")
    earlier = pl.col("user") == pl.col("user").shift(1)
    tie = earlier & (pl.col("time") == pl.col("time").shift(1))
    frame = frame.with_columns(tied=(tie | tie.shift(-1)).fill_null(value=False))
    ties = frame.filter("tied")
    twice = ties.filter(~pl.struct("user", "item", "time").is_first_distinct())["row"]
    tally.add("duplicates", len(twice))
    if len(twice):
        frame = frame.filter(~pl.col("row").is_in(twice.implode()))
    found = frame.select(
        unsorted=(earlier & (pl.col("row") < pl.col("row").shift(1))).sum(), ties=tie.sum()
    ).row(0)
    tally.add("unsorted", found[0])
    tally.add("equal_times", found[1])
    return frame.drop("tied").with_columns(timed=pl.lit(value=True))


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
        part=frame["part"].to_numpy() if "part" in frame.columns else None,
        known=pairs.unique().sort().to_numpy(),
        timed=bool(frame["timed"][0]),
    )
