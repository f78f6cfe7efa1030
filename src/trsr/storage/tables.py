"""Reads the tables of a run by name and checks them: any program may have made them."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import polars as pl

from trsr.errors import StoreError, TrsrError
from trsr.storage import files

Columns: TypeAlias = Mapping[str, pl.DataType]

_MOMENTS = (pl.Date, pl.Datetime, pl.Duration, pl.Time)


def read_table(
    path: Path,
    columns: Columns,
    *,
    again: str,
    key: tuple[str, ...] = ("query",),
    further: Columns | None = None,
    rest: pl.DataType | None = None,
    keep: bool = False,
    error: type[TrsrError] = StoreError,
) -> pl.DataFrame:
    """Reads a Parquet file of a run by its columns' names, as these types.

    Values of another type are converted where nothing of them is lost.

    Args:
        path: The file.
        columns: What it must have, without an empty value.
        again: Advice for the message, such as "give `trsr run` again".
        key: Columns that together identify a row.
        further: Columns that it may have; these may be empty.
        rest: The type of all other columns, which may be empty; None: they are left out.
        keep: Whether all other columns are kept as they are.
        error: What is raised.

    Returns:
        The columns in the order of `columns`, `further`, and of the rest as in the file; with
        `keep` all of them as in the file.

    Raises:
        TrsrError: An `error` that names the file, the column and the row's key: the file is
            missing or damaged, lacks a column, has a value of another type, an empty one, or a
            key twice.
    """
    if not files.is_file(path):
        raise error(f"{path}: there is no such file; {again}")
    try:
        frame = files.read_parquet(path)
    except (ValueError, OSError) as why:
        raise error(f"{path}: is damaged ({why}); {again}") from why
    missing = [name for name in columns if name not in frame.columns]
    if missing:
        there = ", ".join(frame.columns) or "none"
        raise error(f"{path}: there is no column {missing[0]}, but {there}; {again}")
    wanted: dict[str, Any] = dict(columns)
    wanted |= {name: kind for name, kind in (further or {}).items() if name in frame.columns}
    if rest is not None:
        wanted |= {name: rest for name in frame.columns if name not in wanted}
    check = _Check(path, frame, key, again, error)
    made = [check.cast(name, kind) for name, kind in wanted.items()]
    frame = frame.with_columns(made) if keep else pl.DataFrame(made)
    check.refuse_empty(frame.select(columns.keys()))
    check.refuse_repeated(frame)
    return frame


@dataclass(frozen=True)
class _Check:
    """Finds the value of a table that is wrong, and where it is."""

    path: Path
    frame: pl.DataFrame
    key: tuple[str, ...]
    again: str
    error: type[TrsrError]

    def cast(self, name: str, kind: pl.DataType) -> pl.Series:
        """A column as this type; nothing of a value may be lost, such as a number's fraction."""
        column = self.frame[name]
        if column.dtype == kind:
            return column
        inner = _inner(column.dtype)
        if isinstance(inner, _MOMENTS) and not isinstance(_inner(kind), pl.String):
            # as a number it would have an unknown unit
            raise self._wrong(name, f"holds {column.dtype}, and should hold {kind}")
        with contextlib.suppress(pl.exceptions.PolarsError, pl.exceptions.PanicException):
            made = column.cast(kind)
            # polars casts a struct to another struct where a list is asked for
            if made.dtype == kind and column.equals(made.cast(column.dtype), null_equal=True):
                return made
        row = self._lost(column, kind)
        value = f", {column[row]!r}{self._row(row)}," if row is not None else ""
        raise self._wrong(name, f"holds {column.dtype}{value} which cannot be read as {kind}")

    def _lost(self, column: pl.Series, kind: pl.DataType) -> int | None:
        """The first row that loses something as this type, None where polars knows no way."""
        for row in range(len(column)):
            one = column[row : row + 1]
            try:
                if not one.cast(kind).cast(column.dtype).equals(one, null_equal=True):
                    return row
            except pl.exceptions.PolarsError:
                return row
        return None

    def refuse_empty(self, frame: pl.DataFrame) -> None:
        """Refuses a missing value, in a list too."""
        for name in frame.columns:
            empty = _empty(frame[name])
            if empty is not None:
                raise self._wrong(name, f"has an empty value{self._row(empty)}")

    def refuse_repeated(self, frame: pl.DataFrame) -> None:
        """Refuses two rows with one key."""
        keys = frame.select(self.key)
        if not self.key or keys.n_unique() == len(keys):
            return
        row = keys.is_duplicated().arg_true()[0]
        raise self.error(f"{self.path}: there are two rows{self._row(row)}; {self.again}")

    def _row(self, number: int) -> str:
        """Names a row by its key, for messages."""
        names = [name for name in self.key if name in self.frame.columns]
        words = (f"{name} {self.frame[name][number]}" for name in names)
        return f" for {', '.join(words)}" if names else f" in row {number + 1:,}"

    def _wrong(self, name: str, what: str) -> TrsrError:
        return self.error(f"{self.path}: the column {name} {what}; {self.again}")


def _inner(kind: Any) -> Any:
    """The type of a list's values; of another type itself."""
    return _inner(kind.inner) if isinstance(kind, pl.List | pl.Array) else kind


def _empty(column: pl.Series) -> int | None:
    """The first row with a missing value, in a list too; None where there is none."""
    if column.null_count():
        return int(column.is_null().arg_true()[0])
    if not isinstance(column.dtype, pl.List):
        return None
    holes = column.explode(empty_as_null=False).null_count()
    if not holes:
        return None
    return int((column.list.drop_nulls().list.len() != column.list.len()).arg_true()[0])
