"""Turns the items' columns into clean text: the catalog."""

from __future__ import annotations

import html
import re

import polars as pl
import polars.selectors as cs

from trsr.data import inputs
from trsr.data.ids import id_text, is_missing, report_ids, to_text
from trsr.data.json_lines import json_value
from trsr.data.readers.base import Source
from trsr.data.report import RowCounts
from trsr.errors import DataError

LONGEST = 20_000
"""Characters kept of one text."""

_ENTITY = r"&(?:#\d{1,7}|#[xX][0-9a-fA-F]{1,6}|[A-Za-z][A-Za-z0-9]{1,31});"
_TAG = (
    r"(?i:</?(?:a|abbr|article|b|big|blockquote|body|br|center|code|dd|div|dl|dt|em|figure|font|"
    r"footer|form|h[1-6]|head|header|hr|html|i|iframe|img|input|label|li|link|main|meta|nav|ol|p|pre|"
    r"q|script|section|small|span|strike|strong|style|sub|sup|table|tbody|td|tfoot|th|thead|title|tr|tt|u|ul|"
    r"video)(?:\s[^<>]*)?/?>|<!--.{0,2000}?-->)"
)
"""Tags by name: not everything in pointed brackets is HTML."""
_HIDDEN = r"(?is)<(?:script|style)\b[^>]*>.*?</(?:script|style)\s*>"

_CONTROL = r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]"
_LONG_VECTOR = 32
"""Lists of more numbers than this are vectors, not words."""


def catalog(source: Source, row_counts: RowCounts) -> pl.DataFrame:
    """All items in the order of their ids: `id` and the text columns, null where there is none.

    Where an id comes again its rows are one item: of each column the most frequent value, and the
    first of equally frequent ones. Lists become their values joined by ", "; HTML tags are dropped
    and entities decoded; control characters become spaces; a text longer than `LONGEST` is cut. All
    of it is counted.

    Raises:
        DataError: If the file cannot be read or holds no item.
    """
    path = source.items_path
    # where a row is an interaction, items are counted with these
    own = path != source.interactions_path
    with inputs.located(path, source.encoding):
        frame = source.items.collect(engine="streaming")
        ids = id_text(frame["id"], path, source.encoding)
        if own:
            row_counts.add("items_read", len(frame))
            row_counts.add("items_without_id", ids.null_count())
            report_ids(frame["id"], ids, "item", path, row_counts)
        named = frame.with_columns(ids.alias("id")).drop_nulls("id")
        if named.is_empty():
            raise DataError(f"{path}: there is no item with an id")
        texts = _joined(_without_vectors(named, source, row_counts), source, row_counts)
    items = _one_row_each(texts, row_counts, own=own)
    items = cleaned(items, row_counts)
    names = items.columns[1:]
    empty = items.select(pl.all_horizontal(pl.col(names).is_null())).to_series().sum()
    row_counts.add("items", len(items))
    row_counts.add("items_without_text", int(empty) if names else len(items))
    if not names or empty == len(items):
        raise DataError(
            f"{path}: no item has any text beside its id: a language model would have nothing to "
            "read"
        )
    return items


def _one_row_each(texts: pl.DataFrame, row_counts: RowCounts, *, own: bool) -> pl.DataFrame:
    """Each id once, sorted; where it comes again, the most frequent value of each column."""
    items = texts.unique("id", keep="first", maintain_order=True).sort("id")
    if own:
        row_counts.add("items_twice", len(texts) - len(items))
    if len(items) == len(texts):
        return items
    again = texts.filter(pl.col("id").is_duplicated())
    varying = pl.Series("id", [], dtype=pl.String)
    columns = [items["id"]]
    for name in items.columns[1:]:
        filled = again.select("id", value=name).filter(~is_missing("value"))
        counts = filled.group_by("id", "value", maintain_order=True).len()
        varying = varying.append(counts.filter(pl.col("id").is_duplicated())["id"].unique())
        best = counts.sort("len", descending=True, maintain_order=True).unique(
            "id", keep="first", maintain_order=True
        )
        found = items.select("id", old=name).join(best, on="id", how="left", maintain_order="left")
        columns.append(found.select(pl.coalesce("value", "old").alias(name)).to_series())
    row_counts.add("items_varying", varying.n_unique())
    return pl.DataFrame(columns)


def _without_vectors(items: pl.DataFrame, source: Source, row_counts: RowCounts) -> pl.DataFrame:
    numbers = items.select(cs.list(cs.numeric()) | cs.array(cs.numeric())).columns
    vectors = [
        name
        for name in numbers
        if (items[name].cast(pl.List(pl.Float64)).list.len().max() or 0) > _LONG_VECTOR  # type: ignore[operator]
    ]
    for name in vectors:
        row_counts.warn(f"{source.items_path}: column {name} holds no text and is left out")
    return items.drop(vectors)


def _joined(items: pl.DataFrame, source: Source, row_counts: RowCounts) -> pl.DataFrame:
    """Every column as text; a column that cannot be text is left out, with a warning."""
    columns = [items["id"]]
    for column in items.iter_columns():
        if column.name == "id":
            continue
        try:
            if column.name in source.nested:
                texts = [_joined_json(t) if t and t[0] in "[{" else t for t in column]
                columns.append(pl.Series(column.name, texts, dtype=pl.String))
            elif column.dtype.is_nested():
                texts = [", ".join(leaves(value)) for value in column.to_list()]
                columns.append(pl.Series(column.name, texts, dtype=pl.String))
            else:
                columns.append(to_text(column, source.items_path))
        except DataError as error:
            row_counts.warn(f"{error}; the column is left out")
    return pl.DataFrame(columns)


def _joined_json(text: str) -> str:
    try:
        return ", ".join(leaves(json_value(text, "")))
    except DataError:
        return text


def leaves(value: object) -> list[str]:
    """The texts in nested lists and objects, those of an object with their key."""
    if isinstance(value, list | tuple | pl.Series):
        return [leaf for part in value for leaf in leaves(part)]
    if isinstance(value, dict):
        return [f"{key}: {leaf}" for key, part in value.items() for leaf in leaves(part)]
    if isinstance(value, bytes):
        return [value.decode(errors="replace")]
    return [] if value is None else [str(value)]


def _without_html(text: str) -> str:
    """The text without HTML's tags and entities, also where it was escaped several times."""
    for _ in range(3):
        decoded = re.sub(_ENTITY, lambda found: html.unescape(found[0]), text)
        if decoded == text:
            break
        text = decoded
    return re.sub(r"[ \xa0]+", " ", re.sub(_TAG, " ", re.sub(_HIDDEN, " ", text)))


def clean_text(text: str) -> str:
    """One text as `cleaned` makes it: for an item that came after the data was prepared."""
    plain = _without_html(text) if re.search(f"{_ENTITY}|{_TAG}", text) else text
    return re.sub(_CONTROL, " ", plain[:LONGEST]).strip()


def cleaned(items: pl.DataFrame, row_counts: RowCounts) -> pl.DataFrame:
    """All texts beside `id` without HTML and control characters, cut to `LONGEST`; null: none."""
    texts = cs.exclude("id")
    marked = texts.str.contains(f"{_ENTITY}|{_TAG}")
    row_counts.add("texts_with_html", _total(items.select(marked.sum())))
    plain = [_plain(items[name]) for name in items.columns if name != "id"]
    items = items.with_columns(plain)
    row_counts.add("texts_cleaned", _total(items.select(texts.str.contains(_CONTROL).sum())))
    row_counts.add("texts_shortened", _total(items.select((texts.str.len_chars() > LONGEST).sum())))
    stripped = texts.str.slice(0, LONGEST).str.replace_all(_CONTROL, " ").str.strip_chars()
    items = items.with_columns(stripped)
    return items.with_columns(pl.when(texts != "").then(texts).name.keep())


def _plain(column: pl.Series) -> pl.Series:
    rows = column.str.contains(f"{_ENTITY}|{_TAG}").fill_null(value=False).arg_true()
    if rows.is_empty():
        return column
    plain = [_without_html(text) for text in column.gather(rows)]
    return column.clone().scatter(rows, pl.Series(plain, dtype=pl.String))


def _total(row: pl.DataFrame) -> int:
    return int(row.sum_horizontal().item() or 0) if row.width else 0
