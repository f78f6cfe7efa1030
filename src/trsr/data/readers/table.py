"""Reads CSV, TSV, JSON Lines and Parquet tables with any column names."""

from __future__ import annotations

from pathlib import Path

import polars as pl

from trsr.data import inputs
from trsr.data.delimited import delimited, sniff
from trsr.data.json_lines import json_lines
from trsr.data.readers.base import Source, exploded, find, listed, must_have, need
from trsr.data.settings import Columns, DataSettings
from trsr.errors import DataError
from trsr.storage import files


class TableReader:
    """One file of interactions (or of users with their sequences), one of items, perhaps of lists.

    Without a file of items each interaction describes its item. The third file,
    `data.impressions`, is read for `candidates = given` alone.
    """

    def read(self, settings: DataSettings) -> Source:
        """Opens the files and renames their columns; see `Reader.read`."""
        path = inputs.a_file(settings.interactions, "interactions", "the interactions' file")
        table = opened(path, settings, header=settings.header)
        interactions = _interactions(table.frame, path, settings)
        items_path, items, texts = _items(table, path, settings)
        warnings = table.notes + (() if items is table else items.notes)
        warnings += _assumptions(table.frame, interactions, path, settings.columns)
        impressions_path = None
        if settings.candidates == "given":
            impressions_path = _lists_file(settings)
            warnings += _without_time(interactions, path)
        return Source(
            interactions=interactions,
            items=texts,
            interactions_path=path,
            items_path=items_path,
            nested=items.nested,
            impressions=_impressions(impressions_path, settings) if impressions_path else None,
            impressions_path=impressions_path,
            encoding=settings.encoding,
            warnings=warnings,
        )


def opened(path: Path, settings: DataSettings, *, header: bool) -> inputs.Table:
    """One file of any format, in the encoding and with the separator of the settings."""
    kind = inputs.format_of(path)
    if kind == "parquet":
        with inputs.located(path):
            frame = files.scan_parquet(path)
            frame.collect_schema()
        return inputs.Table(frame)
    if kind == "jsonl":
        return json_lines(path, encoding=settings.encoding)
    dialect = sniff(path, settings.encoding, settings.separator)
    return delimited(path, dialect=dialect, header=header, encoding=settings.encoding)


def _items(
    table: inputs.Table, path: Path, settings: DataSettings
) -> tuple[Path, inputs.Table, pl.LazyFrame]:
    """The items' file and its columns, `id` first; without one, those of the interactions."""
    columns = settings.columns
    if settings.items is not None:
        items_path = inputs.a_file(settings.items, "items", "the items' file with their text")
        items = opened(items_path, settings, header=settings.items_header)
        key = need(items.names, "item_id", columns.item_id, items_path)
        return items_path, items, identified(items.frame, key)
    names = table.names
    item = find(names, "item", columns.item, path)
    roles = ("user", "time", "order", "rating", "event", "quantity", "split")
    others = {find(names, role, str(getattr(columns, role)), path) for role in roles}
    texts = columns.texts or [name for name in names if name not in {item, *others}]
    if item is None or columns.sequence or not texts:
        raise DataError(
            "data.items is not set: the items' file with their text is needed, or a row an "
            f"interaction in {path} with its item (data.columns.item) and the item's texts"
        )
    must_have(names, texts, path, "data.columns.texts")
    # an item without an id is known by its text, which is then both
    chosen = {("id_2" if name == "id" else name): pl.col(name) for name in texts}
    return path, table, table.frame.select(pl.col(item).alias("id"), **chosen)


def identified(items: pl.LazyFrame, item_id: str) -> pl.LazyFrame:
    """The items with their id first and named `id`; another column of that name becomes `id_2`."""
    names = items.collect_schema().names()
    others = [
        pl.col(name).alias("id_2" if name == "id" else name) for name in names if name != item_id
    ]
    return items.select(pl.col(item_id).alias("id"), *others)


def _interactions(frame: pl.LazyFrame, path: Path, settings: DataSettings) -> pl.LazyFrame:
    columns = settings.columns
    names = frame.collect_schema().names()
    found = {"time": find(names, "time", columns.time, path)}
    found["rating"] = find(names, "rating", columns.rating, path)
    # never by their names alone: they leave rows out, or order them
    for role in ("order", "quantity"):
        found[role] = find(names, role, str(getattr(columns, role)), path, usual=False)
    if settings.events:
        found["event"] = need(names, "event", columns.event, path)
    if settings.split == "given":
        found["split"] = need(names, "split", columns.split, path)
    sequence = sequence_column(names, columns, path)
    if sequence is None:
        found["user"] = need(names, "user", columns.user, path)
        found["item"] = need(names, "item", columns.item, path)
        return frame.select(pl.col(name).alias(role) for role, name in found.items() if name)
    user = find(names, "user", columns.user, path)
    chosen = [(pl.col(user) if user else pl.int_range(1, pl.len() + 1)).alias("user")]
    chosen += [pl.col(name).alias(role) for role, name in found.items() if name]
    with inputs.located(path, settings.encoding):
        rows = frame.select(*chosen, pl.col(sequence).alias("item")).collect()
    lists = [listed(rows[name], path) for name in ("item", "split") if name in rows.columns]
    return exploded(rows.with_columns(lists), path=path)


def sequence_column(names: list[str], columns: Columns, path: Path) -> str | None:
    """The column of sequences, if a row is a user: named, or found where no item column is."""
    if not columns.sequence and (columns.item or find(names, "item", "", path)):
        return None
    return find(names, "sequence", columns.sequence, path)


def _assumptions(
    frame: pl.LazyFrame, interactions: pl.LazyFrame, path: Path, columns: Columns
) -> tuple[str, ...]:
    """What is assumed of users and times."""
    names = frame.collect_schema().names()
    sequence = sequence_column(names, columns, path)
    if sequence and not find(names, "user", columns.user, path):
        return (f"{path}: no column holds the user: each line counts as a user of its own",)
    if sequence or {"time", "order"} & set(interactions.collect_schema().names()):
        return ()
    return (
        f"{path}: no column holds the time, so the rows of a user count as oldest first in the "
        "file; if they are not, set data.columns.time",
    )


def _lists_file(settings: DataSettings) -> Path:
    if settings.impressions is None:
        raise DataError(
            "data.candidates = given: the reader 'table' takes the candidate lists from a file: "
            "name it in data.impressions; of the other readers mind does without"
        )
    return inputs.a_file(settings.impressions, "impressions", "the file of candidate lists")


def _impressions(path: Path, settings: DataSettings) -> pl.LazyFrame:
    """`user`, `candidates`, `relevant` and, where the file has it, `time`."""
    table = opened(path, settings, header=True)
    columns, names = settings.columns, table.names
    # these two name the interactions' columns, and the lists' may be called otherwise
    user, time = (
        find(names, role, wanted if wanted in names else "", path)
        for role, wanted in (("user", columns.user), ("time", columns.time))
    )
    if user is None:
        known = f"{columns.user!r} as in the interactions, or user" if columns.user else "user"
        raise DataError(
            f"{path}: which column holds the user? Call it {known}; the columns are "
            f"{', '.join(names)}"
        )
    candidates = need(names, "candidates", columns.candidates, path)
    others = [name for name in names if name not in (user, time, candidates)]
    clicked = need(names if columns.clicked else others, "clicked", columns.clicked, path)
    chosen = {"user": user, "candidates": candidates, "relevant": clicked}
    chosen |= {"time": time} if time else {}
    with inputs.located(path, settings.encoding):
        rows = table.frame.select(pl.col(name).alias(role) for role, name in chosen.items())
        lists = rows.collect()
    return lists.with_columns(
        listed(lists[name], path) for name in ("candidates", "relevant")
    ).lazy()


def _without_time(interactions: pl.LazyFrame, path: Path) -> tuple[str, ...]:
    if "time" in interactions.collect_schema().names():
        return ()
    return (
        f"{path}: no column holds the time: each list comes after all interactions of its "
        "user; what was clicked must not be among these",
    )
