"""Full-catalog evaluation: lists in part, targets not found, cuts among ties."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import polars as pl
import pytest

from trsr.data import Catalog
from trsr.errors import DataError
from trsr.metrics import AnswerKey, evaluate
from trsr.rankers import QueryBatch, ScoreBatch
from trsr.rankers import ranked as in_order
from trsr.types import Case, Entry, Item, Query, RankedList, UserHistory

CATALOG = [f"i{n}" for n in range(12)]
METRICS = ["recall@1", "recall@5", "mrr@5", "ndcg@5", "hit@5", "auc", "recall@500"]


@dataclass
class Answer:
    query: str
    relevant: frozenset[str]
    met: frozenset[str] = frozenset()
    user: str = "u"
    history: int = field(default=2)


def key_of(answers: list[Answer], catalog: list[str] = CATALOG) -> AnswerKey:
    rows = [
        (one.query, one.user, ["i0"] * one.history, [], sorted(one.relevant), sorted(one.met))
        for one in answers
    ]
    lists = pl.List(pl.String)
    kinds = {"query": pl.String, "user": pl.String, "items": lists, "candidates": lists}
    frame = pl.DataFrame(rows, schema=kinds | {"relevant": lists, "seen": lists}, orient="row")
    return AnswerKey(frame, catalog)


def ranked(query: str, *items: str) -> RankedList:
    return RankedList(query, tuple(Entry(item, -float(at)) for at, item in enumerate(items)))


def test_a_target_that_is_not_listed_is_beyond_every_cut_off_and_stays_in_the_mean() -> None:
    answers = [
        Answer("a", frozenset({"i5"}), frozenset({"i0", "i1"})),
        Answer("b", frozenset({"i6"})),
    ]
    lists = [ranked("a", "i3", "i5", "i4"), ranked("b", "i3", "i5", "i4")]
    report = evaluate(key_of(answers), {"llm": lists}, METRICS, sampled=False)
    assert report.candidates == (10, 12)
    means = report.means("llm")
    # a: rank 2 of 10; b: not found.
    assert means["recall@1"] == 0
    assert means["recall@5"] == means["hit@5"] == means["recall@500"] == 0.5
    assert means["mrr@5"] == 0.25
    assert means["ndcg@5"] == pytest.approx(1 / np.log2(3) / 2)
    assert means["auc"] == pytest.approx((8 / 9 + 0) / 2)
    assert report["llm"].missing == 0
    assert report.chance["recall@1"] == pytest.approx((1 / 10 + 1 / 12) / 2)


def test_whole_lists_score_as_with_given_candidates() -> None:
    draw = np.random.default_rng(3)
    answers, cases, lists = [], [], []
    for name in "abcdefgh":
        order = draw.permutation(CATALOG).tolist()
        scores = np.sort(draw.integers(0, 6, 12))[::-1].tolist()
        answers.append(Answer(name, frozenset({"i7"})))
        query = Query(name, UserHistory("u", ()), tuple(Item(i) for i in CATALOG))
        cases.append(Case(query, frozenset({"i7"})))
        lists.append(RankedList(name, tuple(map(Entry, order, map(float, scores)))))
    full = evaluate(key_of(answers), {"x": lists}, METRICS[:-1], sampled=False)
    given = evaluate(cases, {"x": lists}, METRICS[:-1], sampled=False)
    assert full.means("x") == pytest.approx(given.means("x"))
    assert full.chance == pytest.approx(given.chance)


def test_a_cut_among_ties_keeps_the_expected_value() -> None:
    """One of 11 tied items is right, one stands above: recall@3 is (3 - 1) / 11 by any cut."""
    answers = [Answer(f"q{n}", frozenset({"i5"})) for n in range(3000)]
    catalog = Catalog(pl.DataFrame({"id": [f"i{n}" for n in range(12)]}))
    asked = [(answer.query, UserHistory("u", ()), None) for answer in answers]
    batch = QueryBatch.whole(asked, catalog)
    scores = np.zeros((3000, 12))
    scores[:, 0] = 1.0
    cut = list(in_order(batch, ScoreBatch(scores), 4, seed=1).lists())
    assert {len(one.entries) for one in cut} == {4}
    assert all(one.entries[0].item == "i0" for one in cut)
    report = evaluate(key_of(answers), {"x": cut}, ["recall@3"], sampled=False)
    assert report.means("x")["recall@3"] == pytest.approx(2 / 11, abs=0.02)
    plain = batch.select([0])
    falling = ScoreBatch(-np.arange(12.0)[None])
    whole = in_order(plain, falling).items[0].tolist()
    assert in_order(plain, falling, 2).items[0].tolist() == whole[:2] == [0, 1]
    assert in_order(plain, falling, 99).items[0].tolist() == whole


@pytest.mark.parametrize("item", ["i0", "x9"], ids=["seen", "unknown"])
def test_lists_may_not_invent_candidates(item: str) -> None:
    key = key_of([Answer("a", frozenset({"i5"}), frozenset({"i0"}))])
    with pytest.raises(DataError, match=f"ranker llm: the list of query a invents 1 .{item}"):
        evaluate(key, {"llm": [ranked("a", "i5", item)]}, ["recall@1"])


def test_an_answer_that_is_no_candidate_is_refused() -> None:
    with pytest.raises(DataError, match="query a: the relevant"):
        key_of([Answer("a", frozenset({"i5"}), frozenset({"i5"}))])


def test_several_answers_that_are_not_listed_stand_in_the_last_places() -> None:
    answer = Answer("q", frozenset({"i3", "i8", "i9"}))
    shown = ["i1", "i3", "i2"]
    rest = [item for item in CATALOG if item not in {*shown, "i8", "i9"}]
    cut, whole = ranked("q", *shown), ranked("q", *shown, *rest, "i8", "i9")
    key = key_of([answer])
    metrics = [*METRICS[:-1], "mrr@12"]
    found = evaluate(key, {"cut": [cut], "whole": [whole]}, metrics, sampled=False)
    assert found.means("cut") == pytest.approx(found.means("whole"))
    nothing = evaluate(key, {"cut": [ranked("q", *rest)]}, METRICS, sampled=False).means("cut")
    assert nothing == dict.fromkeys(METRICS, 0.0)
