"""The door to files: whole or not at all, private, never through a link."""

from __future__ import annotations

import datetime
import json
import os
import threading

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from trsr.errors import StoreError
from trsr.storage import files
from trsr.storage.run_directory import readable
from trsr.storage.tables import read_table


def test_an_error_leaves_the_file_as_it_was_and_nothing_beside_it(tmp_path):
    path = tmp_path / "a"
    files.write_text(path, "old")
    for stop in (stop_writing, stop_library):
        with pytest.raises(RuntimeError):
            stop(path)
        assert (files.read_text(path), files.listed(tmp_path)) == ("old", [path])


def stop_writing(path):
    with files.writing(path) as file:
        file.write(b"new")
        raise RuntimeError


def stop_library(path):
    with files.writing_path(path) as temporary:
        temporary.write_text("new")
        raise RuntimeError


def test_many_writers_of_one_file_all_succeed_and_one_wins_whole(tmp_path):
    path = tmp_path / "a"
    texts = [str(number) * 5000 for number in range(10)]
    errors = []

    def write(text):
        try:
            for _ in range(20):
                files.write_text(path, text)
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=write, args=(text,)) for text in texts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert files.read_text(path) in texts
    assert files.listed(tmp_path) == [path]


def test_links_are_replaced_unlinked_and_not_followed(tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "letter").write_text("mine")
    inside = tmp_path / "inside"
    inside.mkdir()
    (inside / "file").symlink_to(outside / "letter")
    (inside / "folder").symlink_to(outside)
    (inside / "loop").symlink_to(inside)
    (inside / "nowhere").symlink_to(tmp_path / "none")
    files.hash_file(inside / "folder")
    assert len(list(files.walk(inside))) == 4
    files.copy(inside, tmp_path / "copy")
    assert files.listed(tmp_path / "copy") == []
    with pytest.raises(OSError, match="symbolic links"):
        files.open_append(inside / "file")
    files.write_text(inside / "file", "new")
    (tmp_path / "new").mkdir()
    files.move(tmp_path / "new", inside / "folder")
    assert not (inside / "folder").is_symlink()
    files.remove(inside)
    assert (outside / "letter").read_text() == "mine"


def test_a_pipe_is_refused_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.parquet")
    for read in (files.read_text, files.read_parquet, files.open_read, files.hash_file):
        with pytest.raises(StoreError, match="is a pipe or a device"):
            read(tmp_path / "pipe.parquet")


def test_parquet_pages_that_claim_what_cannot_be_are_refused(tmp_path):
    path = tmp_path / "a.parquet"
    frame = pl.DataFrame({"a": ["x", "y"] * 50, "b": [[1], []] * 50, "c": [None] * 100})
    for many in (frame, frame.clear(), pl.concat([frame] * 40)):
        many.write_parquet(path, row_group_size=500, data_page_size=100)
        assert files.read_parquet(path).equals(many)
    frame.select("a").write_parquet(path, compression="uncompressed")
    raw = path.read_bytes()
    dictionary = raw.index(b"\x4c\x15\x04")  # the header of a dictionary of two values
    path.write_bytes(raw[: dictionary + 2] + b"\x7e" + raw[dictionary + 3 :])
    for read in (files.read_parquet, files.scan_parquet):
        with pytest.raises(ValueError, match="a page of column 1 claims what cannot be"):
            read(path)


def test_what_is_written_is_private_unless_it_is_to_be_shown(tmp_path):
    files.write_text(tmp_path / "new" / "a", "x")
    assert [p.stat().st_mode & 0o777 for p in (tmp_path / "new", tmp_path / "new" / "a")] == [
        0o700,
        0o600,
    ]
    files.write_text(tmp_path / "page", "x", private=False)
    (tmp_path / "usual").write_text("x")
    assert (tmp_path / "page").stat().st_mode == (tmp_path / "usual").stat().st_mode


def test_only_old_unfinished_files_are_dropped(tmp_path):
    for name in (".a.xyz.new", ".b.xyz.new", "c.new"):
        (tmp_path / name).write_text("x")
        os.utime(tmp_path / name, (0, 0))
    os.utime(tmp_path / ".b.xyz.new")
    files.drop_unfinished(tmp_path)
    assert [path.name for path in files.listed(tmp_path)] == [".b.xyz.new", "c.new"]


def test_json_that_cannot_be_read_and_written_again_is_none(tmp_path):
    (tmp_path / "a.json").write_text("[" * 100_000)
    with pytest.raises(ValueError, match="nested too deep"):
        files.read_json(tmp_path / "a.json")
    (tmp_path / "a.json").write_text('{"a": {"b": 1, "b": 2}}')
    with pytest.raises(ValueError, match="the key 'b' stands twice"):
        files.read_json(tmp_path / "a.json")
    (tmp_path / "a.json").write_text(r'{"a": "\ud83d\ude00", "b": "\ud83d"}')
    with pytest.raises(ValueError, match=r"\\ud83d is half a character"):
        files.read_json(tmp_path / "a.json")


def safetensors(path):
    head = json.dumps(
        {"__metadata__": {"a": "b"}, "x": {"dtype": "U8", "shape": [3], "data_offsets": [0, 3]}}
    ).encode()
    path.write_bytes(len(head).to_bytes(8, "little") + head + b"abc")


MAKE = {
    "a.parquet": lambda path: pl.DataFrame({"a": range(999)}).write_parquet(path),
    "a.json": lambda path: path.write_text('{"a": [1, 2]}'),
    "a.safetensors": safetensors,
}


@pytest.mark.parametrize("name", MAKE)
def test_a_file_that_was_cut_off_is_not_readable(tmp_path, name):
    path = tmp_path / name
    MAKE[name](path)
    assert readable(path)
    assert readable(tmp_path)
    whole = path.read_bytes()
    for length in (0, 1, 9, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        assert not readable(path), length
        assert not readable(tmp_path), length
    path.write_bytes(b"\xff" * len(whole))
    assert not readable(path)


def test_files_of_other_kinds_are_not_checked(tmp_path):
    (tmp_path / "report.html").write_bytes(b"")
    assert readable(tmp_path)


# --- Tables of a run are read by their columns' names and checked, whoever made them


COLUMNS = {"query": pl.String(), "covers": pl.Int64(), "sources": pl.List(pl.String())}
GOOD = pl.DataFrame(
    {"query": ["a", "b"], "covers": [1, 2], "sources": [["x"], []]}, schema=pl.Schema(COLUMNS)
)


def read(tmp_path, frame, **more):
    path = tmp_path / "t.parquet"
    frame.write_parquet(path)
    return read_table(path, COLUMNS, again="make it again", **more)


@pytest.mark.parametrize(
    "frame",
    [
        GOOD,
        GOOD.select("sources", "covers", "query", own=pl.lit(1)),
        GOOD.cast({"covers": pl.UInt8, "query": pl.Categorical}),
        GOOD.cast({"covers": pl.Float64}),
        GOOD.cast({"covers": pl.String}),
    ],
)
def test_columns_go_by_name_and_by_what_their_values_are(tmp_path, frame):
    assert_frame_equal(read(tmp_path, frame), GOOD)


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        (GOOD.drop("covers"), "there is no column covers, but query, sources"),
        (
            GOOD.with_columns(covers=pl.Series([1.0, 2.5])),
            r"covers holds Float64, 2\.5 for query b,",
        ),
        (GOOD.with_columns(covers=pl.Series(["1", "x"])), "'x' for query b, which cannot be read"),
        (GOOD.with_columns(covers=pl.Series([None, 1])), "covers has an empty value for query a"),
        (GOOD.with_columns(sources=pl.Series([["x"], [None]])), "sources has an empty .* query b"),
        (GOOD.with_columns(sources=pl.lit("x")), "sources holds String"),
        (GOOD.with_columns(sources=pl.struct(a=pl.lit("x"))), "sources holds Struct"),
        (GOOD.with_columns(covers=pl.lit(datetime.date(2026, 1, 2))), "covers holds Date, and sh"),
        (pl.concat([GOOD, GOOD]), "there are two rows for query a"),
    ],
)
def test_a_misfit_is_reported_with_file_column_and_query(tmp_path, frame, message):
    with pytest.raises(StoreError, match=rf"t\.parquet.*{message}.*; make it again"):
        read(tmp_path, frame)


def test_further_columns_may_be_missing_and_the_rest_may_be_empty(tmp_path):
    frame = GOOD.with_columns(more=pl.Series([None, 3]), cut=pl.Series([None, [1]]))
    found = read(tmp_path, frame, further={"cut": pl.List(pl.Int64())}, rest=pl.String())
    assert found["more"].to_list() == [None, "3"]
    assert found["cut"].to_list() == [None, [1]]
    assert "cut" not in read(tmp_path, GOOD, further={"cut": pl.List(pl.Int64())}).columns


def test_a_missing_and_a_damaged_file_are_distinguished(tmp_path):
    with pytest.raises(StoreError, match=r"t\.parquet: there is no such file; make it"):
        read_table(tmp_path / "t.parquet", COLUMNS, again="make it")
    (tmp_path / "t.parquet").write_bytes(b"PAR1")
    with pytest.raises(StoreError, match=r"t\.parquet: is damaged .*; make it"):
        read_table(tmp_path / "t.parquet", COLUMNS, again="make it")
