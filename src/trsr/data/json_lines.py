"""Reads JSON Lines: every key of every line, numbers as they are written."""

from __future__ import annotations

import ast
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import polars as pl

from trsr.data.inputs import BATCH, Table, as_text, located
from trsr.errors import DataError
from trsr.storage.files import RepeatedKeyError, json_object

_MOST_KEYS = 5_000
"""Different keys of a file; more are ids written as keys, not columns."""


def json_lines(path: Path, *, encoding: str = "utf-8", keys: Iterable[str] = ()) -> Table:
    """A JSON Lines file as text columns, null where a line has no such key.

    Numbers stand as they are written, lists and objects as their JSON: so no column can have mixed
    types. Lines of Python literals (`{'id': 1, 'new': True}`) are read too. Of given keys no others
    are kept; else all, wherever they first come.

    Raises:
        DataError: If it is empty, or a line is not a JSON object.
    """
    wanted = dict.fromkeys(keys)
    batches: list[pl.DataFrame] = []
    nested: set[str] = set()
    notes = Counter[str]()
    with located(path, encoding), as_text(path, encoding) as text:
        rows = _objects(text, path, notes)
        while batch := list(islice(rows, BATCH)):
            names = {key: None for row in batch for key in row if not wanted or key in wanted}
            names = names or {"column 1": None}  # rows without any key are rows too
            if len(names) > _MOST_KEYS:
                raise DataError(
                    f"{path}: has more than {_MOST_KEYS:,} different keys, so they are no columns; "
                    "write one object an item with the same keys in each"
                )
            columns = []
            for name in names:
                values = [row.get(name) for row in batch]
                if any(isinstance(value, list | dict) for value in values):
                    nested.add(name)
                columns.append(_texts(name, values, notes))
            batches.append(pl.DataFrame(columns))
        if not batches:
            raise DataError(f"{path}: the file holds no line with a JSON object")
        frame = pl.concat(batches, how="diagonal")
    said = tuple(f"{path}: {n} {what}" for what, n in notes.items())
    return Table(frame.lazy(), frozenset(nested), said, sparse=True)


def _texts(name: str, values: list[Any], notes: Counter[str]) -> pl.Series:
    texts = [value if isinstance(value, str) else _json_text(value) for value in values]
    try:
        return pl.Series(name.encode(errors="replace").decode(), texts, dtype=pl.String)
    except UnicodeEncodeError:  # half of a character, which JSON can write
        valid = [None if t is None else t.encode(errors="replace").decode() for t in texts]
        changed = sum(a != b for a, b in zip(texts, valid, strict=True))
        notes["texts with halves of characters, which are replaced by ?"] += changed
        return pl.Series(name, valid, dtype=pl.String)


def _json_text(value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, list | dict | bool):
        return json.dumps(value, ensure_ascii=False, default=str)
    return str(value)


def _objects(lines: Iterable[str], path: Path, notes: Counter[str]) -> Iterator[dict[str, Any]]:
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            yield json_value(line, f"{path}, line {number}", of=dict)
        except DataError as error:
            found = _literal(line, f"{path}, line {number}")
            if found is None:
                if number == 1 and line.strip() in ("[", "[{"):
                    raise DataError(f"{path}: is one JSON list; write one object a line") from None
                raise error from None
            notes["lines are Python literals, not JSON, and are read as such"] += 1
            yield found


def _literal(line: str, where: str) -> dict[str, Any] | None:
    """The dictionary that a line of Python writes, with nothing but literals in it."""
    if not re.match(r"\s*\{\s*u?'", line):
        return None
    try:
        written = ast.parse(line.strip(), mode="eval")
        found = ast.literal_eval(written)
        for node in ast.walk(written):
            if isinstance(node, ast.Dict):
                keys = [key for key in node.keys if key is not None]
                json_object([(str(ast.literal_eval(key)), None) for key in keys])
    except RepeatedKeyError as error:
        raise DataError(f"{where}: {error}") from None
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
        return None
    return {str(key): value for key, value in found.items()} if isinstance(found, dict) else None


def json_value(text: str, where: str, *, of: type = object) -> Any:
    """What JSON text holds, numbers as the text that they are written as.

    Raises:
        DataError: If it is not JSON, holds NaN or infinity, is nested too deep, or has a key twice
            in one object.
    """
    try:
        value = _DECODER.decode(text)
    except json.JSONDecodeError as error:
        raise DataError(f"{where}: not JSON: {error.msg}") from None
    except ValueError as error:
        raise DataError(f"{where}: {error}") from None
    except RecursionError:
        raise DataError(f"{where}: not JSON that can be read: it is nested too deep") from None
    if not isinstance(value, of):
        kind = (
            "number" if isinstance(value, str) and text.strip()[0] != '"' else type(value).__name__
        )
        raise DataError(f"{where}: not a JSON object but a {kind}")
    return value


def _no_value(name: str) -> None:
    raise ValueError(f"not JSON: {name} is no value; write null for it")


# one for all lines: `json.loads` would make a new one for each
_DECODER = json.JSONDecoder(
    parse_constant=_no_value, parse_int=str, parse_float=str, object_pairs_hook=json_object
)
