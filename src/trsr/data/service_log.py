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
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from trsr.data.json_lines import json_value
from trsr.data.report import RowCounts
from trsr.data.text import cleaned, leaves
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
_FIRST_SECONDS = 1e8
"""Smaller times are of 1973 or before, and rather of a clock of steps."""
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
    for old in files.listed(folder, "trsr-*"):  # of a writer that was killed
        files.remove(old)
    with files.temporary_folder(folder) as held:
        files.stream_parquet(events, EVENT_SCHEMA, held / EVENTS)
        for name, schema, rows in ((ITEMS, ITEM_SCHEMA, items), (DELETED, DELETED_SCHEMA, deleted)):
            table = pl.DataFrame(sorted(rows), schema=schema, orient="row")
            files.write_parquet(table, folder / name)
        files.move(held / EVENTS, folder / EVENTS)


def deletion_time(now: float, last: float | None) -> float:
    """The latest time of what a deletion takes, on the clock of the user's own interactions.

    Args:
        now: Seconds since 1970.
        last: The user's last known time: in seconds, in parts of one, or on another growing clock,
            such as a place; None: unknown.
    """
    if last is None:
        return now
    if abs(last) < _FIRST_SECONDS:
        return last
    parts = 1.0
    while parts < 1e9 and 2 * now * parts < last:
        parts *= 1000
    return max(now * parts, last)


@dataclass(frozen=True, slots=True)
class ServiceLog:
    """What a service kept: columns as in the files. Ids are the service's, as its run has them."""

    folder: Path
    events: pl.DataFrame
    items: pl.DataFrame
    deleted: dict[str, float]

    @classmethod
    def read(cls, folder: Path) -> ServiceLog:
        """Reads the three tables of a folder; events of before a deletion are left out.

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
        items = table(ITEMS, ITEM_SCHEMA, ("id",))
        deleted = table(DELETED, DELETED_SCHEMA, ("user",))
        log = cls(folder, events, items, {user.lower(): time for user, time in deleted.rows()})
        ends = pl.DataFrame({"user": events["user"].unique()})
        ends = ends.with_columns(end=pl.Series(log.ends(ends["user"]), dtype=pl.Float64))
        kept = events.join(ends, on="user", maintain_order="left").filter(
            pl.col("time") > pl.col("end")
        )
        return replace(log, events=kept.drop("end"))

    def ends(self, users: Iterable[str | None]) -> list[float]:
        """For each user until when a deletion has taken all; before all time without one."""
        if not self.deleted:
            return [-np.inf for _ in users]
        return [self.deleted.get(hidden(user), -np.inf) if user else -np.inf for user in users]

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
                rows[name].append(", ".join(leaves(fields.get(name))) or None)
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

        An event that the files have too, by user, item and time, counts once.

        Args:
            typed: `user` and `item` (places in `ids`), `time` and perhaps more, as `records` reads
                a file. An event's `weight` is its rating; without one it passes any
                `data.min_rating`.
            ids: The distinct ids' texts, by role.
            path: What a message about the files names.
            row_counts: Counts what came, and what was left out.

        Raises:
            DataError: If there are events and the files' interactions have no time, or no
                interaction is left.
        """
        typed = self._without_deleted(typed, ids["user"], row_counts)
        if len(self.events):
            typed, ids = self._with_events(typed, ids, path, row_counts)
        if typed.is_empty():
            raise row_counts.error(f"{path}: no interaction is left of users who are not deleted")
        return typed, ids

    def _with_events(
        self, typed: pl.DataFrame, ids: dict[str, pl.Series], path: Path, row_counts: RowCounts
    ) -> tuple[pl.DataFrame, dict[str, pl.Series]]:
        if "time" not in typed.columns:
            raise DataError(
                f"{path}: no column holds the time, so a service's events cannot be put in order "
                "behind the interactions: set data.columns.time, or leave out data.service_log"
            )
        self._check_clock(typed["time"], path, row_counts)
        events, found = self.events, {}
        known: dict[str, pl.Series] = {"time": typed["time"]}
        columns: dict[str, Any] = {}
        for name in _IDS:
            every = pl.concat(
                [ids[name], events[name].unique(maintain_order=True).alias(ids[name].name)]
            )
            # of texts that stand there twice, as ids that were written apart may, the first place
            rows = pl.DataFrame({"id": every}).with_row_index("row")
            place = rows.select(pl.col("row").min().over("id")).to_series()
            own = pl.DataFrame({"id": every, "place": place}).unique("id", keep="first")
            found[name], known[name] = every, place.gather(typed[name])
            columns[name] = events.select(id=name).join(own, on="id", maintain_order="left")[
                "place"
            ]
        rest: dict[str, Any] = {
            "time": events["time"],
            "order": np.inf,  # behind all others of its time
            "rating": events.get_column("weight", default=pl.Series([None]))
            .cast(pl.Float64)
            .fill_null(np.inf),
            "event": True,
            "quantity": 1.0,
            "split": 0,
        }
        more = pl.DataFrame(columns).with_columns(
            **{name: rest[name] for name in typed.columns if name in rest}
        )
        more = more.join(pl.DataFrame(known), on=[*_IDS, "time"], how="anti", maintain_order="left")
        row_counts.add("service_events", len(more))
        row_counts.add("duplicates", len(events) - len(more))
        more = more.select(pl.col(name).cast(kind) for name, kind in typed.schema.items())
        return pl.concat([typed, more]), found

    def _check_clock(self, times: pl.Series, path: Path, row_counts: RowCounts) -> None:
        """Warns where the service's times and the files' cannot be of one clock."""
        here, there = (abs(float(str(one.median() or 0))) for one in (times, self.events["time"]))
        if here and there and not 1e-2 < here / there < 1e2:
            row_counts.warn(
                f"{self.folder / EVENTS}: the times are about {there:.3g}, and those of {path} "
                f"about {here:.3g}: are they of one clock (seconds, milliseconds)? Else histories "
                "are in a wrong order"
            )

    def _without_deleted(
        self, typed: pl.DataFrame, users: pl.Series, row_counts: RowCounts
    ) -> pl.DataFrame:
        """Leaves out what deleted users did before they were deleted; all of it without times."""
        if not self.deleted:
            return typed
        ends = pl.Series(self.ends(users), dtype=pl.Float64).gather(typed["user"])
        timed = "time" in typed.columns
        kept = typed.filter(typed["time"] > ends if timed else ends == -np.inf)
        row_counts.add("deleted_users", len(typed) - len(kept))
        return kept
