"""Reads CSV, TSV, JSON Lines and Parquet tables, of one file or many, with any column names."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
from pathlib import Path

import polars as pl

from trsr.data import inputs
from trsr.data.delimited import delimited, sniff
from trsr.data.joining import joined
from trsr.data.json_lines import json_lines
from trsr.data.readers.base import Source, exploded, find, listed, must_have, need
from trsr.data.settings import Columns, DataSettings
from trsr.errors import DataError
from trsr.storage import files


class TableReader:
    """Interactions (or users with their sequences), items, perhaps lists: each a file or several.

    Several are a folder or a pattern: see `inputs.table_files`. Without items each interaction
    describes its item. `data.impressions` is read for `candidates = given` alone.
    """

    def read(self, settings: DataSettings) -> Source:
        """Opens the files and renames their columns; see `Reader.read`."""
        path, table = opened(settings.interactions, "interactions", settings, settings.header)
        interactions, notes = _interactions(table, path, settings)
        items_path, items, texts = _items(table, path, settings)
        warnings = table.notes + notes + (() if items is table else items.notes)
        warnings += _lacking_texts(items, texts) + _assumptions(
            table.frame, interactions, path, settings.columns
        )
        lists_path, lists = None, None
        if settings.candidates == "given":
            lists_path, lists, notes = _impressions(settings)
            warnings += notes + _without_time(interactions, path)
        return Source(
            interactions=interactions,
            items=texts,
            interactions_path=path,
            items_path=items_path,
            nested=items.nested,
            impressions=lists,
            impressions_path=lists_path,
            encoding=settings.encoding,
            warnings=warnings,
        )


def opened(
    path: Path | None, key: str, settings: DataSettings, header: bool
) -> tuple[Path, inputs.Table]:
    """The files of `data.KEY` as one table, in the encoding and with the separator of the settings.

    Raises:
        DataError: If there is none, one cannot be read, or they are of several kinds.
    """
    paths = inputs.table_files(path, key, _WHAT[key])
    return path or paths[0], as_table(paths, settings, header=header)


def as_table(paths: list[Path], settings: DataSettings, *, header: bool) -> inputs.Table:
    """Files of one kind as one table.

    Raises:
        DataError: If one cannot be read, or they are of several kinds.
    """
    encoding = settings.encoding
    kind = inputs.format_of(paths[0])
    if kind == "parquet":
        tables = {one: _parquet(one) for one in paths}
    elif kind == "jsonl":
        tables = {one: json_lines(one, encoding=encoding) for one in paths}
    else:
        dialects = zip(paths, sniff(paths, encoding, settings.separator), strict=True)
        tables = {
            one: delimited(one, dialect=dialect, header=header, encoding=encoding)
            for one, dialect in dialects
        }
    return joined(tables)


_WHAT = {
    "interactions": "the interactions' file",
    "items": "the items' file with their text",
    "impressions": "the file of candidate lists",
}


def _parquet(path: Path) -> inputs.Table:
    with inputs.located(path):
        frame = files.scan_parquet(path)
        frame.collect_schema()
    return inputs.Table(frame)


def _check_whole(table: inputs.Table, used: Iterable[str], needed: Container[str | None]) -> None:
    """Refuses columns of which a file has none or another type.

    Args:
        table: The files together.
        used: The columns that are read.
        needed: Those of them without which a line of JSON is none of this table.
    """
    for name in used:
        if name in table.mixed:
            raise DataError(table.mixed[name])
        if name in table.lacking and (not table.sparse or name in needed):
            raise DataError(
                f"{table.lacking[name]}. The files of a table have the same columns, by name: give "
                "it this one, or name by a pattern the files that have it"
            )


def _lacking_texts(items: inputs.Table, texts: pl.LazyFrame) -> tuple[str, ...]:
    """A note of the texts that only some files hold."""
    there = [name for name in texts.collect_schema().names() if name in items.lacking]
    more = f"; so are others of {', '.join(there[1:])}" if there[1:] else ""
    return tuple(f"{items.lacking[name]}: it is empty there{more}" for name in there[:1])


def _items(
    table: inputs.Table, path: Path, settings: DataSettings
) -> tuple[Path, inputs.Table, pl.LazyFrame]:
    """The items' file and its columns, `id` first; without one, those of the interactions."""
    columns = settings.columns
    if settings.items is not None:
        items_path, items = opened(settings.items, "items", settings, settings.items_header)
        key = need(items.names, "item_id", columns.item_id, items_path)
        _check_whole(items, (key, *items.mixed), (key,))
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
    _check_whole(table, (item, *(name for name in texts if name in table.mixed)), ())
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


def _interactions(
    table: inputs.Table, path: Path, settings: DataSettings
) -> tuple[pl.LazyFrame, tuple[str, ...]]:
    """Their columns by role, and of which of these some files hold none."""
    columns, frame, names = settings.columns, table.frame, table.names
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
        notes = _check_roles(table, found, settings)
        chosen = [pl.col(name).alias(role) for role, name in found.items() if name]
        return frame.select(chosen), notes
    user = find(names, "user", columns.user, path)
    notes = _check_roles(table, found | {"user": user, "item": sequence}, settings)
    chosen = [(pl.col(user) if user else pl.int_range(1, pl.len() + 1)).alias("user")]
    chosen += [pl.col(name).alias(role) for role, name in found.items() if name]
    with inputs.located(path, settings.encoding):
        rows = frame.select(*chosen, pl.col(sequence).alias("item")).collect()
    lists = [listed(rows[name], path) for name in ("item", "split") if name in rows.columns]
    return exploded(rows.with_columns(lists), path=path), notes


def _check_roles(
    table: inputs.Table, found: Mapping[str, str | None], settings: DataSettings
) -> tuple[str, ...]:
    """Checks that all files have the columns that are read, and notes where lines of JSON do not.

    A log of many kinds of events may well have an hour without any item.
    """
    unread = {"rating"} if settings.min_rating is None else set()
    roles = sorted(found, key=lambda role: role not in ("user", "item"))
    used = [name for role in roles if (name := found[role]) and role not in unread]
    _check_whole(table, used, (found["user"] or found["item"],))
    return tuple(
        f"{table.lacking[name]}: its lines count as without"
        for name in used
        if name in table.lacking
    )


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


def _impressions(settings: DataSettings) -> tuple[Path, pl.LazyFrame, tuple[str, ...]]:
    """`user`, `candidates`, `relevant` and, where the file has it, `time`; its path and notes."""
    if settings.impressions is None:
        raise DataError(
            "data.candidates = given: the reader 'table' takes the candidate lists from a file: "
            "name it in data.impressions; of the other readers mind does without"
        )
    path, table = opened(settings.impressions, "impressions", settings, header=True)
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
    _check_whole(table, chosen.values(), chosen.values())
    with inputs.located(path, settings.encoding):
        rows = table.frame.select(pl.col(name).alias(role) for role, name in chosen.items())
        lists = rows.collect()
    read = lists.with_columns(listed(lists[name], path) for name in ("candidates", "relevant"))
    return path, read.lazy(), table.notes


def _without_time(interactions: pl.LazyFrame, path: Path) -> tuple[str, ...]:
    if "time" in interactions.collect_schema().names():
        return ()
    return (
        f"{path}: no column holds the time: each list comes after all interactions of its "
        "user; what was clicked must not be among these",
    )
