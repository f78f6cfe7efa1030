"""Scores and lists that are not of just their query's candidates, from each place that asks."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from fitting import fitted, given

from trsr.data import Catalog
from trsr.errors import DataError
from trsr.rankers import QueryBatch, Ranker, RankSettings, ScoreBatch, rank_what_fits
from trsr.types import Case, Item, Query, UserHistory

ITEMS = [Item(f"i{n}") for n in range(12)]
CATALOG = Catalog(pl.DataFrame({"id": [item.id for item in ITEMS]}))
LOG = pl.DataFrame({"user": ["u", "v"], "item": ["i0", "i1"], "time": [1.0, 2.0]})
QUERIES = [Query(f"q{n}", UserHistory("u", ()), tuple(ITEMS[:5])) for n in range(6)]
CASES = [Case(one, frozenset({"i0"})) for one in QUERIES]
RIGHT = {item.id: -float(n) for n, item in enumerate(ITEMS[:5])}
WRONG = {
    "omits": (
        RIGHT.keys() - {"i3", "i4"},
        r"leaves out 2 \(first: i3\), where 5 candidates are asked",
    ),
    "invents": ({*RIGHT, "zzz"}, r"invents 1 \(first: zzz\)"),
    "swaps": ({*RIGHT, "zzz"} - {"i0"}, r"leaves out 1 \(first: i0\) and invents 1 \(first: zzz\)"),
}


def theirs(how: str, folder: Path) -> RankSettings:
    """Settings with lists made elsewhere that are wrong for the query q3."""
    lists = {one.id: RIGHT for one in QUERIES}
    lists["q3"] = {item: RIGHT.get(item, -9.0) for item in sorted(WRONG[how][0])}
    path = folder / "theirs.trec"
    path.write_text(
        "".join(
            f"{query} Q0 {item} 0 {score} x\n"
            for query, scores in lists.items()
            for item, score in scores.items()
        )
    )
    blend = {"members": ("theirs", "popular")}
    return RankSettings(external={"theirs": {"files": [path]}}, rankers=("blend",), blend=blend)


@pytest.mark.parametrize("how", WRONG)
def test_a_list_of_other_candidates_is_refused_with_the_ranker_and_the_query(how, tmp_path) -> None:
    ranker = fitted("theirs", CATALOG, LOG, theirs(how, tmp_path))
    assert [one.query for one in ranker.rank(QUERIES[:3])] == ["q0", "q1", "q2"]
    said = f"^the ranker theirs: its list of query q3 {WRONG[how][1]}"
    with pytest.raises(DataError, match=said):
        list(rank_what_fits(ranker, QUERIES, lambda query, error: None))


@pytest.mark.parametrize("how", WRONG)
def test_a_member_of_the_blend_is_named(how, tmp_path) -> None:
    with pytest.raises(DataError, match=f"^the ranker theirs: .* query q3 {WRONG[how][1]}"):
        fitted("blend", CATALOG, LOG, theirs(how, tmp_path), valid=CASES)


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
