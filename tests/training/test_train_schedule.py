from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trsr.training.settings import TrainSettings
from trsr.training.step import Schedule


@given(
    cases=st.integers(1, 50),
    per_step=st.integers(1, 8),
    epochs=st.integers(1, 3),
    seed=st.integers(0, 5),
)
def test_every_epoch_takes_every_case_once(cases: int, per_step: int, epochs: int, seed: int):
    settings = TrainSettings(epochs=epochs, cases_per_step=per_step)
    schedule = Schedule(cases, settings, seed)
    taken: dict[int, list[int]] = {}
    for step in range(1, schedule.steps + 1):
        part = schedule.cases(step)
        assert 1 <= len(part) <= per_step
        taken.setdefault(schedule.epoch(step), []).extend(part)
    assert list(taken) == list(range(epochs))
    assert all(sorted(part) == list(range(cases)) for part in taken.values())


def test_the_order_follows_the_seed_and_the_epoch_and_not_the_way_there():
    settings = TrainSettings(epochs=2, cases_per_step=3)
    forward, backward = Schedule(20, settings, 1), Schedule(20, settings, 1)
    steps = range(1, forward.steps + 1)
    there = {step: forward.cases(step) for step in steps}
    assert there == {step: backward.cases(step) for step in reversed(steps)}
    first = [case for step in range(1, 8) for case in there[step]]
    second = [case for step in range(8, 15) for case in there[step]]
    assert first != second
    assert there[1] != Schedule(20, settings, 2).cases(1)


def test_the_rate_rises_to_its_peak_and_falls_to_just_above_zero():
    settings = TrainSettings(epochs=1, cases_per_step=1, learning_rate=1e-3, warmup_steps=4)
    schedule = Schedule(12, settings, 0)
    rates = [schedule.rate(step) for step in range(1, 13)]
    assert rates[:4] == pytest.approx([0.25e-3, 0.5e-3, 0.75e-3, 1e-3])
    falls = [later - earlier for earlier, later in itertools.pairwise(rates[3:])]
    assert falls == pytest.approx([-1e-3 / 9] * 8)
    assert rates[-1] == pytest.approx(1e-3 / 9)


def test_a_warm_up_longer_than_the_run_never_reaches_the_peak():
    schedule = Schedule(2, TrainSettings(cases_per_step=1, warmup_steps=10), 0)
    assert [schedule.rate(1), schedule.rate(2)] == pytest.approx([1e-5, 2e-5])
