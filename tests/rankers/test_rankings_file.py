"""Ranked lists at rest: what is written is read, and foreign files are checked."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trsr.data import Catalog
from trsr.errors import DataError
from trsr.rankers import QueryBatch, RankedBatch, read_rankings, write_rankings
from trsr.types import Entry, Item, Query, RankedList, UserHistory

scores = st.floats(allow_nan=False)
entries = st.lists(
    st.tuples(st.text(max_size=5), scores), min_size=1, max_size=6, unique_by=lambda e: e[0]
)


def batch(lists: list[RankedList]) -> list[RankedBatch]:
    """Lists as what rankers give; an item that several lists hold is one item."""
    queries = [
        Query(one.query, UserHistory("u", ()), tuple(Item(entry.item) for entry in one))
        for one in lists
    ]
    if not queries:
        return []
    found = QueryBatch.of(queries, Catalog(pl.DataFrame({"id": ["a"]})))
    scores = np.array([entry.score for one in lists for entry in one])
    return [RankedBatch(found, found.candidates, scores)]


def ranked(name: str, pairs: list[tuple[str, float]]) -> RankedList:
    return RankedList(name, tuple(Entry(*pair) for pair in sorted(pairs, key=lambda p: -p[1])))


@settings(max_examples=20)
@given(st.dictionaries(st.text(max_size=5), st.lists(entries, max_size=4), max_size=3))
def test_what_is_written_is_read(tmp_path_factory, content) -> None:
    path = tmp_path_factory.mktemp("rankings") / "rankings.parquet"
    lists = {
        name: [ranked(f"q{n}", pairs) for n, pairs in enumerate(many)]
        for name, many in content.items()
    }
    counts = write_rankings(path, {name: iter(batch(many)) for name, many in lists.items()})
    found = read_rankings(path)
    assert list(found) == list(lists)
    assert {name: list(many) for name, many in found.items()} == lists
    assert {name: list(many) for name, many in found.items()} == lists  # a second time too
    assert {name: len(many) for name, many in found.items()} == counts


def test_a_ranker_without_lists_is_not_forgotten(tmp_path: Path) -> None:
    path = tmp_path / "r.parquet"
    write_rankings(path, {"llm": [], "random": batch([ranked("q", [("a", 1.0)])])})
    assert {name: len(many) for name, many in read_rankings(path).items()} == {
        "llm": 0,
        "random": 1,
    }


def test_many_lists_keep_their_order(tmp_path: Path) -> None:
    path = tmp_path / "r.parquet"
    lists = [ranked(f"q{n}", [("a", float(n)), ("b", 0.5)]) for n in range(20_000)]
    write_rankings(path, {"llm": batch(lists)})
    assert list(read_rankings(path)["llm"]) == lists


def test_the_columns_are_the_documented_ones(tmp_path: Path) -> None:
    path = tmp_path / "r.parquet"
    write_rankings(path, {"llm": batch([ranked("q", [("a", 1.0), ("b", 2.0)])])})
    assert pl.read_parquet(path).to_dicts() == [
        {"ranker": "llm", "query": "q", "items": ["b", "a"], "scores": [2.0, 1.0]}
    ]


GOOD = {"ranker": ["x"], "query": ["q"], "items": [["a", "b"]], "scores": [[2.0, 1.0]]}


def test_a_file_made_elsewhere_is_read(tmp_path: Path) -> None:
    path = tmp_path / "r.parquet"
    pl.DataFrame(GOOD | {"scores": [[2, 1]], "extra": [1]}).write_parquet(path)
    assert list(read_rankings(path)["x"]) == [ranked("q", [("a", 2.0), ("b", 1.0)])]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"query": [None]}, "1 of 1 lists has an empty value"),
        ({"items": [["a", None]]}, "has an empty value"),
        ({"scores": [[2.0, None]]}, "has an empty value"),
        ({"scores": [None]}, "has an empty value"),
        ({"scores": [[2.0]]}, r"not one score an item \(first: ranker x, query q\)"),
        ({"scores": [[2.0, float("nan")]]}, "not a number"),
        ({"scores": [["two", "one"]]}, "wrong type"),
        ({"items": ["a"]}, "wrong type|not one score"),
    ],
)
def test_a_file_with_faults_is_refused(tmp_path: Path, change, message: str) -> None:
    path = tmp_path / "r.parquet"
    pl.DataFrame(GOOD | change, strict=False).write_parquet(path)
    with pytest.raises(DataError, match=message):
        read_rankings(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"scores": [[1.0, 2.0]]}, "ranker x: query q: the entries are not sorted"),
        ({"items": [["a", "a"]]}, "ranker x: query q: an item is ranked twice"),
    ],
)
def test_a_list_with_faults_is_refused_when_reached(tmp_path: Path, change, message: str) -> None:
    path = tmp_path / "r.parquet"
    pl.DataFrame(GOOD | change).write_parquet(path)
    with pytest.raises(DataError, match=message):
        list(read_rankings(path)["x"])


def test_no_file_no_parquet_and_missing_columns_are_told(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.parquet: cannot be read"):
        read_rankings(tmp_path / "none.parquet")
    text = tmp_path / "text.parquet"
    text.write_text("ranker,query")
    with pytest.raises(DataError, match=r"(?s)not a Parquet file .*; give `trsr run` again"):
        read_rankings(text)
    path = tmp_path / "r.parquet"
    pl.DataFrame({"ranker": ["x"], "user": ["u"]}).write_parquet(path)
    with pytest.raises(DataError, match="no column query, items, scores; it has ranker, user"):
        read_rankings(path)
