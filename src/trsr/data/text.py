"""Turns the items' columns into clean text: the catalogue."""

from __future__ import annotations

import json

import polars as pl
import polars.selectors as cs

from trsr.data import files
from trsr.data.ids import id_text
from trsr.data.report import Tally
from trsr.data.source import Source
from trsr.errors import DataError

LONGEST = 20_000
"""Characters kept of one text."""

_CONTROL = r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]"
_LONG_VECTOR = 32
"""Lists of more numbers than this are vectors, not words."""


def catalogue(source: Source, tally: Tally) -> pl.DataFrame:
    """All items in the order of their ids: `id` and the text columns, null where there is none.

    Lists become their values joined by ", "; control characters become spaces; a text longer than
    `LONGEST` is cut. All of it is counted.

    Raises:
        DataError: If the file cannot be read or holds no item.
    """
    with files.located(source.items_path, source.encoding):
        frame = source.items.collect()
    tally.add("items_read", len(frame))
    frame = frame.with_columns(id_text(frame["id"]).alias("id"))
    named = frame.filter(pl.col("id").is_not_null())
    tally.add("items_without_id", len(frame) - len(named))
    items = named.unique("id", keep="first", maintain_order=True).sort("id")
    tally.add("items_twice", len(named) - len(items))
    if items.is_empty():
        raise DataError(f"{source.items_path}: there is no item with an id")
    items = _joined(_without_vectors(items, source, tally), source)
    items = _cleaned(items, tally)
    texts = items.columns[1:]
    empty = items.select(pl.all_horizontal(pl.col(texts).is_null())).to_series().sum()
    tally.add("items", len(items))
    tally.add("items_without_text", int(empty) if texts else len(items))
    if not texts or empty == len(items):
        raise DataError(
            f"{source.items_path}: no item has any text beside its id: a language model would have "
            "nothing to read"
        )
    return items


def _without_vectors(items: pl.DataFrame, source: Source, tally: Tally) -> pl.DataFrame:
    binary = items.select(cs.binary() & ~cs.by_name("id")).columns
    numbers = items.select(cs.list(cs.numeric()) | cs.array(cs.numeric())).columns
    vectors = [
        name
        for name in numbers
        if (items[name].cast(pl.List(pl.Float64)).list.len().max() or 0) > _LONG_VECTOR  # type: ignore[operator]
    ]
    for name in binary + vectors:
        tally.warn(f"{source.items_path}: column {name} holds no text and is left out")
    return items.drop(binary + vectors)


def _joined(items: pl.DataFrame, source: Source) -> pl.DataFrame:
    """Every column as text."""
    columns = [items["id"]]
    for column in items.iter_columns():
        if column.name == "id":
            continue
        if column.name in source.json_lists:
            columns.append(_json_list(column))
        elif isinstance(column.dtype, pl.List | pl.Array):
            columns.append(_list_text(column))
        elif isinstance(column.dtype, pl.Struct):
            columns.append(column.struct.json_encode())
        else:
            columns.append(column.cast(pl.String))
    return pl.DataFrame(columns)


def _list_text(column: pl.Series) -> pl.Series:
    values = column.cast(pl.List(column.dtype.inner)) if column.dtype == pl.Array else column  # type: ignore[attr-defined]
    while isinstance(values.dtype, pl.List) and isinstance(values.dtype.inner, pl.List):
        values = values.list.eval(pl.element().explode())
    texts = values.cast(pl.List(pl.String))
    return texts.list.drop_nulls().list.join(", ")


def _json_list(column: pl.Series) -> pl.Series:
    """A column of JSON lists, perhaps with plain texts among them, as joined text."""
    is_list = column.str.starts_with("[")
    frame = pl.DataFrame({"text": column, "is_list": is_list})
    only = pl.when(pl.col("is_list")).then(pl.col("text"))
    try:
        decoded = frame.select(only.str.json_decode(pl.List(pl.String))).to_series()
        joined = _list_text(decoded)
    except pl.exceptions.PolarsError:  # lists in lists, or text that only looks like a list
        joined = frame.select(only).to_series().map_elements(_joined_json, return_dtype=pl.String)
    return (
        frame.with_columns(joined=joined)
        .select(pl.when(pl.col("is_list")).then(pl.col("joined")).otherwise(pl.col("text")))
        .to_series()
        .alias(column.name)
    )


def _joined_json(text: str) -> str:
    try:
        value = json.loads(text)
    except json.JSONDecodeError:
        return text
    return ", ".join(_leaves(value))


def _leaves(value: object) -> list[str]:
    if isinstance(value, list):
        return [leaf for part in value for leaf in _leaves(part)]
    if isinstance(value, dict):
        return [f"{key}: {leaf}" for key, part in value.items() for leaf in _leaves(part)]
    return [] if value is None else [str(value)]


def _cleaned(items: pl.DataFrame, tally: Tally) -> pl.DataFrame:
    texts = cs.exclude("id")
    tally.add("texts_cleaned", _total(items.select(texts.str.contains(_CONTROL).sum())))
    tally.add("texts_shortened", _total(items.select((texts.str.len_chars() > LONGEST).sum())))
    stripped = texts.str.slice(0, LONGEST).str.replace_all(_CONTROL, " ").str.strip_chars()
    items = items.with_columns(stripped)
    return items.with_columns(pl.when(texts != "").then(texts).name.keep())


def _total(row: pl.DataFrame) -> int:
    return int(row.sum_horizontal().item() or 0) if row.width else 0
