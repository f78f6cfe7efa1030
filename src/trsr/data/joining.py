"""Makes one table of the files that a folder or a pattern names."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

import polars as pl

from trsr.data.inputs import Table, located

_HELD = 2**53
"""Up to here a float holds every whole number."""
_LARGE = (pl.Int64, pl.UInt64, pl.Int128, pl.UInt128)


def joined(tables: Mapping[Path, Table]) -> Table:
    """The rows of several files, those of each file in their order, as one table.

    Columns are known by their names. Types of one kind, such as two sizes of whole numbers, become
    one that holds both.
    """
    if len(tables) == 1:
        return next(iter(tables.values()))
    schemas = {path: table.frame.collect_schema() for path, table in tables.items()}
    lacking: dict[str, str] = {}
    mixed: dict[str, str] = {}
    types: dict[str, pl.DataType] = {}
    for name in dict.fromkeys(name for schema in schemas.values() for name in schema):
        found = {path: schema[name] for path, schema in schemas.items() if name in schema}
        if without := [path for path in schemas if path not in found]:
            lacking[name] = _lacks(name, without, list(schemas[without[0]]), next(iter(found)))
        common = _common(list(dict.fromkeys(found.values())))
        pair = None if common is not None else _unlike(found)
        if common is not None and common.is_float():
            common, pair = _exact(name, common, {path: tables[path] for path in found})
        types[name] = pl.Null() if common is None else common
        if pair:
            mixed[name] = (
                f"{pair[1]}: column {name!r} holds {found[pair[1]]}, and {found[pair[0]]} in "
                f"{pair[0]}; write it in all files as one type, such as text"
            )
    frames = [
        table.frame.with_columns(_casts(schemas[path], types)) for path, table in tables.items()
    ]
    return Table(
        pl.concat(frames, how="diagonal"),
        nested=frozenset().union(*(table.nested for table in tables.values())),
        notes=_together(note for table in tables.values() for note in table.notes),
        sparse=any(table.sparse for table in tables.values()),
        lacking=lacking,
        mixed=mixed,
    )


def _lacks(name: str, without: list[Path], columns: list[str], holder: Path) -> str:
    there = ", ".join(columns[:8]) + (", …" if len(columns) > 8 else "")
    more = f", nor have {len(without) - 1} other files" if len(without) > 1 else ""
    return f"{without[0]}: has no column {name!r} (its columns are {there}){more}; {holder} has it"


def _unlike(found: Mapping[Path, pl.DataType]) -> tuple[Path, Path]:
    """Two files in which a column's types are of several kinds."""
    first, kind = next((path, kind) for path, kind in found.items() if kind != pl.Null)
    return first, next(path for path, k in found.items() if _common([kind, k]) is None)


def _exact(
    name: str, common: pl.DataType, tables: Mapping[Path, Table]
) -> tuple[pl.DataType | None, tuple[Path, Path] | None]:
    """The type of a column of floats and whole numbers that changes no value of it.

    pandas writes whole numbers as floats where some are missing. As floats, neighbors among the
    numbers from 2^53 on would be one.

    Returns:
        The type; where there is none, a file of whole numbers and one of floats.
    """
    kinds = {path: table.frame.collect_schema()[name] for path, table in tables.items()}
    large = [path for path, kind in kinds.items() if kind in _LARGE]
    floats = [path for path, kind in kinds.items() if kind.is_float()]
    value = pl.col(name)
    small = value.abs() <= _HELD
    whole = value.is_nan() | ((value == value.round()) & small)

    def without(paths: Iterable[Path], wanted: pl.Expr) -> Path | None:
        for path in paths:
            with located(path):
                if not tables[path].frame.select(wanted.all()).collect().item():
                    return path
        return None

    odd = without(floats, whole) if large else None
    if large and odd is None:
        rest = (kind for kind in kinds.values() if not kind.is_float())
        return _common(list(dict.fromkeys(rest))), None
    exact = without(large, value.is_between(-_HELD, _HELD))
    return (common, None) if odd is None or exact is None else (None, (exact, odd))


def _casts(schema: pl.Schema, types: Mapping[str, pl.DataType]) -> list[pl.Expr]:
    """What makes a file's columns those of the table; a mixed one has no values."""
    changed = [name for name, kind in schema.items() if kind != types[name]]
    return [
        (pl.lit(None) if types[name] == pl.Null else _cast(name, schema[name], types[name])).alias(
            name
        )
        for name in changed
    ]


def _cast(name: str, kind: pl.DataType, wanted: pl.DataType) -> pl.Expr:
    column = pl.col(name)
    if kind.is_float() and wanted.is_integer():
        column = column.fill_nan(None)
    if isinstance(kind, pl.Datetime) and kind.time_zone and isinstance(wanted, pl.Datetime):
        column = column.dt.convert_time_zone(wanted.time_zone or kind.time_zone)
    return column.cast(wanted)


def _common(kinds: list[pl.DataType]) -> pl.DataType | None:
    """A type for values of all these; None where they are of several kinds."""
    if len(kinds) == 1:
        return kinds[0]
    families = {_family(kind) for kind in kinds if kind != pl.Null}
    if len(families) > 1:
        return None
    if families == {"texts"}:
        return pl.String()
    moments = [kind for kind in kinds if isinstance(kind, pl.Datetime) and kind.time_zone]
    if len({kind.time_zone for kind in moments}) > 1:
        others = [kind for kind in kinds if kind not in moments]
        kinds = [*others, *(pl.Datetime(kind.time_unit, "UTC") for kind in moments)]
    try:
        frames = [pl.DataFrame(schema={"": kind}) for kind in kinds]
        return pl.concat(frames, how="vertical_relaxed").schema[""]
    except pl.exceptions.PolarsError:
        return None


def _family(kind: pl.DataType) -> str:
    """Polars would make numbers beside texts texts, and 1.0 is no id 1."""
    if isinstance(kind, pl.List | pl.Array):
        return f"lists of {_family(kind.inner)}"  # type: ignore[arg-type]
    if isinstance(kind, pl.String | pl.Categorical | pl.Enum):
        return "texts"
    if isinstance(kind, pl.Date | pl.Datetime):
        return "dates"
    return "numbers" if kind.is_numeric() else str(kind)


def _together(notes: Iterable[str]) -> tuple[str, ...]:
    """The notes; of those that say the same of many files the first, and of how many it holds."""
    alike: dict[str, list[str]] = {}
    for note in notes:
        alike.setdefault(re.sub(r"\d+", "0", note.partition(": ")[2]), []).append(note)
    return tuple(
        f"{same[0]} (and alike in {len(same) - 1} other files)" if len(same) > 1 else same[0]
        for same in alike.values()
    )
