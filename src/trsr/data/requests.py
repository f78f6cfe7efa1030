"""Histories and items given by hand, as JSON lines or in Python: users and items may be new."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping, Set
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from trsr.data import inputs
from trsr.data.dataset import Catalog
from trsr.data.frames import has_columns, id_column, is_missing_cell, item_ids, read_frame, user_ids
from trsr.data.ids import MISSING
from trsr.data.json_lines import json_value
from trsr.errors import DataError
from trsr.storage import files
from trsr.types import Interaction, Item, UserHistory

_PLAIN_ID = re.compile(r"[A-Za-z0-9_-]+")


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


def given_histories(given: Any, catalog: Catalog, *names: str) -> list[UserHistory] | None:
    """Histories that a program holds; None where users are given by their ids.

    Args:
        given: A `UserHistory`, a list of such, or a mapping of users' ids to what each has met,
            oldest first, as `given_items` takes it.
        catalog: The run's items.
        names: What the column of items may be called in a table of what a user has met.

    Raises:
        DataError: Naming the user and what is wrong.
    """
    if isinstance(given, UserHistory):
        return [given]
    if isinstance(given, list | tuple) and any(isinstance(one, UserHistory) for one in given):
        other = next((one for one in given if not isinstance(one, UserHistory)), None)
        if other is not None:
            raise DataError(f"the users: {other!r} is no UserHistory; give histories alone, or ids")
        return list(given)
    if not isinstance(given, Mapping):
        return None
    users = user_ids(list(given))
    if len(users) < len(given):
        raise DataError(f"the users: {len(given)} histories, but {len(users)} ids; give each once")
    histories = []
    for user, one in zip(users, given.values(), strict=True):
        if isinstance(one, UserHistory):
            histories.append(replace(one, user=user))
            continue
        items = given_items(one, catalog, f"the history of user {user!r}", *names)
        pairs = ((item, float(time)) for time, item in enumerate(items))
        histories.append(UserHistory(user, tuple(Interaction(*pair) for pair in pairs)))
    return histories


def given_items(given: Any, catalog: Catalog, what: str, *names: str) -> list[Item]:
    """Items that a program holds, in the order given.

    Args:
        given: One id or several (a list, a column), or a table with the column `item` or one of
            `names`. New items come with their texts: as an `Item`, as a mapping with `id` and
            texts in a list, or in columns of the table.
        catalog: The run's items.
        what: What they are, for messages.
        names: What else the table's column may be called.

    Raises:
        DataError: If there is no such item, or an id is missing.
    """
    if isinstance(given, Catalog):
        given = list(given)
    if isinstance(given, Set):  # in an order of its own
        given = sorted(given, key=str)
    elif isinstance(given, Item | Mapping | Iterator):
        given = list(given) if isinstance(given, Iterator) else [given]
    if isinstance(given, list | tuple):
        if any(isinstance(one, Item | Mapping) for one in given):
            return [_given_item(one, catalog, what, names) for one in given]
        if not given:
            return []
    if has_columns(given):
        given, _ = read_frame(given, what.removeprefix("the "))
    ids = item_ids(given, what, *names)
    texts = [name for name in catalog.columns if name in getattr(given, "columns", ())]
    if not texts:
        return [_item(one, catalog, what) for one in ids]
    rows = given.select(texts).iter_rows(named=True)
    return [_row(name, row, catalog, what) for name, row in zip(ids, rows, strict=True)]


def _given_item(given: Any, catalog: Catalog, what: str, names: tuple[str, ...]) -> Item:
    if isinstance(given, Item):
        return given
    if not isinstance(given, Mapping):
        return _item(_one_id(given, what), catalog, what)
    if "id" not in given:  # as a row of the items' table
        key = id_column(map(str, given), "item", *names)
        if key is None:
            keys = ", ".join(map(str, given)) or "none"
            raise DataError(
                f'{what}: an item without an id; write {{"id": …, "title": …}} (its keys: {keys})'
            )
        texts = {name: given[name] for name in catalog.columns if name in given}
        return _row(_one_id(given[key], what), texts, catalog, what)
    texts = {str(name): text for name, text in given.items()}
    return _item(texts | {"id": _one_id(given["id"], what)}, catalog, what)


def _one_id(given: Any, what: str) -> str:
    """An id as text; what no column could change is not made one, for there are thousands."""
    if isinstance(given, str) and _PLAIN_ID.fullmatch(given) and given.lower() not in MISSING:
        return given
    return item_ids([given], what)[0]


def _row(name: str, texts: Mapping[str, Any], catalog: Catalog, what: str) -> Item:
    """An item of the run as it is, or a new one of a row of the items' table."""
    return catalog[name] if name in catalog else _item({**texts, "id": name}, catalog, what)


def cell_text(value: Any) -> str:
    """A value as the catalog has it: lists are joined, whole numbers have no `.0`."""
    if hasattr(value, "tolist"):  # an array, or a number of NumPy's
        value = value.tolist()
    if isinstance(value, list | tuple | Set):
        values = sorted(value, key=str) if isinstance(value, Set) else value
        return ", ".join(filter(None, map(cell_text, values)))
    if value is None or is_missing_cell(value):
        return ""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


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
    own = tuple((k, text) for k, v in value.items() if k != "id" and (text := cell_text(v)))
    return catalog[name] if not own and name in catalog else Item(name, own)
