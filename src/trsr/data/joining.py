"""Makes one table of the files that a folder or a pattern names."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

import polars as pl

from trsr.data.inputs import Table


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
        types[name] = pl.Null() if common is None else common
        if common is None:
            first, kind = next((p, k) for p, k in found.items() if k != pl.Null)
            other = next(p for p, k in found.items() if _common([kind, k]) is None)
            mixed[name] = (
                f"{other}: column {name!r} holds {found[other]}, and {kind} in {first}; write it "
                "in all files as one type, such as text"
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


def _casts(schema: pl.Schema, types: Mapping[str, pl.DataType]) -> list[pl.Expr]:
    """What makes a file's columns those of the table; a mixed one has no values."""
    changed = [name for name, kind in schema.items() if kind != types[name]]
    return [
        (pl.lit(None) if types[name] == pl.Null else pl.col(name).cast(types[name])).alias(name)
        for name in changed
    ]


def _common(kinds: list[pl.DataType]) -> pl.DataType | None:
    """A type for values of all these; None where they are of several kinds."""
    if len(kinds) == 1:
        return kinds[0]
    families = {_family(kind) for kind in kinds if kind != pl.Null}
    if len(families) > 1:
        return None
    if families == {"texts"}:
        return pl.String()
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
