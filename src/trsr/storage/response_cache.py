"""Keeps every answer of a language model under a key of its content, in one SQLite file."""

from __future__ import annotations

import hashlib
import json
import sqlite3
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Self

from trsr.errors import StoreError
from trsr.storage import files
from trsr.types import Prompt

SCHEMA = 2
MEMORY = ":memory:"
"""SQLite's name for a cache without a file."""
_WITHOUT_COSTS = 1  # the version before, upgraded where it is written
_APPLICATION = 0x74727372  # "trsr": SQLite's own field for whose file this is
_BUSY_SECONDS = 60.0
_DAMAGED = "move it away and run again: trsr makes a new one, and asks the model again"
_ADVICE = (
    ("full", "free some space and run the same command again: nothing stored is lost"),
    ("locked", "another program holds it: wait for it to end, then run the same command again"),
    ("readonly", "make the file and its folder writable, or choose another folder"),
    ("unable to open", "make the folder writable, or choose another one"),
    ("not a database", _DAMAGED),
    ("malformed", _DAMAGED),
    ("disk i/o", "check the disk; run the same command again when it works"),
)


def is_database(place: str) -> bool:
    """Whether it is the address of a database and no file."""
    return place.startswith(("postgresql://", "postgres://", "postgresql+"))


def response_key(identity: str, prompt: Prompt, kind: Mapping[str, object]) -> str:
    """The key of one answer: SHA-256 over all that decides it.

    Args:
        identity: The model's `identity`: weights and settings.
        prompt: The prompt.
        kind: The kind of answer, JSON-able: `{"generate": sampling.model_dump()}` or
            `{"score": [answer, …]}`.

    Returns:
        64 hexadecimal digits.
    """
    content: dict[str, object] = {
        "model": identity,
        "prompt": [[message.role, message.key] for message in prompt.messages],
        "kind": dict(kind),
    }
    if prompt.draw:
        content["draw"] = prompt.draw
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Cost:
    """What one answer cost when it was computed.

    Attributes:
        seconds: Of the model's time; its share where many were answered together.
        tokens: All tokens of its prompt.
    """

    seconds: float
    tokens: int


NO_COSTS: Mapping[str, Cost] = MappingProxyType({})


class ResponseCache:
    """Answers by key, safe for several threads, and for several processes that each open it.

    Each `put` is a transaction of its own, so a killed process loses nothing that was put (WAL with
    `synchronous=NORMAL`: only a power cut can lose the last few). The first value put under a key
    stays. Opened to read alone (`write` false), it makes nothing.

    Raises:
        StoreError: If the file cannot be opened, is not a response cache, or is of another version;
            with `write` = False also where it is missing.
    """

    def __init__(self, path: Path, *, write: bool = True) -> None:
        self.path = Path(path)
        self._lock = threading.Lock()
        if not write and not files.is_file(self.path):
            raise StoreError(f"there is no response cache {self.path}")
        with self._explained("opened"):
            if write and self.path.name != MEMORY:
                files.make_file(self.path)  # private; SQLite's own files beside it are then too
            self._connection = sqlite3.connect(
                self.path if write else f"{self.path.absolute().as_uri()}?mode=rw",
                timeout=_BUSY_SECONDS,
                isolation_level=None,
                check_same_thread=False,
                uri=not write,
            )
        try:
            with self._explained("opened"):
                self._prepare(write)
        except BaseException:
            self._connection.close()
            raise

    def _prepare(self, write: bool) -> None:
        """Brings a new file to the schema, and refuses a file of something else."""
        connection = self._connection
        # In this order: another process may make the file between these lines.
        tables = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
        owner = connection.execute("PRAGMA application_id").fetchone()[0]
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        if owner != _APPLICATION and (tables or not write):
            raise StoreError(
                f"{self.path} is a database of another program: choose another place for the cache"
            )
        if owner == _APPLICATION and version not in (SCHEMA, _WITHOUT_COSTS):
            raise StoreError(
                f"{self.path} is a response cache of version {version}, this trsr reads version "
                f"{SCHEMA}: use the trsr that wrote it, or move the file away and run again"
            )
        if not write:
            # rather than SQLite's mode=ro, which leaves its files of the log behind
            connection.execute("PRAGMA query_only=ON")
            self._costs_kept = version == SCHEMA
            return
        self._write_ahead()
        connection.execute("PRAGMA synchronous=NORMAL")
        if owner != _APPLICATION:
            self._create()
        elif version == _WITHOUT_COSTS:
            self._add_costs()
        self._costs_kept = True

    def _write_ahead(self) -> None:
        """Turns the write-ahead log on; SQLite does not wait for other openers here, so we wait."""
        deadline = time.monotonic() + _BUSY_SECONDS
        waiting = True
        while waiting:
            try:
                # A file system without shared memory keeps its own mode: slower, and as safe.
                self._connection.execute("PRAGMA journal_mode=WAL")
                waiting = False
            except sqlite3.OperationalError as error:
                if "locked" not in str(error) or time.monotonic() > deadline:
                    raise
                time.sleep(0.02)

    def _create(self) -> None:
        """Makes the table, in one transaction so that another process sees all of it or nothing."""
        with self._transaction() as connection:
            connection.execute(
                "CREATE TABLE IF NOT EXISTS outputs (key TEXT PRIMARY KEY, value TEXT NOT NULL,"
                " seconds REAL, tokens INTEGER) WITHOUT ROWID"
            )
            connection.execute(f"PRAGMA application_id={_APPLICATION}")
            connection.execute(f"PRAGMA user_version={SCHEMA}")

    def _add_costs(self) -> None:
        """Upgrades a cache of the version before; what its answers cost is not known."""
        with self._transaction() as connection:
            # another process may have done it meanwhile
            if connection.execute("PRAGMA user_version").fetchone()[0] == _WITHOUT_COSTS:
                connection.execute("ALTER TABLE outputs ADD COLUMN seconds REAL")
                connection.execute("ALTER TABLE outputs ADD COLUMN tokens INTEGER")
                connection.execute(f"PRAGMA user_version={SCHEMA}")

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            yield self._connection
            self._connection.execute("COMMIT")
        except BaseException:
            # A full disk has rolled back already; then this fails and the first error matters.
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            raise

    @contextmanager
    def _explained(self, done: str) -> Iterator[None]:
        """Turns SQLite's and the system's errors into ours, with advice."""
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            reason = str(error)
            advice = next((words for sign, words in _ADVICE if sign in reason.lower()), "")
            advice = advice or "make sure that its folder exists and can be written"
            raise StoreError(
                f"the response cache {self.path} cannot be {done} ({reason}): {advice}"
            ) from error

    def get(self, keys: Sequence[str]) -> dict[str, object]:
        """The stored values of these keys; a key without one is left out.

        Raises:
            StoreError: If the cache cannot be read or an entry is damaged.
        """
        rows = self._select("key, value", keys)
        try:
            return {key: json.loads(value) for key, value in rows}
        except ValueError as error:
            raise StoreError(
                f"the response cache {self.path} holds a damaged entry ({error}): {_DAMAGED}"
            ) from error

    def take(self, keys: Sequence[str]) -> tuple[dict[str, object], set[str]]:
        """The stored values, and the keys whose answers the caller is now to ask for.

        Of a cache that machines share, keys may be in neither: another worker is asking. Call again
        for those. What the caller does not put, it releases.
        """
        found = self.get(keys)
        return found, {key for key in keys if key not in found}

    def release(self, keys: Sequence[str]) -> None:
        """Says that answers to these keys, given by `take`, will not come."""

    def costs(self, keys: Sequence[str]) -> dict[str, Cost]:
        """What these answers cost, where that is known.

        Raises:
            StoreError: If the cache cannot be read.
        """
        if not self._costs_kept:
            return {}
        rows = self._select("key, seconds, tokens", keys)
        return {
            key: Cost(float(seconds), int(tokens))
            for key, seconds, tokens in rows
            if seconds is not None and tokens is not None
        }

    def _select(self, columns: str, keys: Sequence[str]) -> list[tuple[Any, ...]]:
        with self._lock, self._explained("read"):
            return self._connection.execute(
                f"SELECT {columns} FROM outputs WHERE key IN (SELECT value FROM json_each(?))",  # noqa: S608
                (json.dumps(list(keys)),),
            ).fetchall()

    def put(self, key: str, value: object, cost: Cost | None = None) -> None:
        """Keeps one JSON-able value, at once and for good; a key's first value stays.

        Raises:
            StoreError: If the cache cannot be written: a full disk, a damaged file, no right to.
        """
        self.put_all({key: value}, {key: cost} if cost else {})

    def put_all(self, values: Mapping[str, object], costs: Mapping[str, Cost] = NO_COSTS) -> None:
        """Keeps several values in one transaction: all of them or, on an error, none.

        Raises:
            StoreError: As `put` does.
        """
        rows = rows_of(values, costs)
        with self._lock, self._explained("written"), self._transaction() as connection:
            connection.executemany(
                # named: SQLite looks for them again where another process has just added some
                "INSERT INTO outputs (key, value, seconds, tokens) VALUES (?, ?, ?, ?)"
                " ON CONFLICT (key) DO NOTHING",
                rows,
            )

    def delete(self, keys: Sequence[str]) -> int:
        """Removes values, and overwrites where they were; how many there were.

        Raises:
            StoreError: As `put` does.
        """
        with self._lock, self._explained("written"):
            self._connection.execute("PRAGMA secure_delete=ON")
            with self._transaction() as connection:
                removed = connection.execute(
                    "DELETE FROM outputs WHERE key IN (SELECT value FROM json_each(?))",
                    (json.dumps(list(keys)),),
                ).rowcount
            # what was removed is still in the log until it is cut
            self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        return removed

    def __len__(self) -> int:
        with self._lock, self._explained("read"):
            count: int = self._connection.execute("SELECT count(*) FROM outputs").fetchone()[0]
        return count

    def close(self) -> None:
        """Closes the file; what was put is kept."""
        with self._lock:
            self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def rows_of(
    values: Mapping[str, object], costs: Mapping[str, Cost]
) -> list[tuple[str, str, float | None, int | None]]:
    """Values as rows of a database: key, value, seconds, tokens."""
    return [(key, json.dumps(value), *_columns(costs.get(key))) for key, value in values.items()]


def _columns(cost: Cost | None) -> tuple[float | None, int | None]:
    return (None, None) if cost is None else (cost.seconds, cost.tokens)
