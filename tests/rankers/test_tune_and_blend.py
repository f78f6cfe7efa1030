"""Choosing on validation cases: the better setting and the better member win."""

from __future__ import annotations

import math
import random

import numpy as np
import polars as pl
import pytest
from fitting import fitted, given
from hypothesis import given as drawn
from hypothesis import settings
from hypothesis import strategies as st

from trsr.config import check_config
from trsr.data import Catalog
from trsr.errors import ConfigError, PromptError
from trsr.metrics import evaluate
from trsr.rankers import (
    FitData,
    FitOptions,
    QueryBatch,
    Ranker,
    RankSettings,
    ScoreBatch,
    rank_what_fits,
)
from trsr.rankers.blend import BlendRanker, Examples, choose_l2, fit_weights, standardized
from trsr.rankers.tuning import tune, validation_cases
from trsr.types import Case, Item, Query, UserHistory

ITEMS = [Item(f"i{n}") for n in range(30)]
CATALOG = Catalog(pl.DataFrame({"id": [item.id for item in ITEMS]}))
LOG = pl.DataFrame({"user": ["u"], "item": ["i0"], "time": [1.0]})


def case(name: str, seed: int, count: int = 12) -> Case:
    candidates = random.Random(f"{name} {seed}").sample(ITEMS, count)
    answer = min(candidates, key=lambda item: item.id)
    return Case(
        Query(name, UserHistory(f"of {name}", ()), tuple(candidates)), frozenset({answer.id})
    )


def cases(count: int, seed: int = 0, prefix: str = "q") -> list[Case]:
    return [case(f"{prefix}{n}", seed) for n in range(count)]


def quality(asked, lists):
    return evaluate(asked, {"x": lists}, ("ndcg@10", "auc")).means("x")


class Scorer(Ranker):
    """A ranker that scores the candidates of one query at a time."""

    def scores(self, query: Query) -> list[float]:
        raise NotImplementedError

    def score(self, batch: QueryBatch) -> ScoreBatch:
        return ScoreBatch(batch.scattered([s for one in batch.queries() for s in self.scores(one)]))


class Noisy(Scorer):
    """The right order (`case`: the lowest id is the answer), and so much noise."""

    def __init__(self, noise: float, salt: str = "") -> None:
        super().__init__(resources=given(CATALOG))
        self.noise = noise
        self.salt = salt
        self.asked: list[str] = []

    def scores(self, query: Query) -> list[float]:
        self.asked.append(query.id)
        best = min(item.id for item in query.candidates)
        draw = {
            item.id: random.Random(f"{self.salt} {query.id} {item.id}").gauss(0, 1)
            for item in query.candidates
        }
        return [(item.id == best) + self.noise * draw[item.id] for item in query.candidates]


def tuned(name: str, valid: list[Case], options, make, settings=None, quality=quality):
    """The ranker with the best of its settings."""
    ranker = Noisy(0.0)
    ranker.name, ranker.resources = name, given(CATALOG, settings)
    tune(
        ranker,
        FitData(CATALOG, LOG, validation=lambda: valid),
        FitOptions(0, None, quality),
        options,
        make,
    )
    return ranker


# --- tune


def test_the_setting_that_orders_the_validation_cases_best_is_chosen() -> None:
    options = [{"noise": noise} for noise in (3.0, 0.1, 1.0)]
    ranker = tuned("noisy", cases(60), options, Noisy)
    assert ranker.noise == 0.1
    assert ranker.chosen["noise"] == 0.1
    assert ranker.chosen["why"] == "best of 3 on 60 validation cases"
    lists = list(ranker.rank(one.query for one in cases(60)))
    assert ranker.chosen["ndcg@10"] == pytest.approx(quality(cases(60), lists)["ndcg@10"], abs=1e-4)


def test_between_equal_settings_the_first_is_chosen() -> None:
    options = [{"noise": 0.0, "salt": "x"}, {"noise": 0.0, "salt": "y"}]
    assert tuned("noisy", cases(5), options, Noisy).salt == "x"


def test_without_validation_cases_the_first_setting_is_taken_and_that_is_said() -> None:
    options = [{"noise": 3.0}, {"noise": 0.1}]
    for found in (
        tuned("noisy", [], options, Noisy),
        tuned("noisy", cases(5), options, Noisy, quality=None),
    ):
        ranker = found
        assert ranker.noise == 3.0
        assert ranker.chosen == {"noise": 3.0, "why": "no validation cases: the first setting"}


def test_a_single_setting_asks_no_validation_case() -> None:
    ranker = tuned("noisy", cases(5), [{"noise": 1.0}], Noisy)
    assert ranker.asked == []
    assert ranker.chosen["why"] == "the only setting"


@settings(max_examples=25)
@drawn(st.permutations(range(20)), st.integers(1, 25))
def test_cases_to_tune_on_are_drawn_by_their_own_lot(order: list[int], most: int) -> None:
    every = cases(20)

    def drawn(valid: list[Case], most: int) -> list[Case]:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("trsr.rankers.tuning.TUNE_CASES", most)
            data = FitData(CATALOG, LOG, validation=lambda: valid)
            return validation_cases(data, FitOptions())

    straight = drawn(every, most)
    turned = drawn([every[n] for n in order], most)
    assert len(straight) == min(most, 20)
    assert {one.query.id for one in straight} == {one.query.id for one in turned}
    assert [one.query.id for one in straight] == [one.query.id for one in every if one in straight]


# --- blend: its parts


def test_scores_are_standardized_within_a_query() -> None:
    # mean 3, variance (4 + 0 + 4)/3
    root = math.sqrt(8 / 3)
    assert standardized(np.array([1.0, 3.0, 5.0])) == pytest.approx([-2 / root, 0, 2 / root])
    assert standardized(np.array([7.7, 7.7, 7.7])).tolist() == [0, 0, 0]
    assert standardized(np.array([0.0, 0.0])).tolist() == [0, 0]


@drawn(
    st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=9), st.floats(0.01, 100), st.floats(-9, 9)
)
def test_standardizing_forgets_unit_and_origin(scores, unit, origin) -> None:
    plain = np.array(scores)
    spread = np.std(scores)
    if spread < 1e-6 * max(map(abs, scores)) or spread < 1e-6:
        return
    moved = standardized(unit * plain + origin)
    assert moved == pytest.approx(standardized(plain), rel=1e-4, abs=1e-4)


def examples(seed: int = 0, count: int = 40, members: int = 3) -> Examples:
    draw = np.random.default_rng(seed)
    real = np.arange(6) < draw.integers(3, 7, count)[:, None]
    scores = draw.normal(size=(count, 6, members)) * real[:, :, None]
    relevant = np.zeros((count, 6))
    relevant[:, 0] = 0.5
    relevant[:, 1] = 0.5
    return Examples(scores, relevant, real, [f"u{n // 2}" for n in range(count)])


def test_the_loss_is_the_listwise_cross_entropy_by_hand_and_its_gradient_is_right() -> None:
    one = examples(count=1)
    weights = np.array([0.3, -0.2, 0.5])
    sums = [
        float(row @ weights) for row, real in zip(one.scores[0], one.real[0], strict=True) if real
    ]
    total = sum(math.exp(s) for s in sums)
    by_hand = -0.5 * (math.log(math.exp(sums[0]) / total) + math.log(math.exp(sums[1]) / total))
    assert one.loss(weights)[0] == pytest.approx(by_hand)
    many = examples()
    _, gradient = many.loss(weights)
    for axis in range(3):
        step = np.eye(3)[axis] * 1e-6
        slope = (many.loss(weights + step)[0] - many.loss(weights - step)[0]) / 2e-6
        assert gradient[axis] == pytest.approx(slope, abs=1e-6)


def test_a_larger_penalty_gives_smaller_weights_and_the_fit_is_a_minimum() -> None:
    many = examples()
    sizes = [float(np.linalg.norm(fit_weights(many, l2))) for l2 in (0.001, 0.1, 10.0)]
    assert sizes == sorted(sizes, reverse=True)
    best = fit_weights(many, 0.1)
    slope = many.loss(best)[1] + 0.1 * best
    assert slope == pytest.approx(np.zeros(3), abs=1e-4)


def test_pure_noise_is_held_back_and_the_choice_depends_on_the_seed_alone() -> None:
    noise = examples(count=60)
    chosen = choose_l2(noise, (0.0001, 0.01, 10.0), 5, 0)
    assert chosen == 10.0
    assert choose_l2(noise, (0.0001, 0.01, 10.0), 5, 0) == chosen
    assert choose_l2(noise[np.arange(60) < 2], (0.5, 1.0), 5, 0) == 0.5  # one user: no folds


# --- blend: the whole


def blend(valid: list[Case], **rankers) -> BlendRanker:
    """A fitted blend of rankers that stand for those of their names."""
    rank = RankSettings(rankers=("blend",), blend={"members": tuple(rankers)})
    found = fitted("blend", CATALOG, LOG, rank, valid=valid, members=rankers)
    assert isinstance(found, BlendRanker)
    return found


def auc(ranker, asked: list[Case]) -> float:
    return quality(asked, list(ranker.rank(one.query for one in asked)))["auc"]


def test_the_blend_finds_the_better_member() -> None:
    good, bad = Noisy(0.5, "good"), Noisy(50.0, "bad")
    ranker = blend(cases(200), popular=bad, bm25=good)
    assert ranker.weights_["bm25"] > 5 * abs(ranker.weights_["popular"])
    test = cases(300, seed=1, prefix="t")
    assert auc(ranker, test) > auc(good, test) - 0.02
    assert auc(ranker, test) > auc(bad, test) + 0.2


def test_two_members_with_independent_noise_are_better_together() -> None:
    one, other = Noisy(0.8, "one"), Noisy(0.8, "other")
    ranker = blend(cases(200), popular=one, bm25=other)
    test = cases(400, seed=1, prefix="t")
    assert auc(ranker, test) > max(auc(one, test), auc(other, test)) + 0.02


def test_a_member_that_is_wrong_gets_a_negative_weight() -> None:
    class Wrong(Noisy):
        def scores(self, query: Query) -> list[float]:
            return [-score for score in super().scores(query)]

    ranker = blend(cases(100), popular=Wrong(0.5))
    assert ranker.weights_["popular"] < 0


def test_each_member_scores_each_validation_query_once_and_test_queries_only_when_asked() -> None:
    one, other = Noisy(1.0, "one"), Noisy(1.0, "other")
    valid, test = cases(20), cases(5, prefix="t")
    ranker = blend(valid, popular=one, bm25=other)
    assert one.asked == other.asked == [case.query.id for case in valid]
    list(ranker.rank(case.query for case in test))
    assert one.asked[20:] == other.asked[20:] == [case.query.id for case in test]
    assert ranker.chosen["why"] == "least loss on 20 validation cases"
    assert set(ranker.chosen["weights"]) == {"popular", "bm25"}


def test_the_blend_answers_each_query_and_ties_what_all_members_tie() -> None:
    class Halves(Scorer):
        def scores(self, query: Query) -> list[float]:
            return [float(int(item.id[1:]) // 2) for item in query.candidates]

    ranker = blend(
        cases(20), popular=Halves(resources=given(CATALOG)), bm25=Halves(resources=given(CATALOG))
    )
    forth = Query("q", UserHistory("u", ()), tuple(ITEMS[:9]))
    back = Query("q", UserHistory("u", ()), tuple(ITEMS[8::-1]))
    (one,), (other,) = ranker.rank([forth]), ranker.rank([back])
    scores = {entry.item: entry.score for entry in one}
    assert scores == {entry.item: entry.score for entry in other}
    assert scores["i0"] == scores["i1"] != scores["i2"]


def test_what_a_member_cannot_be_asked_is_left_out_of_both() -> None:
    class Short(Noisy):
        def scores(self, query: Query) -> list[float]:
            if query.id.endswith("7"):
                raise PromptError("too long")
            return super().scores(query)

    ranker = blend(cases(20), popular=Short(0.5), bm25=Noisy(1.0))
    assert ranker.chosen["unfit"] == 2
    test = [case.query for case in cases(10, prefix="t")]
    skipped: list[str] = []
    lists = list(rank_what_fits(ranker, test, lambda query, error: skipped.append(query.id)))
    assert skipped == ["t7"]
    assert [one.query for one in lists] == [one.id for one in test if one.id != "t7"]


def test_a_blend_that_cannot_be_learned_is_refused() -> None:
    with pytest.raises(ConfigError, match="validation cases, and there are none"):
        blend([], popular=Noisy(1.0))
    with pytest.raises(ConfigError, match="did you mean bm25"):
        fitted("blend", CATALOG, LOG, RankSettings(blend={"members": ["bm52"]}), valid=cases(3))


# --- settings


def test_members_are_checked_with_the_other_settings() -> None:
    data = {"data": {"dataset": "ml-100k"}}
    with pytest.raises(ConfigError) as error:
        check_config(data | {"rank": {"blend": {"members": ["item_kn", "blend"]}}})
    for words in (
        "rank.blend.members: there is no ranker 'item_kn'",
        "blend cannot be",
    ):
        assert words in str(error.value)
    untrained = {"rankers": ["blend"], "blend": {"members": ["llm"]}}
    with pytest.raises(ConfigError, match=r"train\.epochs is 0"):
        check_config(data | {"rank": untrained, "train": {"epochs": 0}})


def test_rankings_depend_on_the_settings_of_the_used_rankers_only() -> None:
    assert set(RankSettings(rankers=("popular", "llm")).meaning()) == {"rankers"}
    assert set(RankSettings(rankers=("ease",)).meaning()) == {"rankers"}
    blended = RankSettings(rankers=("blend",), blend={"members": ("text_knn",)}).meaning()
    assert {"blend", "text_model", "text_fields"} <= set(blended)
    assert not {"sequential"} & set(blended)
