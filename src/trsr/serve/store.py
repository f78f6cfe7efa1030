"""The service's state in a database: events, items, summaries' revisions, users, keys.

SQLite (write-ahead log) or PostgreSQL by URL. Every write is durable when its call returns. All
writes go through one thread, which puts those that wait into one transaction: many callers share
the cost of one sync of the disk.
"""

from __future__ import annotations

import contextlib
import json
import queue
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from trsr.data import Dataset
from trsr.errors import ConfigError, StoreError
from trsr.serve import tables
from trsr.serve.schemas import AddedEvents, Event, ItemChange, Revision, UserRow
from trsr.storage import files

_GROUP = 2000
"""Events in one transaction: below SQLite's 32,766 parameters a statement."""
_BUSY_SECONDS = 10.0
_ROWS = 5000
_IMPORTED = "imported"
_LOCK = 0x74727372  # "trsr"
_DEADLOCK = "40P01"
_MIGRATING = threading.Lock()  # Alembic's context is one for all threads
_HIGHEST = "\U0010ffff"


class EventConflictError(StoreError):
    """An event's id is known with another content."""


class StoreUnavailableError(StoreError):
    """The database cannot be reached, or cannot write."""


class StoredEvent(NamedTuple):
    """An event and its place in the order of arrival."""

    seq: int
    event: Event


class Removed(NamedTuple):
    """What `delete_user` removed; `sources` are the response cache's keys behind its summaries."""

    events: int
    revisions: int
    sources: tuple[str, ...]


class _Job(NamedTuple):
    """A write that waits: events, or any other work over a connection."""

    work: Sequence[Event] | Callable[[sa.Connection], Any]
    done: Future[Any]


class Store:
    """The state of a service, safe for threads.

    The URL is `sqlite:///FILE` or `postgresql://…`.

    Raises:
        ConfigError: If the URL is none, or of another kind of database.
        StoreUnavailableError: If the database cannot be opened.
    """

    def __init__(self, url: str) -> None:
        self._engine = _engine(url)
        self._lite = self._engine.dialect.name == "sqlite"
        self._insert: Any = sqlite.insert if self._lite else postgresql.insert
        self._count_events = _count_events(self._insert(tables.users))
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        try:
            with _explained():
                _migrate(self._engine)
        except BaseException:
            self._engine.dispose()
            raise
        self._writer = threading.Thread(target=self._write_all, name="trsr-writer", daemon=True)
        self._closing = threading.Lock()
        self._closed = False
        self._writer.start()

    # Events and users

    def submit_events(self, given: Sequence[Event]) -> Future[AddedEvents]:
        """As `add_events`, without waiting."""
        return self._submit(given)

    def add_events(self, given: Sequence[Event]) -> AddedEvents:
        """Keeps events, all or none; those known by their id are left as they are.

        Raises:
            EventConflictError: If an id is known with another content.
            StoreUnavailableError: If the database cannot write now.
        """
        return self.submit_events(given).result()

    def history(self, user: str) -> list[Event]:
        """A user's events by time, then by arrival; empty for an unknown user."""
        return [stored.event for stored in self.stored_history(user)]

    def stored_history(self, user: str) -> list[StoredEvent]:
        """As `history`, with each event's place in the order of arrival."""
        with self._reading() as connection:
            rows = connection.execute(_HISTORY, {"of": user}).all()
        make = Event.model_construct  # checked when they came in
        return [
            StoredEvent(seq, make(id=name, user=user, item=item, time=moment, weight=weight))
            for seq, name, item, moment, weight in rows
        ]

    def has_user(self, user: str) -> bool:
        """Whether there is an event of this user."""
        query = sa.select(tables.users.c.user).where(tables.users.c.user == user)
        with self._reading() as connection:
            return connection.execute(query).first() is not None

    def users(self, prefix: str = "", limit: int = 50) -> list[UserRow]:
        """Users whose id begins so, by id."""
        of = tables.users.c
        query = sa.select(of.user, of.n_events, of.last_time).order_by(of.user).limit(limit)
        if prefix:
            query = query.where(of.user >= prefix, of.user < prefix + _HIGHEST)
        with self._reading() as connection:
            rows = connection.execute(query).all()
        return [UserRow(user=user, n_events=n, last_time=last) for user, n, last in rows]

    def count_users(self) -> int:
        """How many users there are."""
        with self._reading() as connection:
            return connection.execute(
                sa.select(sa.func.count()).select_from(tables.users)
            ).scalar_one()

    def delete_user(self, user: str) -> Removed:
        """Removes all of a user in one transaction, from SQLite's pages and log too."""

        def work(connection: sa.Connection) -> Removed:
            of = tables.revisions.c
            found = connection.execute(sa.select(of.sources).where(of.user == user)).scalars().all()
            counts = [
                connection.execute(sa.delete(table).where(table.c.user == user)).rowcount
                for table in (tables.events, tables.revisions, tables.users)
            ]
            sources = {source for row in found for source in json.loads(row)}
            return Removed(counts[0], counts[1], tuple(sorted(sources)))

        removed: Removed = self._write(work)
        if self._lite:  # what was removed is still in the log until it is cut
            with self._reading() as connection:
                connection.execute(sa.text("PRAGMA wal_checkpoint(TRUNCATE)"))
        return removed

    # Items

    def put_items(self, items: Mapping[str, Mapping[str, str]]) -> dict[str, ItemChange]:
        """Keeps items' texts, all in one transaction; what that changed of each, by id.

        An item that has these texts already keeps its version: it need not be read again.
        """

        def work(connection: sa.Connection) -> dict[str, ItemChange]:
            of = tables.items.c
            _lock(connection)  # versions grow in the order of commits
            rows = connection.execute(sa.select(of.id, of.fields).where(of.id.in_(items)))
            known = {name: json.loads(fields) for name, fields in rows}
            found = {name: _change(known.get(name), fields) for name, fields in items.items()}
            highest = connection.execute(sa.select(sa.func.max(of.version))).scalar() or 0
            new = [
                {"id": name, "fields": json.dumps(dict(fields)), "version": highest + 1}
                for name, fields in items.items()
                if found[name] != "unchanged"
            ]
            if new:
                insert = self._insert(tables.items)
                texts = {one: insert.excluded[one] for one in ("fields", "version")}
                update = insert.on_conflict_do_update(index_elements=["id"], set_=texts)
                connection.execute(update, new)
            return found

        changes: dict[str, ItemChange] = self._write(work)
        return changes

    def item(self, item: str) -> dict[str, str] | None:
        """An item's text by column; None for an unknown one."""
        query = sa.select(tables.items.c.fields).where(tables.items.c.id == item)
        with self._reading() as connection:
            found = connection.execute(query).scalar()
        return None if found is None else json.loads(found)

    def items_changed_since(self, version: int) -> tuple[int, list[tuple[str, dict[str, str]]]]:
        """The items that were put after a version, and the newest version.

        What the run itself brought has version 0.
        """
        of = tables.items.c
        query = sa.select(of.id, of.fields, of.version).where(of.version > version)
        with self._reading() as connection:
            rows = connection.execute(query.order_by(of.version)).all()
        newest = rows[-1].version if rows else version
        return newest, [(name, json.loads(fields)) for name, fields, _ in rows]

    # Summaries

    def revisions(self, user: str) -> list[Revision]:
        """A user's summaries, oldest first."""
        with self._reading() as connection:
            rows = connection.execute(_REVISIONS, {"of": user}).mappings().all()
        return [Revision(**{**row, "sources": json.loads(row["sources"])}) for row in rows]

    def add_revision(self, revision: Revision) -> None:
        """Keeps a summary; nothing happens if the user has one of this number.

        It is left out where the user was deleted meanwhile.
        """

        def work(connection: sa.Connection) -> None:
            known = sa.select(tables.users.c.user).where(tables.users.c.user == revision.user)
            if connection.execute(known).first() is None:
                return
            row = {**revision.model_dump(), "sources": json.dumps(revision.sources)}
            insert = self._insert(tables.revisions).values(row)
            connection.execute(insert.on_conflict_do_nothing())

        self._write(work)

    def drop_revisions(self, user: str, from_number: int) -> None:
        """Removes a user's summaries from a number on: they no longer hold."""
        of = tables.revisions.c
        delete = sa.delete(tables.revisions).where(of.user == user, of.number >= from_number)
        self._write(lambda connection: connection.execute(delete) and None)

    def due(self, limit: int) -> list[str]:
        """Users whose summary is behind, the longest first."""
        of = tables.users.c
        query = sa.select(of.user).where(of.due.is_not(None)).order_by(of.due, of.user)
        with self._reading() as connection:
            return list(connection.execute(query.limit(limit)).scalars().all())

    def set_due(self, user: str) -> None:
        """Says that a user's summary is behind."""
        of = tables.users.c
        late = sa.update(tables.users).where(of.user == user, of.due.is_(None))
        self._write(lambda connection: connection.execute(late.values(due=time.time())) and None)

    def summarized(self, user: str, up_to_seq: int) -> None:
        """A user's summary reads all events that arrived up to `up_to_seq`."""
        of = tables.events.c
        newest = sa.select(sa.func.max(of.seq)).where(of.user == user).scalar_subquery()
        mine = tables.users.c.user == user
        clear = sa.update(tables.users).where(mine, newest <= up_to_seq)
        self._write(lambda connection: connection.execute(clear.values(due=None)) and None)

    # The run

    def import_run(self, dataset: Dataset) -> bool:
        """Brings in a run's histories and items, once, in one transaction; whether it was now."""

        def work(connection: sa.Connection) -> bool:
            of = tables.facts.c
            if connection.execute(sa.select(of.value).where(of.name == _IMPORTED)).first():
                return False
            self._import(connection, dataset)
            row = {"name": _IMPORTED, "value": str(dataset.folder)}
            connection.execute(sa.insert(tables.facts).values(row))
            return True

        return bool(self._write(work))

    def _import(self, connection: sa.Connection, dataset: Dataset) -> None:
        add_items = self._insert(tables.items).on_conflict_do_nothing()
        for frame in dataset.catalog.frame.iter_slices(_ROWS):
            rows = [
                {"id": name, "fields": _texts(dataset.catalog.columns, texts), "version": 0}
                for name, *texts in frame.iter_rows()
            ]
            connection.execute(add_items, rows)
        add_events = self._insert(tables.events).on_conflict_do_nothing()
        add_users = self._insert(tables.users)
        add_users = add_users.on_conflict_do_update(
            index_elements=["user"],
            set_={"n_events": tables.users.c.n_events + add_users.excluded.n_events},
        )
        for histories in run_histories(dataset, _ROWS):
            connection.execute(
                add_events,
                [
                    {"id": f"run/{user}/{place}", "user": user, "item": item, "time": at}
                    for user, items, times in histories
                    for place, (item, at) in enumerate(zip(items, times, strict=True))
                ],
            )
            connection.execute(
                add_users,
                [
                    {"user": user, "n_events": len(items), "last_time": times[-1]}
                    for user, items, times in histories
                ],
            )

    # Keys

    def put_key(self, row: Mapping[str, Any]) -> None:
        """Keeps an API key's digest; one of the same name is replaced."""

        def work(connection: sa.Connection) -> None:
            connection.execute(sa.delete(tables.keys).where(tables.keys.c.name == row["name"]))
            connection.execute(sa.insert(tables.keys).values(dict(row)))

        self._write(work)

    def drop_key(self, name: str) -> bool:
        """Removes an API key; whether there was one."""
        delete = sa.delete(tables.keys).where(tables.keys.c.name == name)
        return bool(self._write(lambda connection: connection.execute(delete).rowcount))

    def api_keys(self) -> list[dict[str, Any]]:
        """The API keys' rows, oldest first."""
        with self._reading() as connection:
            query = sa.select(tables.keys).order_by(tables.keys.c.created)
            return [dict(row) for row in connection.execute(query).mappings()]

    # Working

    def ready(self) -> bool:
        """Whether the database answers."""
        try:
            with self._reading() as connection:
                connection.execute(sa.select(tables.facts.c.name).limit(1)).first()
        except StoreError:
            return False
        return True

    def close(self) -> None:
        """Finishes the writes that wait, and lets go of the database."""
        with self._closing:
            if not self._closed:
                self._jobs.put(None)
            self._closed = True
        self._writer.join()
        self._engine.dispose()

    @contextlib.contextmanager
    def _reading(self) -> Iterator[sa.Connection]:
        with _explained(), self._engine.connect() as connection:
            yield connection

    def _write(self, work: Callable[[sa.Connection], Any]) -> Any:
        return self._submit(work).result()

    def _submit(self, work: Sequence[Event] | Callable[[sa.Connection], Any]) -> Future[Any]:
        done: Future[Any] = Future()
        with self._closing:
            if self._closed:
                done.set_exception(StoreUnavailableError("the service is being stopped"))
            else:
                self._jobs.put(_Job(work, done))
        return done

    def _write_all(self) -> None:
        while (job := self._jobs.get()) is not None:
            group, more = self._waiting(job)
            self._commit(group)
            if not more:
                return

    def _waiting(self, job: _Job) -> tuple[list[_Job], bool]:
        """The job and those that wait behind it; False at the end of all."""
        group, size = [job], _size(job)
        while size < _GROUP:
            try:
                following = self._jobs.get_nowait()
            except queue.Empty:
                break
            if following is None:
                return group, False
            group.append(following)
            size += _size(following)
        return group, True

    def _commit(self, group: list[_Job]) -> None:
        """Does the jobs in one transaction, and tells each caller after the commit."""
        try:
            with _explained():
                results = self._transaction(group)
        except Exception as error:  # whatever it is, callers wait and the thread goes on
            results = [(job, error) for job in group]
        for job, result in results:
            if isinstance(result, BaseException):
                job.done.set_exception(result)
            else:
                job.done.set_result(result)

    def _transaction(self, group: list[_Job], tries: int = 3) -> list[tuple[_Job, Any]]:
        batches = [job for job in group if not callable(job.work)]
        others = [job for job in group if callable(job.work)]
        try:
            with self._writing() as connection:
                added = self._add(connection, batches) if batches else []
                results: list[tuple[_Job, Any]] = list(zip(batches, added, strict=True))
                return results + [self._alone(connection, job) for job in others]
        except (EventConflictError, sa.exc.IntegrityError):
            # one of them does not fit: each alone, so that the others are kept
            with self._writing() as connection:
                return [self._alone(connection, job) for job in (*batches, *others)]
        except sa.exc.OperationalError as error:
            # two services waited for each other, and PostgreSQL chose this one to give way
            if tries > 1 and getattr(error.orig, "sqlstate", "") == _DEADLOCK:
                return self._transaction(group, tries - 1)
            raise

    @contextlib.contextmanager
    def _writing(self) -> Iterator[sa.Connection]:
        with self._engine.connect() as raw:
            connection = raw.execution_options(trsr_write=True)
            with connection.begin():
                yield connection

    def _alone(self, connection: sa.Connection, job: _Job, tries: int = 3) -> tuple[_Job, Any]:
        try:
            with connection.begin_nested():
                if callable(job.work):
                    return job, job.work(connection)
                return job, self._add(connection, [job])[0]
        except sa.exc.OperationalError:
            raise
        except sa.exc.IntegrityError as error:
            # another service has just written the same: it is seen now
            return self._alone(connection, job, tries - 1) if tries > 1 else (job, error)
        except Exception as error:  # this caller's own; the others go on
            return job, error

    def _add(self, connection: sa.Connection, jobs: Sequence[_Job]) -> list[AddedEvents]:
        """Adds the events of several callers."""
        given: list[list[Event]] = [list(job.work) for job in jobs if not callable(job.work)]
        known = self._known(connection, [event.id for events in given for event in events])
        new: list[Event] = []
        answers = []
        for events in given:
            before = len(new)
            for event in events:
                body = (event.user, event.item, event.time, event.weight)
                if event.id not in known:
                    known[event.id] = body
                    new.append(event)
                elif known[event.id] != body:
                    raise EventConflictError(
                        f"the event id {event.id!r} is known with another content; "
                        "give each event an id of its own"
                    )
            added = len(new) - before
            answers.append(AddedEvents(new=added, known=len(events) - added))
        if new:
            connection.execute(sa.insert(tables.events), [event.model_dump() for event in new])
            self._count(connection, new)
        return answers

    def _known(self, connection: sa.Connection, ids: list[str]) -> dict[str, tuple[Any, ...]]:
        rows = connection.execute(_KNOWN_EVENTS, {"ids": ids})
        return {row[0]: tuple(row[1:]) for row in rows}

    def _count(self, connection: sa.Connection, new: Sequence[Event]) -> None:
        now = time.time()
        rows: dict[str, dict[str, Any]] = {}
        for event in new:
            row = rows.setdefault(
                event.user,
                {"user": event.user, "n_events": 0, "last_time": event.time, "due": now},
            )
            row["n_events"] += 1
            row["last_time"] = max(row["last_time"], event.time)
        # in the order of ids, so that two services on one database wait for each other, not both
        connection.execute(self._count_events, [rows[user] for user in sorted(rows)])


# Built once: to build a statement costs more than to run it.
_EVENT, _REVISION = tables.events.c, tables.revisions.c
_KNOWN_EVENTS = sa.select(_EVENT.id, _EVENT.user, _EVENT.item, _EVENT.time, _EVENT.weight).where(
    _EVENT.id.in_(sa.bindparam("ids", expanding=True))
)
_HISTORY = (
    sa.select(_EVENT.seq, _EVENT.id, _EVENT.item, _EVENT.time, _EVENT.weight)
    .where(_EVENT.user == sa.bindparam("of"))
    .order_by(_EVENT.time, _EVENT.seq)
)
_REVISIONS = (
    sa.select(tables.revisions)
    .where(_REVISION.user == sa.bindparam("of"))
    .order_by(_REVISION.number)
)


def _count_events(insert: Any) -> Any:
    of = tables.users.c
    later = sa.case((insert.excluded.last_time > of.last_time, insert.excluded.last_time))
    update = {
        "n_events": of.n_events + insert.excluded.n_events,
        "last_time": sa.func.coalesce(later, of.last_time),
        "due": sa.func.coalesce(of.due, insert.excluded.due),
    }
    return insert.on_conflict_do_update(index_elements=["user"], set_=update)


def _change(known: object, fields: Mapping[str, str]) -> ItemChange:
    if known is None:
        return "new"
    return "unchanged" if known == dict(fields) else "changed"


def _size(job: _Job) -> int:
    return 1 if callable(job.work) else len(job.work)


def _texts(columns: Sequence[str], texts: Sequence[str | None]) -> str:
    return json.dumps({name: text for name, text in zip(columns, texts, strict=True) if text})


@contextlib.contextmanager
def _explained() -> Iterator[None]:
    try:
        yield
    except sa.exc.IntegrityError:
        raise
    except (sa.exc.DatabaseError, sa.exc.TimeoutError, sqlite3.Error, OSError) as error:
        # the driver's text may hold values of users, its class does not
        kind = type(getattr(error, "orig", None) or error).__name__
        raise StoreUnavailableError(f"the database cannot be used now ({kind})") from error


def _engine(url: str) -> sa.Engine:
    try:
        parsed = sa.make_url(url)
    except (sa.exc.ArgumentError, ValueError) as error:
        raise ConfigError("the database's URL cannot be read; write postgresql://…") from error
    kind = parsed.get_backend_name()
    if kind == "sqlite" and parsed.database:
        files.make_file(Path(parsed.database))  # private; SQLite's own files beside it are too
        engine = sa.create_engine(
            parsed,
            connect_args={"timeout": _BUSY_SECONDS, "check_same_thread": False},
            pool_size=8,
            max_overflow=64,
        )
        sa.event.listen(engine, "connect", _on_connect)
        sa.event.listen(engine, "begin", _on_begin)
        return engine
    if kind != "postgresql":
        raise ConfigError(f"a database of kind {kind}: give postgresql://… or sqlite:///FILE")
    parsed = parsed.set(drivername="postgresql+psycopg")
    return sa.create_engine(parsed, pool_pre_ping=True, pool_size=8, max_overflow=64)


def _on_connect(connection: Any, _: object) -> None:
    connection.isolation_level = None  # transactions begin as `_on_begin` says
    # an acknowledged write survives a power cut; what is deleted is overwritten
    # the system keeps pages of the file as well: 2 MB a connection brought nothing but memory
    for pragma in (
        "journal_mode=WAL",
        "synchronous=FULL",
        "secure_delete=ON",
        "cache_size=-256",
    ):
        connection.execute(f"PRAGMA {pragma}")


def _on_begin(connection: sa.Connection) -> None:
    write = connection.get_execution_options().get("trsr_write")
    connection.connection.cursor().execute("BEGIN IMMEDIATE" if write else "BEGIN")


def _lock(connection: sa.Connection) -> None:
    """Lets one service at a time go on until its commit; SQLite has one writer anyway."""
    if connection.dialect.name == "postgresql":
        connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_LOCK)))


def _migrate(engine: sa.Engine) -> None:
    """Brings the database to the newest schema; of two services that start at once one waits."""
    from alembic import command
    from alembic.config import Config
    from alembic.util import CommandError

    config = Config()
    folder = Path(__file__).parent / "migrations"
    config.set_main_option("script_location", str(folder).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    with _MIGRATING, engine.connect() as raw:
        connection = raw.execution_options(trsr_write=True)
        with connection.begin():
            _lock(connection)
            config.attributes.update(connection=connection, metadata=tables.metadata)
            try:
                command.upgrade(config, "head")
            except CommandError as error:
                raise StoreError(
                    "the database is of a newer trsr; install that one, or choose another database"
                ) from error


History = tuple[str, list[str], list[float]]
"""A user, the items, their times; oldest first."""


def run_histories(dataset: Dataset, users: int) -> Iterator[list[History]]:
    """Each user's history, as `Dataset.history` gives it, some users at a time."""
    for start in range(0, len(dataset.users), users):
        found = dataset.histories(dataset.users[start : start + users])
        yield [
            (user, [item.id for item in history.items], [one.time for one in history.interactions])
            for user, history in found.items()
            if len(history)
        ]
