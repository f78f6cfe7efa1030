"""Writes ids of any type as text, and knows which texts stand for no id."""

from __future__ import annotations

from pathlib import Path

import polars as pl

from trsr.data.inputs import line_with
from trsr.data.report import RowCounts
from trsr.errors import DataError

MISSING = (
    *("", "null", "(null)", "none", "nan", "-nan", "na", "n/a", "#n/a", "<na>", "nat", "nil"),
    *("\\n", "undefined"),
)
"""What programs write for a missing value, lower case; so no id is ever called so."""

_EXACT = 2.0**53
"""Up to here a float holds every whole number."""
_CONTROL = r"[\x00-\x1f\x7f-\x9f]"
_CAUSES = (
    ("zeros at the beginning were lost in one file", pl.col("id").str.strip_chars_start("0")),
    ("they differ in upper and lower case", pl.col("id").str.to_lowercase()),
    (
        "one file holds numbers with decimals or an exponent",
        pl.col("id").cast(pl.Float64, strict=False).cast(pl.String),
    ),
)
"""Ways in which the same ids come to be written apart, and what makes them equal again."""


def to_text(column: pl.Series, path: Path) -> pl.Series:
    """A column of one value a cell as text.

    Raises:
        DataError: If its cells hold several values, or bytes that are no UTF-8 text.
    """
    if column.dtype == pl.String:
        return column
    if column.dtype.is_nested() or column.dtype == pl.Object:
        raise DataError(
            f"{path}: column {column.name!r} holds {column.dtype}, and a single value is needed"
        )
    if column.dtype == pl.Duration:
        column = column.to_physical()
    if column.dtype.is_float():
        column = finite(column)
        if ((column == column.round()) & (column.abs() <= _EXACT)).all():
            column = column.cast(pl.Int64)
    try:
        return column.cast(pl.String)
    except pl.exceptions.PolarsError:
        raise DataError(
            f"{path}: column {column.name!r} holds {column.dtype} that is no UTF-8 text"
        ) from None


def is_missing(text: str) -> pl.Expr:
    """Whether the texts of a column stand for no value."""
    return pl.col(text).str.strip_chars().str.to_lowercase().is_in(MISSING)


def id_text(
    column: pl.Series, path: Path, encoding: str = "utf-8", rows: pl.Series | None = None
) -> pl.Series:
    """Ids as text, null where there is none: 1, 1.0 and "1" are all "1", "007" stays.

    Spaces around an id and control characters in it are dropped, and what stands for no id (see
    `MISSING`). The `.0` of whole numbers is dropped when every id of the column is a whole number.
    Where the column holds each id once, `rows` is how many rows have it.

    Raises:
        DataError: If an id has a line end in it, or the column holds no ids.
    """
    frame = pl.DataFrame({"id": to_text(column, path).str.strip_chars()})
    broken = frame["id"].str.contains(r"[\r\n]")
    if broken.any():
        first = frame["id"].filter(broken)[0]
        raise DataError(
            f"{line_with(path, encoding, first)}: the id {first[:60]!r} has a line end in it (and "
            f"{_rows(broken, rows) - 1} more); is a quotation mark missing or too many?"
        )
    if frame.select(pl.col("id").str.contains(_CONTROL).any()).item():
        frame = frame.with_columns(pl.col("id").str.replace_all(_CONTROL, "").str.strip_chars())
    frame = frame.with_columns(pl.when(~is_missing("id")).then("id"))
    if _all_whole(frame["id"]):
        frame = frame.with_columns(pl.col("id").str.replace(r"\.0+$", ""))
    return frame["id"].alias(column.name)


def _rows(chosen: pl.Series, rows: pl.Series | None) -> int:
    """How many rows the chosen values stand for."""
    return int(chosen.sum() if rows is None else rows.filter(chosen).sum())


def report_ids(
    column: pl.Series,
    ids: pl.Series,
    role: str,
    path: Path,
    row_counts: RowCounts,
    rows: pl.Series | None = None,
) -> None:
    """Counts the ids of a column that `id_text` made equal, and names texts that stand for none."""
    if column.dtype.is_float() and float(str(column.abs().max() or 0)) >= _EXACT:
        row_counts.warn(
            f"{path}: {role} ids are floats from 2^53 up, so some have been rounded; "
            "write them as whole numbers or text"
        )
    if column.dtype != pl.String:
        return
    short = ids.str.contains(r"^[0-9][.,]?[0-9]*E\+[0-9]+$")
    if short.any():
        row_counts.warn(
            f"{path}: {_rows(short, rows):,} {role} ids are written like {ids.filter(short)[0]}, "
            "as spreadsheets write long numbers, so several may have become one; export them as "
            "text"
        )
    if (column != ids).any():
        written, read = column.filter(ids.is_not_null()).n_unique(), ids.drop_nulls().n_unique()
        if written > read:
            row_counts.add(f"{role}s_merged", written - read)
    torn = ids.str.contains(r'^"|"$')
    if torn.any():
        row_counts.warn(
            f"{path}: {_rows(torn, rows):,} {role} ids begin or end with a quotation mark, such as "
            f"{ids.filter(torn)[0][:60]}: is one missing or too many there?"
        )
    words = column.filter(ids.is_null()).drop_nulls().str.strip_chars().unique().sort()
    if named := ", ".join(words.filter(words != "").head(9)):
        row_counts.warn(f"{path}: rows whose {role} is {named} count as without one")


def _all_whole(ids: pl.Series) -> bool:
    """Whether all ids are whole numbers and some are written like 3.0."""
    pattern = r"^-?\d+(\.0+)?$"
    if not ids.head(1000).str.contains(pattern).all():
        return False
    return bool(ids.str.ends_with(".0").any()) and bool(ids.str.contains(pattern).all())


def likely_cause(missing: pl.Series, known: pl.Series) -> str:
    """Why most of the missing ids are not among the known, with two ids; empty: unknown."""
    systems = [pl.DataFrame({"id": ids.unique(maintain_order=True)}) for ids in (missing, known)]
    for cause, same in _CAUSES:
        left, right = (side.with_columns(same=same).drop_nulls() for side in systems)
        found = left.join(right, on="same", maintain_order="left")
        if found["id"].n_unique() > 0.5 * len(systems[0]):
            here, there = found.row(0)[0], found.row(0)[2]
            return f"{here!r} here is likely {there!r} there: {cause}; keep ids as text"
    return ""


def number(text: str) -> pl.Expr:
    """The texts of a column as float64, null where they are no numbers; `1,5` is 1.5."""
    point = pl.col(text).str.replace(r"^([+-]?[0-9]+),([0-9]+)$", "${1}.${2}")
    return point.cast(pl.Float64, strict=False)


def finite(column: pl.Series) -> pl.Series:
    """A column of floats with null where there is no finite number."""
    value = pl.col(column.name)
    return column.to_frame().select(pl.when(value.is_finite()).then(value)).to_series()
