"""A service's log beside the files: as if the files held all of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from trsr.data.report import RowCounts
from trsr.data.service_log import (
    EVENT_SCHEMA,
    EVENTS,
    ServiceLog,
    deletion_time,
    hidden,
    write_log,
)
from trsr.data.text import clean_text, cleaned
from trsr.errors import DataError

FEW = settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
PREPARED = ("items", "interactions", "held_out", "cases.train", "cases.valid", "cases.test")

ODD = ("<b>a</b> c", "&amp;lt;i&gt; x", " \t", "a\x00b")

Row = tuple[str, str, int]


def log(
    folder: Path,
    events: list[Any],
    items: dict[str, dict[str, str]] | None = None,
    deleted: dict[str, float] | None = None,
) -> Path:
    rows = [(*event, None)[:4] for event in events]
    write_log(
        folder,
        [pl.DataFrame(rows, schema=EVENT_SCHEMA, orient="row")] if rows else [],
        [(name, json.dumps(fields)) for name, fields in (items or {}).items()],
        [(hidden(user), time) for user, time in (deleted or {}).items()],
    )
    return folder


def files_of(dataset: Any) -> dict[str, pl.DataFrame]:
    return {name: pl.read_parquet(dataset.folder / f"{name}.parquet") for name in PREPARED}


def same(one: Any, other: Any) -> None:
    for name, frame in files_of(one).items():
        assert frame.equals(files_of(other)[name]), name


def rows(users: int = 4, length: int = 6) -> list[Row]:
    return [
        (f"u{user}", f"i{(3 * user + step) % 12}", 10 * step + user)
        for user in range(users)
        for step in range(length)
    ]


@FEW
@given(
    data=st.lists(
        st.tuples(st.integers(0, 5), st.integers(0, 11), st.integers(0, 30), st.booleans()),
        min_size=30,
        max_size=60,
    )
)
def test_events_of_a_log_are_as_good_as_rows_of_the_file(
    bench: Any, data: list[tuple[int, int, int, bool]]
) -> None:
    named = [(f"u{user}", f"i{item}", 1000 + time, late) for user, item, time, late in data]
    before = [row[:3] for row in named if not row[3]]
    after = [row[:3] for row in named if row[3]]
    if not before:
        return
    own = {"items": bench.goods(12), "negatives": 3, "min_history": 1}
    try:
        report, whole = bench.prepare(interactions=bench.clicks(before + after), **own)
    except DataError as error:
        with pytest.raises(DataError, match=str(error)[:12]):
            bench.prepare(
                interactions=bench.clicks(before), service_log=log(bench.folder(), after), **own
            )
        return
    found, joined = bench.prepare(
        interactions=bench.clicks(before), service_log=log(bench.folder(), after), **own
    )
    same(whole, joined)
    assert found.counts.get("service_events", 0) <= len(after)
    assert found.counts["duplicates"] == report.counts["duplicates"]
    assert found.counts["interactions"] == report.counts["interactions"]


@FEW
@given(
    st.lists(
        st.text()
        | st.sampled_from(["<b>a</b> c", "&amp;lt;i&gt; x", " \t", "a\x00b", "x" * 40_000]),
        min_size=1,
    )
)
def test_a_text_alone_is_cleaned_as_those_of_the_files_are(texts: list[str]) -> None:
    frame = pl.DataFrame({"id": [str(n) for n in range(len(texts))], "title": texts})
    found = cleaned(frame, RowCounts())["title"].fill_null("").to_list()
    assert [clean_text(text) for text in texts] == found


def test_items_of_a_log_join_the_catalog_and_change_it(bench: Any) -> None:
    new = {
        "i99": {"brand": "New", "title": "A <b>new</b> thing", "colour": "red"},
        "i3": {"title": "Another name"},
    }
    report, dataset = bench.prepare(
        interactions=bench.clicks(rows()),
        items=bench.goods(12),
        negatives=3,
        service_log=log(bench.folder(), [("u1", "i99", 900)], new),
    )
    catalog = dataset.catalog
    assert catalog.ids == sorted(catalog.ids)
    assert catalog["i99"].fields == (("title", "A new thing"), ("brand", "New"))
    assert catalog["i3"].fields == (("title", "Another name"),)
    assert len(catalog) == report.counts["items"] == 13
    assert report.counts["service_items"] == 2
    assert any("colour (1)" in warning for warning in report.warnings)
    assert dataset.history("u1").items[-1].id == "i99"


def test_what_a_deleted_user_did_before_is_left_out(bench: Any) -> None:
    deleted = {"u1": 1000.0, "u2": 25.0}
    later = [("u1", f"i{item}", 2000 + item) for item in range(5)]
    report, dataset = bench.prepare(
        interactions=bench.clicks(rows()),
        items=bench.goods(12),
        negatives=3,
        min_history=1,
        service_log=log(bench.folder(), later, deleted=deleted),
    )
    assert [item.id for item in dataset.history("u1").items] == ["i0", "i1", "i2", "i3", "i4"]
    assert all(one.time > 25 for one in dataset.history("u2").interactions)
    assert report.counts["deleted_users"] == 6 + 3
    for frame in files_of(dataset).values():
        if "user" in frame.columns and "times" in frame.columns:
            own = frame.filter(pl.col("user") == "u1")
            assert own["times"].explode().min() in (None, 2000.0)


@pytest.mark.parametrize("unit", [1, 1000, 1_000_000])
def test_a_deletion_knows_the_clock_of_the_files(bench: Any, unit: int) -> None:
    start = 1_600_000_000
    data = [(user, item, (start + time) * unit) for user, item, time in rows()]
    now = start + 100_000
    last = max(time for user, _, time in data if user == "u1")
    log_folder = log(bench.folder(), [], deleted={"u1": deletion_time(now, last)})
    own = {"items": bench.goods(12), "negatives": 3}
    _, dataset = bench.prepare(interactions=bench.clicks(data), service_log=log_folder, **own)
    assert dataset.history("u1") is None
    assert dataset.history("u2") is not None
    # who comes back is a new user
    again = [("u1", f"i{n}", (now + 50 + n) * unit) for n in range(5)]
    _, dataset = bench.prepare(
        interactions=bench.clicks(data + again), service_log=log_folder, **own
    )
    assert len(dataset.history("u1").interactions) == 5


def test_on_a_clock_of_steps_a_deletion_takes_what_was_known() -> None:
    assert deletion_time(1.8e9, 31.0) == 31.0
    assert deletion_time(1.8e9, 1.8e9 + 60) == 1.8e9 + 60
    assert deletion_time(1.8e9, None) == 1.8e9


def test_events_of_before_a_deletion_are_left_out_of_a_log_too(bench: Any) -> None:
    events = [("u1", "i1", 500), ("u1", "i2", 1500)]
    found = ServiceLog.read(log(bench.folder(), events, deleted={"u1": 1000.0}))
    assert found.events["time"].to_list() == [1500.0]


def test_deletions_hold_for_files_without_times_and_for_everybody(bench: Any) -> None:
    own = {"items": bench.goods(12), "negatives": 3}
    untimed = bench.table("clicks.csv", ("user", "item"), [row[:2] for row in rows()])
    folder = log(bench.folder(), [], deleted={"u1": 5.0})
    _, dataset = bench.prepare(interactions=untimed, service_log=folder, **own)
    assert dataset.history("u1") is None
    every = log(bench.folder(), [], deleted={f"u{n}": 1e9 for n in range(4)})
    with pytest.raises(DataError, match="no interaction is left of users who are not deleted"):
        bench.prepare(interactions=bench.clicks(rows()), service_log=every, **own)


def test_an_event_that_an_order_column_separates_counts_once(bench: Any) -> None:
    ordered = bench.table(
        "clicks.csv", ("user", "item", "time", "step"), [(*row, n) for n, row in enumerate(rows())]
    )
    own = {"items": bench.goods(12), "negatives": 3, "columns": {"order": "step"}}
    folder = log(bench.folder(), rows())
    report, dataset = bench.prepare(interactions=ordered, service_log=folder, **own)
    assert report.counts["service_events"] == 0
    assert report.counts["duplicates"] == len(rows())
    assert len(dataset.history("u1").interactions) == 6
    # another one at the time of the last row comes behind it
    last = max(time for user, _, time in rows() if user == "u1")
    folder = log(bench.folder(), [("u1", "i11", last)])
    _, dataset = bench.prepare(interactions=ordered, service_log=folder, **own)
    assert dataset.history("u1").items[-1].id == "i11"


def test_another_clock_is_mentioned(bench: Any) -> None:
    own = {"items": bench.goods(12), "negatives": 3}
    data = [(user, item, 1_600_000_000_000 + time) for user, item, time in rows()]
    folder = log(bench.folder(), [("u1", "i9", 1_700_000_000)])
    report, _ = bench.prepare(interactions=bench.clicks(data), service_log=folder, **own)
    assert any("are they of one clock" in warning for warning in report.warnings)


def test_an_events_weight_is_its_rating(bench: Any) -> None:
    rated = [(*row, 5) for row in rows()]
    table = bench.table("clicks.csv", ("user", "item", "time", "rating"), rated)
    events = [("u0", "i9", 500, 1.0), ("u0", "i10", 501, 4.0), ("u0", "i11", 502, None)]
    report, dataset = bench.prepare(
        interactions=table,
        items=bench.goods(12),
        negatives=3,
        min_rating=3,
        service_log=log(bench.folder(), events),
    )
    ids = [item.id for item in dataset.history("u0").items]
    assert ids[-2:] == ["i10", "i11"]
    assert "i9" not in ids
    assert report.counts["below_min_rating"] == 1
    assert "i9" in dataset.seen(["u0"])["u0"]


def test_what_is_wrong_with_a_log_is_said(bench: Any) -> None:
    own = {"items": bench.goods(12), "negatives": 3}
    clicks = bench.clicks(rows())
    with pytest.raises(DataError, match="there is no such folder; write it again by"):
        bench.prepare(interactions=clicks, service_log=bench.folder() / "none", **own)
    with pytest.raises(DataError, match=r"events.parquet: there is no such file"):
        bench.prepare(interactions=clicks, service_log=bench.folder(), **own)
    folder = log(bench.folder(), [("u1", "i1", 5)])
    pl.DataFrame({"user": ["u1"], "item": ["i1"]}).write_parquet(folder / EVENTS)
    with pytest.raises(DataError, match="there is no column time"):
        bench.prepare(interactions=clicks, service_log=folder, **own)
    pl.DataFrame({"user": ["u1"], "item": ["i1"], "time": [float("inf")]}).write_parquet(
        folder / EVENTS
    )
    with pytest.raises(DataError, match="a time is no number of seconds"):
        bench.prepare(interactions=clicks, service_log=folder, **own)
    untimed = bench.table("clicks.csv", ("user", "item"), [row[:2] for row in rows()])
    with pytest.raises(DataError, match=r"no column holds the time.*data\.service_log"):
        bench.prepare(
            interactions=untimed, service_log=log(bench.folder(), [("u1", "i1", 5)]), **own
        )
    wrong = log(bench.folder(), [], {"i1": {}})
    pl.DataFrame({"id": ["i1"], "fields": ["[1]"]}).write_parquet(wrong / "items.parquet")
    with pytest.raises(DataError, match="item i1: not a JSON object"):
        bench.prepare(interactions=clicks, service_log=wrong, **own)
