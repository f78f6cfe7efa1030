"""Metrics against a naive reference that walks every order, and against trec_eval."""

from __future__ import annotations

import itertools
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trsr.cli.inspect import components
from trsr.errors import ConfigError, DataError
from trsr.metrics import ItemFacts, evaluate
from trsr.metrics.answers import CASES, LISTS, AnswerKey, Ranks
from trsr.metrics.metrics import METRICS, parse_metric
from trsr.types import Entry, RankedList

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


def values(queries: Sequence[tuple[Sequence[float], Marks]], k: int) -> dict[str, list[float]]:
    """Each metric's values of the queries."""
    ranks = ranks_of(*zip(*queries, strict=True))
    metrics = {name: parse_metric(METRICS[name].example(name, str(k))) for name in PLAIN}
    return {name: metric.values(ranks).tolist() for name, metric in metrics.items()}


def value(name: str, scores: Sequence[float], marks: Marks, k: int) -> float:
    return values([(scores, marks)], k)[name][0]


# Few levels of score, so that ties are common; six places, so that all orders can be walked.
query = st.integers(1, 6).flatmap(
    lambda n: st.tuples(
        st.lists(st.sampled_from([0.0, 1.0, 2.5]), min_size=n, max_size=n),
        st.lists(st.booleans(), min_size=n, max_size=n).filter(any),
    )
)


@settings(deadline=None)
@given(query, st.integers(1, 8))
def test_a_tie_counts_as_the_mean_over_all_orders(
    one: tuple[list[float], list[bool]], k: int
) -> None:
    expected = {name: reference(name, *one, k) for name in PLAIN}
    assert values([one], k) == {name: [pytest.approx(expected[name], abs=1e-12)] for name in PLAIN}


@settings(deadline=None, max_examples=40)
@given(st.lists(query, min_size=2, max_size=5), st.integers(1, 8))
def test_queries_computed_together_equal_queries_computed_alone(
    many: list[tuple[list[float], list[bool]]], k: int
) -> None:
    alone = [values([one], k) for one in many]
    for name, together in values(many, k).items():
        assert together == pytest.approx([one[name][0] for one in alone], abs=1e-12), name


@settings(deadline=None, max_examples=40)
@given(query, st.integers(1, 8), st.randoms(use_true_random=False))
def test_the_order_in_which_candidates_come_means_nothing(one, k: int, random) -> None:
    pairs = list(zip(*one, strict=True))
    random.shuffle(pairs)
    shuffled, plain = (values([two], k) for two in (tuple(zip(*pairs, strict=True)), one))
    assert shuffled == {name: pytest.approx(found, abs=1e-12) for name, found in plain.items()}


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


# --- Metrics of what is recommended, against values by hand and against all orders of ties


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


def test_a_tie_counts_as_the_mean_over_all_orders_beyond() -> None:
    scores = "322221"
    tied = lists("abcdef", scores=scores)
    orders = [("a", *middle, "f") for middle in itertools.permutations("bcde")]
    names, cuts = ("novelty", "popularity", "diversity", "coverage"), (1, 2, 3, 4, 5, 6, 9)
    metrics = [f"{name}@{k}" for name in names for k in cuts]
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


# --- Metrics of other packages


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """Puts a package with a metric `first_half` where pip would."""

    def put(module: str) -> None:
        info = tmp_path / "half-1.0.dist-info"
        info.mkdir()
        (tmp_path / "half_metric.py").write_text(module)
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: half\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(
            "[trsr.metrics]\nfirst_half = half_metric:FIRST_HALF\n"
        )
        monkeypatch.syspath_prepend(tmp_path)

    yield put
    sys.modules.pop("half_metric", None)


def test_the_sample_of_the_docs_is_a_metric(install: Callable[[str], None]) -> None:
    page = (Path(__file__).parents[2] / "docs" / "metrics.md").read_text("utf-8")
    install(page.partition("```python\n")[2].partition("```")[0])
    metric = parse_metric("first_half@4")
    assert (str(metric), metric.k) == ("first_half@4", 4)
    assert metric.meaning == "share of the relevant items in half of the first 4"
    assert "first_half@k" in list(components("metrics"))
    with pytest.raises(ConfigError, match="did you mean first_half@4"):
        parse_metric("first_hal@4")
    # f, the right one, stands second; third; and ties for the second and third place
    found = [
        *lists("afbcde", "abfcde"),
        *lists("", "", "afbcde", scores="877654")[2:],
    ]
    report = evaluate(key(3), {"x": found}, ["first_half@4", "recall@2"], items=FACTS)
    assert report.per_query["first_half@4"].to_list() == [1, 0, 0.5]
    assert report.per_query["first_half@4"].equals(report.per_query["recall@2"], check_names=False)
    assert report.chance["first_half@4"] == pytest.approx(2 / 6)
    assert "first_half@4" in report.paired


@pytest.mark.parametrize(
    ("module", "error", "said"),
    [
        ("FIRST_HALF = 3", ConfigError, "first_half' of another package is 3, and must be a"),
        (
            "from trsr.metrics import Family\nFIRST_HALF = Family('odd', lambda r, m: [2.0])",
            DataError,
            "the metric first_half@4 must give a number from 0 to 1 for each of 2 queries",
        ),
    ],
)
def test_a_wrong_metric_of_another_package_is_named(
    install: Callable[[str], None], module: str, error: type[Exception], said: str
) -> None:
    install(module)
    with pytest.raises(error, match=said):
        evaluate(key(2), {"x": lists("afbcde", "abfcde")}, ["first_half@4"], items=FACTS)
