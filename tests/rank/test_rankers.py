"""What every ranker must do, and what each does."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trsr.data import Catalog
from trsr.errors import ConfigError, DataError, ModelError, PromptError
from trsr.rank import (
    RANKERS,
    PopularRanker,
    RandomRanker,
    RankContext,
    RankSettings,
    YesNoRanker,
    make_ranker,
    p_yes,
    popularity,
    rank_what_fits,
)
from trsr.types import Case, Item, Message, Prompt, Query, RankedList, UserHistory

ITEMS = [Item(f"i{n}", (("title", f"film {1990 + n}"),)) for n in range(12)]
INTERACTIONS = pl.DataFrame(
    {"user": ["u", "u", "v", "w"], "item": ["i1", "i2", "i1", "i3"], "time": [1.0, 2.0, 3.0, 4.0]}
)

NETWORKS = ("sasrec", "gru4rec", "bert4rec", "bert4rec_text", "sasrec_text")
QUICK = RankSettings(**{name: {"hidden": 8, "layers": 1, "max_epochs": 1} for name in NETWORKS})


def query(name: str, *items: int) -> Query:
    return Query(name, UserHistory("u", ()), tuple(ITEMS[n] for n in items or range(5)))


class Words:
    """Writes `query item` as the prompt; refuses the queries in `too_long`."""

    answers = ("Yes", "No")

    def __init__(self, too_long: Iterable[str] = ()) -> None:
        self.too_long = set(too_long)

    def judge(self, query: Query) -> list[Prompt]:
        if query.id in self.too_long:
            raise PromptError(f"query {query.id}: does not fit")
        return [Prompt((Message("user", f"{query.id} {c.id}"),)) for c in query.candidates]


class Judge:
    """Says yes by the item's number, with a tiny difference between big margins."""

    identity = "judge"
    context_tokens = 100

    def __init__(self, margin=None) -> None:
        self.calls: list[list[str]] = []
        self.margin = margin or (lambda text: float(text.split(" i")[1]))

    def score(self, prompts: Sequence[Prompt], answers: Sequence[str]) -> np.ndarray:
        assert tuple(answers) == ("Yes", "No")
        texts = [prompt.messages[-1].content for prompt in prompts]
        self.calls.append(texts)
        return np.array([[-1.0, -1.0 - self.margin(text)] for text in texts])


def context(seed: int = 0) -> RankContext:
    def judge(tuned: bool):
        return Judge(lambda text: (1 if tuned else -1) * float(text.split(" i")[1])), Words()

    catalog = Catalog(
        pl.DataFrame(
            {"id": [i.id for i in ITEMS], "title": [dict(i.fields)["title"] for i in ITEMS]}
        )
    )
    valid = [Case(query(f"v{n}", n, n + 1, n + 2), frozenset({f"i{n}"})) for n in range(6)]
    return RankContext(catalog, INTERACTIONS, seed, judge, validation=lambda: valid, settings=QUICK)


@pytest.mark.parametrize("name", RANKERS.names())
def test_every_ranker_answers_each_query_once_in_order_with_all_candidates(name: str) -> None:
    queries = [query(f"q{n}", *range(n % 4, n % 4 + 1 + n % 5)) for n in range(30)]
    lists = list(make_ranker(name, context()).rank(iter(queries)))
    assert [one.query for one in lists] == [one.id for one in queries]
    for asked, given_back in zip(queries, lists, strict=True):
        assert {entry.item for entry in given_back} == {item.id for item in asked.candidates}


@pytest.mark.parametrize("name", RANKERS.names())
def test_every_ranker_is_lazy(name: str) -> None:
    read = []

    def endless() -> Iterator[Query]:
        for n in range(10_000):
            read.append(n)
            yield query(f"q{n}")

    next(make_ranker(name, context()).rank(endless()))
    assert len(read) <= context().queries_per_batch


@pytest.mark.parametrize("name", RANKERS.names())
def test_no_ranker_minds_the_order_of_candidates(name: str) -> None:
    (one,) = make_ranker(name, context()).rank([query("q", 1, 2, 3, 4, 0)])
    (other,) = make_ranker(name, context()).rank([query("q", 4, 0, 3, 2, 1)])
    assert {e.item: e.score for e in one} == {e.item: e.score for e in other}


def test_an_unknown_ranker_is_refused_with_a_hint() -> None:
    with pytest.raises(ConfigError, match="did you mean popular"):
        make_ranker("populer", context())


def test_the_tuned_and_the_untuned_model_are_asked_for_by_name() -> None:
    (tuned,) = make_ranker("llm", context()).rank([query("q")])
    (untuned,) = make_ranker("untuned", context()).rank([query("q")])
    assert [e.item for e in tuned] == [e.item for e in untuned][::-1]


def test_popular_counts_training_interactions_and_leaves_ties_tied() -> None:
    assert popularity(INTERACTIONS) == {"i1": 2, "i2": 1, "i3": 1}
    (ranked,) = PopularRanker(popularity(INTERACTIONS)).rank([query("q", 0, 3, 2, 1, 4)])
    assert [(e.item, e.score) for e in ranked] == [
        *(("i1", 2.0), ("i3", 1.0), ("i2", 1.0), ("i0", 0.0), ("i4", 0.0))
    ]


def test_random_depends_on_seed_query_and_item_only() -> None:
    def scores(seed: int, name: str) -> dict[str, float]:
        (ranked,) = RandomRanker(seed).rank([query(name)])
        return {entry.item: entry.score for entry in ranked}

    assert scores(1, "q") == scores(1, "q")
    assert scores(1, "q") != scores(2, "q")
    assert scores(1, "q") != scores(1, "p")
    drawn = [s for n in range(400) for s in scores(0, f"q{n}").values()]
    assert len(set(drawn)) == len(drawn)
    assert all(0 <= s < 1 for s in drawn)
    assert sum(drawn) / len(drawn) == pytest.approx(0.5, abs=0.03)


@settings(deadline=None, max_examples=50)
@given(st.integers(1, 7), st.lists(st.integers(1, 5), max_size=15))
def test_batches_hold_whole_queries_and_change_nothing(size: int, counts: list[int]) -> None:
    queries = [query(f"q{n}", *range(count)) for n, count in enumerate(counts)]
    model = Judge()
    lists = list(YesNoRanker(model, Words(), size).rank(queries))
    assert lists == [one for q in queries for one in YesNoRanker(Judge(), Words(), 1).rank([q])]
    assert len(model.calls) == math.ceil(len(queries) / size)
    assert [text for call in model.calls for text in call] == [
        f"{q.id} {item.id}" for q in queries for item in q.candidates
    ]


def test_the_score_is_the_margin_and_does_not_saturate() -> None:
    # The softmax rounds both to 1.0; the margin keeps them apart.
    (ranked,) = YesNoRanker(Judge(lambda t: 50 + float(t.split(" i")[1])), Words()).rank(
        [query("q")]
    )
    assert [entry.item for entry in ranked] == ["i4", "i3", "i2", "i1", "i0"]
    assert [entry.score for entry in ranked] == [54.0, 53.0, 52.0, 51.0, 50.0]
    assert p_yes(54.0) == p_yes(50.0) == 1.0


@settings(deadline=None)
@given(st.floats(-800, 800))
def test_p_yes_is_the_softmax_over_the_two_answers(margin: float) -> None:
    assert 0 <= p_yes(margin) <= 1
    assert p_yes(margin) + p_yes(-margin) == pytest.approx(1)
    if abs(margin) < 30:
        yes, no = math.exp(margin / 2), math.exp(-margin / 2)
        assert p_yes(margin) == pytest.approx(yes / (yes + no))


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_score_that_is_no_number_is_an_error_that_names_query_and_item(bad: float) -> None:
    ranker = YesNoRanker(Judge(lambda t: bad if t == "q1 i2" else 0.0), Words())
    with pytest.raises(ModelError, match=r"query q1: model judge .* candidate i2"):
        list(ranker.rank([query("q0"), query("q1")]))


def test_two_impossible_answers_are_an_error_too() -> None:
    class Broken(Judge):
        def score(self, prompts: Sequence[Prompt], answers: Sequence[str]) -> np.ndarray:
            return np.full((len(prompts), 2), -math.inf)

    with pytest.raises(ModelError, match="gave nan"):
        list(YesNoRanker(Broken(), Words()).rank([query("q")]))


def test_a_model_that_answers_too_little_is_an_error() -> None:
    class Short(Judge):
        def score(self, prompts: Sequence[Prompt], answers: Sequence[str]) -> np.ndarray:
            return super().score(prompts, answers)[1:]

    with pytest.raises(ModelError, match="5 × 2 log-probabilities and gave 4 × 2"):
        list(YesNoRanker(Short(), Words()).rank([query("q")]))


def test_a_batch_of_no_queries_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one query"):
        YesNoRanker(Judge(), Words(), 0)


def test_a_prompt_that_cannot_fit_is_raised() -> None:
    with pytest.raises(PromptError, match="query q1"):
        list(YesNoRanker(Judge(), Words(["q1"])).rank([query("q0"), query("q1")]))


@settings(deadline=None, max_examples=50)
@given(st.integers(1, 5), st.sets(st.integers(0, 11)), st.integers(0, 12))
def test_ranking_what_fits_leaves_out_only_what_does_not(
    size: int, long: set[int], count: int
) -> None:
    queries = [query(f"q{n}") for n in range(count)]
    too_long = {f"q{n}" for n in long}
    skipped: list[str] = []
    ranker = YesNoRanker(Judge(), Words(too_long), size)
    lists = list(rank_what_fits(ranker, queries, lambda q, error: skipped.append(q.id)))
    assert [one.query for one in lists] == [q.id for q in queries if q.id not in too_long]
    assert skipped == [q.id for q in queries if q.id in too_long]


class Odd:
    """A ranker with bad manners."""

    def __init__(self, manner: str) -> None:
        self.manner = manner

    def rank(self, queries: Iterable[Query]) -> Iterator[RankedList]:
        for n, one in enumerate(queries):
            if self.manner == "stops early" and n == 1:
                return
            if self.manner == "leaves out" and n == 1:
                continue
            ranked = RankedList.of(one, [0.0] * len(one.candidates))
            if self.manner == "answers twice":
                yield ranked
            yield RankedList("zz", ranked.entries) if self.manner == "answers another" else ranked


@pytest.mark.parametrize(
    ("manner", "message"),
    [
        ("stops early", "no list for query q1"),
        ("leaves out", "answered query q2 where q1 was due"),
        ("answers twice", "answered query q0 where none was due"),
        ("answers another", "answered query zz where q0 was due"),
    ],
)
def test_a_ranker_that_does_not_answer_each_query_once_is_an_error(manner, message) -> None:
    queries = [query(f"q{n}") for n in range(4)]
    with pytest.raises(DataError, match=message):
        list(rank_what_fits(Odd(manner), queries, lambda query, error: None))


def test_a_ranker_that_leaves_the_last_query_unread_is_an_error() -> None:
    class Early:
        def rank(self, queries: Iterable[Query]) -> Iterator[RankedList]:
            yield RankedList.of(one := next(iter(queries)), [0.0] * len(one.candidates))

    with pytest.raises(DataError, match="no list for query q1"):
        list(rank_what_fits(Early(), [query("q0"), query("q1")], lambda query, error: None))
