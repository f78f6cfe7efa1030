"""The prior in ranking: what it adds, how it is weighed, and what it must not have seen."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trsr.data import Catalog
from trsr.errors import ConfigError, DataError, PromptError, StoreError
from trsr.rank import RankContext, RankSettings, YesNoRanker, make_ranker, rank_what_fits
from trsr.rank.blend import Examples, standardized
from trsr.rank.prior import MOST, Prior, PriorRanker, cross_fitted, learned_weight, likeliest_weight
from trsr.rank.tune import QueryRanker
from trsr.types import Case, Interaction, Item, Message, Prompt, Query, RankedList, UserHistory

ITEMS = [Item(f"i{n}") for n in range(15)]
CATALOG = Catalog(pl.DataFrame({"id": [item.id for item in ITEMS]}))
RANKERS = ("popular", "popular_recent", "item_knn", "item_knn_recent", "ease")


class Words:
    answers = ("Yes", "No")

    def __init__(self, too_long: str = "") -> None:
        self.too_long = too_long

    def judge(self, query: Query) -> list[Prompt]:
        if query.id == self.too_long:
            raise PromptError(f"query {query.id}: does not fit")
        return [Prompt((Message("user", f"{query.id} {c.id}"),)) for c in query.candidates]


class Judge:
    """Margins drawn from the prompt's text."""

    identity = "judge"
    context_tokens = 100

    def score(self, prompts: Sequence[Prompt], answers: Sequence[str]) -> np.ndarray:
        texts = (prompt.messages[-1].content for prompt in prompts)
        return np.array([[random.Random(text).gauss(0, 3), 0.1] for text in texts])


def log_of(users: int, seed: int) -> dict[str, list[str]]:
    """Who met what, oldest first; each item once a user."""
    draw = random.Random(seed)
    ids = [item.id for item in ITEMS]
    return {f"u{n}": draw.sample(ids, draw.randint(4, 9)) for n in range(users)}


def frame(met: dict[str, list[str]]) -> pl.DataFrame:
    rows = [(u, item, float(n)) for u, items in met.items() for n, item in enumerate(items)]
    return pl.DataFrame(rows, schema=["user", "item", "time"], orient="row")


def case(part: str, user: str, met: list[str], place: int) -> Case:
    """The target is the interaction at `place`; four items never met are the other candidates."""
    told = (Interaction(Item(item), float(n)) for n, item in enumerate(met[:place]))
    others = [item for item in ITEMS if item.id not in met][:4]
    query = Query(
        f"{part}/{user}/{place}", UserHistory(user, tuple(told)), (Item(met[place]), *others)
    )
    return Case(query, frozenset({met[place]}))


def context(met: dict[str, list[str]], **changes) -> RankContext:
    """Each user's last interaction is the validation target, the one before the training target."""

    def judge(tuned: bool):
        return Judge(), Words()

    fit = {user: items[:-1] for user, items in met.items()}
    valid = [case("valid", user, items, len(items) - 1) for user, items in met.items()]
    return dataclasses.replace(
        RankContext(CATALOG, frame(fit), 0, judge, validation=lambda: valid), **changes
    )


def training(met: dict[str, list[str]]) -> list[Case]:
    return [case("train", user, items, len(items) - 2) for user, items in met.items()]


def scores(ranked: RankedList) -> dict[str, float]:
    return {entry.item: entry.score for entry in ranked}


# --- ranking


@settings(max_examples=20, deadline=None)
@given(st.floats(-3, 3), st.sampled_from(RANKERS), st.integers(1, 5))
def test_a_score_is_the_margin_and_the_weighted_standardized_prior(
    weight: float, name: str, size: int
) -> None:
    given_context = context(log_of(12, 1), queries_per_batch=size)
    queries = [one.query for one in training(log_of(12, 1))]
    told = dataclasses.replace(given_context, prior=Prior(name, weight))
    both = list(make_ranker("llm", told).rank(iter(queries)))
    own = list(make_ranker("llm", given_context).rank(queries))
    cheap = list(make_ranker(name, given_context).rank(queries))
    assert [one.query for one in both] == [query.id for query in queries]
    for ranked, margins, prior in zip(both, own, cheap, strict=True):
        added = standardized(prior)
        assert scores(ranked) == {
            item: margin + weight * added[item] for item, margin in scores(margins).items()
        }


def test_a_prior_of_weight_0_changes_no_bit_and_the_untrained_model_has_none() -> None:
    bare = context(log_of(12, 1))
    queries = [one.query for one in training(log_of(12, 1))]
    none = dataclasses.replace(bare, prior=Prior("popular", 0.0))
    some = dataclasses.replace(bare, prior=Prior("popular", 2.0))
    own = list(make_ranker("llm", bare).rank(queries))
    assert list(make_ranker("llm", none).rank(queries)) == own
    assert list(make_ranker("llm", some).rank(queries)) != own
    assert list(make_ranker("untuned", some).rank(queries)) == own


def test_items_that_nobody_met_have_a_prior_too() -> None:
    told = context({"a": ["i0", "i1", "i2"], "b": ["i0", "i3", "i4"]}, prior=Prior("popular", 1.0))
    new = Item("new", (("title", "unheard of"),))
    asked = Query("q", UserHistory("c", ()), (ITEMS[0], new, ITEMS[9]))
    (ranked,) = make_ranker("llm", told).rank([asked])
    (margins,) = YesNoRanker(Judge(), Words()).rank([asked])
    added = {item: score - scores(margins)[item] for item, score in scores(ranked).items()}
    # 2, 0 and 0 interactions: mean 2/3, variance 8/9
    assert added == pytest.approx({"i0": 2**0.5, "new": -(0.5**0.5), "i9": -(0.5**0.5)})


@pytest.mark.parametrize("size", [1, 3, 8])
def test_a_query_that_does_not_fit_is_left_out_alone(size: int) -> None:
    prior = make_ranker("popular", context(log_of(12, 1)))
    queries = [one.query for one in training(log_of(12, 1))]
    model = YesNoRanker(Judge(), Words(queries[4].id), size)
    left_out: list[str] = []
    ranker = PriorRanker(model, prior, 0.5, size)
    lists = list(rank_what_fits(ranker, queries, lambda query, error: left_out.append(query.id)))
    assert left_out == [queries[4].id]
    assert [one.query for one in lists] == [query.id for query in queries if query != queries[4]]


def test_a_prior_that_is_a_row_of_its_own_is_fitted_once_and_told_of() -> None:
    told = context(log_of(12, 1), prior=Prior("item_knn", 0.7))
    ranker = make_ranker("llm", told)
    assert isinstance(ranker, PriorRanker)
    assert ranker.prior is make_ranker("item_knn", told)
    assert ranker.chosen["prior"] == "item_knn"
    assert ranker.chosen["prior_weight"] == 0.7
    assert ranker.chosen["prior_chosen"]["shrinkage"] == 10.0


def test_it_is_kept_with_the_adapter(tmp_path) -> None:
    assert Prior.read(None) is None
    assert Prior.read(tmp_path) is None
    Prior("ease", -0.1234).write(tmp_path)
    assert Prior.read(tmp_path) == Prior("ease", -0.1234)
    for text in ("{", "[]", '{"ranker": "ease"}', '{"ranker": "ease", "weight": "much"}'):
        (tmp_path / "prior.json").write_text(text)
        with pytest.raises(StoreError, match=r"prior\.json: not a prior"):
            Prior.read(tmp_path)


# --- training cases: nothing of the user


@settings(max_examples=25, deadline=None)
@given(st.sampled_from(RANKERS), st.integers(0, 99), st.integers(2, 6), st.data())
def test_what_a_user_did_has_no_say_in_that_user_s_scores(
    name: str, seed: int, folds: int, data: st.DataObject
) -> None:
    met = log_of(8, seed)
    queries = [one.query for one in training(met)]
    found = cross_fitted(name, context(met), queries, folds)
    assert set(found) == {query.id for query in queries}
    assert [len(found[query.id]) for query in queries] == [5] * len(queries)
    # another target, other later events, another validation answer: the user's scores stay
    user = data.draw(st.sampled_from(sorted(met)))
    place = len(met[user]) - 2
    unmet = [item.id for item in ITEMS if item.id not in met[user][:place]]
    rest = data.draw(st.permutations(unmet))[: data.draw(st.integers(2, len(unmet)))]
    changed = met | {user: met[user][:place] + list(rest)}
    again = cross_fitted(name, context(changed), queries, folds)
    (own,) = (query.id for query in queries if query.history.user == user)
    assert again[own] == found[own]


class Spy(QueryRanker):
    """Remembers what it was made of and asked; knows every answer that it was shown."""

    made: list[Spy]

    def __init__(self, given_context: RankContext) -> None:
        rows = given_context.interactions.select("user", "item").iter_rows()
        self.met = set(rows)
        self.tuned_on = {one.query.history.user for one in given_context.validation()}
        self.trained_on = {one.query.history.user for one in given_context.training()}
        self.asked: set[str] = set()
        Spy.made.append(self)

    def scores(self, query: Query) -> list[float]:
        self.asked.add(query.history.user)
        return [float((query.history.user, item.id) in self.met) for item in query.candidates]


@settings(max_examples=25, deadline=None)
@given(st.integers(2, 12), st.integers(2, 7), st.integers(0, 9), st.integers(1, 12))
def test_each_case_is_scored_by_a_ranker_that_never_met_its_user(
    users: int, folds: int, seed: int, asked: int
) -> None:
    met = log_of(users, seed)
    queries = [one.query for one in training(met)][:asked]
    Spy.made = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("trsr.rank.base.RANKERS.load", lambda name: Spy)
        told = context(met, training=lambda: training(met), seed=seed)
        if len(queries) == users == 1:
            return
        found = cross_fitted("spy", told, queries, folds)
        turned = cross_fitted("spy", told, queries[::-1], folds)
    assert found == turned
    assert len(Spy.made) == 2 * min(folds, len(queries))
    for spy in Spy.made:
        fitted = {user for user, _ in spy.met}
        for known in (fitted, spy.tuned_on, spy.trained_on):
            assert not known & spy.asked
            assert known | spy.asked == set(met)  # nobody else is left out
    # a ranker that knows answers tells none of them: every candidate is alike
    assert set(found.values()) == {(0.0,) * 5}


def test_without_anybody_else_there_is_nothing_to_fit_on() -> None:
    met = log_of(1, 0)
    with pytest.raises(DataError, match=r"raise train\.prior_folds, or leave train\.prior empty"):
        cross_fitted("popular", context(met), [one.query for one in training(met)], 5)


# --- the weight


def made_up(weight: float, count: int, seed: int = 0) -> Examples:
    """Answers drawn by the softmax of weight · score."""
    draw = np.random.default_rng(seed)
    found = draw.normal(size=(count, 8, 1))
    real = np.arange(8) < draw.integers(3, 9, count)[:, None]
    found *= real[:, :, None]
    chances = np.where(real, np.exp(weight * found[:, :, 0]), 0)
    chances /= chances.sum(axis=1, keepdims=True)
    taken = (draw.random((count, 1)) > chances.cumsum(axis=1)).sum(axis=1)
    return Examples(found, np.eye(8)[taken], real, [f"u{n}" for n in range(count)])


@pytest.mark.parametrize("weight", [-0.8, 0.0, 0.3, 1.0, 2.5])
def test_the_learned_weight_is_the_one_that_answers_were_drawn_with(weight: float) -> None:
    examples = made_up(weight, 4000)
    found = likeliest_weight(examples)
    assert found == pytest.approx(weight, abs=0.1)
    assert found == likeliest_weight(examples) == round(found, 4)
    least = examples.loss(np.array([found]))[0]
    for other in (found - 0.05, found + 0.05):
        assert examples.loss(np.array([other]))[0] > least


def test_a_prior_without_a_mistake_has_a_bounded_weight_and_a_blind_one_none() -> None:
    sure = Examples(
        np.array([[[2.0], [-1.0], [-1.0]]]),
        np.array([[1.0, 0.0, 0.0]]),
        np.ones((1, 3), np.bool_),
        ["u"],
    )
    assert likeliest_weight(sure) == pytest.approx(MOST, abs=0.1)
    blind = dataclasses.replace(sure, scores=np.zeros((1, 3, 1)))
    assert likeliest_weight(blind) == 0


class Fixed(QueryRanker):
    def scores(self, query: Query) -> list[float]:
        return [random.Random(f"{query.id} {item.id}").gauss(0, 5) for item in query.candidates]


def test_the_weight_is_learned_on_the_validation_cases_of_the_standardized_scores() -> None:
    met = log_of(40, 2)
    told = context(met, settings=RankSettings(tune_cases=30))
    weight, why = learned_weight(Fixed(), told)
    assert why == "likeliest on 30 validation cases"

    class Tenfold(Fixed):
        def scores(self, query: Query) -> list[float]:
            return [10 * one + 3 for one in super().scores(query)]

    assert learned_weight(Tenfold(), told)[0] == pytest.approx(weight, abs=1e-3)
    with pytest.raises(ConfigError, match="there are none: make some"):
        learned_weight(Fixed(), context(met, validation=tuple))


def test_a_batch_is_read_at_a_time() -> None:
    read: list[str] = []

    def endless() -> Iterator[Query]:
        for n in range(1000):
            read.append(f"q{n}")
            yield Query(f"q{n}", UserHistory("u", ()), tuple(ITEMS[:3]))

    def lists(asked: Iterable[Query]) -> Iterator[RankedList]:
        return PriorRanker(YesNoRanker(Judge(), Words(), 4), Fixed(), 1.0, 4).rank(asked)

    next(lists(endless()))
    assert len(read) == 4
