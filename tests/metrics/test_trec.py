"""The files for other tools: their metrics agree with ours, and ids come back whole."""

from __future__ import annotations

from pathlib import Path

import ir_measures
import numpy as np
import pytest
import pytrec_eval
from hypothesis import given, settings
from hypothesis import strategies as st

from trsr.errors import DataError
from trsr.metrics import evaluate
from trsr.metrics.trec import (
    escape,
    falling,
    file_name,
    read_trec_run,
    unescape,
    write_qrels,
    write_trec_run,
)
from trsr.types import Case, Entry, Item, Query, RankedList, UserHistory

METRICS = ("recall@3", "precision@3", "hit@3", "mrr@3", "ndcg@3", "recall@10", "mrr@10", "ndcg@10")
IR = {"recall": "R", "precision": "P", "hit": "Success", "mrr": "RR", "ndcg": "nDCG"}


def ir_name(metric: str) -> str:
    name, k = metric.split("@")
    return f"{IR[name]}@{k}"


def case(query: str, items: list[str], right: set[str]) -> Case:
    return Case(Query(query, UserHistory("u", ()), tuple(map(Item, items))), frozenset(right))


# Ids of any text: with blanks, percent signs, none at all.
IDS = st.text(st.characters(codec="utf-8"), max_size=4)


@st.composite
def untied_rankings(draw) -> list[tuple[Case, RankedList]]:
    found = []
    for name in draw(st.lists(IDS, min_size=1, max_size=4, unique=True)):
        items = draw(st.lists(IDS, min_size=1, max_size=14, unique=True))
        right = draw(st.sets(st.sampled_from(items), min_size=1))
        scores = st.floats(-1e6, 1e6)
        values = draw(st.lists(scores, min_size=len(items), max_size=len(items), unique=True))
        one = case(name, items, right)
        found.append((one, RankedList.of(one.query, values)))
    return found


def files(folder: Path, cases: list[Case], lists: list[RankedList]) -> tuple[str, str]:
    write_qrels(folder / "qrels.trec", cases)
    write_trec_run(folder / "run.trec", "a ranker", lists)
    return str(folder / "qrels.trec"), str(folder / "run.trec")


@settings(deadline=None, max_examples=50)
@given(untied_rankings())
def test_ir_measures_and_trec_eval_agree_on_the_files(tmp_path_factory, tests) -> None:
    cases, lists = [one for one, _ in tests], [ranked for _, ranked in tests]
    ours = evaluate(cases, {"llm": lists}, METRICS).per_query
    qrels, run = files(tmp_path_factory.mktemp("trec"), cases, lists)
    measures = {metric: ir_measures.parse_measure(ir_name(metric)) for metric in METRICS}
    theirs = {
        (one.query_id, str(one.measure)): one.value
        for one in ir_measures.iter_calc(
            list(measures.values()),
            list(ir_measures.read_trec_qrels(qrels)),
            list(ir_measures.read_trec_run(run)),
        )
    }
    with open(qrels, encoding="utf-8") as q, open(run, encoding="utf-8") as r:
        trec = pytrec_eval.RelevanceEvaluator(
            pytrec_eval.parse_qrel(q), {"recall.3", "P.3", "success.3", "ndcg_cut.3", "recip_rank"}
        ).evaluate(pytrec_eval.parse_run(r))
    for row in ours.iter_rows(named=True):
        query = escape(row["query"])
        for metric, measure in measures.items():
            assert row[metric] == pytest.approx(theirs[query, str(measure)], abs=1e-9), metric
        for metric, name in (
            ("recall@3", "recall_3"),
            ("precision@3", "P_3"),
            ("hit@3", "success_3"),
            ("ndcg@3", "ndcg_cut_3"),
        ):
            assert row[metric] == pytest.approx(trec[query][name], abs=1e-9), metric
        if row["mrr@3"]:
            assert row["mrr@3"] == pytest.approx(trec[query]["recip_rank"], abs=1e-9)


@given(st.text())
def test_ids_come_back_and_hold_no_blank(text: str) -> None:
    escaped = escape(text)
    assert len(escaped.split()) == 1
    assert unescape(escaped) == text


def test_plain_ids_stay_as_they_are() -> None:
    assert escape("test/A101/4") == "test/A101/4"
    assert escape("two words 5%") == "two%20words%205%25"
    assert file_name("a b/c") == "run.a%20b%2Fc.trec"


@given(st.lists(st.floats(allow_nan=False), min_size=1, max_size=30))
def test_scores_fall_also_as_32_bit_numbers(scores: list[float]) -> None:
    written = np.array([float(s) for s in falling(sorted(scores, reverse=True))], np.float32)
    assert (np.diff(written.astype(np.float64)) < 0).all()
    assert np.isfinite(written).all()


def test_scores_change_no_more_than_they_must() -> None:
    assert [float(s) for s in falling([2.5, 1.0, -3.0])] == [2.5, 1.0, -3.0]
    tied = [float(s) for s in falling([1.0, 1.0, 0.5])]
    assert tied == pytest.approx([1.0, 1.0, 0.5], rel=1e-6)


def test_the_made_up_order_of_ties_favours_nobody_and_is_always_the_same(tmp_path: Path) -> None:
    items = [f"i{n}" for n in range(5)]
    cases = [case(f"q{n}", items, {"i0"}) for n in range(400)]
    tied = [RankedList(one.query.id, tuple(Entry(item, 1.0) for item in items)) for one in cases]
    turned = [RankedList(r.query, r.entries[::-1]) for r in tied]
    write_trec_run(tmp_path / "a", "x", tied)
    write_trec_run(tmp_path / "b", "x", turned)
    assert (tmp_path / "a").read_text() == (tmp_path / "b").read_text()
    rows = [line.split() for line in (tmp_path / "a").read_text().splitlines()]
    ranks = [int(rank) for _, _, item, rank, _, _ in rows if item == "i0"]
    assert len(ranks) == 400
    assert np.mean(ranks) == pytest.approx(3, abs=0.3)


@settings(deadline=None, max_examples=40)
@given(untied_rankings())
def test_a_run_that_was_written_is_read_back(tmp_path_factory, tests) -> None:
    lists = [ranked for _, ranked in tests]
    _, run = files(tmp_path_factory.mktemp("trec"), [one for one, _ in tests], lists)
    found = read_trec_run(Path(run))
    assert list(found) == [ranked.query for ranked in lists]
    for ranked in lists:
        scores = found[ranked.query]
        assert sorted(scores, key=scores.__getitem__, reverse=True) == [e.item for e in ranked]


def test_scores_decide_and_the_ranks_and_order_of_a_file_do_not(tmp_path: Path) -> None:
    path = tmp_path / "run"
    path.write_text("q Q0 a 1 0.5 x\n\nq Q0 b%20c 2 9e-1 x\n", "utf-8")
    assert read_trec_run(path) == {"q": {"a": 0.5, "b c": 0.9}}


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("q Q0 b 2 0.4", r"run:2: 5 columns, where a TREC run has six"),
        ("q Q0 b 2 high x", r"run:2: the score 'high' is not a finite number"),
        ("q Q0 b 2 inf x", r"run:2: the score 'inf' is not a finite number"),
        ("q Q0 a 2 0.4 x", r"run:2: item a stands twice in query q"),
    ],
)
def test_a_line_that_is_no_such_line_is_named(tmp_path: Path, line: str, said: str) -> None:
    (tmp_path / "run").write_text(f"q Q0 a 1 0.5 x\n{line}\n", "utf-8")
    with pytest.raises(DataError, match=said):
        read_trec_run(tmp_path / "run")


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"run: cannot be read \(No such file"):
        read_trec_run(tmp_path / "run")
    (tmp_path / "run").write_bytes(b"q Q0 \xff 1 0.5 x\n")
    with pytest.raises(DataError, match=r"run: not UTF-8 text"):
        read_trec_run(tmp_path / "run")
