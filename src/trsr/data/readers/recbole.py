"""Reads RecBole atomic files: `.inter` and `.item`, tab-separated, with typed headers.

Format: https://recbole.io/docs/user_guide/data/atomic_files.html
"""

from __future__ import annotations

from pathlib import Path

import polars as pl

from trsr.data import inputs
from trsr.data.delimited import Dialect, delimited
from trsr.data.readers.base import Source, find, need
from trsr.data.readers.table import identified
from trsr.data.settings import DataSettings
from trsr.errors import DataError
from trsr.storage import files

_DIALECT = Dialect("\t", quoted=False)
_TYPES = ("token", "token_seq", "float", "float_seq")
_WORDS = ("title", "name", "text", "description", "review", "summary", "abstract", "sentence")


class RecBoleReader:
    """A folder with one `.inter` and one `.item` file, or their paths."""

    def read(self, settings: DataSettings) -> Source:
        """Opens both files; see `Reader.read`.

        A `token_seq` is words when its column's name says that it is a text (title, name,
        description, …), and otherwise a set of labels, joined by ", ". A `float_seq` is a vector
        and left out.
        """
        path = _atomic(settings.interactions, ".inter", "interactions", settings)
        items_path = _atomic(settings.items or settings.interactions, ".item", "items", settings)
        frame, _, notes = _typed(path, settings.encoding)
        items, types, more = _typed(items_path, settings.encoding)
        names = frame.collect_schema().names()
        columns = settings.columns
        found = {
            "user": need(names, "user", columns.user, path),
            "item": need(names, "item", columns.item, path),
            "time": find(names, "time", columns.time, path),
            "rating": find(names, "rating", columns.rating, path),
        }
        if settings.split == "given":
            found["split"] = need(names, "split", columns.split, path)
        labels = [
            name
            for name, kind in types.items()
            if kind == "token_seq" and not any(word in name.lower() for word in _WORDS)
        ]
        items = items.drop(name for name, kind in types.items() if kind == "float_seq")
        items = items.with_columns(pl.col(labels).str.replace_all(r" +", ", "))
        item_id = need(list(types), "item_id", columns.item_id, items_path)
        return Source(
            interactions=frame.select(
                pl.col(name).alias(role) for role, name in found.items() if name
            ),
            items=identified(items, item_id),
            interactions_path=path,
            items_path=items_path,
            encoding=settings.encoding,
            warnings=notes + more,
        )


def _atomic(path: Path | None, suffix: str, key: str, settings: DataSettings) -> Path:
    """The file itself, or the one with this suffix in the folder (or beside the other file)."""
    found = inputs.existing(path, key, "a folder of RecBole atomic files")
    if files.is_folder(found):
        there = files.listed(found, f"*{suffix}")
        if len(there) != 1:
            names = ", ".join(file.name for file in there) or "none"
            raise DataError(
                f"{found}: one {suffix} file is needed, there is {names}; name it in data.{key}"
            )
        found = there[0]
    elif key == "items" and settings.items is None:
        found = found.with_suffix(suffix)
    if found.suffix != suffix:
        raise DataError(f"{found}: is not a RecBole {suffix} file (data.{key})")
    return inputs.a_file(found, key, f"a {suffix} file")


def _typed(path: Path, encoding: str) -> tuple[pl.LazyFrame, dict[str, str], tuple[str, ...]]:
    """The file with plain column names, each column's type, and notes."""
    table = delimited(path, dialect=_DIALECT, encoding=encoding)
    types: dict[str, str] = {}
    for header in table.names:
        name, colon, kind = header.rpartition(":")
        if not colon or kind not in _TYPES:
            raise DataError(
                f"{path}, line 1: {header!r} is not `name:type` with a type of "
                f"{', '.join(_TYPES)}; this is not a RecBole atomic file"
            )
        if name in types:
            raise DataError(f"{path}, line 1: two columns are called {name!r}")
        types[name] = kind
    plain = {header: header.rpartition(":")[0] for header in table.names}
    return table.frame.rename(lambda header: plain[header]), types, table.notes
