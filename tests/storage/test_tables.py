"""Tables of a run are read by their columns' names and checked, whoever made them."""

from __future__ import annotations

import datetime

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from trsr.errors import StoreError
from trsr.storage.tables import read_table

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
