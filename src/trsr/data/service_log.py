"""A service's log beside the files: what came in while a run was served, for the next run.

`trsr serve RUN --write-log FOLDER` writes it; another program may. It holds three tables:
`events.parquet` (`user`, `item`, `time` in seconds since 1970, `weight`), `items.parquet` (`id`,
`fields`: a JSON object of texts) and `deleted.parquet` (`user`: the SHA-256 of a deleted user's id
in hexadecimal, `time` of the deletion).
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from trsr.data.ids import id_text
from trsr.data.json_lines import json_value
from trsr.data.report import RowCounts
from trsr.data.text import cleaned
from trsr.errors import DataError
from trsr.storage import files
from trsr.storage.tables import read_table

EVENTS, ITEMS, DELETED = "events.parquet", "items.parquet", "deleted.parquet"

EVENT_SCHEMA = pl.Schema(
    {"user": pl.String(), "item": pl.String(), "time": pl.Float64(), "weight": pl.Float64()}
)
ITEM_SCHEMA = pl.Schema({"id": pl.String(), "fields": pl.String()})
DELETED_SCHEMA = pl.Schema({"user": pl.String(), "time": pl.Float64()})

_IDS = ("user", "item")
_AGAIN = "write it again by `trsr serve RUN --write-log FOLDER` (data.service_log)"


def hidden(user: str) -> str:
    """What a log and the service keep of a deleted user: the SHA-256 of the id."""
    return hashlib.sha256(user.encode()).hexdigest()


def write_log(
    folder: Path,
    events: Iterable[pl.DataFrame],
    items: Iterable[tuple[str, str]],
    deleted: Iterable[tuple[str, float]],
) -> None:
    """Writes a log, in place of one that is there; columns as the module says.

    Events are read first and put in place last: no event names an item that comes meanwhile, nor
    does a log that a stop cut short.
    """
    with files.temporary_folder(folder) as held:
        files.stream_parquet(events, EVENT_SCHEMA, held / EVENTS)
        for name, schema, rows in ((ITEMS, ITEM_SCHEMA, items), (DELETED, DELETED_SCHEMA, deleted)):
            table = pl.DataFrame(sorted(rows), schema=schema, orient="row")
            files.write_parquet(table, folder / name)
        files.move(held / EVENTS, folder / EVENTS)


@dataclass(frozen=True, slots=True)
class ServiceLog:
    """What a service kept: columns as in the files, ids as `id_text` gives them."""

    folder: Path
    events: pl.DataFrame
    items: pl.DataFrame
    deleted: dict[str, float]

    @classmethod
    def read(cls, folder: Path) -> ServiceLog:
        """Reads the three tables of a folder.

        Raises:
            DataError: If one is missing, damaged, or holds an event without user, item or time.
        """
        if not files.is_folder(folder):
            raise DataError(f"{folder}: there is no such folder; {_AGAIN}")

        def table(name: str, schema: pl.Schema, key: tuple[str, ...], optional: str = "") -> Any:
            needed = {column: kind for column, kind in schema.items() if column != optional}
            further = {optional: schema[optional]} if optional else {}
            return read_table(
                folder / name, needed, again=_AGAIN, key=key, further=further, error=DataError
            )

        events = table(EVENTS, EVENT_SCHEMA, (), "weight")
        if not events["time"].is_finite().all():
            raise DataError(f"{folder / EVENTS}: a time is no number of seconds; {_AGAIN}")
        events = events.with_columns(id_text(events[name], folder / EVENTS) for name in _IDS)
        items = table(ITEMS, ITEM_SCHEMA, ("id",))
        items = items.with_columns(id_text(items["id"], folder / ITEMS)).drop_nulls("id")
        deleted = table(DELETED, DELETED_SCHEMA, ("user",))
        return cls(folder, events, items, dict(deleted.iter_rows()))

    def add_items(self, items: pl.DataFrame, row_counts: RowCounts) -> pl.DataFrame:
        """The catalog with the service's items, sorted by id; a known id has the service's text.

        A text in a column that the catalog does not have is left out, with a warning.

        Raises:
            DataError: If an item's fields are no JSON object of texts.
        """
        path, columns, others = self.folder / ITEMS, items.columns[1:], Counter[str]()
        rows: dict[str, list[str | None]] = {name: [] for name in items.columns}
        for item, text in self.items.iter_rows():
            fields = json_value(text, f"{path}: item {item}", of=dict)
            rows["id"].append(item)
            for name in columns:
                rows[name].append(None if fields.get(name) is None else str(fields[name]))
            others.update(fields.keys() - set(columns))
        if others:
            names = ", ".join(f"{name} ({n:,})" for name, n in others.most_common(9))
            row_counts.warn(
                f"{path}: texts of columns that the items do not have are left out: {names}"
            )
        new = cleaned(pl.DataFrame(rows, schema=items.schema), row_counts)
        known = items.filter(~pl.col("id").is_in(new["id"].implode()))
        row_counts.add("service_items", len(new))
        row_counts.add("items", len(known) + len(new) - len(items))
        return pl.concat([known, new]).sort("id")

    def add_events(
        self, typed: pl.DataFrame, ids: dict[str, pl.Series], path: Path, row_counts: RowCounts
    ) -> tuple[pl.DataFrame, dict[str, pl.Series]]:
        """The interactions with the service's events behind them, without deleted users' old ones.

        Args:
            typed: `user` and `item` (places in `ids`), `time` and perhaps more, as `records` reads
                a file. An event's `weight` is its rating; without one it passes any
                `data.min_rating`.
            ids: The distinct ids' texts, by role.
            path: What a message about the files names.
            row_counts: Counts what came, and what was left out.

        Raises:
            DataError: If the files' interactions have no time.
        """
        if "time" not in typed.columns:
            raise DataError(
                f"{path}: no column holds the time, so a service's events cannot be put in order "
                "behind the interactions: set data.columns.time, or leave out data.service_log"
            )
        typed = self._without_deleted(typed, ids["user"], row_counts)
        events = self.events.drop_nulls(_IDS)
        row_counts.add("rows_without_ids", len(self.events) - len(events))
        row_counts.add("service_events", len(events))
        found, columns = {}, {}
        for name in _IDS:
            own = events[name].unique(maintain_order=True)
            place = events[name].cast(pl.Enum(own)).to_physical().cast(pl.UInt32)
            columns[name] = place + len(ids[name])
            found[name] = pl.concat([ids[name], own.alias(ids[name].name)])
        weight = (
            events["weight"]
            if "weight" in events.columns
            else pl.repeat(None, len(events), eager=True)
        )
        rest: dict[str, Any] = {
            "time": events["time"],
            "order": np.inf,  # behind all others of its time
            "rating": weight.cast(pl.Float64).fill_null(np.inf),
            "event": True,
            "quantity": 1.0,
            "split": 0,
        }
        more = pl.DataFrame(columns).with_columns(
            **{name: rest[name] for name in typed.columns if name in rest}
        )
        more = more.select(pl.col(name).cast(kind) for name, kind in typed.schema.items())
        return pl.concat([typed, more]), found

    def _without_deleted(
        self, typed: pl.DataFrame, users: pl.Series, row_counts: RowCounts
    ) -> pl.DataFrame:
        """Leaves out what deleted users did before they were deleted."""
        if not self.deleted:
            return typed
        until = [self.deleted.get(hidden(user), -np.inf) if user else -np.inf for user in users]
        ends = pl.Series(until, dtype=pl.Float64).gather(typed["user"])
        kept = typed.filter(typed["time"] > ends)
        row_counts.add("deleted_users", len(typed) - len(kept))
        return kept
