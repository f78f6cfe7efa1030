"""Histories and items given by hand, as JSON lines: users and items never seen before too."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

from trsr.data import inputs
from trsr.data.dataset import Catalog
from trsr.data.ids import MISSING
from trsr.data.json_lines import json_value
from trsr.errors import DataError
from trsr.storage import files
from trsr.types import Interaction, Item, UserHistory


def read_histories(path: Path, catalog: Catalog) -> list[UserHistory]:
    """Reads one history a line: `{"user": "u1", "items": […], "times": […]}`.

    An item is an id of the catalog, or an object with `id` and text fields of its own. Items are
    oldest first; `times` may be left out, and `user` too.

    Raises:
        DataError: Naming the file and line of what cannot be read.
    """
    histories: list[UserHistory] = []
    for where, line in _lines(path):
        value = _value(line, where)
        if not isinstance(value, Mapping) or not isinstance(value.get("items"), list):
            raise DataError(f'{where}: not a history; write {{"user": "u1", "items": ["id", …]}}')
        items = [_item(one, catalog, where) for one in value["items"]]
        times = value.get("times")
        if times is None:
            times = list(range(len(items)))
        if not isinstance(times, list) or len(times) != len(items):
            raise DataError(f"{where}: there are {len(items)} items, but not as many times")
        user = _name(value.get("user"), where) or f"line {len(histories) + 1}"
        moments = [_moment(time, where) for time in times]
        if any(later < earlier for earlier, later in pairwise(moments)):
            raise DataError(f"{where}: the history is not oldest first")
        pairs = zip(items, moments, strict=True)
        histories.append(UserHistory(user, tuple(Interaction(*pair) for pair in pairs)))
    return histories


def read_items(path: Path, catalog: Catalog) -> list[Item]:
    """Reads one item a line: an id of the catalog as it stands, or a JSON object.

    The object has an `id` and text fields. An id may also be a JSON string.

    Raises:
        DataError: Naming the file and line of what cannot be read, or of an item that stood before.
    """
    found: dict[str, Item] = {}
    for where, line in _lines(path):
        bare = line.strip()
        as_json = bare not in catalog and bare.startswith(("{", '"'))
        item = _item(_value(bare, where) if as_json else bare, catalog, where)
        if item.id in found:
            raise DataError(f"{where}: the item {item.id!r} stands on a line before; leave one out")
        found[item.id] = item
    return list(found.values())


def _lines(path: Path) -> Iterator[tuple[str, str]]:
    """The lines that are not blank, each with its place; U+2028 and the like end none."""
    if not files.is_file(path):
        raise DataError(f"{path}: there is no such file")
    with inputs.located(path), inputs.as_text(path, "utf-8") as text:
        try:
            lines = [(f"{path}, line {n}", line) for n, line in enumerate(text, 1) if line.strip()]
        except UnicodeDecodeError as error:
            # data.encoding is that of the run's own files
            raise DataError(f"{path}: is not UTF-8 text; save the file as UTF-8") from error
    if not lines:
        raise DataError(f"{path}: the file is empty")
    yield from lines


def _value(line: str, where: str) -> Any:
    """The JSON of a line; halves of characters, which JSON can write, become `?`."""
    value = json_value(line, where)
    if re.search(r"\\u[dD][89a-fA-F]", line):
        value = json.loads(json.dumps(value, ensure_ascii=False).encode(errors="replace"))
    return value


def _moment(time: Any, where: str) -> float:
    try:
        moment = float(time)
    except (TypeError, ValueError):
        moment = math.nan
    if isinstance(time, bool) or not math.isfinite(moment):
        raise DataError(f"{where}: the time {time!r} is no number, such as seconds since 1970")
    return moment


def _name(value: Any, where: str) -> str:
    """An id as text, empty where there is none."""
    if isinstance(value, list | Mapping | bool):
        raise DataError(f"{where}: {value!r} is no id")
    if value is not None and re.search(r"[\r\n]", value.strip()):
        raise DataError(f"{where}: the id {value[:60]!r} has a line end in it")
    return "" if value is None or value.strip().lower() in MISSING else value.strip()


def _item(value: Any, catalog: Catalog, where: str) -> Item:
    if not isinstance(value, Mapping):
        if not isinstance(value, str) or value not in catalog:
            raise DataError(
                f"{where}: there is no item {value!r} in the catalog; give "
                '{"id": …, "title": …} for a new one'
            )
        return catalog[value]
    name = _name(value.get("id"), where)
    if not name:
        raise DataError(f"{where}: an item without an id")
    own = tuple((k, str(v)) for k, v in value.items() if k != "id" and v not in (None, ""))
    return catalog[name] if not own and name in catalog else Item(name, own)
