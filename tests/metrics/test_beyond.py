"""Metrics of what is recommended, against values by hand and against all orders of ties."""

from __future__ import annotations

import itertools
import math

import numpy as np
import polars as pl
import pytest

from trsr.errors import ConfigError
from trsr.metrics import AnswerKey, ItemFacts, evaluate
from trsr.types import Entry, RankedList

# a has 4 users, b 2, c 1, and d, e, f none; a and b share their words, as c and d do one of two.
CATALOG = pl.DataFrame(
    {
        "id": list("abcdef"),
        "title": ["red car", "Red CAR!", "blue boat", "blue tent", "old lamp", None],
    }
)
FITTED = pl.DataFrame(
    {"user": ["u1", "u2", "u3", "u4", "u1", "u2", "u1", "u1"], "item": list("aaaabbca")}
)
FACTS = ItemFacts(CATALOG, FITTED)
WANTED = ["novelty@2", "popularity@2", "diversity@2", "coverage@2", "gini@2", "popularity_lift@2"]


def key(queries: int, histories: list[list[str]] | None = None) -> AnswerKey:
    names = [f"q{n}" for n in range(queries)]
    cases = pl.DataFrame(
        {"query": names, "user": names, "items": histories or [["a"]] * queries}
    ).with_columns(relevant=pl.lit(["f"]), seen=pl.lit([], pl.List(pl.String)))
    return AnswerKey(cases, CATALOG["id"].to_list())


def lists(*items: str, scores: str = "987654321") -> list[RankedList]:
    """A list of items a query, each named by its letter, with falling or given scores."""
    return [
        RankedList(f"q{n}", tuple(Entry(i, float(s)) for i, s in zip(one, scores, strict=False)))
        for n, one in enumerate(items)
    ]


def measured(found: list[RankedList], metrics: list[str], queries: int = 0) -> dict[str, float]:
    asked = key(queries or len(found))
    return evaluate(asked, {"x": found}, metrics, items=FACTS).means("x")


def test_each_by_hand() -> None:
    # LensKit 2025.8.1: gini([1, 2, 1, 0, 0, 0]) and gini([1, 1, 1, 1, 0, 0]) as told below.
    found = measured(lists("ab", "bc"), WANTED)
    novelty = {"a": math.log2(4 / 4), "b": math.log2(4 / 2), "c": math.log2(4 / 1)}
    assert found["novelty@2"] == pytest.approx((0 + 2 * novelty["b"] + novelty["c"]) / 4)
    assert found["popularity@2"] == pytest.approx((4 + 2 + 2 + 1) / 4)
    assert found["diversity@2"] == pytest.approx((0 + 1) / 2)  # equal words; none in common
    assert found["coverage@2"] == pytest.approx(3 / 6)
    assert found["gini@2"] == pytest.approx((1 * 1 + 3 * 1 + 5 * 2) / (6 * 4))
    assert found["popularity_lift@2"] == pytest.approx((2.25 - 4) / 4)
    even = measured(lists("ab", "cd"), ["gini@2", "gini@1", "coverage@1"])
    assert even == pytest.approx({"gini@2": 1 / 3, "gini@1": 2 / 3, "coverage@1": 2 / 6})


def test_words_that_two_items_share_make_them_as_alike_as_their_weights_say() -> None:
    blue, other = math.log(6 / 2), math.log(6 / 1)
    cosine = blue**2 / (blue**2 + other**2)
    assert measured(lists("cd"), ["diversity@2"])["diversity@2"] == pytest.approx(1 - cosine)
    # an item without a word is unlike all; of one item there is no distance
    assert measured(lists("af"), ["diversity@2"])["diversity@2"] == pytest.approx(1)
    assert measured(lists("a"), ["diversity@2"])["diversity@2"] == 0


def test_a_tie_counts_as_the_mean_over_all_orders() -> None:
    scores = "322221"
    tied = lists("abcdef", scores=scores)
    orders = [("a", *middle, "f") for middle in itertools.permutations("bcde")]
    for k in (1, 2, 3, 4, 5, 6, 9):
        metrics = [f"novelty@{k}", f"popularity@{k}", f"diversity@{k}", f"coverage@{k}"]
        each = [measured(lists("".join(one)), metrics) for one in orders]
        expected = {name: np.mean([one[name] for one in each]) for name in metrics}
        assert measured(tied, metrics) == pytest.approx(expected)


def test_coverage_takes_ties_of_different_lists_as_independent() -> None:
    # each of four items is the first of a list with a chance of 1/4: 1 − (3/4)² of two
    found = measured(lists("abcd", "abcd", scores="1111"), ["coverage@1"])
    assert found["coverage@1"] == pytest.approx(4 * (1 - (3 / 4) ** 2) / 6)


def test_a_query_without_a_list_shows_nothing() -> None:
    found = measured(lists("ab"), WANTED, queries=2)
    alone = measured(lists("ab"), WANTED)
    for name in ("novelty@2", "popularity@2", "diversity@2"):
        assert found[name] == pytest.approx(alone[name] / 2)
    for name in ("coverage@2", "gini@2", "popularity_lift@2"):
        assert found[name] == pytest.approx(alone[name])
    nothing = evaluate(key(2), {"x": []}, WANTED, items=FACTS).means("x")
    assert nothing == dict.fromkeys(WANTED, 0.0)


def test_values_of_queries_are_paired_and_those_of_all_lists_are_not() -> None:
    found = {"x": lists(*["abc"] * 30), "llm": lists(*["def"] * 30)}
    report = evaluate(key(30), found, ["recall@2", *WANTED], items=FACTS, sampled=False)
    assert report.paired == ("recall@2", "novelty@2", "popularity@2", "diversity@2")
    assert {one.metric for one in report.comparisons} == set(report.paired)
    lower = report.comparison("x", "novelty@2")
    assert lower is not None
    assert lower.mark == "↓"
    plain = report.to_json()["rankers"]["x"]["metrics"]
    assert plain["coverage@2"] == {"mean": pytest.approx(2 / 6), "se": None}
    assert plain["popularity@2"]["mean"] == 3  # no share: it is not cut at 1
    assert report["x"].metrics["popularity@2"].interval == (3, 3)
    row = report.rows().rows[0]
    # more novel or more popular is not better: no mark of the highest mean
    assert [cell.endswith("*") for cell in row[2:8]] == [False] * 6


def test_they_are_refused_where_nothing_is_known_of_the_items() -> None:
    with pytest.raises(ConfigError, match="coverage@2 needs the items"):
        evaluate(key(1), {"x": lists("ab")}, ["coverage@2"])
