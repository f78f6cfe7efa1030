"""Files that went wrong for somebody, and their kin: each with the right value."""

from __future__ import annotations

import csv
import gzip
import json
import os
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import fuzz
import polars as pl
import pytest
from fuzzing import readers
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from trsr.cli.inspect import write_config
from trsr.cli.terminal import visible
from trsr.config import load_config
from trsr.data import DataReport, Dataset, DataSettings, guess, inspect, located, prepare
from trsr.data.dataset import Catalog
from trsr.data.readers.table import opened
from trsr.data.requests import read_histories, read_items
from trsr.errors import DataError
from trsr.progress import Silent

ORDER = {
    "u0": (7, 8, 11, 9, 3),
    "u1": (2, 8, 7, 11, 1),
    "u2": (7, 4, 2, 1, 0),
    "u3": (9, 6, 7, 2, 0),
    "u4": (8, 1, 0, 9, 3),
}
TARGETS = {"u0": "p03", "u1": "p01", "u2": "p00", "u3": "p00", "u4": "p03"}
NAMES = "red drill,blue lamp,long rope,short saw,small pump,heavy valve,steel clamp,garden hose"
TITLES = [*NAMES.split(","), "kitchen fan", "cordless level", "oak shelf", "brass bolt"]
GOODS = [(f"p{k:02}", title, "Ajax") for k, title in enumerate(TITLES)]
START = datetime(2024, 1, 20, 16, 11, tzinfo=UTC)
FEW = {"negatives": 3, "min_history": 2}


def clicks(stamp: Callable[[datetime], object] = datetime.isoformat) -> list[tuple[str, str, Any]]:
    """The clean log, newest first so that the file's order is wrong."""
    rows = [
        (user, f"p{item:02}", stamp(START + timedelta(days=3 * place + number)))
        for number, (user, items) in enumerate(ORDER.items())
        for place, item in enumerate(items)
    ]
    return rows[::-1]


def table(
    path: Path, header: Sequence[str], rows: Iterable[Sequence[object]], separator: str = ","
) -> Path:
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, delimiter=separator, lineterminator="\n")
        writer.writerows([header, *rows] if header else rows)
    return path


def jsonl(path: Path, rows: Iterable[Mapping[str, object]]) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")
    return path


def log(tmp_path: Path, rows: Iterable[Sequence[object]] | None = None) -> Path:
    return table(tmp_path / "clicks.csv", ("customer", "sku", "when"), rows or clicks())


def goods(tmp_path: Path, rows: Iterable[Sequence[object]] = GOODS) -> Path:
    return table(tmp_path / "goods.csv", ("sku", "title", "brand"), rows)


def made(tmp_path: Path, found: DataSettings, **more: Any) -> tuple[DataReport, Dataset]:
    out = tmp_path / f"out{len(list(tmp_path.iterdir()))}"
    out.mkdir()
    chosen = found.model_copy(update=FEW | more)
    report = prepare(chosen, out, seed=1, progress=Silent())
    readers.balanced(report)
    return report, Dataset.load(out)


def guessed(
    tmp_path: Path, interactions: Path, items: Path | None = None, **more: Any
) -> tuple[DataReport, Dataset]:
    return made(tmp_path, guess(interactions, items).settings, **more)


def targets(dataset: Dataset) -> dict[str, str]:
    frame = dataset.cases("test").frame
    return {user: item for user, (item,) in frame.select("user", "relevant").rows()}


def texts(dataset: Dataset, item: str) -> dict[str, str]:
    return dict(dataset.catalog[item].fields)


# Times

_ARABIC = str.maketrans("0123456789", "٠١٢٣٤٥٦٧٨٩")
_PST = timezone(timedelta(hours=-8))
STAMPS: dict[str, Callable[[datetime], object]] = {
    "seconds": lambda t: int(t.timestamp()),
    "milliseconds": lambda t: int(t.timestamp() * 1e3),
    "decimal comma": lambda t: f"{t.timestamp():.2f}".replace(".", ","),
    "microseconds": lambda t: int(t.timestamp() * 1e6),
    "iso with Z": lambda t: t.strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
    "iso day": lambda t: t.strftime("%Y-%m-%d"),
    "compact": lambda t: t.strftime("%Y%m%dT%H%M%SZ"),
    "day as a number": lambda t: t.strftime("%Y%m%d"),
    "zoned": lambda t: t.astimezone(_PST).isoformat(" "),
    "zone in brackets": lambda t: f"{t.isoformat()}[Europe/London]",
    "ruby": lambda t: t.astimezone(_PST).strftime("%a %b %d %H:%M:%S %z %Y"),
    "java": lambda t: t.astimezone(_PST).strftime("%a %b %d %H:%M:%S PST %Y"),
    "c": lambda t: t.strftime("%a %b %e %H:%M:%S %Y"),
    "javascript": lambda t: t.strftime("%a %b %d %Y %H:%M:%S GMT+0000 (Coordinated Time)"),
    "mail": lambda t: t.strftime("%a, %d %b %Y %H:%M:%S +0000"),
    "apache": lambda t: t.strftime("%d/%b/%Y:%H:%M:%S +0000"),
    "german": lambda t: t.strftime("%d.%m.%Y %H:%M"),
    "american": lambda t: t.strftime("%m/%d/%Y %I:%M:%S %p"),
    "british": lambda t: t.strftime("%d/%m/%Y %H:%M"),
    "short year": lambda t: t.strftime("%m/%d/%y %H:%M"),
    "english": lambda t: t.strftime("%B %d, %Y, %I:%M %p"),
    "amazon 2014": lambda t: t.strftime("%m %d, %Y"),
    "oracle": lambda t: t.strftime("%d-%b-%Y %H.%M.%S"),
}


@pytest.mark.parametrize("kind", STAMPS)
def test_each_way_to_write_a_time_orders_the_log(tmp_path: Path, kind: str) -> None:
    _, dataset = guessed(tmp_path, log(tmp_path, clicks(STAMPS[kind])), goods(tmp_path))
    assert targets(dataset) == TARGETS
    first = dataset.cases("test").of_user("u0").frame["times"][0][0]
    day = START.replace(hour=0, minute=0).timestamp()
    if "seconds" not in kind and "number" not in kind:
        assert first in (START.timestamp(), day)


def test_units_that_are_mixed_become_one(tmp_path: Path) -> None:
    stamps = iter(range(99))
    rows = clicks(lambda t: int(t.timestamp()) * (1000 if next(stamps) % 2 else 1))
    report, dataset = guessed(tmp_path, log(tmp_path, rows), goods(tmp_path))
    assert targets(dataset) == TARGETS
    assert any("milliseconds" in text for text in report.warnings)


def test_what_day_and_month_are_is_guessed_or_reported(tmp_path: Path) -> None:
    early = [(u, i, t.replace(year=2023, day=1 + t.day % 12)) for u, i, t in clicks(lambda t: t)]
    rows = [(u, i, t.strftime("%d/%m/%Y")) for u, i, t in early]
    path = log(tmp_path, rows)
    found = guess(path, goods(tmp_path))
    message = [
        text for text in found.reasons if "no date of column 'when' has a day above 12" in text
    ]
    assert message
    assert 'data.time_format, such as "%d/%m/%Y"' in message[0]
    _, dataset = made(tmp_path, found.settings, time_format="%d/%m/%Y")
    day = max(t for u, _, t in early if u == "u0").replace(hour=0, minute=0)
    last = dataset.cases("test").of_user("u0").frame["times"][0].max()
    assert last is not None
    assert last <= day.timestamp()
    both = log(tmp_path, [*rows, ("u0", "p00", "13/1/2023"), ("u0", "p01", "1/13/2023")])
    with pytest.raises(
        DataError, match=r"column 'when' .*the day first \('13/1/2023'\) and with the month first"
    ):
        inspect(found.settings.model_copy(update={"interactions": both}), seed=1)


def test_dates_that_are_not_understood_are_reported(tmp_path: Path) -> None:
    rows = clicks(lambda t: t.strftime("%Y-%m-%d").translate(_ARABIC))
    with pytest.raises(DataError, match="is neither a number nor a date"):
        guessed(tmp_path, log(tmp_path, rows), goods(tmp_path))
    rows = clicks(lambda t: t.strftime("%d de enero de %Y, %H:%M:%S"))
    with pytest.raises(DataError, match=r"'05 de enero.* \(and 24 more\).*set data\.time_format"):
        guessed(tmp_path, log(tmp_path, rows), goods(tmp_path))
    path = table(tmp_path / "c.csv", ("user", "sku", "cuando"), rows)
    found = guess(path, goods(tmp_path))
    assert found.settings.columns.time == ""
    assert any("'cuando' looks like dates, but cannot be read" in text for text in found.reasons)
    report, _ = made(tmp_path, found.settings)
    assert any("no column holds the time" in text for text in report.warnings)
    columns = found.settings.columns.model_copy(update={"time": "cuando"})
    _, dataset = made(
        tmp_path, found.settings, columns=columns, time_format="%d de enero de %Y, %H:%M:%S"
    )
    assert len(targets(dataset)) == 5


def test_a_minute_is_no_user(tmp_path: Path) -> None:
    rows = [
        (u, i, t.replace(" ", " ")) for u, i, t in clicks(lambda t: t.strftime("%d.%m.%Y %H:%M"))
    ]
    path = table(tmp_path / "k.csv", ("Kunde", "Artikel", "Datum"), rows, ";")
    items = table(tmp_path / "p.csv", ("Artikel", "Bezeichnung"), (row[:2] for row in GOODS))
    found = guess(path, items).settings.columns
    assert (found.user, found.item, found.time) == ("Kunde", "Artikel", "Datum")


def test_a_finer_column_orders_what_ties(tmp_path: Path) -> None:
    rows = [(u, i, k, "2024-01-20") for k, (u, i, _) in enumerate(reversed(clicks()))]
    random.Random(1).shuffle(rows)
    path = table(tmp_path / "c.csv", ("sessionId", "itemId", "timeframe", "eventdate"), rows, ";")
    found = guess(path, goods(tmp_path))
    assert (found.settings.columns.time, found.settings.columns.order) == ("eventdate", "timeframe")
    assert targets(made(tmp_path, found.settings)[1]) == TARGETS
    # a time of the day beside the day
    hours = [(u, f"{k // 60:02}:{k % 60:02}", i, day) for u, i, k, day in rows]
    path = table(tmp_path / "e.csv", ("user", "Time", "item", "Date"), hours)
    found = guess(path, goods(tmp_path))
    assert (found.settings.columns.time, found.settings.columns.order) == ("Date", "Time")
    assert targets(made(tmp_path, found.settings)[1]) == TARGETS
    # a price orders nothing, however fine
    path = table(tmp_path / "d.csv", ("sessionId", "itemId", "price", "eventdate"), rows, ";")
    found = guess(path, goods(tmp_path))
    assert found.settings.columns.order == ""
    assert found.settings.ties == "drawn"
    assert any("100% of a user's neighbouring" in text for text in found.reasons)


def test_ties_in_the_order_of_ids_are_reported_and_can_be_drawn(tmp_path: Path) -> None:
    rows = sorted((u, i, "2024-01-20T10:00:00") for u, i, _ in clicks())
    plain = guess(log(tmp_path, rows), goods(tmp_path)).settings.model_copy(update={"ties": "file"})
    report, dataset = made(tmp_path, plain)
    assert any("100% of a user" in t and "order of item ids" in t for t in report.warnings)
    numbers = [(u, str(int(i[1:])), t) for u, i, t in rows]  # 9 before 10
    items = table(tmp_path / "n.csv", ("sku", "title"), enumerate(TITLES))
    report, _ = guessed(
        tmp_path,
        table(tmp_path / "n2.csv", ("customer", "sku", "when"), numbers),
        items,
        ties="file",
    )
    assert any("order of item ids" in t for t in report.warnings)
    assert targets(dataset) == {u: max(i for v, i, _ in rows if v == u) for u in ORDER}
    drawn = targets(made(tmp_path, plain, ties="drawn")[1])
    assert drawn != targets(dataset)
    log(tmp_path, rows[::-1])
    assert targets(made(tmp_path, plain, ties="drawn")[1]) == drawn


def test_a_basket_can_be_one_step(tmp_path: Path) -> None:
    rows = [(u, f"p{2 * b + k:02}", b) for u in "abc" for b in range(4) for k in range(2)]
    found = guess(log(tmp_path, rows), goods(tmp_path)).settings
    _, dataset = made(tmp_path, found, ties="step")
    assert len(dataset.cases("test")) == len(dataset.cases("valid")) == 3
    fitted = dataset.interactions.group_by("user").agg(pl.col("time").max())
    for case, last in (("test", 3.0), ("valid", 2.0)):
        for row in dataset.cases(case).frame.iter_rows(named=True):
            assert row["relevant"][0] in {f"p{2 * last + k:02.0f}" for k in range(2)}
            assert max(row["times"]) == last - 1
            assert len(row["items"]) == 2 * last
    assert fitted["time"].to_list() == [1.0] * 3


# Ids


def test_a_bare_line_is_an_id_as_it_stands(tmp_path: Path) -> None:
    ids = ["1905.1001", "1905.10010", "12e5", "1200000.0", "true", '"x"', "[1]"]
    catalog = Catalog(pl.DataFrame({"id": ids, "title": [f"about {one}" for one in ids]}))
    path = tmp_path / "c.txt"
    path.write_text(
        "\n".join(["1905.10010", " 12e5 ", '"x"', "[1]", '"true"', '{"id": "1905.1001"}'])
    )
    assert [item.id for item in read_items(path, catalog)] == [
        *("1905.10010", "12e5", '"x"', "[1]", "true", "1905.1001")
    ]
    path.write_text('{"user": 7, "items": [1905.10010, "12e5"], "times": [1, 2.5]}')
    (history,) = read_histories(path, catalog)
    assert [item.id for item in history.items] == ["1905.10010", "12e5"]
    assert history.user == "7"


MISSING = ["nan", "NaN", "NULL", "null", "None", "\\N", "NA", "N/A", "<NA>", "", "  "]


@pytest.mark.parametrize("again", ["p1", '"p1"', '{"id": "p1"}', '{"id": "p1", "title": "new"}'])
def test_an_item_that_stands_twice_is_named_with_its_line(tmp_path: Path, again: str) -> None:
    catalog = Catalog(pl.DataFrame({"id": ["p1", "2"], "title": ["a hinge", "a lamp"]}))
    path = tmp_path / "c.txt"
    path.write_text(f"p1\n2\n\n{again}\n")
    with pytest.raises(DataError, match=r"c\.txt, line 4: the item 'p1' stands on a line before"):
        read_items(path, catalog)


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_words_for_nothing_are_no_ids(tmp_path: Path, kind: str) -> None:
    rows = [*clicks(), *((word, f"p{k:02}", 1e9 + k) for k, word in enumerate(MISSING))]
    rows = [(u, i, str(t)) for u, i, t in [*rows, ("u0", "None", 5e8), ("u1", "p00", "NaT")]]
    names = ("customer", "sku", "when")
    path = table(tmp_path / "c.csv", names, rows)
    frame = pl.DataFrame(rows, names, orient="row")
    if kind == "jsonl":
        frame.write_ndjson(path := tmp_path / "c.jsonl")
    elif kind == "parquet":
        frame.write_parquet(path := tmp_path / "c.parquet")
    items = goods(tmp_path, [*GOODS, ("None", "a book called None", ""), ("\\N", "", "")])
    report, dataset = guessed(tmp_path, path, items)
    assert targets(dataset) == TARGETS
    assert report.counts["rows_without_ids"] == len(MISSING) + 1
    assert report.counts["rows_without_time"] == 1
    assert report.counts["items_without_id"] == 2
    assert any("whose user is" in text and "\\N" in text for text in report.warnings)
    assert any("whose item is None" in text for text in report.warnings) or kind != "csv"


LISTS: dict[str, Callable[[list[str]], object]] = {
    "json": lambda items: items,
    "json text": json.dumps,
    "python": repr,
    "numpy": lambda items: f"[{' '.join(map(repr, items))}]",
    "commas": ", ".join,
}


@pytest.mark.parametrize("kind", LISTS)
def test_ids_in_lists_stay_whole(tmp_path: Path, kind: str) -> None:
    def name(title: str) -> str:
        return title if kind == "commas" else title.replace(" ", " |, ")

    rows = [
        {"user": user, "items": LISTS[kind]([name(TITLES[k]) for k in items])}
        for user, items in ORDER.items()
    ]
    items = jsonl(tmp_path / "p.jsonl", ({"item": name(t), "title": t} for t in TITLES))
    report, dataset = guessed(tmp_path, jsonl(tmp_path / "c.jsonl", rows), items)
    assert targets(dataset) == {u: name(TITLES[o[-1]]) for u, o in ORDER.items()}
    counts = [report.counts[n] for n in ("interactions_read", "users", "items", "unknown_items")]
    assert counts == [25, 5, 12, 0]


def test_the_same_item_twice_fills_gaps_and_the_most_frequent_wins(tmp_path: Path) -> None:
    rows = [("p00", "", ""), *GOODS, ("p01", "OLD LAMP", ""), ("p02", "rope", "Ajax")]
    rows += [("p02", "rope", "None"), ("p03", "short saw", "Ajax")]
    report, dataset = guessed(tmp_path, log(tmp_path), goods(tmp_path, rows))
    assert texts(dataset, "p00") == {"title": "red drill", "brand": "Ajax"}
    assert texts(dataset, "p01") == {"title": "blue lamp", "brand": "Ajax"}
    assert texts(dataset, "p02") == {"title": "rope", "brand": "Ajax"}
    assert (report.counts["items_twice"], report.counts["items_varying"]) == (5, 2)


@pytest.mark.parametrize(
    ("there", "here", "cause"),
    [
        (lambda k: f"01087750{k:02}", lambda k: f"1087750{k:02}", "zeros at the beginning"),
        (lambda k: f"AB{k}C", lambda k: f"ab{k}c", "upper and lower case"),
        (lambda k: f"{1e5 + k:.0f}", lambda k: f"{1e5 + k:.5e}", "an exponent"),
    ],
)
def test_ids_written_apart_are_named_with_the_cause(
    tmp_path: Path, there: Callable[[int], str], here: Callable[[int], str], cause: str
) -> None:
    rows = [(u, here(int(i[1:])), t) for u, i, t in clicks()]
    items = goods(tmp_path, [(there(k), title, "") for k, title in enumerate(TITLES)])
    with pytest.raises(DataError) as caught:
        guess(log(tmp_path, rows), items)
    assert cause in str(caught.value)
    chosen = DataSettings(interactions=log(tmp_path, rows), items=items)
    with pytest.raises(DataError, match=cause) as caught:
        inspect(chosen.model_copy(update={"columns": guess_columns()}), seed=1)
    number = next(k for k in range(12) if repr(here(k)) in str(caught.value))
    assert repr(there(number)) in str(caught.value)


def guess_columns() -> Any:
    return DataSettings.model_validate({"columns": {"user": "customer"}}).columns


@pytest.mark.parametrize("end", ["\n", "\r", "\r\n"])
def test_an_id_with_a_line_end_is_an_error_with_its_line(tmp_path: Path, end: str) -> None:
    rows = [("u9", "p01", "2024-01-01"), *clicks(), (f"u9{end}x", "p00", "2024-01-01")]
    named = r"the id 'u9(\\r)?(\\n)?x' has a line end"
    with pytest.raises(DataError, match=rf"clicks\.csv, line 28: {named}"):
        inspect(DataSettings(interactions=log(tmp_path, rows), items=goods(tmp_path)), seed=1)
    path = jsonl(tmp_path / "c.jsonl", ({"user": u, "sku": i, "time": t} for u, i, t in rows))
    with pytest.raises(DataError, match=rf"c\.jsonl, line 27: {named}"):
        inspect(DataSettings(interactions=path, items=goods(tmp_path)), seed=1)
    jsonl(path, ({"user": u, "sku": f"x{i}{end}0"} for u, i, _ in rows))
    with pytest.raises(DataError, match=r"c\.jsonl, line 1: the id 'xp01.*0' has a line end"):
        guess(path, goods(tmp_path))


@pytest.mark.parametrize(
    ("line", "key"),
    [
        ('{"customer": "u1", "sku": "p01", "customer": "u2"}', "customer"),
        ('{"customer": "u1", "sku": "p01", "more": [{"a": 1, "a": 1}]}', "a"),
        ("{'customer': 'u1', 'sku': 'p01', 'sku': 'p02'}", "sku"),
    ],
)
def test_a_key_that_stands_twice_is_refused_with_its_line(
    tmp_path: Path, line: str, key: str
) -> None:
    path = jsonl(tmp_path / "c.jsonl", ({"customer": u, "sku": i} for u, i, _ in clicks()))
    path.write_text(f"{path.read_text()}{line}\n")
    with pytest.raises(DataError, match=rf"c\.jsonl, line 26: the key '{key}' stands twice"):
        guess(path, goods(tmp_path))
    path.write_text('{"user": "a", "items": ["p01"], "items": ["p02"]}\n')
    catalog = Catalog(pl.DataFrame({"id": ["p01", "p02"], "title": ["x", "y"]}))
    with pytest.raises(DataError, match="line 1: the key 'items' stands twice"):
        read_histories(path, catalog)


def test_ids_that_another_program_has_rounded_are_reported(tmp_path: Path) -> None:
    rows = [(float(2**53 + 2 * int(u[1])), i, t) for u, i, t in clicks()]
    path = tmp_path / "c.parquet"
    pl.DataFrame(rows, ("customer", "sku", "when"), orient="row").write_parquet(path)
    report, _ = guessed(tmp_path, path, goods(tmp_path))
    assert any("user ids are floats from 2^53 up" in text for text in report.warnings)
    path = log(tmp_path, [(f"{u[1]}.23E+17", i, t) for u, i, t in clicks()])
    report, _ = guessed(tmp_path, path, goods(tmp_path))
    assert any("25 user ids are written like 4.23E+17" in text for text in report.warnings)


def test_many_repeats_are_counted_and_reported(tmp_path: Path) -> None:
    again = [("u0", "p07", "2024-03-01"), ("u1", "p02", "2024-03-01")]
    report, _ = guessed(tmp_path, log(tmp_path, [*clicks(), *again]), goods(tmp_path))
    assert report.counts["repeats_kept"] == 2
    assert any(
        "7% of the interactions are with an item that the user" in t for t in report.warnings
    )
    report, _ = guessed(
        tmp_path, log(tmp_path, [*clicks(), *again]), goods(tmp_path), drop_repeats=True
    )
    assert report.counts["repeats"] == 2
    assert not any("already had" in text for text in report.warnings)


# Files


def many(tmp_path: Path, first: str, last: str, between: int) -> Path:
    lines = [f"k{n},thing {n}\n" for n in range(5000)]
    lines[500], lines[500 + between] = f"k500,{first}\n", f"k{500 + between},{last}\n"
    path = tmp_path / "many.csv"
    path.write_text("sku,title\n" + "".join(lines))
    return path


def test_two_marks_far_apart_swallow_no_row(tmp_path: Path) -> None:
    path = log(tmp_path, [(u, f"k{i[1:]}", t) for u, i, t in clicks()])
    path.write_text(path.read_text().replace("k0", "k"))
    for first, last in (('"Great film', 'not bad"'), ('"x" y', 'z "w"'), ('5" disk', '6" disk')):
        for between in (1, 2, 3900):
            try:
                report, _ = guessed(tmp_path, path, many(tmp_path, first, last, between))
            except DataError as error:
                assert "many.csv, line 502" in str(error)  # noqa: PT017
            else:
                assert report.counts["items_read"] == 5000


@pytest.mark.parametrize("far", [1, 12_000])
def test_a_key_that_comes_late_is_a_column(tmp_path: Path, far: int) -> None:
    rows: list[dict[str, object]] = [{"sku": f"x{k}", "title": "t"} for k in range(far)]
    rows += [{"sku": sku, "title": title} for sku, title, _ in GOODS]
    rows[-1]["late"] = "found"
    report, dataset = guessed(tmp_path, log(tmp_path), jsonl(tmp_path / "g.jsonl", rows))
    assert texts(dataset, "p11") == {"title": "brass bolt", "late": "found"}
    assert report.counts["items_read"] == far + 12


def test_fields_too_many_are_refused_and_too_few_reported(tmp_path: Path) -> None:
    dat = tmp_path / "goods.dat"
    lines = [f"{sku}::{title}::{brand}" for sku, title, brand in GOODS]
    dat.write_text("\n".join(["sku::title::brand", *lines[:5], "p05::a::b::c", *lines[6:]]))
    with pytest.raises(DataError, match=r"goods\.dat, line 7: 4 fields where the first line has 3"):
        guess(log(tmp_path), dat)
    dat.write_text("\n".join(["sku::title::brand", *lines[:11], "p11"]))
    report, dataset = guessed(tmp_path, log(tmp_path), dat)
    assert any("1 rows have fewer fields" in text for text in report.warnings)
    assert texts(dataset, "p11") == {}


@pytest.mark.parametrize("separator", [",", ";", "|", "\t", "^", "]", "-", " "])
def test_quoted_fields_of_any_separator(tmp_path: Path, separator: str) -> None:
    rows = [(sku, f"{title}{separator}x", "") for sku, title, _ in GOODS]
    path = table(tmp_path / "g.csv", ("sku", "title", "brand"), rows, separator)
    settings = DataSettings(
        interactions=path, items=path, separator=separator, columns=guess_columns()
    )
    frame = opened(path, "interactions", settings, header=True)[1].frame.collect()
    assert frame.rows() == [(sku, title, None) for sku, title, _ in rows]
    path.write_text(f'{path.read_text()}p99{separator}"a"{separator}{separator}\n')
    with pytest.raises(DataError, match=r"g\.csv, line 14: 4 fields where the first line has 3"):
        opened(path, "interactions", settings, header=True)


def test_a_quotation_mark_swallows_no_row_beside_one_that_is_short(tmp_path: Path) -> None:
    lines = [f"k{n},thing {n},Ajax" for n in range(60)]
    lines[20], lines[22] = 'k20,"thing,Ajax', 'k22,x"'
    path = tmp_path / "g.csv"
    path.write_text("\n".join(["sku,title,brand", *lines]))
    chosen = DataSettings(interactions=log(tmp_path), items=path, columns=guess_columns())
    with pytest.raises(DataError, match=r"g\.csv, line 22: a quotation mark opens a field"):
        inspect(chosen, seed=1)
    path = tmp_path / "g.tsv"
    path.write_text("sku\ttitle\tbrand\n" + "".join(f"k{n}\ta\\\n b\tAjax\n" for n in range(9)))
    with pytest.raises(DataError, match=r"g\.tsv, line 2: too few fields, and a backslash"):
        inspect(chosen.model_copy(update={"items": path}), seed=1)


def test_candidates_of_mind_that_say_nothing_are_counted(tmp_path: Path) -> None:
    lines = [f"{k}\tU{k}\t11/11/2019 9:05:58 AM\tN1 N2 N3\tN4-1 N5-0 N6 N7-2 N-8" for k in range(5)]
    (tmp_path / "behaviors.tsv").write_text("\n".join(lines))
    (tmp_path / "news.tsv").write_text(
        "\n".join(f"N{k}\tsports\tx\tA headline {k}\tabstract" for k in range(9))
    )
    chosen = DataSettings(reader="mind", interactions=tmp_path, candidates="given")
    report = inspect(chosen.model_copy(update={"split": "leave_last_out"}), seed=1)
    assert report.counts["impressions_unmarked"] == 15


def test_marks_escaped_by_backslashes_are_read(tmp_path: Path) -> None:
    path = tmp_path / "g.csv"
    lines = [f'"{sku}","{title}","Ajax"' for sku, title, _ in GOODS]
    for number in (3, 6):
        lines[number] = lines[number].replace('","Ajax', '\\" wide","Ajax')
    lines[8] = '"p08","a \\\\ b\\"","Ajax"'
    path.write_text("sku,title,brand\n" + "\n".join(lines) + "\n")
    report, dataset = guessed(tmp_path, log(tmp_path), path)
    assert report.counts["items"] == 12
    assert texts(dataset, "p03")["title"] == 'short saw" wide'
    assert texts(dataset, "p08")["title"] == 'a \\ b"'
    assert any("with a backslash" in text for text in report.warnings)


def test_texts_over_many_lines_are_read_alike_by_init_and_check(tmp_path: Path) -> None:
    text = "a, b\n" + "x\n" * 17 + "x"
    path = goods(tmp_path, [(sku, title, text) for sku, title, _ in GOODS])
    report, dataset = guessed(tmp_path, log(tmp_path), path)
    assert report.counts["items_read"] == 12
    assert texts(dataset, "p11") == {"title": "brass bolt", "brand": text}


def test_marks_and_lines_before_the_header(tmp_path: Path) -> None:
    rows = [{"user": u, "item": i, "time": t} for u, i, t in clicks()]
    items = goods(tmp_path)
    bom = jsonl(tmp_path / "c.jsonl", rows)
    bom.write_text("\ufeff" + bom.read_text())
    assert targets(guessed(tmp_path, bom, items)[1]) == TARGETS
    for opening in ("sep=;\n", '"sep=;"\r\n', "\ufeffsep=;\n", "# export of 2024-05-01\n#\n"):
        path = table(tmp_path / "c.csv", ("customer", "sku", "when"), clicks(), ";")
        path.write_text(opening + path.read_text())
        report, dataset = guessed(tmp_path, path, items)
        assert targets(dataset) == TARGETS
        assert report.counts["interactions_read"] == 25
        assert sum("skipped as a comment" in t for t in report.warnings) == opening.count("#")
    path.write_text("Sales of May\n" + table(tmp_path / "d.csv", ("a", "b"), [(1, 2)]).read_text())
    with pytest.raises(DataError, match="is the first line a title or a comment"):
        guess(path, items)


def test_python_literals_are_read_as_data(tmp_path: Path) -> None:
    rows = [{"username": u, "product_id": i, "date": t, "early": False} for u, i, t in clicks()]
    path = tmp_path / "c.json"
    path.write_text("".join(f"{row!r}\n" for row in rows))
    report, dataset = guessed(tmp_path, path, goods(tmp_path))
    assert targets(dataset) == TARGETS
    assert any("25 lines are Python literals" in text for text in report.warnings)
    path.write_text("{'a': __import__('os').getcwd()}\n")
    with pytest.raises(DataError, match=r"c\.json, line 1: not JSON"):
        guess(path, goods(tmp_path))


HTML = {
    "red drill &amp; more": "red drill & more",
    "&quot;blue&quot; &#39;new&#39; &#x41;&nbsp;b": "\"blue\" 'new' A b",
    '<span id="t" class="a">long rope</span>': "long rope",
    "<p>one</p><br/>two<!-- three -->": "one two",
    "&amp;lt;b&amp;gt;bold&amp;lt;/b&amp;gt;": "bold",
    "<script>alert(1)</script>saw": "saw",
    "AT&T & R&notes <3 a<b List<String> <|end|>": "AT&T & R&notes <3 a<b List<String> <|end|>",
}


def test_html_in_texts_is_decoded_and_counted(tmp_path: Path) -> None:
    rows = [(sku, text, "") for (sku, *_), text in zip(GOODS, [*HTML, *TITLES], strict=False)]
    report, dataset = guessed(tmp_path, log(tmp_path), goods(tmp_path, rows))
    for (sku, *_), text in zip(GOODS, HTML.values(), strict=False):
        assert texts(dataset, sku)["title"] == text
    assert report.counts["texts_with_html"] == 6


PARQUET: dict[str, Callable[[pl.Expr], pl.Expr]] = {
    "binary": lambda c: c.cast(pl.Binary),
    "categorical": lambda c: c.cast(pl.Categorical),
    "enum": lambda c: c.cast(pl.Enum(sorted({*TITLES, *(g[0] for g in GOODS), "Ajax"}))),
}


@pytest.mark.parametrize("kind", PARQUET)
def test_texts_of_any_parquet_type_are_text(tmp_path: Path, kind: str) -> None:
    frame = pl.DataFrame(GOODS, ("sku", "title", "brand"), orient="row")
    path = tmp_path / "g.parquet"
    frame.select(PARQUET[kind](pl.all())).write_parquet(path)
    _, dataset = guessed(tmp_path, log(tmp_path), path)
    assert targets(dataset) == TARGETS
    assert texts(dataset, "p01") == {"title": "blue lamp", "brand": "Ajax"}


def test_parquet_columns_that_hold_no_ids_or_texts_are_named(tmp_path: Path) -> None:
    from datetime import time

    frame = pl.DataFrame(GOODS, ("sku", "title", "brand"), orient="row").with_columns(
        raw=pl.lit(b"\xff\xfe"),
        large=pl.lit(1e300),
        at=pl.lit(time(1, 2)),
        long=pl.lit(timedelta(days=1)),
        many=pl.lit([[1], [2]]),
        object=pl.struct(size=pl.lit("L"), kinds=pl.lit(["a", "b"])),
        none=pl.lit(None),
    )
    path = tmp_path / "g.parquet"
    frame.write_parquet(path)
    report, dataset = guessed(tmp_path, log(tmp_path), path)
    assert any("column 'raw' holds Binary that is no UTF-8 text" in t for t in report.warnings)
    assert texts(dataset, "p01")["object"] == "size: L, kinds: a, kinds: b"
    assert texts(dataset, "p01")["many"] == "1, 2"
    for column in ("raw", "many", "object"):
        columns = guess_columns().model_copy(update={"item_id": column})
        chosen = DataSettings(interactions=log(tmp_path), items=path, columns=columns)
        with pytest.raises(DataError, match=r"g\.parquet: column 'id' holds"):
            inspect(chosen, seed=1)


BROKEN: dict[str, bytes] = {
    "cut.csv.gz": gzip.compress(b"customer,sku,when\n" + os.urandom(500).hex().encode())[:-30],
    "bad.csv.gz": b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03" + b"\xff" * 60,
    "empty.csv.gz": gzip.compress(b""),
    "packed": b"\x1f\x8bcustomer,sku,when\nu0,p00,1\n",  # no name says what it holds
    "lone.csv": b'customer,sku,when\n"u0,p00,1\n',
    "mark.csv": b'"',
    "nul.csv": b"\x00" * 40,
    "same.csv": b"customer,sku,when\n" + b",,\n" * 30,
    "deep.jsonl": b'{"customer": ' + b"[" * 100_000 + b"]" * 100_000 + b"}\n",
    "deep.json": b"{'customer': " + b"[" * 100_000 + b"]" * 100_000 + b"}\n",
    "half.jsonl": b'{"customer": "\\ud800", "sku": "p00"}\n',
    "digits.jsonl": b'{"customer": ' + b"9" * 10_000 + b', "sku": "p00"}\n',
    "keys.jsonl": b"".join(b'{"%d": 1}\n' % k for k in range(6000)),
    "not.parquet": b"PAR1" + b"\x00" * 40 + b"PAR1",
    "names.csv": b" customer,customer,sku,when\n" + b"u,v,p00,1\n" * 3,
}


@pytest.mark.parametrize("name", BROKEN)
@pytest.mark.timeout(30)
def test_broken_files_are_refused_or_read(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(BROKEN[name])
    pairs = ((path, goods(tmp_path)), (log(tmp_path), path), (path, None))
    for interactions, items in pairs:
        try:
            found = guess(interactions, items).settings
        except DataError as error:
            assert name in str(error)  # noqa: PT017
        else:
            chosen = {"max_unknown": 1, "min_history": 1, "negatives": 1}
            with suppress(DataError):  # such as: no case is left
                readers.balanced(inspect(found.model_copy(update=chosen), seed=1))


@pytest.mark.timeout(30)
def test_pipes_and_devices_are_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/zero"), Path("/dev/stdin")):
        if path.is_file():
            continue
        with pytest.raises(DataError, match="is a pipe or a device"):
            guess(path, goods(tmp_path))
        with pytest.raises(DataError, match="is a pipe or a device"):
            inspect(DataSettings(interactions=log(tmp_path), items=path), seed=1)


def test_items_by_hand_in_another_encoding_are_named(tmp_path: Path) -> None:
    catalog = Catalog(pl.DataFrame({"id": ["é", "b"], "title": ["x", "y"]}))
    path = tmp_path / "c.txt"
    path.write_text("b\né\n", "cp1252")
    for read in (read_items, read_histories):
        with pytest.raises(DataError, match=r"c\.txt: is not UTF-8 text; save the file as UTF-8"):
            read(path, catalog)


def test_histories_by_hand(tmp_path: Path) -> None:
    catalog = Catalog(pl.DataFrame({"id": ["a", "b"], "title": ["x", "y"]}))
    path = tmp_path / "h.jsonl"
    path.write_text(
        '{"user": null, "items": ["a", {"id": "n", "title": "one\u2028two\x85"}]}\n', "utf-8"
    )
    (history,) = read_histories(path, catalog)
    assert history.user == "line 1"
    assert history.items[1].fields == (("title", "one\u2028two\x85"),)
    for times in ("[NaN, 1]", '["NaN", 1]', "[1, Infinity]", "[2, 1]", "[true, 2]", "[1]"):
        path.write_text(f'{{"items": ["a", "b"], "times": {times}}}\n')
        with pytest.raises(DataError, match=r"h\.jsonl, line 1"):
            read_histories(path, catalog)
    for items in ("[null]", "[true]", '[["a"]]', '[{"id": null}]', '[{"id": ["a"]}]', "[" * 9000):
        path.write_text(f'{{"items": {items}}}\n')
        with pytest.raises(DataError, match=r"h\.jsonl, line 1"):
            read_histories(path, catalog)


def test_what_a_terminal_obeys_is_spelled_out() -> None:
    text = "a\x1b]0;x\x07b\x9b31m\u202ec\x00\r\ttab\nline é 漢"
    assert visible(text) == ("a\\u001b]0;x\\u0007b\\u009b31m\\u202ec\\u0000\\u000d\ttab\nline é 漢")


# One file, kinds of events


def orders(rows: int = 400) -> pl.DataFrame:
    """A shop's export in the columns of UCI's Online Retail."""
    draw = random.Random(3)
    made_up = []
    for number in range(rows):
        item = draw.randrange(40)
        text = f"{TITLES[item % 12].upper()} {item}"
        made_up.append(
            {
                "InvoiceNo": f"{536_000 + number // 3}",
                "StockCode": f"{85_000 + item}{'A' if item % 9 == 0 else ''}",
                "Description": draw.choices([text, f"{text}?", None], [18, 1, 1])[0],
                "Quantity": draw.randrange(1, 12),
                "InvoiceDate": (START + timedelta(hours=number // 3)).strftime("%m/%d/%Y %H:%M"),
                "UnitPrice": round(draw.uniform(1, 9), 2),
                "CustomerID": draw.choice([None, *range(12_346, 12_356)]),
                "Country": draw.choices(["United Kingdom", "France"], [9, 1])[0],
            }
        )
    back = [
        {**r, "InvoiceNo": f"C{r['InvoiceNo']}", "Quantity": -r["Quantity"]} for r in made_up[:20]
    ]
    return pl.DataFrame(made_up + back)


@pytest.mark.parametrize("kind", ["csv", "parquet", "no code"])
def test_a_shops_export_is_enough(tmp_path: Path, kind: str) -> None:
    frame = orders()
    path = tmp_path / "orders.csv"
    if kind == "parquet":
        when = pl.col("InvoiceDate").str.to_datetime("%m/%d/%Y %H:%M")
        path = tmp_path / "orders.parquet"
        frame.with_columns(when, pl.col("CustomerID").cast(pl.Float64)).write_parquet(path)
    else:
        frame = frame.drop("StockCode") if kind == "no code" else frame
        frame.write_csv(path)
    config, reasons = write_config(path, None, tmp_path / "c.toml", force=False)
    found = located(load_config(config).data)
    columns = found.columns
    item = "Description" if kind == "no code" else "StockCode"
    assert (columns.user, columns.item, columns.time) == ("CustomerID", item, "InvoiceDate")
    assert (columns.quantity, columns.texts) == ("Quantity", ["Description"])
    assert any("cancelled" in reason for reason in reasons)
    assert not any("day above 12" in reason for reason in reasons)
    report, dataset = made(tmp_path, found)
    needed = frame.drop_nulls(["CustomerID", item])
    assert report.counts["interactions_read"] == len(frame)
    assert report.counts["rows_without_ids"] == len(frame) - len(needed)
    assert report.counts["cancelled"] == (needed["Quantity"] < 0).sum()
    assert "12346" in set(dataset.interactions["user"])
    if kind != "no code":
        assert report.counts["items_varying"] > 5
        assert texts(dataset, "85001") == {"Description": "BLUE LAMP 1"}
    else:
        assert texts(dataset, "BLUE LAMP 1") == {"Description": "BLUE LAMP 1"}


@pytest.mark.parametrize("name", ["event_type", "action", "event"])
def test_kinds_of_events_are_found_said_and_filtered(tmp_path: Path, name: str) -> None:
    kinds = ("view", "cart", "purchase", None)
    rows = [(u, i, t, kinds[k % 4]) for k, (u, i, t) in enumerate(clicks())]
    path = table(tmp_path / "c.csv", ("user", "sku", "time", name), rows)
    found = guess(path, goods(tmp_path))
    assert found.settings.columns.event == name
    assert f"event: column {name!r}: it holds view (7), cart (6), purchase (6)" in "\n".join(
        found.reasons
    )
    report, _ = made(tmp_path, found.settings)
    assert report.counts["interactions"] == 25
    report, _ = made(tmp_path, found.settings, min_history=1, events=["cart", "purchase"])
    assert report.counts["other_events"] == 13
    assert report.counts["interactions"] == 12
    assert any("does not name: view (7), none (6)" in text for text in report.warnings)
    with pytest.raises(DataError, match="data.events names buy, but no row is of it; there is"):
        inspect(found.settings.model_copy(update={"events": ["buy"]}), seed=1)
    unsaid = found.settings.columns.model_copy(update={"event": "sku_kind"})
    with pytest.raises(DataError, match="there is no column 'sku_kind'"):
        inspect(found.settings.model_copy(update={"events": ["cart"], "columns": unsaid}), seed=1)


# Rows in = rows used + rows counted

CELL = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r\n"), max_size=8)
ROWS = st.lists(st.tuples(CELL, CELL, st.integers(-5, 10**10)), min_size=1, max_size=25)


@settings(max_examples=24, suppress_health_check=list(HealthCheck))
@given(rows=ROWS, kind=st.sampled_from(["csv", "tsv", "jsonl", "parquet", "gz", "one"]))
def test_each_row_is_used_or_counted(tmp_path_factory: Any, rows: Any, kind: str) -> None:
    tmp_path = tmp_path_factory.mktemp("rows")
    names = ("user", "item", "time")
    frame = pl.DataFrame(
        [*clicks(lambda t: t.timestamp()), *rows], names, orient="row", strict=False
    )
    items = pl.DataFrame({"item": [*(g[0] for g in GOODS), *frame["item"]]}).with_columns(
        title=pl.lit('a, "b"\nc')
    )
    path = tmp_path / f"c.{'csv.gz' if kind == 'gz' else 'csv' if kind == 'one' else kind}"
    if kind == "parquet":
        frame.write_parquet(path)
    elif kind == "jsonl":
        frame.write_ndjson(path)
    else:
        frame = frame.with_columns(title=pl.lit("a, b")) if kind == "one" else frame
        table(path, frame.columns, frame.rows(), "\t" if kind == "tsv" else ",")
        if kind == "gz":
            path.write_bytes(gzip.compress(path.read_bytes()))
    items.write_csv(tmp_path / "g.csv", separator="\t" if kind == "tsv" else ",")
    chosen = DataSettings(
        interactions=path,
        items=None if kind == "one" else tmp_path / "g.csv",
        separator="\t" if kind == "tsv" else ",",
        max_unknown=1,
        **FEW,
    )
    report = inspect(chosen, seed=1)
    readers.balanced(report, len(frame), None if kind == "one" else len(items))


@pytest.mark.parametrize("reader", readers.READERS)
def test_each_row_of_a_published_format_is_used_or_counted(tmp_path: Path, reader: str) -> None:
    for number in range(4):
        folder = tmp_path / str(number)
        folder.mkdir()
        rng = random.Random(number)
        found, rows, items = readers.published(rng, folder, reader, spoilt=False)
        readers.prepared(found, rng, folder, rows, items)


def test_spoilt_inputs_do_no_harm(tmp_path: Path) -> None:
    """A few of each area; `make fuzz` tries thousands."""
    for area in fuzz.AREAS:
        for number in range({"readers": 30, "adapters": 2}.get(area, 12)):
            folder = tmp_path / f"{area}-{number}"
            folder.mkdir()
            *_, fault = fuzz.once(11, number, folder, 60, area)
            assert not fault, f"{area}, input {number}: {fault}"
    fuzz.areas.clear(tmp_path)
