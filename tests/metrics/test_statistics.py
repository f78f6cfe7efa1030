"""Statistics against scipy and by simulation: intervals that cover, tests that keep their level."""

from __future__ import annotations

import itertools
import math
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from trsr.metrics.significance import (
    Sample,
    bootstrap,
    compare_columns,
    compare_seeds,
    flip_signs,
    holm,
)


def people(n: int) -> list[str]:
    return [f"u{k}" for k in range(n)]


def column(values) -> np.ndarray:
    return np.asarray(values, dtype=float)[:, None]


def sample(values, per_user: int = 1) -> Sample:
    return Sample.of(column(values), np.arange(len(values)) // per_user)


def test_the_t_test_and_the_effect_size_are_the_textbooks() -> None:
    draw = np.random.default_rng(5)
    a, b = draw.normal(0.2, 1, 40), draw.normal(0, 1, 40)
    (found,) = compare_columns(column(a - b), people(40))
    assert found.p_t == pytest.approx(stats.ttest_rel(a, b).pvalue, rel=1e-9)
    assert found.mean == pytest.approx((a - b).mean())
    assert found.d_z == pytest.approx((a - b).mean() / (a - b).std(ddof=1))


def test_bca_intervals_are_scipys_up_to_the_draws() -> None:
    draw = np.random.default_rng(1)
    for values in (draw.exponential(1, 40), draw.normal(0, 1, 25), draw.binomial(1, 0.1, 200)):
        ends = bootstrap(sample(values))[:, 0]
        theirs = stats.bootstrap(
            (values,), np.mean, n_resamples=20_000, method="BCa", rng=np.random.default_rng(2)
        ).confidence_interval
        near = 0.06 * (theirs.high - theirs.low)
        assert ends == pytest.approx([theirs.low, theirs.high], abs=near)


@pytest.mark.parametrize("n", [3, 9, 13])
def test_few_users_have_every_pattern_of_signs_tried(n: int) -> None:
    values = np.random.default_rng(n).normal(0.5, 1, n)
    totals = [abs(np.dot(signs, values)) for signs in itertools.product((-1, 1), repeat=n)]
    expected = np.mean(np.array(totals) >= abs(values.sum()) - 1e-9)
    p, exact = flip_signs(sample(values))
    assert (p[0], exact[0]) == (pytest.approx(expected), True)


def test_users_that_do_not_differ_do_not_stand_in_the_way_of_an_exact_test() -> None:
    values = [1.0] * 6 + [0.0] * 500
    (found,) = compare_columns(column(values), people(506))
    assert found.test == "exact"
    assert found.p == pytest.approx(2 / 2**6)


def test_drawn_signs_agree_with_scipys_permutation_test() -> None:
    values = np.random.default_rng(3).normal(0.25, 1, 60)
    p, exact = flip_signs(sample(values))
    theirs = stats.permutation_test(
        (values, np.zeros(60)),
        lambda x, y, axis: np.mean(x - y, axis=axis),
        permutation_type="samples",
        vectorized=True,
        n_resamples=20_000,
        rng=np.random.default_rng(4),
    ).pvalue
    assert not exact[0]
    assert p[0] == pytest.approx(theirs, abs=0.01)


def test_a_p_value_is_never_zero() -> None:
    (found,) = compare_columns(column(np.ones(40) + np.arange(40) / 1e3), people(40))
    assert found.test == "random"
    assert found.p == pytest.approx(1 / 100_001)


def _rejections(draw_values, runs: int) -> tuple[float, float, float]:
    """Shares of runs without a true difference in which each test, or the interval, sees one."""
    columns = [draw_values(np.random.default_rng(run)) for run in range(runs)]
    found = compare_columns(np.stack(columns, axis=1), people(len(columns[0])))
    return (
        float(np.mean([one.p < 0.05 for one in found])),
        float(np.mean([one.p_t < 0.05 for one in found])),
        float(np.mean([not one.low <= 0 <= one.high for one in found])),
    )


@pytest.mark.usefixtures("few_draws")
@pytest.mark.parametrize(
    "draw_values",
    [
        lambda draw: draw.normal(0, 1, 40),
        # Differences of reciprocal ranks: skewed, and often 0.
        lambda draw: 1 / draw.integers(1, 21, 60) - 1 / draw.integers(1, 21, 60),
        lambda draw: (draw.random(60) < 0.3) * 1.0 - (draw.random(60) < 0.3),
    ],
    ids=["normal", "reciprocal ranks", "hits"],
)
def test_no_test_sees_what_is_not_there_much_more_often_than_it_says(draw_values) -> None:
    randomization, t_test, interval = _rejections(draw_values, 600)
    for share in (randomization, t_test):
        assert 0.02 < share < 0.08  # .05 ± 3.4 standard errors of a share of 600
    assert 0.02 < interval < 0.1  # a bootstrap interval of few skewed values is a little short


@pytest.mark.usefixtures("few_draws")
def test_a_true_difference_is_found() -> None:
    values = np.stack([np.random.default_rng(r).normal(0.5, 1, 60) for r in range(100)], axis=1)
    assert np.mean([one.p < 0.05 for one in compare_columns(values, people(60))]) > 0.9


@pytest.mark.usefixtures("few_draws")
def test_likeness_within_a_user_widens_the_interval_and_keeps_the_level() -> None:
    def draw_values(run: int) -> np.ndarray:
        draw = np.random.default_rng(run)
        return np.repeat(draw.normal(0, 1, 30), 8) + draw.normal(0, 0.3, 240)

    values = np.stack([draw_values(run) for run in range(400)], axis=1)
    users = [f"u{k // 8}" for k in range(240)]
    together, apart = compare_columns(values, users), compare_columns(values, people(240))
    assert 0.02 < np.mean([one.p < 0.05 for one in together]) < 0.09
    assert 0.02 < np.mean([one.p_t < 0.05 for one in together]) < 0.09
    assert np.mean([one.p < 0.05 for one in apart]) > 0.3
    assert together[0].users == 30
    width = together[0].high - together[0].low
    assert width > 2 * (apart[0].high - apart[0].low)


@settings(deadline=None, max_examples=20)
@given(st.permutations(range(12)))
def test_the_order_of_queries_means_nothing(order: list[int]) -> None:
    draw = np.random.default_rng(0)
    values, users = draw.normal(0.1, 1, (12, 2)), [f"u{k % 5}" for k in range(12)]
    assert compare_columns(values, users) == compare_columns(
        values[order], [users[k] for k in order]
    )


@pytest.mark.usefixtures("few_draws")
def test_one_comparison_is_the_same_alone_and_among_others() -> None:
    values = np.random.default_rng(8).normal(0.1, 1, (50, 5))
    among = compare_columns(values, people(50))[3]
    (alone,) = compare_columns(values[:, 3:4], people(50))
    assert (among.p, among.test) == (alone.p, alone.test)
    assert (among.low, among.high) == pytest.approx((alone.low, alone.high))


@pytest.mark.usefixtures("few_draws")
def test_turning_the_sides_turns_the_result() -> None:
    values = np.random.default_rng(9).normal(0.3, 1, 50)
    (there,), (back,) = (
        compare_columns(column(values), people(50)),
        compare_columns(column(-values), people(50)),
    )
    assert back.mean == -there.mean
    assert (back.p, back.p_t) == (there.p, there.p_t)
    assert back.d_z == pytest.approx(-there.d_z)
    assert (-back.high, -back.low) == pytest.approx((there.low, there.high), rel=1e-9)


def test_what_cannot_be_said_is_left_out() -> None:
    (none,) = compare_columns(np.zeros((0, 1)), [])
    assert (none.queries, none.mean, none.p, none.low) == (0, None, None, None)
    (one,) = compare_columns(column([0.5]), ["u"])
    assert (one.queries, one.mean, one.p, one.low, one.d_z) == (1, 0.5, None, None, None)
    (user,) = compare_columns(column([0.5, 0.1, 0.3]), ["u"] * 3)
    assert (user.queries, user.users, user.p) == (3, 1, None)
    assert user.mean == pytest.approx(0.3)


def test_no_difference_at_all_is_no_evidence() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        (found,) = compare_columns(np.zeros((40, 1)), people(40))
    assert (found.low, found.high, found.p, found.p_t, found.d_z) == (0, 0, 1, 1, None)


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.02, None, 0.03]) == [pytest.approx(0.04), None, pytest.approx(0.04)]
    assert holm([0.6, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_keeps_the_order_and_lies_between_none_and_bonferroni(p: list[float]) -> None:
    corrected = holm(p)
    for value, one in zip(p, corrected, strict=True):
        assert value <= one <= min(1.0, len(p) * value) + 1e-12
    ranked = sorted(range(len(p)), key=lambda k: p[k])
    ordered = [corrected[k] for k in ranked]
    assert ordered == sorted(ordered)


def test_one_seed_a_side_is_the_plain_comparison() -> None:
    draw = np.random.default_rng(2)
    a, b = draw.random((1, 30)), draw.random((1, 30))
    (plain,) = compare_columns((a - b).T, people(30))
    assert compare_seeds(a, b, people(30)) == plain


@pytest.mark.usefixtures("few_draws")
def test_the_spread_over_seeds_counts() -> None:
    draw = np.random.default_rng(2)
    users = draw.random(200) * 0.1
    near = np.stack([users + 0.50, users + 0.501, users + 0.499])
    far = np.stack([users + 0.40, users + 0.50, users + 0.60])
    base = (users + draw.normal(-0.05, 0.05, 200) + 0.45)[None]
    sure, unsure = (compare_seeds(side, base, people(200)) for side in (near, far))
    assert sure.mean == pytest.approx(unsure.mean)
    assert sure.test == unsure.test == "seeds"
    assert sure.p < 0.001
    assert unsure.p > 0.05
    # By hand: standard error of seeds .1/√3, two degrees of freedom, nearly nothing from users.
    assert unsure.high - unsure.mean == pytest.approx(4.303 * 0.1 / math.sqrt(3), rel=0.02)


@pytest.mark.usefixtures("few_draws")
def test_intervals_over_seeds_cover_the_truth() -> None:
    covered = 0
    for run in range(80):
        draw = np.random.default_rng(run)
        hard = draw.normal(0, 0.2, 80)
        one, two = (
            hard + draw.normal(0, 0.1, (3, 1)) + draw.normal(0, 0.2, (3, 80)) for _ in range(2)
        )
        found = compare_seeds(one, two, people(80))
        covered += found.low <= 0 <= found.high
    assert covered >= 70  # of 80; 76 are due


def test_clear_differences_of_very_many_users_stay_clear_in_a_large_table(monkeypatch) -> None:
    users = 2000
    monkeypatch.setattr("trsr.metrics.significance._DRAWS", 1000 * users)  # fewer than are wanted
    values = np.random.default_rng(0).normal(0.05, 0.3, (users, 2))
    values[:, 1] -= values[:, 1].mean()
    clear, none = compare_columns(values, [f"u{n}" for n in range(users)])
    assert clear.p is not None
    assert none.p is not None
    corrected = holm([clear.p] * 56)
    assert corrected[0] is not None
    assert 0 < corrected[0] < 0.001
    assert none.p > 0.9
