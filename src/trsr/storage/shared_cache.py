"""The response cache that machines share, in PostgreSQL: no prompt is asked by two of them.

Who wants an answer that is not there claims its key first. A claim holds while its worker lives: a
worker says so every few seconds, and of one that was killed others take over the claims.
"""

from __future__ import annotations

import contextlib
import difflib
import re
import threading
import uuid
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from trsr.errors import ConfigError, StoreError
from trsr.storage import files
from trsr.storage.response_cache import NO_COSTS, Cost, ResponseCache, rows_of

LEASE = 60.0
"""Seconds without a sign of life after which a worker's claims are another's to take."""

_SCHEMA = (
    "CREATE TABLE IF NOT EXISTS trsr_outputs (key TEXT PRIMARY KEY, value TEXT NOT NULL,"
    " seconds DOUBLE PRECISION, tokens BIGINT)",
    "CREATE TABLE IF NOT EXISTS trsr_workers (worker TEXT PRIMARY KEY, until TIMESTAMPTZ NOT NULL)",
    "CREATE TABLE IF NOT EXISTS trsr_claims (key TEXT PRIMARY KEY, worker TEXT NOT NULL)",
)
_LOCK = 0x74727372  # "trsr": two workers make the tables at one time
_CLAIM = """
INSERT INTO trsr_claims (key, worker) SELECT unnest(CAST(:keys AS TEXT[])), :worker
ON CONFLICT (key) DO UPDATE SET worker = EXCLUDED.worker
WHERE trsr_claims.worker = EXCLUDED.worker OR NOT EXISTS (
    SELECT 1 FROM trsr_workers WHERE worker = trsr_claims.worker AND until > now())
RETURNING key
"""
_PUT = """
INSERT INTO trsr_outputs (key, value, seconds, tokens) VALUES (:key, :value, :seconds, :tokens)
ON CONFLICT (key) DO NOTHING
"""
_RELEASE = "DELETE FROM trsr_claims WHERE worker = :worker AND key = ANY(:keys)"
_ALIVE = """
INSERT INTO trsr_workers (worker, until) VALUES (:worker, now() + make_interval(secs => :lease))
ON CONFLICT (worker) DO UPDATE SET until = EXCLUDED.until
"""
_BURIED = "DELETE FROM trsr_workers WHERE until < now() - INTERVAL '1 day'"


def open_cache(place: Path | SecretStr, *, write: bool = True) -> ResponseCache:
    """The response cache at a place: a file, or a database's address; errors as its own."""
    if isinstance(place, SecretStr):
        return SharedResponseCache(place.get_secret_value(), write=write)
    return ResponseCache(place, write=write)


def is_kept(place: Path | SecretStr) -> bool:
    """Whether there is a response cache to be read."""
    return isinstance(place, SecretStr) or files.is_file(place)


def without_password(url: str) -> str:
    """A database's address as it may be shown and written."""
    scheme, _, rest = url.partition("://")
    account, at, place = rest.rpartition("@")
    place, _, query = place.partition("?")
    if not at:  # what stands behind the host is a port, or a password without its host
        place = re.sub(r"^([^:/]*):(?!\d+(/|$))[^/]*", r"\1", place)
    kept = [one for one in re.split("[&;]", query) if "password" not in one.lower()]
    options = "?" + "&".join(kept) if any(kept) else ""
    return f"{scheme}://{re.split('[:/]', account)[0]}{at}{place}{options}"


class SharedResponseCache(ResponseCache):
    """As `ResponseCache`, in a PostgreSQL database that many machines use.

    Args:
        url: `postgresql://USER@HOST/DATABASE`. The password may stand in it; better, PGPASSWORD or
            a file of passwords gives it.
        write: False: only reads, and makes nothing.

    Raises:
        ConfigError: If the packages are missing.
        StoreError: If the database cannot be used.
    """

    def __init__(self, url: str, *, write: bool = True) -> None:
        try:
            import psycopg
            import sqlalchemy as sa
        except ImportError as error:
            raise ConfigError(
                "run.cache is in PostgreSQL, which needs sqlalchemy and psycopg: "
                "pip install 'trsr[postgres]'"
            ) from error
        self._sa = sa
        self.shown = without_password(url)
        self._one_account = url.count("@") <= 1
        try:
            parsed = sa.make_url(url).set(drivername="postgresql+psycopg")
        except (ValueError, sa.exc.ArgumentError):  # their words hold what may be the password
            raise ConfigError(
                "run.cache: this address cannot be read: write "
                "postgresql://USER@HOST:PORT/DATABASE, PORT as a number, and give the password in "
                "PGPASSWORD"
            ) from None
        known = [one.keyword.decode() for one in psycopg.pq.Conninfo.get_defaults()]
        for option in sorted(set(parsed.query) - set(known)):
            # one that is no word may be a part of a password
            named = repr(option) if option.isidentifier() else "behind the ?"
            near = "".join(
                f": did you mean {one}?" for one in difflib.get_close_matches(option, known, n=1)
            )
            raise ConfigError(
                f"run.cache: its address has an option {named} that PostgreSQL does not know{near}"
            )
        self._engine = sa.create_engine(
            parsed, pool_pre_ping=True, pool_size=4, connect_args={"connect_timeout": 10}
        )
        self._worker = uuid.uuid4().hex
        self._costs_kept = True
        self._ended = threading.Event()
        self._alive: threading.Thread | None = None
        self._claiming = threading.Lock()
        if write:
            with self._begin("opened") as connection:
                connection.execute(sa.text(f"SELECT pg_advisory_xact_lock({_LOCK})"))
                for line in _SCHEMA:
                    connection.execute(sa.text(line))

    @contextlib.contextmanager
    def _begin(self, done: str) -> Iterator[Any]:
        try:
            with self._engine.begin() as connection:
                yield connection
        except (self._sa.exc.SQLAlchemyError, OSError) as error:
            # the driver's words may hold texts of prompts; its first line tells who, where and why
            reason = type(getattr(error, "orig", None) or error).__name__
            words = str(getattr(error, "orig", None) or "").strip().splitlines()
            # of an address with several @ the driver takes a part of the password for the host
            tells = "OperationalError" in reason and self._one_account
            said = f": {words[0][:200]}" if words and tells else ""
            raise StoreError(
                f"the response cache {self.shown} cannot be {done} ({reason}{said}): check the "
                "address, that the database is there and runs, and the password (PGPASSWORD)"
            ) from error

    def take(self, keys: Sequence[str]) -> tuple[dict[str, object], set[str]]:
        """As `ResponseCache.take`; keys in neither are being asked by another worker."""
        found = self.get(keys)
        missing = sorted({key for key in keys if key not in found})
        if not missing:
            return found, set()
        self._live()
        with self._begin("written") as connection:
            given = {"keys": missing, "worker": self._worker}
            mine = set(connection.execute(self._sa.text(_CLAIM), given).scalars())
        # put by another between the two: it was there before its claim had gone
        late = self.get(sorted(mine))
        self.release(list(late))
        return found | late, mine - late.keys()

    def release(self, keys: Sequence[str]) -> None:
        """Gives claims back: others may ask these now."""
        if keys:
            with self._begin("written") as connection:
                given = {"keys": list(keys), "worker": self._worker}
                connection.execute(self._sa.text(_RELEASE), given)

    def _live(self) -> None:
        """Says from now on that this worker lives."""
        with self._claiming:
            if self._alive is None:
                self._say_alive()
                self._alive = threading.Thread(target=self._renew, name="trsr-claims", daemon=True)
                self._alive.start()

    def _say_alive(self) -> None:
        with self._begin("written") as connection:
            given = {"worker": self._worker, "lease": LEASE}
            connection.execute(self._sa.text(_ALIVE), given)
            connection.execute(self._sa.text(_BURIED))

    def _renew(self) -> None:
        while not self._ended.wait(LEASE / 4):
            with contextlib.suppress(StoreError):  # those who wait for an answer meet it too
                self._say_alive()

    def _select(self, columns: str, keys: Sequence[str]) -> list[tuple[Any, ...]]:
        if not keys:
            return []
        query = self._sa.text(f"SELECT {columns} FROM trsr_outputs WHERE key = ANY(:keys)")  # noqa: S608
        with self._begin("read") as connection:
            return [tuple(row) for row in connection.execute(query, {"keys": list(keys)})]

    def put_all(self, values: Mapping[str, object], costs: Mapping[str, Cost] = NO_COSTS) -> None:
        """Keeps several values in one transaction, and gives back the claims on their keys."""
        names = ("key", "value", "seconds", "tokens")
        rows = [dict(zip(names, row, strict=True)) for row in sorted(rows_of(values, costs))]
        if rows:
            with self._begin("written") as connection:
                connection.execute(self._sa.text(_PUT), rows)
                given = {"keys": list(values), "worker": self._worker}
                connection.execute(self._sa.text(_RELEASE), given)

    def delete(self, keys: Sequence[str]) -> int:
        """Removes values; how many there were."""
        query = self._sa.text("DELETE FROM trsr_outputs WHERE key = ANY(:keys)")
        with self._begin("written") as connection:
            return int(connection.execute(query, {"keys": list(keys)}).rowcount)

    def __len__(self) -> int:
        with self._begin("read") as connection:
            query = self._sa.text("SELECT count(*) FROM trsr_outputs")
            return int(connection.execute(query).scalar_one())

    def close(self) -> None:
        """Gives back all claims, and lets go of the database."""
        self._ended.set()
        if self._alive:
            self._alive.join()
            given = {"worker": self._worker}
            with contextlib.suppress(StoreError), self._begin("written") as connection:
                for table in ("trsr_claims", "trsr_workers"):
                    query = f"DELETE FROM {table} WHERE worker = :worker"  # noqa: S608
                    connection.execute(self._sa.text(query), given)
            self._alive = None
        self._engine.dispose()
