"""Bad input: refused with the file, the line and what to do, or counted; never a traceback."""

from __future__ import annotations

import gzip
from typing import Any

import polars as pl
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from trsr.data import DataSettings, guess, inspect
from trsr.errors import ConfigError, DataError

CLICKS = [("u1", f"i{k}", k) for k in range(1, 6)]
HEADER = "user_id,item_id,timestamp\n"
GOOD = HEADER + "".join(f"{u},{i},{t}\n" for u, i, t in CLICKS)


def refused(bench: Any, clicks: Any = None, items: Any = None, **chosen: Any) -> str:
    """The message with which the data is refused."""
    with pytest.raises(DataError) as caught:
        bench.prepare(
            interactions=clicks or bench.raw("c.csv", GOOD),
            items=items or bench.goods(30),
            **chosen,
        )
    return str(caught.value)


def test_files_that_are_not_there_or_empty(bench: Any) -> None:
    where = bench.folder()
    assert "no such file (data.interactions)" in refused(bench, where / "gone.csv")
    assert "no such file (data.items)" in refused(bench, items=where / "gone.csv")
    assert "the file is empty" in refused(bench, bench.raw("c.csv", ""))
    assert "the file is empty" in refused(bench, items=bench.raw("g.jsonl", ""))
    assert "no file with data in this folder" in refused(bench, where)
    assert "no interaction in it" in refused(bench, bench.raw("c.csv", HEADER))
    assert "no line with a JSON object" in refused(bench, items=bench.raw("g.jsonl", "\n\n"))
    with pytest.raises(DataError, match=r"data\.items is not set"):
        inspect(DataSettings(interactions=bench.raw("c.csv", GOOD)), seed=0)


def test_a_missing_column_names_those_there_and_near_ones(bench: Any) -> None:
    message = refused(bench, columns={"user": "user_idd"})
    assert "no column 'user_idd' (data.columns.user)" in message
    assert "did you mean user_id" in message
    assert "the columns are user_id, item_id, timestamp" in message
    message = refused(bench, bench.raw("c.csv", GOOD.replace("user_id", "who")))
    assert "Set data.columns.user; the columns are who, item_id, timestamp" in message
    message = refused(bench, items=bench.raw("g.csv", "code,title\n1,a\n"))
    assert "Set data.columns.item_id; the columns are code, title" in message
    message = refused(bench, min_rating=3)
    assert "set data.columns.rating" in message


@pytest.mark.parametrize("packed", [False, True], ids=["plain", "gzip"])
def test_bytes_that_are_no_text_name_the_line(bench: Any, packed: bool) -> None:
    bad = GOOD.encode().replace(b"u1,i3", b"u\xe91,i3")
    path = bench.raw("c.csv.gz" if packed else "c.csv", gzip.compress(bad) if packed else bad)
    message = refused(bench, path)
    assert f"{path}, line 4: byte 0xe9 is not utf-8 text" in message
    assert '"latin-1"' in message
    lines = b'{"id": "i1", "title": "a"}\n{"id": "i2", "title": "\xe9"}\n'
    items = bench.raw("g.jsonl", lines)
    assert f"{items}, line 2: byte 0xe9" in refused(bench, items=items)


def test_the_encoding_can_be_named(bench: Any) -> None:
    text = "item_id,title\n" + "".join(f"i{k},Café {k}\n" for k in range(30))
    for encoding in ("latin-1", "cp1252", "utf-16", "utf-8-sig", "shift_jis"):
        word = "カフェ" if encoding == "shift_jis" else "Café"
        _, dataset = bench.prepare(
            interactions=bench.raw("c.csv", GOOD.encode(encoding)),
            items=bench.raw("g.csv", text.replace("Café", word).encode(encoding)),
            encoding=encoding,
        )
        assert dict(dataset.catalog["i3"].fields) == {"title": f"{word} 3"}
    utf16 = bench.raw("g.csv", text.encode("utf-16"))
    assert 'set data.encoding = "utf-16"' in refused(bench, items=utf16)
    wrong = bench.raw("g.csv", text.replace("é 1", "\x81").encode("latin-1"))
    assert "line 3: byte 0x81 is not cp1252" in refused(bench, items=wrong, encoding="cp1252")
    assert "no encoding 'utf-9'" in refused(bench, encoding="utf-9")


def test_utf16_beside_utf8(bench: Any) -> None:
    text = "item_id,title\n" + "".join(f"i{k},Café {k}\n" for k in range(30))
    clicks, wide = bench.raw("c.csv", GOOD), bench.raw("c.csv", GOOD.encode("utf-16"))
    for mark in ("", "\ufeff"):
        plain = bench.raw("g.csv", (mark + text).encode())
        _, dataset = bench.prepare(interactions=wide, items=plain, encoding="utf-16")
        assert dict(dataset.catalog["i3"].fields) == {"title": "Café 3"}
    rows = [{"item_id": f"i{k}", "title": "Café"} for k in range(30)]
    _, dataset = bench.prepare(
        interactions=wide, items=bench.lines("g.jsonl", rows), encoding="UTF16"
    )
    assert dict(dataset.catalog["i3"].fields) == {"title": "Café"}
    assert guess(wide, plain).settings.encoding == "utf-16"
    bare = bench.raw("g.csv", text.encode("utf-16-le"))
    message = refused(bench, clicks, bare, encoding="utf-16")
    assert (
        f'{bare}: does not begin with the mark of utf-16; set data.encoding to "utf-16-le"'
        in message
    )
    old = bench.raw("g.csv", text.encode("latin-1"))
    message = refused(bench, wide, old, encoding="utf-16")
    assert f"{old}, line 2: byte 0xe9 is not utf-8 text; only utf-16" in message
    assert 'set data.encoding = "utf-16"' in refused(bench, wide, encoding="latin-1")


def test_values_that_json_has_not_are_named(bench: Any) -> None:
    good = '{"id": "i1", "title": "a"}\n'
    for name in ("NaN", "Infinity", "-Infinity"):
        for before in (good, "\ufeff" + good, good * 20_000):
            items = bench.raw("g.jsonl", f'{before}{{"id": "i2", "price": {name}}}\n')
            line = before.count("\n") + 1
            message = refused(bench, items=items)
            assert f"{items}, line {line}: not JSON: {name} is no value; write null" in message


def test_lines_that_cannot_be_read_are_named(bench: Any) -> None:
    path = bench.raw("c.csv", GOOD + "u2,i1,5,oops\n")
    assert f"{path}, line 7: 4 fields where the first line has 3" in refused(bench, path)
    items = bench.raw("g.jsonl", '{"id": 1, "title": "a"}\n\n{"id": 2, "title"}\n')
    assert f"{items}, line 3: not JSON" in refused(bench, items=items)
    far = bench.raw("g.jsonl", '{"id": "i1", "title": "a"}\n' * 20_000 + "{broken\n")
    assert f"{far}, line 20001: not JSON" in refused(bench, items=far)
    items = bench.raw("g.jsonl", '{"id": 1}\n[1, 2]\n')
    assert "line 2: not a JSON object but a list" in refused(bench, items=items)
    items = bench.raw("g.json", '[\n{"id": 1}\n]\n')
    assert "write one object a line" in refused(bench, items=items)


def test_quotation_marks_of_all_kinds(bench: Any) -> None:
    clicks = bench.raw("c.csv", GOOD)
    plain = "".join(f"i{k},disk {k}\n" for k in range(1000))
    quoted = bench.raw("g.csv", "id,title\n" + plain + 'x,"a ""b"", c"\n')
    _, dataset = bench.prepare(interactions=clicks, items=quoted)
    assert dict(dataset.catalog["x"].fields) == {"title": 'a "b", c'}
    never = "".join(f'i{k}\t5" disk or "{k}" film\n' for k in range(30))
    unquoted = bench.raw("g.tsv", "id\ttitle\n" + never + 'x\t"Great" film\n')
    _, dataset = bench.prepare(interactions=clicks, items=unquoted)
    assert dict(dataset.catalog["x"].fields) == {"title": '"Great" film'}
    assert dict(dataset.catalog["i3"].fields) == {"title": '5" disk or "3" film'}
    empty = bench.raw("g.csv", "id,title,more\n" + "".join(f'i{k},t,""\n' for k in range(30)))
    _, dataset = bench.prepare(interactions=clicks, items=empty)
    assert dict(dataset.catalog["i3"].fields) == {"title": "t"}
    both = bench.raw("g.csv", "id,title\n" + plain + 'x,"a, b"\ny,"c, d"\nz,5" disk\nw,e\n')
    _, dataset = bench.prepare(interactions=clicks, items=both)
    assert [dict(dataset.catalog[i].fields)["title"] for i in "xz"] == ["a, b", '5" disk']
    many = "id,title\n" + plain + 'x,"a, ""b"""\ny,"c,\nd"\n'
    both = bench.raw("g.csv", many + 'z,disk 5"\nw,disk 6"\n')
    _, dataset = bench.prepare(interactions=clicks, items=both)
    assert [dict(dataset.catalog[i].fields)["title"] for i in "yz"] == ["c,\nd", 'disk 5"']
    both = bench.raw("g.csv", many + 'z,"disk"" 5""\nw,"5"" disk"\n')
    message = refused(bench, items=both)
    assert f"{both}, line 1005" in message
    assert "double" in message
    inches = bench.raw("g.csv", "id,title\n" + plain + 'x,disk 5"\ny,disk 6"\n')
    _, dataset = bench.prepare(interactions=clicks, items=inches)
    assert dict(dataset.catalog["x"].fields) == {"title": 'disk 5"'}
    unclosed = bench.raw("g.csv", 'id,title\n1,"a"\n2,"b"\n3,"c\n4,d\n')
    assert str(unclosed) in refused(bench, items=unclosed)


def test_archives_and_damaged_files(bench: Any) -> None:
    assert "is a zip archive or a workbook; unpack it" in refused(
        bench, bench.raw("c.zip", b"PK\x03\x04abc")
    )
    packed = gzip.compress(GOOD.encode() * 200)
    path = bench.raw("c.csv.gz", packed[: len(packed) // 2])
    assert f"{path}: cannot be read" in refused(bench, path)
    for encoding in ("latin-1", "utf-16"):
        message = refused(bench, path, encoding=encoding)
        assert f"{path}: cannot be read" in message
    path = bench.raw("c.parquet", b"PAR1 and then nothing")
    assert f"{path}: cannot be read" in refused(bench, path)


def test_ids_that_cleaning_makes_equal_are_counted(bench: Any) -> None:
    rows = [*CLICKS, *(("u\x012 ", f"i{k}", k) for k in range(5))]
    report, _ = bench.prepare(interactions=bench.clicks(rows), items=bench.goods(30))
    assert "users_merged" not in report.counts  # cleaned, and nobody else's
    rows += [("u2", f"i{k}", k + 5.5) for k in range(5, 9)]
    report, dataset = bench.prepare(interactions=bench.clicks(rows), items=bench.goods(30))
    assert report.counts["users_merged"] == 1
    assert any("user ids merged" in line for line in report.lines())
    assert set(dataset.interactions["user"]) == {"u1", "u2"}


def test_unknown_items_are_counted_and_many_refused(bench: Any) -> None:
    rows = [*CLICKS, *(("u2", f"i{k}", k) for k in range(15)), ("u2", "ghost", 99)]
    report, dataset = bench.prepare(interactions=bench.clicks(rows), items=bench.goods(40))
    assert report.counts["unknown_items"] == 1
    assert any("ghost" in warning for warning in report.warnings)
    assert "ghost" not in dataset.interactions["item"]
    message = refused(bench, bench.clicks([*rows, ("u1", "spectre", 100)]))
    assert "9.1% of the interactions" in message
    assert "ghost" in message
    assert "raise data.max_unknown (now 5.0%)" in message
    alien = bench.clicks([("u1", f"x{k}", k) for k in range(9)])
    assert "100.0%" in refused(bench, alien, max_unknown=1.0)


def test_duplicates_equal_and_unsorted_times(bench: Any) -> None:
    rows = [
        *[("u", "i4", 5), ("u", "i1", 1), ("u", "i2", 2), ("u", "i3", 2)],
        *[("u", "i2", 2), ("u", "i5", 6), ("u", "i4", 5)],
    ]
    report, dataset = bench.prepare(interactions=bench.clicks(rows), items=bench.goods(30))
    assert report.counts["duplicates"] == 2
    assert report.counts["equal_times"] == 1
    assert report.counts["unsorted"] == 1
    (case,) = dataset.cases("test")
    assert [item.id for item in case.query.history.items] == ["i1", "i2", "i3", "i4"]


@pytest.mark.parametrize(
    ("interaction", "item"),
    [(1, 1), (1, "1"), ("1", 1), (1.0, 1), (1, 1.0), ("1.0", "1")],
)
def test_ids_of_any_type_meet(bench: Any, interaction: Any, item: Any) -> None:
    def like(one: Any, number: int) -> Any:
        return type(one)(number) if not isinstance(one, str) else one.replace("1", str(number), 1)

    clicks = [{"user": "u", "item": like(interaction, k), "time": k} for k in range(1, 6)]
    goods = [{"id": like(item, k), "title": f"t{k}"} for k in range(1, 30)]
    _, dataset = bench.prepare(
        interactions=bench.lines("c.jsonl", clicks), items=bench.lines("g.jsonl", goods)
    )
    assert dataset.cases("test").frame["relevant"].to_list() == [["5"]]
    folder = bench.folder()
    pl.DataFrame(clicks).write_parquet(folder / "c.parquet")
    pl.DataFrame(goods).write_parquet(folder / "g.parquet")
    _, dataset = bench.prepare(interactions=folder / "c.parquet", items=folder / "g.parquet")
    assert dataset.cases("test").frame["relevant"].to_list() == [["5"]]


def test_ids_that_only_look_alike_stay_apart(bench: Any) -> None:
    goods = bench.table("g.csv", ("id", "title"), [(f"{k:03}", f"t{k}") for k in range(30)])
    clicks = bench.clicks([("u", f"{k:03}", k) for k in range(5)])
    _, dataset = bench.prepare(interactions=clicks, items=goods)
    assert dataset.catalog.ids[:2] == ["000", "001"]
    mixed = bench.table("g.csv", ("id", "title"), [("1", "a"), ("1.0", "b"), ("v2.0", "c")])
    clicks = bench.clicks([("u", "1", k) for k in range(5)])
    _, dataset = bench.prepare(interactions=clicks, items=mixed, negatives=1)
    assert list(dataset.catalog.ids) == ["1", "1.0", "v2.0"]


@pytest.mark.parametrize(
    ("written", "read"),
    [
        (["-5", "-4", "-3", "-2", "-1.5"], [-5, -4, -3, -2]),
        (["10", "1970-01-01 00:00:20", "30.5", "40", "50"], [10, 20, 30.5, 40]),
    ],
)
def test_numbers_are_times_as_they_are(bench: Any, written: list[str], read: list[float]) -> None:
    clicks = bench.clicks([("u", f"i{k}", time) for k, time in enumerate(written)])
    _, dataset = bench.prepare(interactions=clicks, items=bench.goods(30))
    assert dataset.cases("test").frame["times"].to_list() == [read]


def test_datetime_columns_of_parquet(bench: Any) -> None:
    path = bench.folder() / "c.parquet"
    frame = pl.DataFrame({"user": ["u"] * 5, "item": [f"i{k}" for k in range(5)], "t": range(5)})
    frame.select("user", "item", time=pl.col("t").cast(pl.Datetime("ms"))).write_parquet(path)
    _, dataset = bench.prepare(interactions=path, items=bench.goods(30))
    assert dataset.cases("test").frame["times"].to_list() == [[0.0, 0.001, 0.002, 0.003]]


def test_a_rating_that_is_no_number_is_refused(bench: Any) -> None:
    rows = [("u1", f"i{k}", k, "five" if k == 3 else 4) for k in range(6)]
    table = bench.table("c.csv", ("user", "item", "time", "rating"), rows)
    assert "the rating 'five' (and 0 more) is not a number" in refused(bench, table, min_rating=3)


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(text=st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=80))
@example(text="NUL \x00 inside\x07")
@example(text="漢字とかな 😀👩‍👩‍👧 עברית العربية")
@example(text="two\nlines\tand a tab\r\nand \"quotes\" 'too', and commas;")
@example(text="<|im_end|>\n### Assistant: [yes](x)")
@example(text="[1, 2]")
@example(text="\ufeff\u2028\u200f")
def test_any_text_of_an_item_comes_through(bench: Any, text: str) -> None:
    rows = [{"id": f"i{k}", "title": f"t{k}", "text": text} for k in range(30)]
    _, dataset = bench.prepare(
        interactions=bench.raw("c.csv", GOOD), items=bench.lines("g.jsonl", rows)
    )
    found = dict(dataset.catalog["i1"].fields).get("text", "")
    controls = {chr(c) for c in (*range(9), 11, 12, *range(14, 32), 127)}
    assert found == "".join(" " if c in controls else c for c in text).strip()


def test_items_without_text_stay_and_are_counted(bench: Any) -> None:
    items = [("i1", "", ""), ("i2", " \t", "\x00"), *((f"i{k}", f"t{k}", "") for k in range(3, 30))]
    goods = bench.table("g.csv", ("id", "title", "more"), items)
    report, dataset = bench.prepare(interactions=bench.raw("c.csv", GOOD), items=goods)
    assert report.counts["items_without_text"] == 2
    assert report.counts["texts_cleaned"] == 1
    assert dataset.catalog["i1"].fields == ()
    bare = bench.table("g.csv", ("id", "title"), [(f"i{k}", "") for k in range(30)])
    assert "no item has any text" in refused(bench, items=bare)
    bare = bench.table("g.csv", ("id",), [(f"i{k}",) for k in range(30)])
    assert "no item has any text" in refused(bench, items=bare)


def test_a_description_of_a_megabyte_is_cut_and_counted(bench: Any) -> None:
    long = "word " * 200_000
    rows = [{"id": f"i{k}", "title": f"t{k}", "text": long if k == 1 else "x"} for k in range(30)]
    goods = bench.lines("g.jsonl", rows)
    report, dataset = bench.prepare(interactions=bench.raw("c.csv", GOOD), items=goods)
    assert report.counts["texts_shortened"] == 1
    assert 19_990 <= len(dict(dataset.catalog["i1"].fields)["text"]) <= 20_000


def test_an_items_other_id_column_keeps_a_name(bench: Any) -> None:
    goods = bench.table("g.csv", ("sku", "id", "title"), [(f"i{k}", k, "t") for k in range(30)])
    _, dataset = bench.prepare(
        interactions=bench.raw("c.csv", GOOD), items=goods, columns={"item_id": "sku"}
    )
    assert dict(dataset.catalog["i1"].fields) == {"id_2": "1", "title": "t"}


def test_signs_in_ids_make_no_harm(bench: Any) -> None:
    users = ["a/b", "a", "ü 1", "x#2", "漢"]
    rows = [(f" {u} ", f"i{k}\x00", k) for u in users for k in range(5)]
    _, dataset = bench.prepare(interactions=bench.clicks(rows), items=bench.goods(30))
    assert sorted(dataset.cases("test").frame["user"]) == sorted(users)
    assert dataset.cases("test").frame["query"].n_unique() == len(users)


def test_filters_that_leave_nothing_say_so_with_the_counts(bench: Any) -> None:
    message = refused(bench, bench.clicks(CLICKS), k_core=9)
    assert "the filters leave no interaction" in message
    assert "outside the k-core" in message


def test_an_unknown_reader_suggests_near_names(bench: Any) -> None:
    with pytest.raises(ConfigError, match="did you mean"):
        bench.prepare(reader="movielense", interactions=bench.folder())
