"""The chance loss, and whether a training got below it."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trsr.training import chance_loss, hardly_converged, late_loss

SIZES = st.lists(
    st.integers(2, 30).flatmap(lambda size: st.tuples(st.just(size), st.integers(1, size - 1))),
    min_size=1,
    max_size=20,
)


@given(SIZES)
def test_no_model_that_says_the_same_of_all_has_less(cases: list[tuple[int, int]]) -> None:
    answer = chance_loss("answer", cases)
    assert answer is not None
    chances = np.linspace(0.001, 0.999, 999)
    shares = [relevant / size for size, relevant in cases]
    found = np.mean([-(s * np.log(chances) + (1 - s) * np.log(1 - chances)) for s in shares], 0)
    assert answer <= found.min() + 1e-9
    assert found.min() - answer < 1e-3


@given(SIZES)
def test_equal_scores_give_the_lists_loss(cases: list[tuple[int, int]]) -> None:
    equal = [-np.log(np.full(size, 1 / size))[:relevant].mean() for size, relevant in cases]
    assert chance_loss("listwise", cases) == pytest.approx(np.mean(equal))


def test_known_chance_losses() -> None:
    assert chance_loss("listwise", [(5, 1)]) == pytest.approx(math.log(5))
    assert chance_loss("answer", [(5, 1)]) == pytest.approx(0.5004, abs=1e-4)
    assert chance_loss("answer", [(3, 3)]) == 0
    assert chance_loss("text", [(5, 1)]) is None
    assert chance_loss("listwise", []) is None


def test_late_steps_are_the_last_fifth_where_there_are_enough() -> None:
    assert late_loss([2.0] * 24) is None
    assert late_loss([2.0] * 20 + [1.0] * 5) == 1.0
    assert late_loss([2.0] * 60 + [1.0] * 15) == 1.0


@pytest.mark.parametrize(
    ("late", "chance", "expected"),
    [(1.54, 1.61, True), (1.33, 1.61, False), (None, 1.61, False), (1.6, None, False)],
)
def test_only_a_late_loss_near_chance_means_hardly_converged(
    late: float | None, chance: float | None, expected: bool
) -> None:
    assert hardly_converged(late, chance) is expected
