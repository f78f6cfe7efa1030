"""Tables that lie in several files: a folder, or a pattern."""

from __future__ import annotations

import gzip
import json
import random
from itertools import pairwise
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from trsr.config.start import name_of
from trsr.data import DataSettings, guess, prepare
from trsr.data.inputs import Table
from trsr.data.joining import joined
from trsr.data.settings import Columns
from trsr.errors import DataError
from trsr.progress import Silent
from trsr.storage import files

USED = {"user": "user", "item": "item", "time": "time", "item_id": "item"}


PAGES = ["a", "b, c", 'd "e"', "f\ng", None, "ü", "; |"]


def rows(n: int = 240, users: int = 12, items: int = 30) -> pl.DataFrame:
    rng = random.Random(n)
    drawn = [
        (f"u{rng.randrange(users)}", f"i{rng.randrange(items)}", 1_600_000_000 + k, PAGES[k % 7])
        for k in range(n)
    ]
    return pl.DataFrame(drawn, schema=["user", "item", "time", "page"], orient="row")


def goods(items: int = 30) -> pl.DataFrame:
    titles = [f'{"long " * (k % 3)}thing "{k}"' for k in range(items)]
    return pl.DataFrame({"item": [f"i{k}" for k in range(items)], "title": titles})


def write(frame: pl.DataFrame, path: Path) -> Path:
    """In the format that the name says."""
    path.parent.mkdir(parents=True, exist_ok=True)
    name = path.name.removesuffix(".gz")
    if name.endswith(".parquet"):
        frame.write_parquet(path)
    else:
        lines = [json.dumps(row) + "\n" for row in frame.to_dicts()]
        text = "".join(lines) if name.endswith(".jsonl") else frame.write_csv()
        content = text.encode()
        path.write_bytes(gzip.compress(content) if path.name.endswith(".gz") else content)
    return path


def cut(frame: pl.DataFrame, folder: Path, ending: str, cuts: list[int]) -> Path:
    """The frame in a folder, a file from each cut to the next."""
    bounds = [0, *sorted(cuts), len(frame)]
    for n, (begin, end) in enumerate(pairwise(bounds)):
        write(frame[begin:end], folder / f"part-{n}{ending}")
    return folder


def made(out: Path, interactions: Path, items: Path, **given: Any) -> dict[str, bytes]:
    out.mkdir()
    columns = Columns(**{**USED, **given.pop("columns", {})})
    named = {"interactions": interactions, "items": items, "columns": columns, "negatives": 4}
    wanted = DataSettings(**named, **given)
    report = prepare(wanted, out, seed=1, progress=Silent())
    found = {path.name: path.read_bytes() for path in out.iterdir()}
    return found | {"counts": repr(sorted(report.counts.items())).encode()}


def refused(tmp_path: Path, interactions: Path, items: Path | None = None, **given: Any) -> str:
    items = items or write(goods(), tmp_path / "goods.csv")
    with pytest.raises(DataError) as error:
        made(tmp_path / f"out{random.random()}", interactions, items, **given)
    return str(error.value)


@pytest.mark.parametrize("ending", [".csv", ".csv.gz", ".jsonl", ".parquet"])
@settings(
    max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    cuts=st.lists(st.integers(0, 240), max_size=14),
    item_cuts=st.lists(st.integers(0, 30), max_size=4),
    timed=st.booleans(),
)
def test_a_table_cut_into_files_is_prepared_as_the_one_file(
    tmp_path_factory: Any, ending: str, cuts: list[int], item_cuts: list[int], timed: bool
) -> None:
    tmp_path = tmp_path_factory.mktemp("cut")
    log = rows() if timed else rows().drop("time")
    given = {"columns": {"time": "time" if timed else ""}}
    log_file = write(log, tmp_path / f"log{ending}")
    one = made(tmp_path / "one", log_file, write(goods(), tmp_path / f"goods{ending}"), **given)
    folder, items = cut(log, tmp_path / "log", ending, cuts), tmp_path / "items"
    cut(goods(), items, ending, item_cuts)
    assert made(tmp_path / "many", folder, items, **given) == one
    pattern = folder / f"part-*{ending}"
    assert made(tmp_path / "pattern", pattern, items / "*", **given) == one


def test_files_without_names_of_columns_are_cut_too(tmp_path: Path) -> None:
    for name in ("log-1.txt", "log-2.txt", "all.txt"):
        log = rows().drop("page")
        part = {"log-1.txt": log[:100], "log-2.txt": log[100:]}.get(name, log)
        (tmp_path / name).write_text(part.write_csv(separator="|", include_header=False))
    items = write(goods(), tmp_path / "goods.csv")
    columns = {"user": "1", "item": "2", "time": "3"}
    one = made(tmp_path / "one", tmp_path / "all.txt", items, columns=columns, header=False)
    pattern = tmp_path / "log-?.txt"
    assert made(tmp_path / "two", pattern, items, columns=columns, header=False) == one
    (tmp_path / "log-0.txt").write_text("ua|ib|1600000000\n")
    found = guess(pattern, items).settings
    assert (found.header, found.columns.user, found.columns.item) == (False, "1", "2")


def test_names_are_in_natural_order_and_what_is_beside_data_is_left_out(tmp_path: Path) -> None:
    for name in ("part-10.csv", "part-9.csv", "part-100.csv", "b2/x.csv", "b10/x.csv"):
        write(rows(20), tmp_path / name)
    for name in ("_SUCCESS", "_metadata", ".part-9.csv.crc", "x.crc", "_temporary/0/part-0.csv"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x")
    (tmp_path / "part-11.csv").write_text("")
    expected = ["b2/x.csv", "b10/x.csv", "part-9.csv", "part-10.csv", "part-100.csv"]
    assert list(files.matching(tmp_path)) == expected
    assert list(files.matching(tmp_path / "b*")) == expected[:2]
    assert list(files.matching(tmp_path / "**" / "x.csv")) == expected[:2]
    assert list(files.matching(tmp_path / "_t*" / "0" / "*.csv")) == ["_temporary/0/part-0.csv"]
    for other in "²٣３":  # digits of another kind are text
        write(rows(20), tmp_path / "digits" / other / "x.csv")
    assert sorted(files.matching(tmp_path / "digits")) == [f"{one}/x.csv" for one in "²٣３"]
    assert files.matching(tmp_path / "part-9.csv") == {"part-9.csv": tmp_path / "part-9.csv"}
    assert files.matching(tmp_path / "none-*.csv") == {}
    assert files.matching(tmp_path / "**.csv") == {}


def test_a_file_whose_name_is_a_pattern_wins(tmp_path: Path) -> None:
    folder = tmp_path / "[new]"
    for name in ("log-[1].csv", "log-1.csv", "a*.csv", "ab.csv"):
        write(rows(20), folder / name)
    for name in ("log-[1].csv", "a*.csv"):
        assert files.matching(folder / name) == {name: folder / name}
    assert list(files.matching(folder / "log-[0-9].csv")) == ["log-1.csv"]


def test_hive_folders_and_empty_partitions(tmp_path: Path) -> None:
    log = rows()
    for day, (begin, end) in {"2026-11-01": (0, 90), "2026-11-02": (90, 240)}.items():
        write(log[begin:end], tmp_path / "hive" / f"day={day}" / "part-0.jsonl.gz")
        write(log[:0], tmp_path / "hive" / f"day={day}" / "part-1.jsonl.gz")
    items = write(goods(), tmp_path / "goods.parquet")
    one = made(tmp_path / "one", write(log, tmp_path / "log.jsonl"), items)
    assert made(tmp_path / "two", tmp_path / "hive", items) == one
    assert made(tmp_path / "three", tmp_path / "hive" / "day=2026-11-*", items) == one
    (tmp_path / "hollow").mkdir()
    (tmp_path / "hollow" / "_SUCCESS").write_text("")
    assert "hollow: there is no file with data" in refused(tmp_path, tmp_path / "hollow")
    write(log[:0], tmp_path / "hollow" / "part-0.jsonl.gz")
    assert "all of its 1 files are empty" in refused(tmp_path, tmp_path / "hollow")


def test_files_of_several_kinds_are_named_with_a_pattern(tmp_path: Path) -> None:
    log = tmp_path / "log"
    cut(rows(), log, ".csv.gz", [100, 150])
    for name in ("readme.txt", "README.md", "schema.json"):
        (log / name).write_text('{"about": "this log"}')
        error = refused(tmp_path, log)
        assert "several kinds: " in error
        assert "3 .csv (part-0.csv.gz, part-1.csv.gz, …)" in error
        assert name in error
        assert 'log/*.csv*"' in error
        (log / name).unlink()
    write(rows(20), log / "day=1" / "part-0.parquet")
    assert 'log/*.csv*"' in refused(tmp_path, log)
    for n in range(4):  # as Hadoop names text
        (log / f"part-0000{n}").write_text(rows(20).write_csv())
    assert 'log/part-*"' in refused(tmp_path, log)
    (log / "part-3.csv.gz").write_bytes(b"PK\x03\x04...")
    assert "part-3.csv.gz: is a zip archive" in refused(tmp_path, log / "*.csv.gz")
    assert "log/*.tsv: no file matches this pattern" in refused(tmp_path, log / "*.tsv")


def test_tables_whose_files_may_hold_deleted_rows_are_refused(tmp_path: Path) -> None:
    for log, place in (
        ("delta/_delta_log/00.json", "delta"),
        ("hudi/.hoodie/hoodie.properties", "hudi"),
        ("berg/metadata/v1.metadata.json", "berg/data"),
    ):
        (tmp_path / log).parent.mkdir(parents=True)
        (tmp_path / log).write_text("{}")
        write(rows(), tmp_path / place / "part-0.parquet")
        assert "which files still hold its rows" in refused(tmp_path, tmp_path / place)


def test_a_folder_that_may_not_be_read_is_not_passed_over(tmp_path: Path, monkeypatch: Any) -> None:
    log = cut(rows(), tmp_path / "log", ".csv", [100])
    (log / "day=2").mkdir()
    for name in ("log/day=2", "log"):
        monkeypatch.setattr("os.access", lambda path, _, closed=tmp_path / name: path != closed)
        assert f"{name}: this folder may not be read" in refused(tmp_path, log)


def test_links(tmp_path: Path) -> None:
    log = cut(rows(), tmp_path / "log", ".csv", [100])
    one = made(tmp_path / "one", log, write(goods(), tmp_path / "goods.csv"))
    (tmp_path / "linked").mkdir()
    for n in range(2):
        (tmp_path / "linked" / f"part-{n}.csv").symlink_to(log / f"part-{n}.csv")
    (tmp_path / "to").symlink_to(log)
    for name in ("linked", "to"):
        assert made(tmp_path / f"out-{name}", tmp_path / name, tmp_path / "goods.csv") == one
    (tmp_path / "linked" / "up").symlink_to(tmp_path)
    assert "linked/up: this folder is a link" in refused(tmp_path, tmp_path / "linked")
    (tmp_path / "linked" / "up").unlink()
    (tmp_path / "linked" / "part-2.csv").symlink_to(tmp_path / "gone.csv")
    assert "part-2.csv: there is no such file" in refused(tmp_path, tmp_path / "linked")


@pytest.mark.parametrize("ending", [".csv", ".jsonl", ".parquet"])
def test_a_used_column_must_be_in_all_files_and_others_need_not(
    tmp_path: Path, ending: str
) -> None:
    log, items = rows(), write(goods(), tmp_path / "goods.parquet")
    one = made(tmp_path / "one", write(log, tmp_path / f"log{ending}"), items)
    folder = tmp_path / "log"
    write(log[:100].select("time", "item", "user"), folder / f"a{ending}")
    write(log[100:].with_columns(only=pl.lit("x")), folder / f"b{ending}")
    assert made(tmp_path / "two", folder, items) == one
    write(log[:100].rename({"user": "who"}), folder / f"c{ending}")
    error = refused(tmp_path, folder)
    assert f"c{ending}: has no column 'user' (its columns are who," in error
    (folder / f"c{ending}").unlink()
    write(log[:20].drop("item"), folder / f"c{ending}")
    if ending == ".jsonl":  # a line may lack a key, and so may all of a file
        wanted = DataSettings(
            interactions=folder, items=items, columns=Columns(**USED), negatives=4
        )
        report = prepare(wanted, None, seed=1, progress=Silent())
        assert report.counts["rows_without_ids"] == 20
        assert any("c.jsonl: has no column 'item'" in line for line in report.lines())
    else:
        assert f"c{ending}: has no column 'item'" in refused(tmp_path, folder)


def test_types_of_parquet_files(tmp_path: Path) -> None:
    log = rows().with_columns(pl.col("user", "item").str.slice(1).cast(pl.Int64), odd=1)
    things = goods().with_columns(pl.col("item").str.slice(1).cast(pl.Int64))
    items = write(things, tmp_path / "goods.parquet")
    one = made(tmp_path / "one", write(log, tmp_path / "log.parquet"), items)
    folder = tmp_path / "log"
    # a size of numbers, and numbers beside gaps as pandas writes them
    write(log[:100].with_columns(pl.col("user").cast(pl.Int16)), folder / "a.parquet")
    write(
        log[100:].with_columns(pl.col("item").cast(pl.Float64), odd=pl.lit("x")),
        folder / "b.parquet",
    )
    assert made(tmp_path / "two", folder, items) == one
    write(log[:20].with_columns(pl.col("user").cast(pl.String)), folder / "c.parquet")
    error = refused(tmp_path, folder, items)
    assert "c.parquet: column 'user' holds String, and Int16 in" in error
    assert "write it in all files as one type" in error
    write(log[:20].with_columns(user=None), folder / "c.parquet")
    kinds = pl.Enum(["i1", "i2"]), pl.Enum(["i3"]), pl.Categorical
    texts = pl.DataFrame({"user": ["u1"] * 3, "item": ["i1", "i2", "i3"], "time": [1, 2, 3]})
    for n, (part, kind) in enumerate(zip((texts[:2], texts[2:], texts), kinds, strict=True)):
        write(part.with_columns(pl.col("item").cast(kind)), tmp_path / "texts" / f"{n}.parquet")
    found = joined({one: Table(pl.scan_parquet(one)) for one in (tmp_path / "texts").iterdir()})
    assert found.frame.collect()["item"].sort().to_list() == ["i1", "i1", "i2", "i2", "i3", "i3"]
    for name in ("a.parquet", "b.parquet", "c.parquet"):  # nowhere a value, as pandas writes it
        frame = pl.read_parquet(folder / name)
        frame.with_columns(odd=None).write_parquet(folder / name)
    write(things[:5].with_columns(title=1), tmp_path / "items" / "b.parquet")
    write(things, tmp_path / "items" / "a.parquet")
    assert "b.parquet: column 'title' holds" in refused(tmp_path, folder, tmp_path / "items")
    write(things[:5].drop("title").with_columns(brand=pl.lit("x")), tmp_path / "items/b.parquet")
    wanted = DataSettings(
        interactions=folder,
        items=tmp_path / "items",
        columns=Columns(**USED),
        max_unknown=1,
        negatives=4,
    )
    report = prepare(wanted, None, seed=1, progress=Silent())
    assert report.counts["rows_without_ids"] == 20
    notes = [line for line in report.lines() if "it is empty there" in line]
    assert len(notes) == 1
    assert "b.parquet: has no column 'title'" in notes[0]
    assert "so are others of brand" in notes[0]


def test_large_whole_numbers_stay_apart_beside_floats(tmp_path: Path) -> None:
    log = rows().with_columns(pl.col("user").str.slice(1).cast(pl.Int64) + 2**62)
    items = write(goods(), tmp_path / "goods.parquet")
    gaps = log[:3].with_columns(user=pl.Series([None, float("nan"), None], dtype=pl.Float64))
    small = log[3:20].with_columns(user=pl.int_range(17).cast(pl.Float32))
    folder = tmp_path / "log"
    for n, part in enumerate((gaps, small, log[20:].with_columns(pl.col("user").cast(pl.UInt64)))):
        write(part, folder / f"{n}.parquet")
    whole = [
        one.with_columns(pl.col("user").fill_nan(None).cast(pl.Int64)) for one in (gaps, small)
    ]
    one = write(pl.concat([*whole, log[20:]]), tmp_path / "log.parquet")
    expected = made(tmp_path / "one", one, items)
    assert made(tmp_path / "many", folder, items) == expected
    for value in (0.5, 2.0**60, float("inf")):
        write(gaps.with_columns(user=pl.lit(value)), folder / "0.parquet")
        error = refused(tmp_path, folder, items)
        assert "0.parquet: column 'user' holds Float64, and UInt64 in" in error
        assert "2.parquet; write it in all files as one type, such as text" in error
    # where none is large all are floats
    timed = log.with_columns(pl.col("time") + 0.5)
    parts = {"0.parquet": timed[:100], "1.parquet": log[100:]}
    for name, part in parts.items():
        write(part, tmp_path / "timed" / name)
    one = write(pl.concat(parts.values(), how="vertical_relaxed"), tmp_path / "timed.parquet")
    expected = made(tmp_path / "floats", one, items)
    assert made(tmp_path / "several", tmp_path / "timed", items) == expected


def test_times_of_several_zones_are_one_column(tmp_path: Path) -> None:
    log = rows().with_columns(pl.from_epoch("time").dt.replace_time_zone("UTC"))
    items = write(goods(), tmp_path / "goods.parquet")
    folder, zone = tmp_path / "log", pl.col("time").dt.convert_time_zone
    write(log[:50], folder / "0.parquet")
    write(log[50:99].with_columns(zone("Asia/Tokyo").dt.cast_time_unit("ns")), folder / "1.parquet")
    write(log[99:].with_columns(zone("America/New_York")), folder / "2.parquet")
    write(log[:9].with_columns(time=None), folder / "3.parquet")
    missing = log[:9].with_columns(time=pl.lit(None, log.schema["time"]))
    one = write(pl.concat([log, missing]), tmp_path / "log.parquet")
    assert made(tmp_path / "many", folder, items) == made(tmp_path / "one", one, items)
    # a time without a zone could be any
    write(log[:50].with_columns(pl.col("time").dt.replace_time_zone(None)), folder / "0.parquet")
    assert "column 'time' holds" in refused(tmp_path, folder, items)


def test_errors_name_the_very_file_and_line(tmp_path: Path) -> None:
    plain = rows().with_columns(page=pl.lit("x"))
    log = cut(plain, tmp_path / "log", ".csv", [100, 150])
    whole = (log / "part-1.csv").read_bytes()
    for broken, words in (
        (b"u1,i1,1,x,y,z\n", "part-1.csv, line 52: 6 fields where the first line has 4"),
        (b"u\xff,i1,1,x\n", "part-1.csv, line 52: byte 0xff is not utf-8 text"),
        (b'"u\n1",i1,1,x\n', "part-1.csv, line 52: the id 'u\\n1' has a line end in it"),
    ):
        (log / "part-1.csv").write_bytes(whole + broken)
        assert words in refused(tmp_path, log)
    (log / "part-1.csv").write_bytes(whole.partition(b"\n")[2])  # as `split` leaves it
    error = refused(tmp_path, log)
    assert "part-1.csv: has no column 'user' (its columns are " in error
    assert "160000" in error  # a row in the place of names
    (log / "part-1.csv").write_bytes(whole.replace(b",", b";"))
    assert "part-1.csv" in refused(tmp_path, log)
    packed = cut(rows(), tmp_path / "packed", ".csv.gz", [100])
    (packed / "part-1.csv.gz").write_bytes((packed / "part-1.csv.gz").read_bytes()[:-9])
    assert "part-1.csv.gz: cannot be read" in refused(tmp_path, packed)
    columns = cut(rows(20_000), tmp_path / "columns", ".parquet", [10_000])
    content = bytearray((columns / "part-1.parquet").read_bytes())
    content[100:20_000] = bytes(19_900)
    (columns / "part-1.parquet").write_bytes(content)
    assert "part-1.parquet" in refused(tmp_path, columns)


def test_the_same_note_of_many_files_is_one(tmp_path: Path) -> None:
    folder = tmp_path / "log"
    for n in range(4):
        text = rows()[60 * n : 60 * n + 60].write_csv() + "u1,i2,1600000009\n" * (n % 3)
        write(rows(), folder / f"part-{n}.csv").write_text(text)
    found = guess(folder, write(goods(), tmp_path / "goods.csv"))
    assert f"{folder.name}: 4 files, part-0.csv to part-3.csv" in found.reasons
    notes = [line for line in found.reasons if "have fewer fields" in line]
    assert len(notes) == 1
    assert "part-1.csv: 1 rows" in notes[0]
    assert "(and alike in 1 other files)" in notes[0]


def test_candidate_lists_lie_in_several_files(tmp_path: Path) -> None:
    log = rows()
    lists = pl.DataFrame(
        {
            "user": [f"u{k % 12}" for k in range(60)],
            "time": [1_600_000_100 + 2 * k for k in range(60)],
            "candidates": [[f"i{k % 9}", f"i{10 + k % 9}", f"i{20 + k % 9}"] for k in range(60)],
            "clicked": [[f"i{k % 9}"] for k in range(60)],
        }
    )
    items = write(goods(), tmp_path / "goods.csv")
    log_file = write(log, tmp_path / "log.csv")
    one = write(lists, tmp_path / "lists.jsonl")
    many = cut(lists, tmp_path / "lists", ".jsonl", [7, 40])
    first, second = (
        made(tmp_path / f"out{n}", log_file, items, candidates="given", impressions=path)
        for n, path in enumerate((one, many))
    )
    assert first == second
    write(lists[:3].drop("clicked"), many / "part-9.jsonl")
    error = refused(tmp_path, log_file, items, candidates="given", impressions=many)
    assert "part-9.jsonl: has no column 'clicked'" in error


def test_init_says_where_two_tables_lie_in_one_folder(tmp_path: Path) -> None:
    write(rows().rename({"page": "a"}), tmp_path / "both" / "clicks.csv")
    write(goods(), tmp_path / "both" / "goods.csv")
    with pytest.raises(DataError, match=r"Is it one table\? .*goods\.csv: has no column 'user'"):
        guess(tmp_path / "both", columns=Columns(item="none"))


@pytest.mark.parametrize(
    ("place", "name"),
    [
        ("logs", "logs"),
        ("logs/clicks-*.csv.gz", "clicks"),
        ("logs/*.csv", "data"),
        ("logs/day=2026-11-[01]*/x?.csv", "x"),
        ("logs/..", Path.cwd().name),
    ],
)
def test_what_is_made_of_data_is_named_after_it(place: str, name: str) -> None:
    assert name_of(Path(place)) == name


def test_readers_of_formats_keep_their_folders(tmp_path: Path) -> None:
    """A folder with a name that a format uses, and not the others, is a table."""
    log = rows().with_columns(rating=4)
    for n in range(2):
        write(log[120 * n : 120 * n + 120], tmp_path / "log" / f"day={n}" / "part.csv")
    write(log, tmp_path / "own" / "ratings.csv")
    items = write(goods(), tmp_path / "goods.csv")
    assert guess(tmp_path / "own", items).settings.reader == "table"
    assert guess(tmp_path / "log", items).settings.columns.time == "time"
    write(goods(), tmp_path / "own" / "movies.csv")
    with pytest.raises(DataError):  # MovieLens' columns are others
        guess(tmp_path / "own", tmp_path / "own")
