"""Reports of rankings: means, ties, missing queries, and lists that are refused."""

from __future__ import annotations

import json
import math
import statistics
from dataclasses import dataclass, field

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trsr.data import Catalog
from trsr.errors import ConfigError, DataError
from trsr.metrics import AnswerKey, evaluate
from trsr.metrics.answers import CASES as CASE_COLUMNS
from trsr.rankers import QueryBatch, ScoreBatch
from trsr.rankers import ranked as in_order
from trsr.types import Case, Entry, Interaction, Item, Query, RankedList, UserHistory

ITEMS = [Item(f"i{n}") for n in range(40)]


def case(name: str, right: set[str], size: int = 4, user: str = "", history: int = 0) -> Case:
    past = tuple(
        Interaction(item, float(t)) for t, item in enumerate(ITEMS[-history:] if history else ())
    )
    query = Query(name, UserHistory(user or name, past), tuple(ITEMS[:size]))
    return Case(query, frozenset(right))


def ranked(name: str, *items: str) -> RankedList:
    return RankedList(name, tuple(Entry(item, -float(rank)) for rank, item in enumerate(items)))


CASES = [case("a", {"i0"}), case("b", {"i1"}), case("c", {"i2"})]
PERFECT = [ranked("a", "i0", "i1", "i2", "i3"), ranked("b", "i1", "i0", "i2", "i3")]
THIRD = ranked("c", "i0", "i1", "i2", "i3")


def test_means_and_standard_errors() -> None:
    report = evaluate(CASES, {"llm": [*PERFECT, THIRD]}, ["recall@1", "mrr@3", "auc"])
    scores = report["llm"]
    values = [1.0, 1.0, 1 / 3]
    assert scores.metrics["mrr@3"].mean == pytest.approx(statistics.mean(values))
    assert scores.metrics["mrr@3"].se == pytest.approx(statistics.stdev(values) / math.sqrt(3))
    assert scores.metrics["recall@1"].mean == pytest.approx(2 / 3)
    assert scores.metrics["auc"].mean == pytest.approx((1 + 1 + 1 / 3) / 3)
    assert (scores.queries, scores.tied, scores.missing) == (3, 0.0, 0)
    assert report.means("llm")["recall@1"] == pytest.approx(2 / 3)


def test_a_query_without_a_result_scores_zero_and_stays_in_the_mean() -> None:
    report = evaluate(CASES, {"llm": PERFECT}, ["recall@1", "auc"])
    assert report["llm"].missing == 1
    assert report.means("llm") == pytest.approx({"recall@1": 2 / 3, "auc": 2 / 3})
    assert any("1 of 3 queries without a result" in note for note in report.warnings)


def test_a_ranker_without_any_result_keeps_its_row() -> None:
    report = evaluate(CASES, {"llm": []}, ["recall@1"])
    assert report.means("llm") == {"recall@1": 0.0}
    assert (report["llm"].missing, report["llm"].tied) == (3, None)


def test_tied_counts_queries_whose_answer_ties_with_another_candidate() -> None:
    flat = RankedList("a", tuple(Entry(f"i{n}", 0.0) for n in range(4)))
    below = RankedList("b", (Entry("i1", 1.0), *(Entry(f"i{n}", 0.0) for n in (0, 2, 3))))
    report = evaluate(CASES[:2], {"llm": [flat, below]}, ["recall@1"])
    assert report["llm"].tied == 0.5
    assert report.means("llm") == {"recall@1": (0.25 + 1) / 2}
    assert any("50 %" in note for note in report.remarks)
    assert sorted((*report.remarks, *report.warnings)) == sorted(report.notes)


def test_relevant_candidates_that_tie_only_with_each_other_are_no_tie() -> None:
    both = case("a", {"i0", "i1"}, size=3)
    lists = [RankedList("a", (Entry("i0", 1.0), Entry("i1", 1.0), Entry("i2", 0.0)))]
    report = evaluate([both], {"llm": lists}, ["recall@2"])
    assert (report["llm"].tied, report.means("llm")) == (0.0, {"recall@2": 1.0})


@settings(deadline=None, max_examples=40)
@given(st.permutations(range(3)), st.permutations(range(3)))
def test_the_order_of_cases_and_lists_means_nothing(cases: list[int], lists: list[int]) -> None:
    every = [*PERFECT, THIRD]
    report = evaluate([CASES[n] for n in cases], {"llm": [every[n] for n in lists]}, ["mrr@3"])
    values = dict(zip(report.per_query["query"], report.per_query["mrr@3"], strict=True))
    assert values == pytest.approx({"a": 1.0, "b": 1.0, "c": 1 / 3})


def test_candidate_sets_of_several_sizes() -> None:
    cases = [case("a", {"i0"}, size=2), case("b", {"i4"}, size=5), case("c", {"i0"}, size=1)]
    lists = [
        ranked("b", "i4", "i0", "i1", "i2", "i3"),
        ranked("c", "i0"),
        ranked("a", "i1", "i0"),
    ]
    report = evaluate(cases, {"llm": iter(lists)}, ["mrr@5", "auc"])
    assert report.per_query["mrr@5"].to_list() == pytest.approx([0.5, 1.0, 1.0])
    assert report.per_query["auc"].to_list() == pytest.approx([0.0, 1.0, 0.5])
    assert report.candidates == (1, 5)
    assert any("1 to 5 candidates" in note for note in report.notes)
    assert any("all candidates are relevant" in note for note in report.notes)


def test_a_cut_that_holds_all_candidates_is_named() -> None:
    cases = [case("a", {"i0"}, size=2), case("b", {"i4"}, size=5)]
    lists = [ranked("b", "i0", "i1", "i2", "i3", "i4"), ranked("a", "i1", "i0")]
    report = evaluate(cases, {"llm": lists}, ["recall@10", "hit@10", "recall@3", "mrr@10"])
    part, whole = (note for note in report.notes if "same recall" in note)
    assert part.startswith("1 of 2 queries have at most 3 candidates")
    assert "every order has the same recall@3 there" in part
    assert whole.startswith("Every query has at most 5 candidates")
    assert "the same recall@10 and hit@10 (recall and hit: 1" in whole
    assert whole in report.warnings
    assert part not in report.warnings


def test_many_more_queries_than_fit_in_a_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    cases = [case(f"q{n}", {f"i{n % 7}"}, size=7 + n % 3) for n in range(50)]
    lists = [
        RankedList.of(one.query, [float((n * i) % 5) for i in range(len(one.query.candidates))])
        for n, one in enumerate(cases)
    ]
    metrics = ["recall@2", "mrr@3", "auc", "ndcg@4"]
    whole = evaluate(cases, {"llm": lists}, metrics).per_query
    monkeypatch.setattr("trsr.metrics.answers._CELLS", 20)
    assert evaluate(cases, {"llm": lists}, metrics).per_query.equals(whole)


@pytest.mark.parametrize(
    ("lists", "message"),
    [
        ([ranked("a", "i0", "i1", "i2")], r"ranker bm: .*query a leaves out 1 \(i3\)"),
        (
            [ranked("a", "i0", "i1", "i2", "i9")],
            r"query a leaves out 1 \(i3\) and invents 1 \(i9\)",
        ),
        ([ranked("a", "i0", "i1", "i2", "i3", "no")], r"query a invents 1 \(no\)"),
        ([ranked("a", *(f"x{n}" for n in range(4)))], r"leaves out 4 \(i0, i1, i2, …\)"),
        ([ranked("zz", "i0", "i1", "i2", "i3")], "ranker bm: query zz is not among the cases"),
        ([PERFECT[0], PERFECT[0]], "ranker bm: query a is ranked twice"),
        ([RankedList("one", (Entry("i0", math.nan),))], "ranker bm: query one has a score that"),
    ],
)
def test_a_list_that_does_not_answer_its_case_is_refused(lists, message: str) -> None:
    cases = [*CASES, case("one", {"i0"}, size=1)]
    with pytest.raises(DataError, match=message):
        evaluate(cases, {"good": [*PERFECT, THIRD], "bm": lists}, ["recall@1"])


@pytest.mark.parametrize(
    ("candidates", "relevant", "said"),
    [
        (["i0", "i0"], ["i0"], "query q: a candidate stands twice"),
        (["i0", "i9"], ["i0"], "query q: the candidate i9 is not in the catalog"),
        (["i0", "i1"], ["i2"], r"query q: the relevant \['i2'\] are no candidates"),
        (["i0", "i1"], [], "query q: no answer"),
    ],
)
def test_cases_that_ask_nothing_sensible_are_refused(candidates, relevant, said: str) -> None:
    row = [("q", "u", [], candidates, relevant)]
    with pytest.raises(DataError, match=said):
        AnswerKey(pl.DataFrame(row, schema=CASE_COLUMNS, orient="row"), ["i0", "i1", "i2"])


def test_a_list_out_of_order_is_refused() -> None:
    rising = {"query": ["a"], "items": [["i0", "i1", "i2", "i3"]], "scores": [[1.0, 2.0, 0.0, 0.0]]}
    with pytest.raises(DataError, match="ranker bm: query a is not sorted by score"):
        evaluate(CASES, {"bm": pl.DataFrame(rising)}, ["recall@1"])


def test_equal_sizes_do_not_hide_another_querys_candidates() -> None:
    other = Case(Query("o", UserHistory("o", ()), tuple(ITEMS[4:8])), frozenset({"i4"}))
    with pytest.raises(DataError, match="query o leaves out 4"):
        evaluate([*CASES, other], {"llm": [ranked("o", "i0", "i1", "i2", "i3")]}, ["recall@1"])


def test_a_query_that_stands_twice_among_the_cases_is_refused() -> None:
    with pytest.raises(DataError, match="query a stands twice"):
        evaluate([CASES[0], CASES[1], CASES[0]], {"llm": []}, ["recall@1"])


def test_no_rankings_and_unknown_metrics_are_refused() -> None:
    with pytest.raises(DataError, match="no rankings"):
        evaluate(CASES, {}, ["recall@1"])
    with pytest.raises(ConfigError, match="did you mean recall@1"):
        evaluate(CASES, {"llm": []}, ["recal@1"])


def test_no_queries_give_a_report_that_says_so() -> None:
    report = evaluate([], {"random": [], "llm": []}, ["recall@5", "auc"])
    plain = json.loads(json.dumps(report.to_json(), allow_nan=False))
    assert plain["queries"] == 0
    assert plain["metrics"]["recall@5"] == {"mean": None, "se": None}
    assert plain["chance"] == {"recall@5": None, "auc": None}
    assert "nothing can be said" in plain["notes"][0]
    assert report.means("llm") == {}
    assert report.rows().rows[0] == ("random", "–", "–", "–", "0")


def test_one_query_has_no_standard_error() -> None:
    report = evaluate(CASES[:1], {"llm": PERFECT[:1]}, ["recall@1"])
    assert report["llm"].metrics["recall@1"].mean == 1.0
    assert report["llm"].metrics["recall@1"].se is None
    assert "no standard error" in report.notes[0]
    assert report.rows().rows[0][1] == "1.000"


def test_json_puts_the_main_ranker_on_top_and_all_below() -> None:
    lists = [*PERFECT, THIRD]
    worst = [ranked(name, "i3", "i2", "i1", "i0") for name in "abc"]
    report = evaluate(CASES, {"llm": lists, "random": worst}, ["recall@1", "recall@1", "auc"])
    plain = report.to_json()
    assert plain["main"] == "llm"
    assert plain["metrics"] == plain["rankers"]["llm"]["metrics"]
    assert list(plain["rankers"]) == ["llm", "random"]
    assert list(plain["metrics"]) == ["recall@1", "auc"]
    assert plain["rankers"]["random"]["metrics"]["recall@1"] == {"mean": 0.0, "se": 0.0}
    assert plain["candidates"] == {"fewest": 4, "most": 4}
    assert plain["chance"]["recall@1"] == 0.25
    assert set(plain) >= {"queries", "tied", "missing", "notes"}
    assert evaluate(CASES, {"x": lists, "y": worst}, ["auc"]).main == "y"


def test_the_per_query_table_pairs_rankers() -> None:
    cases = [case("a", {"i0"}, user="u", history=2), case("b", {"i1"}, user="u")]
    report = evaluate(cases, {"p": PERFECT[::-1], "llm": PERFECT[:1]}, ["recall@1", "auc"])
    table = report.per_query
    assert table.columns == [
        *("ranker", "query", "user", "history", "candidates", "recall@1", "auc", "tied", "missing")
    ]
    assert table["query"].to_list() == ["a", "b", "a", "b"]
    assert table["ranker"].to_list() == ["p", "p", "llm", "llm"]
    assert table["history"].to_list() == [2, 0, 2, 0]
    assert table["missing"].to_list() == [False, False, False, True]
    assert any("2 queries are of 1 user;" in note for note in report.notes)


def test_the_terminal_table_marks_the_best_and_can_be_turned() -> None:
    report = evaluate(CASES, {"random": [THIRD], "llm": [*PERFECT, THIRD]}, ["recall@1", "mrr@3"])
    table = report.rows()
    assert table.header == ("ranker", "recall@1", "mrr@3", "tied", "missing")
    assert table.rows[0] == ("random", ".000 ±.000", ".111 ±.111", "0 %", "2")
    assert table.rows[1] == ("llm", ".667 ±.333 *", ".778 ±.222 *", "0 %", "0")
    assert table.rows[2][:2] == ("chance", ".250")
    assert table.notes[0].startswith("3 queries")


def test_sampled_candidates_are_warned_about() -> None:
    warned = evaluate(CASES, {"llm": PERFECT}, ["auc"]).notes
    assert any("Krichene" in note for note in warned)
    uniform = " ".join(evaluate(CASES, {"llm": PERFECT}, ["auc"], drawn="uniform").notes)
    assert "drawn uniformly" in uniform
    popular = " ".join(evaluate(CASES, {"llm": PERFECT}, ["auc"], drawn="popular").notes)
    assert "drawn by popularity" in popular
    whole = evaluate(CASES, {"llm": PERFECT}, ["auc"], sampled=False).notes
    assert not any("Krichene" in note for note in whole)


def test_each_ranker_is_set_against_the_main_one_and_marked() -> None:
    cases = [case(f"q{n}", {"i0"}) for n in range(30)]
    best = [ranked(one.query.id, "i0", "i1", "i2", "i3") for one in cases]
    worst = [ranked(one.query.id, "i3", "i2", "i1", "i0") for one in cases]
    report = evaluate(cases, {"bad": worst, "same": best, "llm": best}, ["mrr@4", "auc"])
    found = report.to_json()["comparisons"]
    assert [(one["ranker"], one["metric"]) for one in found] == [
        *(("bad", "mrr@4"), ("bad", "auc"), ("same", "mrr@4"), ("same", "auc"))
    ]
    assert {one["baseline"] for one in found} == {"llm"}
    assert found[0]["difference"] == pytest.approx(-0.75)
    assert found[0]["p_holm"] == pytest.approx(4 * found[0]["p"])
    assert (found[2]["difference"], found[2]["p"], found[2]["d_z"]) == (0, 1, None)
    rows = report.rows()
    assert rows.rows[0][1] == ".250 ±.000 ↓"
    assert "↓" not in rows.rows[1][1] + rows.rows[2][1]
    assert any("lower than llm" in note for note in rows.notes)
    assert evaluate(cases, {"llm": best}, ["auc"]).to_json()["comparisons"] == []


def test_comparisons_of_none_and_one_query_say_nothing() -> None:
    for cases, lists in (([], []), (CASES[:1], PERFECT[:1])):
        report = evaluate(cases, {"random": lists, "llm": lists}, ["auc"])
        (found,) = json.loads(json.dumps(report.to_json(), allow_nan=False))["comparisons"]
        assert (found["p"], found["low"], found["p_holm"]) == (None, None, None)


# --- Full-catalog evaluation: lists in part, targets not found, cuts among ties


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


def ranked_full(query: str, *items: str) -> RankedList:
    return RankedList(query, tuple(Entry(item, -float(at)) for at, item in enumerate(items)))


def test_a_target_that_is_not_listed_is_beyond_every_cut_off_and_stays_in_the_mean() -> None:
    answers = [
        Answer("a", frozenset({"i5"}), frozenset({"i0", "i1"})),
        Answer("b", frozenset({"i6"})),
    ]
    lists = [ranked_full("a", "i3", "i5", "i4"), ranked_full("b", "i3", "i5", "i4")]
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
        evaluate(key, {"llm": [ranked_full("a", "i5", item)]}, ["recall@1"])


def test_an_answer_that_is_no_candidate_is_refused() -> None:
    with pytest.raises(DataError, match="query a: the relevant"):
        key_of([Answer("a", frozenset({"i5"}), frozenset({"i5"}))])


def test_several_answers_that_are_not_listed_stand_in_the_last_places() -> None:
    answer = Answer("q", frozenset({"i3", "i8", "i9"}))
    shown = ["i1", "i3", "i2"]
    rest = [item for item in CATALOG if item not in {*shown, "i8", "i9"}]
    cut, whole = ranked_full("q", *shown), ranked_full("q", *shown, *rest, "i8", "i9")
    key = key_of([answer])
    metrics = [*METRICS[:-1], "mrr@12"]
    found = evaluate(key, {"cut": [cut], "whole": [whole]}, metrics, sampled=False)
    assert found.means("cut") == pytest.approx(found.means("whole"))
    nothing = evaluate(key, {"cut": [ranked_full("q", *rest)]}, METRICS, sampled=False).means("cut")
    assert nothing == dict.fromkeys(METRICS, 0.0)
