"""Scores and lists that are not of just their query's candidates, from each place that asks."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from fitting import fitted, given

from trsr.data import Catalog
from trsr.errors import DataError
from trsr.rankers import QueryBatch, Ranker, RankSettings, ScoreBatch
from trsr.types import Case, Item, Query, UserHistory

ITEMS = [Item(f"i{n}") for n in range(12)]
CATALOG = Catalog(pl.DataFrame({"id": [item.id for item in ITEMS]}))
LOG = pl.DataFrame({"user": ["u", "v"], "item": ["i0", "i1"], "time": [1.0, 2.0]})
QUERIES = [Query(f"q{n}", UserHistory("u", ()), tuple(ITEMS[:5])) for n in range(6)]
CASES = [Case(one, frozenset({"i0"})) for one in QUERIES]
RIGHT = {item.id: -float(n) for n, item in enumerate(ITEMS[:5])}


def theirs(folder: Path, *kept: str) -> RankSettings:
    """Settings with lists made elsewhere; that of the query q3 holds these items."""
    lists = {one.id: RIGHT for one in QUERIES}
    lists["q3"] = {item: RIGHT.get(item, -9.0) for item in kept}
    path = folder / "theirs.trec"
    path.write_text(
        "".join(
            f"{query} Q0 {item} 0 {score} x\n"
            for query, scores in lists.items()
            for item, score in scores.items()
        )
    )
    return RankSettings(external={"theirs": {"files": [path]}}, rankers=("theirs",))


@pytest.mark.parametrize("kept", [(*RIGHT, "zzz"), ("i1", "i2", "i3", "i4", "zzz")])
def test_a_list_of_what_is_no_candidate_is_refused_with_the_ranker_and_the_query(
    kept, tmp_path
) -> None:
    ranker = fitted("theirs", CATALOG, LOG, theirs(tmp_path, *kept))
    ranker.check(QueryBatch.of(QUERIES[:3], CATALOG))
    said = r"^the ranker theirs: its list of query q3 invents 1 \(first: zzz\), where 5 candidates"
    with pytest.raises(DataError, match=said):
        ranker.check(QueryBatch.of(QUERIES, CATALOG))


def test_what_a_list_leaves_out_ties_at_the_end(tmp_path) -> None:
    ranker = fitted("theirs", CATALOG, LOG, theirs(tmp_path, "i2", "i0"))
    found = {one.query: [(e.item, e.score) for e in one] for one in ranker.rank(QUERIES)}
    assert found["q3"] == [("i0", 0), ("i2", -2), ("i1", -4), ("i3", -4), ("i4", -4)]
    assert found["q2"] == list(RIGHT.items())
    assert "1 of its lists leave out candidates" in ranker.notes["note"]
    # what is asked among some of the candidates may be less than the list holds
    (one,) = ranker.rank([dataclasses.replace(QUERIES[2], candidates=tuple(ITEMS[1:3]))])
    assert [entry.item for entry in one] == ["i1", "i2"]


class Sure(Ranker):
    """Says of one candidate that it surely is not it."""

    def score(self, batch: QueryBatch) -> ScoreBatch:
        found = batch.blank()
        found[:, 0] = -math.inf
        return ScoreBatch(found)


def test_an_infinite_score_cannot_be_added() -> None:
    sure = Sure(resources=given(CATALOG), name="sure")
    assert len(list(sure.rank(QUERIES))) == 6
    rank = RankSettings(rankers=("blend",), blend={"members": ("popular",)})
    with pytest.raises(DataError, match="query q0: a score is infinite"):
        fitted("blend", CATALOG, LOG, rank, valid=CASES, members={"popular": sure})


@pytest.mark.parametrize(("found", "said"), [(math.nan, "not a number"), (None, "of the shape")])
def test_a_ranker_that_is_tuned_is_named(found, said) -> None:
    class Bad(Ranker):
        def score(self, batch: QueryBatch) -> ScoreBatch:
            scores = batch.blank() if found else np.zeros(3)
            return ScoreBatch(scores + (found or 0))

    bad = Bad(resources=given(CATALOG), name="bad")
    rank = RankSettings(rankers=("blend",), blend={"members": ("popular",)})
    with pytest.raises(DataError, match=f"^the ranker popular.*{said}"):
        fitted("blend", CATALOG, LOG, rank, valid=CASES, members={"popular": bad})
