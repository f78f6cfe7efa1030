"""Reads CSV, TSV, JSON Lines and Parquet tables with any column names."""

from __future__ import annotations

from pathlib import Path

import polars as pl

from trsr.data import files
from trsr.data.settings import Columns, DataSettings
from trsr.data.source import Source, exploded, find, listed, need


class TableReader:
    """One file of interactions (or of users with their sequences) and one of items."""

    def read(self, settings: DataSettings) -> Source:
        """Opens both files and renames their columns; see `Reader.read`."""
        path = files.a_file(settings.interactions, "interactions", "the interactions' file")
        items_path = files.a_file(settings.items, "items", "the items' file with their text")
        frame, _ = table(path, settings, header=settings.header)
        items, lists = table(items_path, settings, header=settings.items_header)
        names = items.collect_schema().names()
        item_id = need(names, "item_id", settings.columns.item_id, items_path)
        return Source(
            interactions=_interactions(frame, path, settings),
            items=identified(items, item_id),
            interactions_path=path,
            items_path=items_path,
            json_lists=lists,
            encoding=settings.encoding,
            warnings=_without_user(frame, path, settings.columns),
        )


def table(
    path: Path, settings: DataSettings, *, header: bool
) -> tuple[pl.LazyFrame, frozenset[str]]:
    """One file of any format as a frame, and its columns that hold JSON lists.

    Args:
        path: The file.
        settings: Encoding, and separator of delimited files.
        header: Whether a delimited file's first line names the columns.
    """
    kind = files.format_of(path)
    if kind == "parquet":
        with files.located(path):
            frame = pl.scan_parquet(path, glob=False)
            frame.collect_schema()
        return frame, frozenset()
    if kind == "jsonl":
        return files.json_lines(path, encoding=settings.encoding)
    dialect = files.sniff(path, settings.encoding, settings.separator)
    frame = files.delimited(path, dialect=dialect, header=header, encoding=settings.encoding)
    return frame, frozenset()


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
    found = {
        "time": find(names, "time", columns.time, path),
        "rating": find(names, "rating", columns.rating, path),
    }
    if settings.split == "given":
        found["split"] = need(names, "split", columns.split, path)
    sequence = sequence_column(names, columns, path)
    if sequence is None:
        found["user"] = need(names, "user", columns.user, path)
        found["item"] = need(names, "item", columns.item, path)
        return frame.select(pl.col(name).alias(role) for role, name in found.items() if name)
    schema = frame.collect_schema()
    user = find(names, "user", columns.user, path)
    chosen = [
        (pl.col(user) if user else pl.int_range(1, pl.len() + 1)).alias("user"),
        listed(sequence, schema[sequence]).alias("item"),
    ]
    chosen += [pl.col(name).alias(role) for role, name in found.items() if name and role != "split"]
    if found.get("split"):
        split = str(found["split"])
        chosen.append(listed(split, schema[split]).alias("split"))
    return exploded(frame.select(chosen), path=path)


def sequence_column(names: list[str], columns: Columns, path: Path) -> str | None:
    """The column of sequences, if a row is a user: named, or found where no item column is."""
    if not columns.sequence and (columns.item or find(names, "item", "", path)):
        return None
    return find(names, "sequence", columns.sequence, path)


def _without_user(frame: pl.LazyFrame, path: Path, columns: Columns) -> tuple[str, ...]:
    names = frame.collect_schema().names()
    if sequence_column(names, columns, path) and not find(names, "user", columns.user, path):
        return (f"{path}: no column holds the user: each line is taken as a user of its own",)
    return ()
