"""Histories that begin alike: what a user's successive targets know of the past."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trsr.data.cases import history_begins


def begins(lengths: list[int], most: int, step: int) -> list[int]:
    ends = np.array(lengths, dtype=np.int64)
    return history_begins(np.zeros_like(ends), ends, most, step).tolist()


def test_a_long_history_loses_whole_steps_counted_from_the_first_interaction() -> None:
    assert begins(list(range(16)), 11, 4) == [0] * 12 + [4] * 4
    assert begins([25, 26, 29, 30], 25, 5) == [5, 5, 5, 10]
    assert begins([9, 10, 11, 12], 10, 1) == [0, 0, 1, 2]
    assert begins([1, 100], 0, 7) == [0, 0]


@given(st.integers(1, 9), st.integers(0, 30), st.integers(0, 200))
def test_it_keeps_as_many_steps_as_always_fit(step: int, more: int, length: int) -> None:
    most = 2 * step - 1 + more
    (begin,) = begins([length], most, step)
    kept = length - begin
    assert kept <= most
    assert begin % step == 0
    assert kept == length or kept > most - 2 * step + 1
    alike = range(length - length % step, length - length % step + step)
    assert set(begins(list(alike), most, step)) == {begin}


def test_a_user_s_cases_stand_together_each_history_going_on_where_the_last_ended(
    bench: Any,
) -> None:
    rows = [(f"u{user}", f"i{(7 * user + n) % 40}", n) for user in range(6) for n in range(20)]
    _, dataset = bench.prepare(
        interactions=bench.clicks(rows),
        items=bench.goods(60),
        max_history=9,
        history_step=4,
        targets_per_user=9,
    )
    cases = list(dataset.cases("train"))
    users = [case.query.history.user for case in cases]
    assert len(users) == 54
    assert [user for user, _ in itertools.groupby(users)] == sorted(set(users))
    grown = 0
    for one, later in itertools.pairwise(cases):
        place = int(later.query.id.rsplit("/", 1)[1])
        if one.query.history.user != later.query.history.user or place % 4 == 0:
            continue
        (taken,) = one.relevant
        ids = [item.id for item in later.query.history.items]
        assert ids == [*(item.id for item in one.query.history.items), taken]
        grown += 1
    assert grown > 30


def test_too_little_beside_a_step_is_refused() -> None:
    from trsr.data import DataSettings

    with pytest.raises(ValueError, match="at least 9"):
        DataSettings(history_step=5, max_history=8)
    DataSettings(history_step=5, max_history=9)
    DataSettings(history_step=5, max_history=0)
