"""Histories and items given by hand, as JSON lines: users and items never seen before too."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from trsr.data.dataset import Catalog
from trsr.errors import DataError
from trsr.types import Interaction, Item, UserHistory


def read_histories(path: Path, catalog: Catalog) -> list[UserHistory]:
    """Reads one history a line: `{"user": "u1", "items": […], "times": […]}`.

    An item is an id of the catalogue, or an object with `id` and text fields of its own. Items are
    oldest first; `times` may be left out.

    Raises:
        DataError: Naming the file and line of what cannot be read.
    """
    histories: list[UserHistory] = []
    for where, value in _lines(path):
        if not isinstance(value, Mapping) or not isinstance(value.get("items"), list):
            raise DataError(f'{where}: not a history; write {{"user": "u1", "items": ["id", …]}}')
        items = [_item(one, catalog, where) for one in value["items"]]
        times = value.get("times") or list(range(len(items)))
        if not isinstance(times, list) or len(times) != len(items):
            raise DataError(f"{where}: there are {len(items)} items, but not as many times")
        user = str(value.get("user", f"line {len(histories) + 1}"))
        try:
            pairs = zip(items, map(float, times), strict=True)
            histories.append(UserHistory(user, tuple(Interaction(*pair) for pair in pairs)))
        except (TypeError, ValueError) as error:
            raise DataError(f"{where}: {error}") from error
    return histories


def read_items(path: Path, catalog: Catalog) -> list[Item]:
    """Reads one item a line: an id of the catalogue, or an object with `id` and text fields.

    Raises:
        DataError: Naming the file and line of what cannot be read, or of an item that stood before.
    """
    found: dict[str, Item] = {}
    for where, value in _lines(path, bare=True):
        item = _item(value, catalog, where)
        if item.id in found:
            raise DataError(f"{where}: the item {item.id!r} stands on a line before; leave one out")
        found[item.id] = item
    return list(found.values())


def _lines(path: Path, bare: bool = False) -> Iterator[tuple[str, Any]]:
    """The lines' values; `bare` takes a line that is not JSON as a text."""
    try:
        lines = path.read_text("utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 text (byte {error.start})") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error
    if not any(line.strip() for line in lines):
        raise DataError(f"{path}: the file is empty")
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        try:
            yield where, json.loads(line)
        except ValueError as error:
            if not bare:
                raise DataError(f"{where}: not JSON: {error}") from error
            yield where, line.strip()


def _item(value: Any, catalog: Catalog, where: str) -> Item:
    if not isinstance(value, Mapping):
        if str(value) not in catalog:
            raise DataError(
                f"{where}: there is no item {value!r} in the catalogue; give "
                '{"id": …, "title": …} for a new one'
            )
        return catalog[str(value)]
    if "id" not in value:
        raise DataError(f"{where}: an item without an id")
    own = tuple((str(k), str(v)) for k, v in value.items() if k != "id" and v not in (None, ""))
    name = str(value["id"])
    return catalog[name] if not own and name in catalog else Item(name, own)
