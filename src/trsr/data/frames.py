"""Tables that a program holds: polars, pandas, Arrow and Hugging Face's, in and out."""

from __future__ import annotations

import io
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

import polars as pl

from trsr.data.ids import id_text
from trsr.data.readers.base import USUAL_NAMES, plain
from trsr.errors import DataError

FrameKind = Literal["polars", "pandas", "arrow"]

_TAKEN = (
    "give a polars, pandas or Arrow table, a Hugging Face dataset, or the path of a file (str or "
    "pathlib.Path)"
)


def read_frame(given: Any, what: str) -> tuple[pl.DataFrame, FrameKind]:
    """A table of any of these libraries as a polars frame, and whose it was.

    A lazy frame is collected. Of a pandas index what has a name becomes a column; an index without
    a name is left out.

    Raises:
        DataError: If it is no table, has no rows, two columns of one name, or a column whose
            cells are of no one type.
    """
    frame, kind = _converted(given, what)
    if not frame.width:
        raise DataError(f"the {what} have no columns")
    if frame.is_empty():
        raise DataError(f"the {what} have no rows; the columns are {', '.join(frame.columns)}")
    return frame, kind


def parquet_bytes(frame: pl.DataFrame, what: str) -> bytes:
    """The frame as a Parquet file; the same frame gives the same bytes.

    Raises:
        DataError: Naming the column that no Parquet file can hold.
    """
    try:
        return _written(frame)
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
        for name in frame.columns:
            try:
                _written(frame.select(name))
            except (pl.exceptions.PolarsError, pl.exceptions.PanicException):
                raise DataError(
                    f"the {what}: column {name!r} holds {frame.schema[name]}, which cannot be "
                    "written; make it text or numbers, or leave it out"
                ) from error
        raise DataError(f"the {what} cannot be written: {error}") from error


def as_kind(frame: pl.DataFrame, kind: FrameKind) -> Any:
    """The frame as the table of another library."""
    if kind == "pandas":
        return frame.to_pandas()
    return frame.to_arrow() if kind == "arrow" else frame


def user_ids(users: Any, *names: str) -> list[str]:
    """Users' ids as text, each once, in the order given.

    Args:
        users: One id, several (a list, a column), or a table with one column, the column `user`,
            one of `names` or a usual name, such as `user_id`.
        names: What else the column may be called.

    Raises:
        DataError: If there is none, an id is missing, or the table has no such column.
    """
    return _ids(users, ("user", *names), "the users").unique(maintain_order=True).to_list()


def item_ids(items: Any, what: str, *names: str) -> list[str]:
    """Items' ids as text, in the order given; `what` names them in messages.

    As `user_ids`, with the column `item`; what stands twice stays so.
    """
    return _ids(items, ("item", *names), what).to_list()


def _ids(given: Any, names: tuple[str, ...], what: str) -> pl.Series:
    if isinstance(given, str | bytes | int | float) or given is None:
        given = [given]
    if has_columns(given):
        frame, _ = read_frame(given, what.removeprefix("the "))
        given = frame[_named(frame, names, what)]
    try:
        if type(given).__module__.startswith("pyarrow."):
            given = pl.Series(given)  # its cells are objects of Arrow's own
        column = pl.Series(names[0], [None if is_missing_cell(cell) else cell for cell in given])
    except (TypeError, OverflowError, pl.exceptions.PolarsError) as error:
        raise DataError(f"{what}: {str(error).splitlines()[0]}; give ids of one type") from error
    ids = id_text(column, Path(what.removeprefix("the ")))
    if ids.null_count() or ids.is_empty():
        found = f"{ids.null_count():,} of {len(ids):,} ids are missing" if len(ids) else "no id"
        raise DataError(f"{what}: {found}; give the ids of {names[0]}s in the run's data")
    return ids


def _named(frame: pl.DataFrame, names: tuple[str, ...], what: str) -> str:
    found = id_column(frame.columns, *names)
    if found is None and frame.width > 1:
        raise DataError(
            f"{what}: which column? The columns are {', '.join(frame.columns)}; give the column "
            f"alone, or call it {names[0]}"
        )
    return found or frame.columns[0]


def has_columns(given: Any) -> bool:
    """Whether it is a table of one of the libraries, and no column or list."""
    dataset = type(given).__module__.startswith("datasets.") and hasattr(given, "column_names")
    return dataset or isinstance(given, pl.LazyFrame) or hasattr(given, "columns")


def id_column(names: Iterable[str], role: str, *first: str) -> str | None:
    """Which of a table's columns holds ids: the one called `role`, so named, or usually named so.

    Args:
        names: The columns.
        role: `user` or `item`.
        first: What else the data calls it; an empty name is none.
    """
    there = list(names)
    by_name = {name: name for name in reversed(there)}
    usual = {plain(name): name for name in reversed(there)}
    known = USUAL_NAMES["item_id" if role == "item" else role]
    found = (by_name.get(name) for name in (role, *first) if name)
    return next(filter(None, (*found, *map(usual.get, known))), None)


def is_missing_cell(cell: Any) -> bool:
    """Whether it is what pandas puts where there is no value."""
    return (isinstance(cell, float) and math.isnan(cell)) or (
        type(cell).__name__ in ("NAType", "NaTType")
    )


def _written(frame: pl.DataFrame) -> bytes:
    file = io.BytesIO()
    frame.write_parquet(file)
    return file.getvalue()


def _converted(given: Any, what: str) -> tuple[pl.DataFrame, FrameKind]:
    package = type(given).__module__.partition(".")[0]
    try:
        if isinstance(given, pl.DataFrame | pl.LazyFrame):
            return given.lazy().collect(), "polars"
        if package == "pandas" and hasattr(given, "columns"):
            return _from_pandas(given, what), "pandas"
        if package == "datasets":
            return _from_hub(given, what), "arrow"
        if hasattr(given, "__arrow_c_stream__") or hasattr(given, "__arrow_c_array__"):
            return pl.DataFrame(given), "arrow"
    except (
        pl.exceptions.PolarsError,
        pl.exceptions.PanicException,
        TypeError,
        ValueError,
    ) as error:
        raise DataError(f"the {what} cannot be read: {str(error).splitlines()[0]}") from error
    raise DataError(f"the {what} are a {package}.{type(given).__qualname__}: {_TAKEN}")


def _from_pandas(given: Any, what: str) -> pl.DataFrame:
    named = [name for name in given.index.names if name is not None]
    frame = given.reset_index(level=named) if named else given
    names = [str(name) for name in frame.columns]
    twice = {name for name in names if names.count(name) > 1}
    if twice:
        raise DataError(f"the {what} have two columns {sorted(twice)[0]!r}; rename or drop one")
    columns = []
    for place, name in enumerate(names):
        column = frame.iloc[:, place].reset_index(drop=True)
        try:
            columns.append(pl.Series(name, pl.from_pandas(column)))
        except Exception as error:  # pyarrow's errors have no common base with polars'
            kinds = sorted({type(cell).__name__ for cell in column.dropna().head(10_000)})
            raise DataError(
                f"the {what}: column {name!r} mixes {' and '.join(kinds)}; make them one, such as "
                f"frame[{name!r}].astype(str)"
            ) from error
    return pl.DataFrame(columns)


def _from_hub(given: Any, what: str) -> pl.DataFrame:
    if isinstance(given, dict):
        raise DataError(
            f"the {what} are a dictionary of datasets ({', '.join(map(str, given))}); choose one, "
            f"such as dataset[{next(iter(given), 'train')!r}]"
        )
    if not hasattr(given, "num_rows"):
        raise DataError(
            f"the {what} are streamed, and trsr reads them more than once; load the dataset "
            "without streaming=True"
        )
    return pl.DataFrame(given.with_format("arrow")[:])


def is_table(given: Any) -> bool:
    """Whether it is to be read as a table, and not as a path."""
    return not isinstance(given, str) and not hasattr(given, "__fspath__")
