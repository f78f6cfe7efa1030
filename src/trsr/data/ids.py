"""Writes ids of any type as text, and times of any type as numbers."""

from __future__ import annotations

from pathlib import Path

import polars as pl

from trsr.errors import DataError

_CONTROL = r"[\x00-\x1f\x7f]"
_NO_TIME = ("", "null", "none", "nan", "na", "n/a", "nat", "\\n")
_FORMATS = (
    "%Y-%m-%dT%H:%M:%S%.f",
    "%Y-%m-%dT%H:%M",
    "%Y-%m-%d",
    "%Y/%m/%dT%H:%M:%S%.f",
    "%Y/%m/%d",
    "%m/%d/%YT%I:%M:%S %p",
    "%m/%d/%YT%H:%M:%S",
    "%m/%d/%Y",
    "%d.%m.%YT%H:%M:%S",
    "%d.%m.%Y",
    "%d %b %Y",
    "%b %d, %Y",
    "%m %d, %Y",
)
_ZONED = ("%Y-%m-%dT%H:%M:%S%.f%#z", "%Y-%m-%dT%H:%M%#z")


def id_text(column: pl.Series) -> pl.Series:
    """Ids as text, null where there is none: 1, 1.0 and "1" are all "1", "007" stays.

    Spaces around an id and control characters in it are dropped. The `.0` of whole numbers is
    dropped when every id of the column is a whole number.
    """
    if column.dtype.is_float():
        column = finite(column)
        if (column == column.round()).all():
            column = column.cast(pl.Int64)
    text = column.cast(pl.String)
    frame = pl.DataFrame({"id": text})
    if frame.select(pl.col("id").str.contains(r"^[\s\x00-\x1f]|[\x00-\x1f\x7f]|\s$").any()).item():
        clean = pl.col("id").str.replace_all(_CONTROL, "").str.strip_chars()
        frame = frame.with_columns(clean)
    frame = frame.with_columns(pl.when(pl.col("id") != "").then(pl.col("id")))
    if _all_whole(frame["id"]):
        frame = frame.with_columns(pl.col("id").str.replace(r"\.0+$", ""))
    return frame["id"].alias(column.name)


def merged(column: pl.Series, ids: pl.Series) -> int:
    """How many ids of a column `id_text` made equal to others: by spaces, or as 1 and 1.0."""
    if column.dtype != pl.String or not (column != ids).any():
        return 0
    return column.filter(ids.is_not_null()).n_unique() - ids.drop_nulls().n_unique()


def _all_whole(ids: pl.Series) -> bool:
    """Whether all ids are whole numbers and some are written like 3.0."""
    pattern = r"^-?\d+(\.0+)?$"
    if not ids.head(1000).str.contains(pattern).all():
        return False
    return bool(ids.str.ends_with(".0").any()) and bool(ids.str.contains(pattern).all())


def seconds(column: pl.Series, path: Path) -> pl.Series:
    """Times as float64: numbers as they are, dates and date texts as seconds since 1970.

    Null, NaN and texts such as `null` become null.

    Raises:
        DataError: If a time is neither a number nor a date that is understood.
    """
    if column.dtype.is_temporal():
        moment = column.cast(pl.Datetime("us"))
        return moment.dt.timestamp("us").cast(pl.Float64) / 1e6
    numbers = _read_times(column, path) if column.dtype == pl.String else column.cast(pl.Float64)
    return finite(numbers)


def finite(column: pl.Series) -> pl.Series:
    """A column of floats with null where there is no finite number."""
    value = pl.col(column.name)
    return column.to_frame().select(pl.when(value.is_finite()).then(value)).to_series()


def _read_times(column: pl.Series, path: Path) -> pl.Series:
    times = column.cast(pl.Float64, strict=False)
    unread = times.is_null() & column.is_not_null()
    if not unread.any():
        return times
    text = pl.col("text").str.strip_chars()
    joined = text.str.replace(r"^(\S*\d[/.-]\d+[/.-]\d+)\s+(\d)", "${1}T${2}").str.replace(
        "Z$", "+00:00"
    )
    rest = pl.DataFrame({"text": column.filter(unread)}).with_columns(
        pl.when(~text.str.to_lowercase().is_in(_NO_TIME)).then(joined).alias("joined")
    )
    read = [pl.col("joined").str.to_datetime(f, strict=False, time_unit="us") for f in _FORMATS]
    read += [
        pl.col("joined")
        .str.to_datetime(f, strict=False, time_unit="us", time_zone="UTC")
        .dt.replace_time_zone(None)
        for f in _ZONED
    ]
    rest = rest.with_columns(pl.coalesce(read).dt.timestamp("us").alias("us"))
    bad = rest.filter(pl.col("us").is_null() & pl.col("joined").is_not_null())
    if len(bad):
        raise DataError(
            f"{path}: the time {bad['text'][0]!r} (and {len(bad) - 1} more) is neither a number "
            "nor a date such as 2024-05-31 or 2024-05-31T18:00:00"
        )
    return times.scatter(unread.arg_true(), rest["us"].cast(pl.Float64) / 1e6)
