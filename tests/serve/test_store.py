"""The service's state, in SQLite and in PostgreSQL alike."""

from __future__ import annotations

import random
import threading
from concurrent.futures import ThreadPoolExecutor

import polars as pl
import pytest

from trsr.data import Dataset, DataSettings, prepare
from trsr.data.service_log import EVENT_SCHEMA, ServiceLog, hidden, write_log
from trsr.errors import ConfigError, StoreError
from trsr.progress import Silent
from trsr.serve.schemas import AddedEvents, Event, Revision
from trsr.serve.store import EventConflictError, Store, StoreUnavailableError


def event(name, user="u", item="i", time=0.0, weight=None):
    return Event(id=name, user=user, item=item, time=time, weight=weight)


def revision(number, user="u", sources=(), covers=3):
    return Revision(user=user, number=number, text="likes", covers=covers, sources=sources)


def test_an_event_counts_once_however_often_it_comes(url, open_store):
    store = open_store(url)
    first = [event("a", time=2), event("b", time=1), event("a", time=2)]
    assert store.add_events(first) == AddedEvents(new=2, known=1)
    assert store.add_events([*first, event("c", time=1)]) == AddedEvents(new=1, known=3)
    assert [e.id for e in store.history("u")] == ["b", "c", "a"]  # by time, then arrival
    (row,) = store.users()
    assert (row.n_events, row.last_time) == (3, 2)


def test_an_id_with_another_content_is_refused_and_the_batch_with_it(url, open_store):
    store = open_store(url)
    store.add_events([event("a")])
    for other in (event("a", user="v"), event("a", item="j"), event("a", time=1)):
        with pytest.raises(EventConflictError, match="'a'"):
            store.add_events([event("new"), other])
    with pytest.raises(EventConflictError):
        store.add_events([event("twice"), event("twice", weight=1.0)])
    assert [e.id for e in store.history("u")] == ["a"]
    assert not store.has_user("v")


def test_a_conflict_takes_no_other_caller_with_it(url, open_store):
    store = open_store(url)
    store.add_events([event("a")])
    futures = [
        store.submit_events([event(f"n{n}") if n % 3 else event("a", time=n + 1)])
        for n in range(60)
    ]
    kept = [n for n, future in enumerate(futures) if future.exception() is None]
    assert kept == [n for n in range(60) if n % 3]
    assert len(store.history("u")) == 41


def test_many_callers_at_once_lose_and_repeat_nothing(url, open_store):
    store = open_store(url)
    names = [f"e{n}" for n in range(100)]

    def send(seed):
        mine = names * 2
        random.Random(seed).shuffle(mine)
        return sum(store.add_events([event(n, user=f"u{hash(n) % 7}")]).new for n in mine)

    with ThreadPoolExecutor(8) as pool:
        new = sum(pool.map(send, range(8)))
    assert new == 100
    rows = store.users()
    assert sum(row.n_events for row in rows) == 100
    assert {row.user: row.n_events for row in rows} == {
        row.user: len(store.history(row.user)) for row in rows
    }


def test_two_services_on_one_database_count_an_event_once(url, open_store):
    stores = [open_store(url), open_store(url)]
    batches = [[event(f"e{n}", user=f"u{n % 5}")] for n in range(150)]
    with ThreadPoolExecutor(8) as pool:
        jobs = [pool.submit(store.add_events, batch) for batch in batches for store in stores]
    assert sum(job.result().new for job in jobs) == 150
    assert sum(row.n_events for row in stores[0].users()) == 150


def test_users_are_found_by_the_beginning_of_their_id(url, open_store):
    store = open_store(url)
    names = ["a", "ab", "abc", "b", "ä", "ä1", "%", "_x", "A", "漢字", "a\U0001f600"]
    store.add_events([event(f"e{n}", user=name) for n, name in enumerate(names)])
    assert [row.user for row in store.users()] == sorted(names)
    for prefix in ("a", "ab", "ä", "%", "_", "漢", "zz"):
        expected = sorted(name for name in names if name.startswith(prefix))
        assert [row.user for row in store.users(prefix)] == expected
    assert [row.user for row in store.users("a", 2)] == ["a", "ab"]
    assert store.count_users() == len(names)


def test_summaries_fall_due_with_an_event_and_are_done_with_the_last(url, open_store):
    store = open_store(url)
    store.add_events([event("a", user="late")])
    store.add_events([event("b", user="early"), event("c", user="late")])
    assert store.due(10) == ["late", "early"]
    assert store.due(1) == ["late"]
    read = store.stored_history("late")[-1].seq
    store.add_events([event("d", user="late")])
    store.summarized("late", read)  # one has come meanwhile
    assert store.due(10) == ["late", "early"]
    store.summarized("late", store.stored_history("late")[-1].seq)
    assert store.due(10) == ["early"]
    store.add_events([event("a", user="late")])  # known already: nothing to do
    assert store.due(10) == ["early"]


def test_revisions_are_kept_once_by_number_and_dropped_from_one_on(url, open_store):
    store = open_store(url)
    store.add_events([event("a")])
    kept = [revision(1, sources=("k1",)), revision(2, sources=("k2", "k3"), covers=6)]
    for one in (*kept, kept[0].model_copy(update={"text": "another"})):
        store.add_revision(one)
    assert store.revisions("u") == kept
    store.drop_revisions("u", 2)
    assert store.revisions("u") == kept[:1]
    store.add_revision(revision(1, user="nobody"))  # deleted while it was being written
    assert store.revisions("nobody") == []


def test_a_deleted_user_leaves_nothing_behind(url, open_store, tmp_path):
    store = open_store(url)
    marked = "marmalade-7f3a"
    store.add_events([event(f"{marked}-{n}", user=marked, item=f"{marked}i") for n in range(50)])
    store.add_events([event("other", user="other")])
    store.add_revision(revision(1, user=marked, sources=("k1", "k2")))
    store.add_revision(revision(2, user=marked, sources=("k2", "k3")))
    removed = store.delete_user(marked)
    assert removed == (50, 2, ("k1", "k2", "k3"))
    assert not store.has_user(marked)
    assert store.revisions(marked) == []
    assert store.due(10) == ["other"]
    assert store.delete_user(marked) == (0, 0, ())
    if url.startswith("sqlite"):
        held = b"".join(path.read_bytes() for path in tmp_path.glob("state.sqlite*"))
        assert b"other" in held
        assert marked.encode() not in held


def test_items_change_by_version(url, open_store):
    store = open_store(url)
    assert store.item("x") is None
    assert store.put_items({"x": {"title": "old"}}) == {"x": "new"}
    version, changed = store.items_changed_since(0)
    assert changed == [("x", {"title": "old"})]
    strange = {"title": "ünïque \u0000 \ud800"}
    assert store.put_items({"x": strange, "y/ü": {}}) == {"x": "changed", "y/ü": "new"}
    # what is sent again need not be read again
    assert store.put_items({"y/ü": {}, "x": strange}) == {"y/ü": "unchanged", "x": "unchanged"}
    assert store.items_changed_since(version)[1] == [
        ("x", {"title": "ünïque \u0000 \ud800"}),
        ("y/ü", {}),
    ]
    assert store.items_changed_since(version + 1) == (version + 1, [])


def test_a_run_is_brought_in_once_with_the_histories_that_it_recommends_for(
    url, open_store, served_run
):
    store, dataset = open_store(url), Dataset.load(served_run)
    assert store.import_run(dataset, "first")
    assert not store.import_run(dataset, "first")
    assert store.count_users() == 14
    for row in store.users():
        history = dataset.history(row.user)
        kept = store.history(row.user)
        assert [(e.item, e.time) for e in kept] == [
            (i.item.id, i.time) for i in history.interactions
        ]
        assert row.n_events == len(kept)
    assert store.due(10) == []  # the summaries of a run are its own matter
    assert store.item("p3") == dict(dataset.catalog["p3"].fields)
    assert store.items_changed_since(0)[1] == []
    store.delete_user("u1")
    assert not store.import_run(dataset, "first")
    assert not store.has_user("u1")


def test_a_later_run_brings_in_what_the_state_has_not_yet(url, open_store, tmp_path) -> None:
    store = open_store(url)
    rows = [(f"u{user}", f"p{(user + step) % 9}", step) for user in range(4) for step in range(6)]
    first = prepared(tmp_path / "first", rows[:-6], {f"p{n}": f"thing {n}" for n in range(9)})
    assert store.import_run(first, "one")
    store.put_items({"p1": {"title": "put"}, "p10": {"title": "new"}})
    store.add_events([event("a", "u0", "p10", 50), event("b", "u1", "p8", 51)])
    store.delete_user("u2")
    store.summarized("u0", 10**6)
    store.summarized("u1", 10**6)
    more = [("u0", "p10", 50), ("u1", "p8", 51), ("u1", "p2", 3.5), ("u2", "p8", 99)]
    texts = {f"p{n}": f"thing {n}" for n in range(11)} | {"p0": "changed", "p1": "changed"}
    second = prepared(tmp_path / "second", rows + more, texts)
    before, _ = store.items_changed_since(0)
    assert store.import_run(second, "two")
    assert not store.import_run(second, "two")
    assert [e.id for e in store.history("u0")][-1] == "a"
    assert len(store.history("u0")) == 7
    assert [(e.item, e.time) for e in store.history("u1")][3:5] == [("p4", 3.0), ("p2", 3.5)]
    assert [e.time for e in store.history("u2")] == [99]  # all else was before the deletion
    assert len(store.history("u3")) == 6  # whom only the second run knows
    assert {row.user: row.n_events for row in store.users()} == {"u0": 7, "u1": 8, "u2": 1, "u3": 6}
    assert store.due(10) == ["u1"]
    _, changed = store.items_changed_since(before)
    assert dict(changed) == {"p0": {"title": "changed"}, "p9": {"title": "thing 9"}}
    assert store.item("p1") == {"title": "put"}
    assert store.item("p10") == {"title": "new"}


def test_texts_of_runs_follow_the_files_and_those_of_a_request_stay(url, open_store, tmp_path):
    store = open_store(url)
    rows = [(f"u{user}", f"p{(user + step) % 9}", step) for user in range(4) for step in range(6)]
    for number, name in enumerate(("first", "second", "third")):
        texts = {f"p{n}": f"{name} {n}" for n in range(9)}
        store.import_run(prepared(tmp_path / name, rows, texts), name)
        assert store.item("p7") == {"title": f"{name} 7"}
        assert store.write_log(tmp_path / f"log{number}")[1] == (number > 0)
        store.put_items({"p1": {"title": "put"}})
    assert store.item("p1") == {"title": "put"}


def test_a_new_state_begins_with_the_log_that_the_run_was_made_with(
    url, open_store, tmp_path
) -> None:
    rows = [(f"u{user}", f"p{(user + step) % 9}", step) for user in range(4) for step in range(6)]
    texts = {f"p{n}": f"thing {n}" for n in range(9)}
    day = [("u0", "p8", 50.0, 2.0), ("new", "p1", 51.0, None)]
    frame = pl.DataFrame(day, EVENT_SCHEMA, orient="row")
    write_log(tmp_path / "log", [frame], [("p1", '{"title": "put"}')], [(hidden("u2"), 5.0)])
    log = ServiceLog.read(tmp_path / "log")
    run = prepared(tmp_path / "run", rows, texts, service_log=tmp_path / "log")
    store = open_store(url)
    assert store.import_run(run, "one", log)
    assert len(store.history("u0")) == 7  # the event is not there twice
    assert not store.has_user("u2")
    assert store.write_log(tmp_path / "next") == (2, 1, 1)
    found = ServiceLog.read(tmp_path / "next")
    assert found.events.rows() == log.events.rows()
    assert found.items.rows() == log.items.rows()
    assert found.deleted == log.deleted


def test_without_times_known_users_keep_their_history(url, open_store, tmp_path) -> None:
    rows = [(f"u{user}", f"p{(user + step) % 9}") for user in range(3) for step in range(6)]
    texts = {f"p{n}": f"thing {n}" for n in range(9)}
    store = open_store(url)
    store.import_run(prepared(tmp_path / "one", rows[:12], texts), "one")
    before = store.history("u0")
    store.import_run(prepared(tmp_path / "two", rows[1:], texts), "two")
    assert store.history("u0") == before
    assert len(store.history("u2")) == 6


def test_another_shops_run_is_refused(url, open_store, served_run, tmp_path) -> None:
    store = open_store(url)
    store.import_run(Dataset.load(served_run), "one")
    rows = [(f"u{user}", f"q{(user + step) % 9}", step) for user in range(4) for step in range(6)]
    other = prepared(tmp_path / "other", rows, {f"q{n}": f"thing {n}" for n in range(9)})
    with pytest.raises(ConfigError, match="the database knows 0: it is of another shop"):
        store.import_run(other, "two")
    assert store.count_users() == 14


def prepared(folder, rows, texts, **settings):
    """A run's data of these interactions and titles."""
    folder.mkdir()
    names = ["user", "item", "time"][: len(rows[0])]
    pl.DataFrame(rows, names, orient="row").write_csv(folder / "clicks.csv")
    items = {"id": list(texts), "title": list(texts.values())}
    pl.DataFrame(items).write_csv(folder / "items.csv")
    places = {"interactions": folder / "clicks.csv", "items": folder / "items.csv"}
    every = DataSettings(**places, **settings, negatives=1, min_history=1)
    prepare(every, folder, seed=1, progress=Silent())
    return Dataset.load(folder)


def test_summaries_of_another_kind_stand_apart(url, open_store) -> None:
    old, new = open_store(url), open_store(url)
    old.write_summaries_of("one")
    old.add_events([event("a"), event("b", user="v")])
    old.add_revision(revision(1, sources=("k1",)))
    for user in ("u", "v"):
        old.summarized(user, 10)
    assert old.due(10) == []
    new.write_summaries_of("two")
    assert new.revisions("u") == []
    assert new.due(10) == ["u"]  # who had a summary gets one of the new kind
    assert old.due(10) == []
    old.summarized("u", 10)  # who writes no more says nothing
    assert new.due(10) == ["u"]
    new.add_revision(revision(1, sources=("k2",)))
    new.drop_revisions("u", 1)
    assert [one.sources for one in old.revisions("u")] == [("k1",)]
    new.add_revision(revision(1, sources=("k2",)))
    assert new.delete_user("u").sources == ("k1", "k2")


def test_summaries_of_an_older_trsr_are_the_first_ones(url, open_store) -> None:
    store = open_store(url)
    store.add_events([event("a")])
    store.add_revision(revision(1))
    store.write_summaries_of("one")
    assert len(store.revisions("u")) == 1


def test_summaries_of_an_older_trsr_are_of_its_own_run(url, open_store, served_run) -> None:
    store, dataset = open_store(url), Dataset.load(served_run)
    store.import_run(dataset, str(served_run.parent / "another"))  # as it noted a run's folder
    store.add_events([event("a")])
    store.add_revision(revision(1))
    later = open_store(url)
    later.import_run(dataset, "one")
    later.write_summaries_of("two")
    assert later.revisions("u") == []
    assert later.due(10) == ["u"]


def test_a_log_holds_what_came_in(url, open_store, served_run, tmp_path) -> None:
    store, dataset = open_store(url), Dataset.load(served_run)
    store.import_run(dataset, "one")
    store.put_items({"p3": {"title": "put", "id": "of its own"}})
    store.add_events([event("b", "u1", "p3", 9.5, 2.0), event("a", "z", "p4", 8)])
    store.delete_user("u2")
    assert store.write_log(tmp_path / "log") == (2, 1, 1)
    log = ServiceLog.read(tmp_path / "log")
    assert log.events.rows() == [("u1", "p3", 9.5, 2.0), ("z", "p4", 8.0, None)]
    assert log.items.rows() == [("p3", '{"title": "put", "id": "of its own"}')]
    assert log.deleted.keys() == {hidden("u2")}
    assert sorted(path.name for path in (tmp_path / "log").iterdir()) == [
        *("deleted.parquet", "events.parquet", "items.parquet")
    ]


def test_what_was_kept_is_there_after_opening_again(url, open_store):
    first = open_store(url)
    first.add_events([event("a", weight=2.5)])
    first.close()
    assert open_store(url).history("u") == [event("a", weight=2.5)]


def test_migrations_make_the_tables_that_the_code_knows(url, open_store):
    import sqlalchemy as sa
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext

    from trsr.serve import store as module
    from trsr.serve import tables

    open_store(url)
    engine = module._engine(url)
    with engine.connect() as connection:
        context = MigrationContext.configure(connection)
        assert compare_metadata(context, tables.metadata) == []
        assert sa.inspect(engine).has_table("alembic_version")
    engine.dispose()


def test_stores_that_open_at_once_make_one_schema(url, open_store):
    with ThreadPoolExecutor(4) as pool:
        stores = list(pool.map(Store, [url] * 4))
    try:
        assert all(store.ready() for store in stores)
    finally:
        for store in stores:
            store.close()


def test_a_store_of_a_newer_trsr_is_refused(url, open_store):
    import sqlalchemy as sa

    from trsr.serve import store as module

    open_store(url).close()
    engine = module._engine(url)
    with engine.begin() as connection:
        connection.execute(sa.text("UPDATE alembic_version SET version_num = '9999'"))
    engine.dispose()
    with pytest.raises(StoreError, match="newer"):
        Store(url)


@pytest.mark.parametrize("wrong", ["mysql://x/y", "nothing", "sqlite://", "postgresql://h:port/x"])
def test_a_url_that_cannot_be_used_is_refused(wrong):
    with pytest.raises(ConfigError):
        Store(wrong)


def test_the_database_goes_and_comes_back(postgres, open_store):
    store = open_store(postgres.fresh())
    store.add_events([event("a")])
    postgres.stop()
    try:
        with pytest.raises(StoreUnavailableError) as caught:
            store.add_events([event("b")])
        assert "b" not in str(caught.value).split()
        with pytest.raises(StoreUnavailableError):
            store.history("u")
        assert not store.ready()
    finally:
        postgres.start()
    assert store.ready()
    assert store.add_events([event("a"), event("b")]) == AddedEvents(new=1, known=1)


def test_a_full_or_locked_database_is_said_and_passes(tmp_path, open_store, monkeypatch):
    import sqlite3

    from trsr.serve import store as module

    monkeypatch.setattr(module, "_BUSY_SECONDS", 0.05)
    path = tmp_path / "s.sqlite"
    store = open_store(f"sqlite:///{path}")
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreUnavailableError):
        store.add_events([event("a")])
    other.execute("ROLLBACK")
    other.close()
    assert store.add_events([event("a")]).new == 1


def test_no_write_waits_for_ever_when_the_store_is_closed(tmp_path, open_store):
    store = open_store(f"sqlite:///{tmp_path / 's.sqlite'}")
    futures = [store.submit_events([event(f"e{n}")]) for n in range(100)]
    closing = threading.Thread(target=store.close)
    closing.start()
    assert sum(future.result(10).new for future in futures) == 100
    closing.join(10)
    with pytest.raises(StoreUnavailableError):
        store.add_events([event("late")])


def test_the_database_is_private(tmp_path, open_store):
    open_store(f"sqlite:///{tmp_path / 's.sqlite'}").add_events([event("a")])
    assert {path.stat().st_mode & 0o777 for path in tmp_path.glob("s.sqlite*")} == {0o600}


def test_many_users_are_listed_at_once(url, open_store):
    import time

    import sqlalchemy as sa

    from trsr.serve import tables

    store = open_store(url)
    rows = [{"user": f"user{n:05d}", "n_events": 1, "last_time": 0.0} for n in range(20_000)]
    store._write(lambda connection: connection.execute(sa.insert(tables.users), rows).rowcount)
    store.add_events([event("last", user="zoe")])
    began = time.perf_counter()
    assert store.count_users() == 20_001
    assert [row.user for row in store.users("user0999", 3)] == [f"user0999{n}" for n in range(3)]
    assert store.users("user2", 3) == []
    assert len(store.users(limit=50)) == 50
    assert time.perf_counter() - began < 1
