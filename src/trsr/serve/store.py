"""The service's state in a database: events, items, summaries' revisions, users, keys.

SQLite (write-ahead log) or PostgreSQL by URL. Every write is durable when its call returns. All
writes go through one thread, which puts those that wait into one transaction: many callers share
the cost of one sync of the disk.
"""

from __future__ import annotations

import contextlib
import functools
import json
import math
import queue
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from trsr.data import Catalog, Dataset
from trsr.data.service_log import EVENT_SCHEMA, ServiceLog, deletion_time, hidden, write_log
from trsr.errors import ConfigError, StoreError
from trsr.serve import tables
from trsr.serve.schemas import AddedEvents, Event, ItemChange, Revision, UserRow
from trsr.storage import files

_GROUP = 2000
"""Events in one transaction: below SQLite's 32,766 parameters a statement."""
_BUSY_SECONDS = 10.0
_ROWS = 5000
_ALIKE = 0.05
"""A state goes on with a run that shares at least so many items."""
_USERS = 1000
"""Users brought in by one transaction: others must not wait long."""
_IMPORTED = "imported"  # facts: the run that was brought in last
_KIND = "summaries"  # facts: the kind of summaries that are written now
_DELETED = "deleted/"  # facts: a deleted user, hidden, and when
_OWN = "run/"  # begins the ids of a run's own events
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
        self._kind = ""
        self._first = True
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

    def is_deleted(self, user: str) -> bool:
        """Whether a user was deleted, and perhaps came back since."""
        with self._reading() as connection:
            return self._fact(connection, _DELETED + hidden(user)) is not None

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
        """Removes all of a user in one transaction, from SQLite's pages and log too.

        That the user was deleted, and when, stays with the id's SHA-256: no later run brings back
        what was before.
        """

        def work(connection: sa.Connection) -> Removed:
            _lock(connection)  # a run that is being brought in must not bring it back
            of, who = tables.revisions.c, tables.users.c
            last = connection.execute(sa.select(who.last_time).where(who.user == user)).scalar()
            moment = deletion_time(time.time(), last)
            self._put_fact(connection, _DELETED + hidden(user), repr(moment))
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
            version = self._next_version(connection)
            new = [
                {"id": name, "fields": json.dumps(dict(fields)), "version": version, "put": True}
                for name, fields in items.items()
                if found[name] != "unchanged"
            ]
            if new:
                insert = self._insert(tables.items)
                texts = {one: insert.excluded[one] for one in ("fields", "version", "put")}
                update = insert.on_conflict_do_update(index_elements=["id"], set_=texts)
                connection.execute(update, new)
            return found

        changes: dict[str, ItemChange] = self._write(work)
        return changes

    def _next_version(self, connection: sa.Connection) -> int:
        """Above the version of each item that is there."""
        highest = connection.execute(sa.select(sa.func.max(tables.items.c.version))).scalar()
        return int(highest or 0) + 1

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

    def write_summaries_of(self, kind: str) -> None:
        """Says which summaries this service reads and writes; users who have others fall due.

        Of services on one database the last that began writes: for the others nobody is due.
        """

        def work(connection: sa.Connection) -> None:
            of, who = tables.revisions.c, tables.users.c
            known = self._fact(connection, _KIND)
            if known is None and self._first:  # as an older trsr left them
                connection.execute(
                    sa.update(tables.revisions).where(of.kind == "").values(kind=kind)
                )
            elif known != kind:
                late = sa.update(tables.users).where(
                    who.due.is_(None), who.user.in_(sa.select(of.user))
                )
                connection.execute(late.values(due=time.time()))
            self._put_fact(connection, _KIND, kind)

        self._kind = kind
        self._write(work)

    def revisions(self, user: str) -> list[Revision]:
        """A user's summaries of this service's kind, oldest first."""
        with self._reading() as connection:
            given = {"of": user, "kind": self._kind}
            rows = connection.execute(_REVISIONS, given).mappings().all()
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
            row["kind"] = self._kind
            insert = self._insert(tables.revisions).values(row)
            connection.execute(insert.on_conflict_do_nothing())

        self._write(work)

    def drop_revisions(self, user: str, from_number: int) -> None:
        """Removes a user's summaries from a number on: they no longer hold."""
        of = tables.revisions.c
        mine = of.user == user, of.kind == self._kind
        delete = sa.delete(tables.revisions).where(*mine, of.number >= from_number)
        self._write(lambda connection: connection.execute(delete) and None)

    def due(self, limit: int) -> list[str]:
        """Users whose summary is behind, the longest first; none where another service writes."""
        of = tables.users.c
        query = sa.select(of.user).where(of.due.is_not(None), self._writes())
        query = query.order_by(of.due, of.user)
        with self._reading() as connection:
            return list(connection.execute(query.limit(limit)).scalars().all())

    def set_due(self, user: str) -> None:
        """Says that a user's summary is behind."""
        row = {"of": user, "now": time.time()}
        self._write(lambda connection: connection.execute(_SET_DUE, row) and None)

    def summarized(self, user: str, up_to_seq: int) -> None:
        """A user's summary reads all events that arrived up to `up_to_seq`."""
        of = tables.events.c
        newest = sa.select(sa.func.max(of.seq)).where(of.user == user).scalar_subquery()
        mine = tables.users.c.user == user
        clear = sa.update(tables.users).where(mine, newest <= up_to_seq, self._writes())
        self._write(lambda connection: connection.execute(clear.values(due=None)) and None)

    def _writes(self) -> sa.ColumnElement[bool]:
        """Whether this service is the one that writes summaries; any is where no one said so."""
        of = tables.facts.c
        return ~sa.exists().where(of.name == _KIND, of.value != self._kind)

    # The run

    @property
    def is_new(self) -> bool:
        """Whether no run was brought in yet."""
        with self._reading() as connection:
            return self._fact(connection, _IMPORTED) is None

    def import_run(self, dataset: Dataset, run: str, log: ServiceLog | None = None) -> bool:
        """Brings in a run's histories and items, once; whether it was now.

        Of a run after the first one, what the state has not yet comes in: its new items, its texts
        of those items that no `PUT` changed, and interactions; nothing of users from before they
        were deleted. Without times two histories cannot be joined, so known users keep theirs. It
        goes in parts, so that other services on the database write meanwhile; one that a stop cut
        short goes on.

        Args:
            dataset: The run's.
            run: What names the run's data, and no other.
            log: What the run was made with beside files; a new state keeps it for the next log.

        Raises:
            ConfigError: If hardly any of its items is known here: it is another shop's run.
        """
        with self._reading() as connection:
            known = self._fact(connection, _IMPORTED)
        # of an older trsr it names the folder, and what was summarized then is of that run
        self._first = known in (None, str(dataset.folder))
        if known == run:
            return False
        if known is not None:
            self._refuse_strange(dataset.catalog)
        if known is None and log is not None:
            self._write(lambda connection: self._import_log(connection, log, run))
        for frame in dataset.catalog.frame.iter_slices(_ROWS):
            self._write(functools.partial(self._import_items, frame=frame))
        own = _OWN if known is None else f"{_OWN}{run[:12]}/"
        for histories in run_histories(dataset, _ROWS):
            for start in range(0, len(histories), _USERS):
                some = histories[start : start + _USERS]
                work = functools.partial(
                    self._import_events, histories=some, own=own, timed=dataset.timed
                )
                self._write(work)
        self._write(lambda connection: self._put_fact(connection, _IMPORTED, run))
        return True

    def _refuse_strange(self, catalog: Catalog) -> None:
        """Refuses a run of another shop, whose users and items would mix with those here."""
        of = tables.items.c
        some = catalog.frame["id"].head(_ROWS).to_list()
        query = sa.select(sa.func.count()).where(of.id.in_(some))
        with self._reading() as connection:
            shared = connection.execute(query).scalar_one()
        if shared < _ALIKE * len(some):
            raise ConfigError(
                f"of the run's first {len(some):,} items the database knows {shared:,}: it is of "
                "another shop; give another --database"
            )

    def _import_log(self, connection: sa.Connection, log: ServiceLog, run: str) -> None:
        for user, moment in log.deleted.items():
            self._put_fact(connection, _DELETED + user, repr(moment))
        items = [
            {"id": name, "fields": fields, "version": 1, "put": True}
            for name, fields in log.items.rows()
        ]
        if items:
            connection.execute(self._insert(tables.items).on_conflict_do_nothing(), items)
        for frame in log.events.with_row_index("row").iter_slices(_ROWS):
            rows = [
                {**row, "id": f"log/{run[:12]}/{row.pop('row')}"}
                for row in frame.iter_rows(named=True)
            ]
            connection.execute(self._insert(tables.events).on_conflict_do_nothing(), rows)
            counts = frame.group_by("user").agg(n_events=pl.len(), last_time=pl.col("time").max())
            users = [{**row, "due": None} for row in counts.iter_rows(named=True)]
            connection.execute(self._count_events, users)

    def _import_items(self, connection: sa.Connection, frame: pl.DataFrame) -> None:
        _lock(connection)
        of = tables.items.c
        later = self._fact(connection, _IMPORTED) is not None  # services that run look for them
        version = self._next_version(connection) if later else 0
        rows = {
            name: {"id": name, "fields": _texts(frame.columns[1:], texts), "version": version}
            for name, *texts in frame.iter_rows()
        }
        some = sa.select(of.id, of.fields, of.put).where(of.id.in_(list(rows)))
        changed = []
        for name, fields, put in connection.execute(some):
            row = rows.pop(name)
            if not put and json.loads(fields) != json.loads(row["fields"]):
                changed.append({"name": name, "text": row["fields"]})
        if rows:
            connection.execute(sa.insert(tables.items), list(rows.values()))
        if changed:
            update = sa.update(tables.items).where(of.id == sa.bindparam("name"))
            update = update.values(fields=sa.bindparam("text"), version=version)
            connection.execute(update, changed)

    def _import_events(
        self, connection: sa.Connection, histories: Sequence[History], own: str, *, timed: bool
    ) -> None:
        _lock(connection)
        deleted = dict(_deleted(connection.execute(_DELETED_USERS)))
        of = tables.events.c
        users = of.user.in_([user for user, _, _ in histories])
        rows = connection.execute(sa.select(of.user, of.item, of.time).where(users))
        there = {tuple(row) for row in rows}
        known = {user for user, _, _ in there}
        events: list[dict[str, Any]] = []
        counted: list[dict[str, Any]] = []
        for user, items, times in histories:
            gone = deleted.get(hidden(user), -math.inf) if deleted else -math.inf
            if not timed and (user in known or gone > -math.inf):
                continue
            before = len(events)
            for place, (item, at) in enumerate(zip(items, times, strict=True)):
                if (user, item, at) not in there and at > gone:
                    name = f"{own}{user}/{place}"
                    events.append({"id": name, "user": user, "item": item, "time": at})
            if new := len(events) - before:
                row = {"user": user, "n_events": new, "last_time": times[-1], "due": None}
                counted.append(row)
        if events:
            connection.execute(sa.insert(tables.events), events)
            # summaries of new users are the run's own matter
            connection.execute(self._count_events, counted)
        if late := known & {one["user"] for one in counted}:
            connection.execute(_SET_DUE, [{"of": user, "now": time.time()} for user in late])

    def write_log(self, folder: Path) -> tuple[int, int, int]:
        """Writes what came in beside the runs' own data, for the next run's `data.service_log`.

        Returns:
            How many events, new or changed items, and deleted users it holds.
        """
        of, item = tables.events.c, tables.items.c
        events = sa.select(of.user, of.item, of.time, of.weight).order_by(of.seq)
        events = events.where(~of.id.startswith(_OWN, autoescape=True))
        items = sa.select(item.id, item.fields).where(item.put).order_by(item.id)
        counts = [0, 0, 0]

        def counted(place: int, rows: Iterable[Any]) -> Iterator[tuple[Any, ...]]:
            for row in rows:
                counts[place] += 1
                yield tuple(row)

        with self._reading() as connection:
            found = connection.execution_options(yield_per=_ROWS).execute(events)
            frames = (
                pl.DataFrame(list(counted(0, rows)), EVENT_SCHEMA, orient="row")
                for rows in found.partitions()
            )
            deleted = _deleted(self._rows(_DELETED_USERS))
            write_log(folder, frames, counted(1, self._rows(items)), counted(2, deleted))
        return counts[0], counts[1], counts[2]

    def _rows(self, query: sa.Select[Any]) -> Iterator[Any]:
        """The rows of a query, which is asked when the first one is wanted."""
        with self._reading() as connection:
            yield from connection.execute(query)

    def _fact(self, connection: sa.Connection, name: str) -> str | None:
        of = tables.facts.c
        return connection.execute(sa.select(of.value).where(of.name == name)).scalar()

    def _put_fact(self, connection: sa.Connection, name: str, value: str) -> None:
        insert = self._insert(tables.facts).values(name=name, value=value)
        put = insert.on_conflict_do_update(
            index_elements=["name"], set_={"value": insert.excluded.value}
        )
        connection.execute(put)

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
_SET_DUE = (
    sa.update(tables.users)
    .where(tables.users.c.user == sa.bindparam("of"), tables.users.c.due.is_(None))
    .values(due=sa.bindparam("now"))
)
_DELETED_USERS = sa.select(tables.facts).where(
    tables.facts.c.name.startswith(_DELETED, autoescape=True)
)
_REVISIONS = (
    sa.select(*(column for column in _REVISION if column.name != "kind"))
    .where(_REVISION.user == sa.bindparam("of"), _REVISION.kind == sa.bindparam("kind"))
    .order_by(_REVISION.number)
)


def _deleted(rows: Iterable[Any]) -> Iterator[tuple[str, float]]:
    """Deleted users, hidden, and when each was deleted, of such facts."""
    return ((name.removeprefix(_DELETED), float(value)) for name, value in rows)


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
