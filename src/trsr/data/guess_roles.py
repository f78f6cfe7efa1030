"""Guesses which columns hold users, items, times, ratings and parts, by names and by values."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import polars as pl

from trsr.data.ids import id_text, seconds
from trsr.data.records import PART_NAMES
from trsr.data.settings import Columns
from trsr.data.source import USUAL_NAMES, listed, plain
from trsr.errors import DataError

_CELLS = 1000
"""Cells looked at where all of them would cost too much."""
_SECONDS = (5e8, 4e9)
"""Moments from 1985 to 2096, as seconds; also looked for as milli- and microseconds."""


@dataclass(frozen=True, slots=True)
class Roles:
    """What each column is for.

    Attributes:
        columns: The columns by name.
        unknown: Share of the interactions looked at whose item the items' file does not have.
        least: A `min_rating` that keeps what was liked; None where nothing is rated.
        given: Whether the data says which interactions are for training and which for test.
    """

    columns: Columns
    unknown: float
    least: float | None
    given: bool


@dataclass(frozen=True)
class _Column:
    """One column of the interactions and what its values look like."""

    name: str
    values: pl.Series

    @cached_property
    def is_list(self) -> bool:
        """Whether most cells hold several ids."""
        if isinstance(self.values.dtype, pl.List | pl.Array):
            return True
        pieces = self.pieces.head(_CELLS).list.len()
        # Running text has pieces too, but signs that no printed list has.
        prose = self.values.head(_CELLS).cast(pl.String).str.contains(r"[.!?:]\s|\d:\d\d").mean()
        return float(str(pieces.mean() or 0)) >= 1.5 and float(str(prose or 0)) < 0.5

    @cached_property
    def pieces(self) -> pl.Series:
        """The ids of each cell."""
        frame = self.values.to_frame()
        return frame.select(listed(self.name, self.values.dtype)).to_series()

    @cached_property
    def ids(self) -> pl.Series:
        """All ids in the cells, as text."""
        flat = self.pieces.explode(empty_as_null=True) if self.is_list else self.values
        return id_text(flat).drop_nulls()

    @cached_property
    def distinct(self) -> pl.Series:
        """The ids, each once."""
        return self.ids.unique()

    @cached_property
    def numbers(self) -> pl.Series | None:
        """The cells as numbers, if all of them are."""
        if self.is_list or not self._numeric(self.values.head(_CELLS)):
            return None
        if not self._numeric(self.values):
            return None
        return self.values.cast(pl.Float64, strict=False).drop_nulls()

    @staticmethod
    def _numeric(values: pl.Series) -> bool:
        if values.dtype.is_numeric():
            return True
        if values.dtype != pl.String:
            return False
        read = values.str.strip_chars().cast(pl.Float64, strict=False)
        return bool(read.null_count() == values.null_count() < len(values))

    def is_date(self, path: Path) -> bool:
        """Whether the cells are dates."""
        if self.values.dtype.is_temporal():
            return True
        if self.values.dtype != pl.String or self.numbers is not None:
            return False
        try:
            times = seconds(self.values.head(_CELLS), path)
            return times.null_count() < 0.5 * len(times)
        except DataError:
            return False


def roles(
    rows: pl.DataFrame, items: pl.DataFrame, path: Path, items_path: Path, reasons: list[str]
) -> Roles:
    """Guesses the roles of all columns.

    Args:
        rows: The first interactions, as they come.
        items: All items, as they come.
        path: The interactions' file, for messages.
        items_path: The items' file, for messages.
        reasons: A sentence is added for each guess.

    Raises:
        DataError: If a column cannot be told.
    """
    columns = {name: _Column(name, rows[name]) for name in rows.columns}
    item, key, unknown = _item(columns, items, path, items_path)
    found = {"item_id": key, "sequence" if item.is_list else "item": item.name}
    share = f"{1 - unknown:.0%} of its values are values of {key!r} in {items_path.name}"
    what = "sequences of items" if item.is_list else "items"
    reasons.append(f"{what}: column {item.name!r}: {share}")
    left = {name: column for name, column in columns.items() if name != item.name}
    for role, tell in (("split", _parts), ("time", _times), ("rating", _ratings)):
        told = tell(left, path)
        if told:
            found[role], why = told
            left.pop(found[role])
            reasons.append(f"{role}: column {found[role]!r}: {why}")
    user = _user(left, item.is_list, len(rows), path)
    if user:
        found["user"], why = user
        reasons.append(f"user: column {found['user']!r}: {why}")
    else:
        reasons.append("user: no column: each line is taken as a user of its own")
    least = least_liked(columns[found["rating"]].values, reasons) if "rating" in found else None
    return Roles(Columns(**found), unknown, least, "split" in found)


def _named(name: str, role: str) -> bool:
    return plain(name) in USUAL_NAMES[role]


def _item(
    columns: dict[str, _Column], items: pl.DataFrame, path: Path, items_path: Path
) -> tuple[_Column, str, float]:
    """The interactions' item column, the items' id column, and the share of unknown items."""
    keys = {name: ids for name in items.columns if (ids := _key(items[name])) is not None}
    if not keys:
        raise DataError(
            f"{items_path}: no column has a value of its own in each row; which is the item's id? "
            f"Set data.columns.item_id; the columns are {', '.join(items.columns)}"
        )
    best: tuple[float, _Column, str, float] | None = None
    for column in columns.values():
        for key, ids in keys.items():
            if column.distinct.is_empty():
                continue
            inside = column.distinct.is_in(ids.implode())
            share = float(str(inside.mean()))
            # Small numbers (a rating, a user's number) may be ids by chance, but cover few items.
            cover = float(inside.sum()) / len(ids)
            usual = 0.3 * (_named(column.name, "item") or _named(column.name, "sequence"))
            score = share + 0.5 * cover + usual + 0.1 * _named(key, "item_id")
            if share >= 0.3 and (best is None or score > best[0]):
                unknown = 1 - float(str(column.ids.is_in(ids.implode()).mean()))
                best = (score, column, key, unknown)
    if best is None:
        raise DataError(
            f"{path}: no column's values are ids of {items_path.name}; set data.columns.item and "
            f"data.columns.item_id. The columns are {', '.join(columns)}, and "
            f"{', '.join(items.columns)}"
        )
    return best[1:]


def _key(column: pl.Series) -> pl.Series | None:
    """The values as ids, if nearly every row has one of its own."""
    if isinstance(column.dtype, pl.List | pl.Array | pl.Struct):
        return None
    ids = id_text(column).drop_nulls()
    distinct = ids.unique()
    long = float(str(ids.head(_CELLS).str.len_chars().mean() or 0)) > 64
    if long or len(ids) < 0.9 * len(column) or len(distinct) < 0.9 * len(ids):
        return None
    return distinct


def _parts(left: dict[str, _Column], path: Path) -> tuple[str, str] | None:
    for name, column in left.items():
        values = set(column.distinct.head(20).str.to_lowercase())
        tests = {value for value in values if PART_NAMES.get(value) == 2}
        if values and tests and values <= set(PART_NAMES):
            return name, f"its values are {', '.join(sorted(values))}"
    return None


def _times(left: dict[str, _Column], path: Path) -> tuple[str, str] | None:
    told: dict[str, tuple[int, str]] = {}
    for name, column in left.items():
        if column.is_date(path):
            told[name] = (len(column.distinct), "its values are dates")
        elif column.numbers is not None and not column.numbers.is_empty():
            low, high = float(str(column.numbers.min())), float(str(column.numbers.max()))
            for unit, factor in (("seconds", 1.0), ("milliseconds", 1e3), ("microseconds", 1e6)):
                if low >= _SECONDS[0] * factor and high <= _SECONDS[1] * factor:
                    why = f"its values are moments in {unit} since 1970"
                    told[name] = (len(column.distinct), why)
    usual = [name for name in left if _named(name, "time")]
    for name in usual:
        if name in told or left[name].numbers is not None:
            return name, told.get(name, (0, "by its name"))[1]
    if not told:
        return None
    best = max(told, key=lambda name: told[name][0])
    return best, told[best][1]


def _ratings(left: dict[str, _Column], path: Path) -> tuple[str, str] | None:
    for name, column in left.items():
        numbers = column.numbers
        if numbers is None or numbers.is_empty():
            continue
        values = sorted(numbers.unique())
        steps = all((2 * value).is_integer() for value in values)
        if not (1 < len(values) <= 21 and steps and values[0] >= 0 and values[-1] <= 10):
            continue
        if _named(name, "rating") or values[-1] in (5, 10):
            return name, f"{len(values)} values from {values[0]:g} to {values[-1]:g}"
    return None


def least_liked(ratings: pl.Series, reasons: list[str]) -> float | None:
    """A `min_rating` that keeps what was liked; None where all ratings are the same."""
    numbers = ratings.cast(pl.Float64, strict=False).drop_nulls()
    values = sorted(numbers.unique())
    if len(values) < 2:
        return None
    least = float(next(value for value in values if value >= 0.7 * values[-1]))
    liked = float(str((numbers >= least).mean()))
    reasons.append(
        f"min_rating = {least:g}: people rated what they disliked too; this keeps the {liked:.0%} "
        "that they liked. Remove it to keep all"
    )
    return least


def _user(
    left: dict[str, _Column], a_row_each: bool, rows: int, path: Path
) -> tuple[str, str] | None:
    usual = [name for name in USUAL_NAMES["user"] for column in left if plain(column) == name]
    for name in left:
        if usual and plain(name) == usual[0]:
            return name, "by its name"
    sizes = {}
    for name, column in left.items():
        size = len(column.distinct)
        fractions = column.numbers is not None and bool((column.numbers % 1 != 0).any())
        enough = size > 0.9 * rows if a_row_each else 1 < size <= 0.8 * rows
        if not column.is_list and not fractions and enough:
            sizes[name] = size
    ranked = sorted(sizes, key=lambda name: -sizes[name])
    if not ranked and a_row_each:
        return None
    if not ranked:
        raise DataError(
            f"{path}: no column's values come again as a user's do; which is the user? Set "
            f"data.columns.user; the columns left are {', '.join(left) or 'none'}"
        )
    if len(ranked) > 1 and sizes[ranked[1]] > 0.1 * sizes[ranked[0]]:
        raise DataError(
            f"{path}: is {ranked[0]!r} or {ranked[1]!r} the user? Set data.columns.user"
        )
    each = rows / sizes[ranked[0]]
    return ranked[0], f"{sizes[ranked[0]]:,} values, {each:.1f} rows each"
