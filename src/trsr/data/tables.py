"""Reads CSV, TSV, JSON Lines and Parquet tables with any column names."""

from __future__ import annotations

from pathlib import Path

import polars as pl

from trsr.data import files
from trsr.data.settings import Columns, DataSettings
from trsr.data.source import Source, exploded, find, listed, need
from trsr.errors import DataError


class TableReader:
    """One file of interactions (or of users with their sequences), one of items, perhaps of lists.

    The third, `data.impressions`, is read for `candidates = given` alone.
    """

    def read(self, settings: DataSettings) -> Source:
        """Opens the files and renames their columns; see `Reader.read`."""
        path = files.a_file(settings.interactions, "interactions", "the interactions' file")
        items_path = files.a_file(settings.items, "items", "the items' file with their text")
        frame, _ = table(path, settings, header=settings.header)
        items, lists = table(items_path, settings, header=settings.items_header)
        names = items.collect_schema().names()
        item_id = need(names, "item_id", settings.columns.item_id, items_path)
        interactions = _interactions(frame, path, settings)
        warnings = _without_user(frame, path, settings.columns)
        impressions_path = None
        if settings.candidates == "given":
            impressions_path = _lists_file(settings)
            warnings += _without_time(interactions, path)
        return Source(
            interactions=interactions,
            items=identified(items, item_id),
            interactions_path=path,
            items_path=items_path,
            json_lists=lists,
            impressions=_impressions(impressions_path, settings) if impressions_path else None,
            impressions_path=impressions_path,
            encoding=settings.encoding,
            warnings=warnings,
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


def _lists_file(settings: DataSettings) -> Path:
    if settings.impressions is None:
        raise DataError(
            "data.candidates = given: the reader 'table' takes the candidate lists from a file: "
            "name it in data.impressions; of the other readers mind does without"
        )
    return files.a_file(settings.impressions, "impressions", "the file of candidate lists")


def _impressions(path: Path, settings: DataSettings) -> pl.LazyFrame:
    """`user`, `candidates`, `relevant` and, where the file has it, `time`."""
    frame, _ = table(path, settings, header=True)
    columns, schema = settings.columns, frame.collect_schema()
    names = schema.names()
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
    taken = need(names if columns.taken else others, "taken", columns.taken, path)
    chosen = [
        pl.col(user).alias("user"),
        listed(candidates, schema[candidates]).alias("candidates"),
        listed(taken, schema[taken]).alias("relevant"),
    ]
    return frame.select(*chosen, *([pl.col(time).alias("time")] if time else []))


def _without_time(interactions: pl.LazyFrame, path: Path) -> tuple[str, ...]:
    if "time" in interactions.collect_schema().names():
        return ()
    return (
        f"{path}: no column holds the time: each list is asked about after all interactions of its "
        "user; what was taken of the lists must not be among these",
    )
