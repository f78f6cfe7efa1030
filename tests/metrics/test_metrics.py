"""Metrics against a naive reference that walks every order, and against trec_eval."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from fractions import Fraction

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trsr.errors import ConfigError
from trsr.metrics.answers import CASES, LISTS, AnswerKey, Ranks
from trsr.metrics.metrics import METRICS, parse_metric

Marks = Sequence[bool]


def _dcg(marks: Marks) -> float:
    return sum(1 / math.log2(rank + 2) for rank, right in enumerate(marks) if right)


def _auc(marks: Marks, _: int) -> float:
    pairs = [(i, j) for i, a in enumerate(marks) for j, b in enumerate(marks) if a and not b]
    return sum(i < j for i, j in pairs) / len(pairs) if pairs else 0.5


# What each metric is for one plain order, marks telling best first which place is right.
PLAIN: dict[str, Callable[[Marks, int], float]] = {
    "recall": lambda marks, k: sum(marks[:k]) / sum(marks),
    "precision": lambda marks, k: sum(marks[:k]) / k,
    "hit": lambda marks, k: float(any(marks[:k])),
    "mrr": lambda marks, k: next((1 / (i + 1) for i, m in enumerate(marks[:k]) if m), 0.0),
    "ndcg": lambda marks, k: _dcg(marks[:k]) / _dcg(sorted(marks, reverse=True)[:k]),
    "auc": _auc,
    "map": lambda marks, k: (
        sum(sum(marks[: i + 1]) / (i + 1) for i, m in enumerate(marks[:k]) if m) / sum(marks)
    ),
    "rbp": lambda marks, k: sum(0.2 * 0.8**i for i, m in enumerate(marks[:k]) if m),
}


def reference(name: str, scores: Sequence[float], marks: Marks, k: int) -> float:
    """The mean over all orders that the scores allow."""
    groups = [
        [mark for score, mark in zip(scores, marks, strict=True) if score == level]
        for level in sorted(set(scores), reverse=True)
    ]
    orders = itertools.product(*(list(itertools.permutations(group)) for group in groups))
    values = [PLAIN[name](list(itertools.chain(*order)), k) for order in orders]
    return math.fsum(values) / len(values)


def ranks_of(scores: Sequence[Sequence[float]], marks: Sequence[Marks]) -> Ranks:
    """The ranks of queries with candidates 0, 1, …, as an answer key finds them."""
    names = [[f"i{n}" for n in range(len(one))] for one in scores]
    right = [[f"i{n}" for n, mark in enumerate(one) if mark] for one in marks]
    queries = [f"q{n:05d}" for n in range(len(scores))]
    cases = pl.DataFrame(
        [queries, queries, [[]] * len(queries), names, right], schema=CASES, orient="col"
    )
    orders = [sorted(range(len(one)), key=lambda n, one=one: -one[n]) for one in scores]
    lists = pl.DataFrame(
        [
            queries,
            [[f"i{n}" for n in order] for order in orders],
            [[one[n] for n in order] for one, order in zip(scores, orders, strict=True)],
        ],
        schema=LISTS,
        orient="col",
    )
    (batch,) = AnswerKey(cases).check("x", lists)
    return batch.ranks


def value(name: str, scores: Sequence[float], marks: Marks, k: int) -> float:
    metric = parse_metric(METRICS[name].example(name, str(k)))
    return float(metric.values(ranks_of([scores], [marks]))[0])


# Few levels of score, so that ties are common; six places, so that all orders can be walked.
query = st.integers(1, 6).flatmap(
    lambda n: st.tuples(
        st.lists(st.sampled_from([0.0, 1.0, 2.5]), min_size=n, max_size=n),
        st.lists(st.booleans(), min_size=n, max_size=n).filter(any),
    )
)


@pytest.mark.parametrize("name", sorted(PLAIN))
@settings(deadline=None)
@given(query, st.integers(1, 8))
def test_a_tie_counts_as_the_mean_over_all_orders(
    name: str, one: tuple[list[float], list[bool]], k: int
) -> None:
    assert value(name, *one, k) == pytest.approx(reference(name, *one, k), abs=1e-12)


@pytest.mark.parametrize("name", sorted(PLAIN))
@settings(deadline=None, max_examples=40)
@given(st.lists(query, min_size=2, max_size=5), st.integers(1, 8))
def test_queries_computed_together_equal_queries_computed_alone(
    name: str, many: list[tuple[list[float], list[bool]]], k: int
) -> None:
    metric = parse_metric(METRICS[name].example(name, str(k)))
    together = metric.values(ranks_of(*zip(*many, strict=True)))
    assert together.tolist() == pytest.approx([value(name, *one, k) for one in many], abs=1e-12)


@pytest.mark.parametrize("name", sorted(PLAIN))
@settings(deadline=None, max_examples=40)
@given(query, st.integers(1, 8), st.randoms(use_true_random=False))
def test_the_order_in_which_candidates_come_means_nothing(name: str, one, k: int, random) -> None:
    pairs = list(zip(*one, strict=True))
    random.shuffle(pairs)
    scores, marks = zip(*pairs, strict=True)
    assert value(name, scores, marks, k) == pytest.approx(value(name, *one, k), abs=1e-12)


@pytest.mark.parametrize("name", sorted(PLAIN))
def test_chance_is_what_a_ranker_gets_that_tells_nothing_apart(name: str) -> None:
    marks = [True, False, True, False, False]
    metric = parse_metric(METRICS[name].example(name, "3"))
    chance = metric.values(Ranks.at_random(np.array([2]), np.array([5])))[0]
    assert chance == pytest.approx(reference(name, [0.0] * 5, marks, 3), abs=1e-12)


def test_a_user_whose_21_candidates_all_tie_is_no_perfect_hit() -> None:
    marks = [True] + [False] * 20  # the public code's answer: always in row 0
    assert value("recall", [0.0] * 21, marks, 3) == pytest.approx(3 / 21)
    expected = Fraction(1, 21) * sum(Fraction(1, j) for j in (1, 2, 3))
    assert value("mrr", [0.0] * 21, marks, 3) == pytest.approx(float(expected))
    assert value("auc", [0.0] * 21, marks, 3) == 0.5


def test_long_ties_stay_exact() -> None:
    n, r, k = 2000, 300, 5
    marks = [True] * r + [False] * (n - r)
    none = math.prod(Fraction(n - r - i, n - i) for i in range(k))
    assert value("hit", [1.0] * n, marks, k) == pytest.approx(float(1 - none), abs=1e-12)
    first = [
        math.prod(Fraction(n - r - i, n - i) for i in range(j)) * Fraction(r, n - j)
        for j in range(k)
    ]
    expected = sum(p / (j + 1) for j, p in enumerate(first))
    assert value("mrr", [1.0] * n, marks, k) == pytest.approx(float(expected), abs=1e-12)


def test_infinite_scores_are_scores() -> None:
    inf = math.inf
    assert value("recall", [inf, inf, -inf], [True, False, False], 1) == 0.5
    assert value("auc", [inf, 0.0, -inf], [False, False, True], 1) == 0.0


def test_trec_eval_agrees_where_there_are_no_ties() -> None:
    trec = pytest.importorskip("pytrec_eval", reason="pytrec_eval-terrier is not installed")
    random = np.random.default_rng(7)
    qrels, runs, scores, marks = {}, {}, [], []
    for q in range(200):
        n = int(random.integers(2, 40))
        score = random.permutation(n).astype(float)  # trec_eval keeps single precision
        mark = random.random(n) < 0.2
        mark[random.integers(n)] = True
        scores.append(score.tolist())
        marks.append(mark.tolist())
        qrels[f"q{q}"] = {f"d{i}": int(m) for i, m in enumerate(mark)}
        runs[f"q{q}"] = {f"d{i}": float(s) for i, s in enumerate(score)}
    ranks = ranks_of(scores, marks)
    pairs = {
        "recall": "recall",
        "precision": "P",
        "ndcg": "ndcg_cut",
        "hit": "success",
        "map": "map_cut",
    }
    cuts = (1, 3, 5, 10, 50)
    wanted = {f"{theirs}.{','.join(map(str, cuts))}" for theirs in pairs.values()}
    found = trec.RelevanceEvaluator(qrels, wanted | {"recip_rank"}).evaluate(runs)
    for ours, theirs in pairs.items():
        for k in cuts:
            expected = [found[f"q{q}"][f"{theirs}_{k}"] for q in range(200)]
            assert parse_metric(f"{ours}@{k}").values(ranks) == pytest.approx(expected, abs=1e-9)
    expected = [found[f"q{q}"]["recip_rank"] for q in range(200)]
    assert parse_metric("mrr@50").values(ranks) == pytest.approx(expected, abs=1e-9)


@settings(deadline=None)
@given(st.sampled_from(sorted(METRICS)), st.integers(1, 999_999_999))
def test_a_metric_prints_as_it_parses(name: str, k: int) -> None:
    text = METRICS[name].example(name, str(k))
    assert str(parse_metric(text)) == text
    assert parse_metric(str(parse_metric(text))) == parse_metric(text)


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("recal@5", "did you mean recall@5"),
        ("Recall@5", "did you mean recall@5"),
        ("nDCG@10", "did you mean ndcg@10"),
        ("acu", "did you mean auc"),
        ("recall", "write recall@10"),
        ("recall@", "write recall@10"),
        ("recall@0", "from 1 up"),
        ("recall@05", "from 1 up"),
        ("recall@-1", "from 1 up"),
        ("recall@5.0", "from 1 up"),
        ("recall@٣", "from 1 up"),
        ("recall@5@5", "from 1 up"),
        ("auc@5", "write auc"),
        ("auc@", "write auc"),
        ("", "there are auc"),
        ("rbp@10", r"write rbp\(p=0.8\)@10"),
        ("rbp(p=1)@10", "between 0 and 1"),
        ("rbp(p=0.80)@10", r"write rbp\(p=0.8\)@10"),
        ("ndcg(p=0.8)@10", "takes no p; write ndcg@10"),
        ("noveltey@5", "did you mean novelty@5"),
        ("coverage", "write coverage@10"),
    ],
)
def test_a_mistyped_metric_is_refused_with_a_hint(text: str, hint: str) -> None:
    with pytest.raises(ConfigError, match=hint):
        parse_metric(text)


def test_every_metric_says_what_it_is() -> None:
    assert parse_metric("recall@7").meaning == "share of the relevant items in the first 7"
    assert all(family.meaning for family in METRICS.values())
