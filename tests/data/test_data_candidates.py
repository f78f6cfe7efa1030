"""The draws: uniform, without replacement, allowed items only, each query for itself."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trsr.data.negatives import Keys, Seen, Weights, negatives, shuffled
from trsr.data.records import Ints
from trsr.errors import DataError


def keys(n: int, seed: int = 0) -> Keys:
    return np.random.default_rng(seed).integers(0, 1 << 63, n).astype(np.uint64)


def seen(users: int, size: int, pairs: set[tuple[int, int]]) -> Seen:
    codes: Ints = np.array(sorted(user * size + item for user, item in pairs), dtype=np.int64)
    names = pl.Series([f"u{user}" for user in range(users)])
    return Seen(codes, size, np.bincount(codes // size, minlength=users), names)


@settings(deadline=None, max_examples=60)
@given(data=st.data(), size=st.integers(4, 300), seed=st.integers(0, 99))
def test_negatives_are_distinct_allowed_and_independent(
    data: st.DataObject, size: int, seed: int
) -> None:
    users = 5
    items = st.integers(0, size - 1)
    pairs = data.draw(st.sets(st.tuples(st.integers(0, users - 1), items), min_size=1))
    known = seen(users, size, pairs)
    n = data.draw(st.integers(1, max(1, size - int(known.counts.max()) - 1)))
    who = np.array(data.draw(st.lists(st.integers(0, users - 1), min_size=1, max_size=9)))
    target = np.array(data.draw(st.lists(items, min_size=len(who), max_size=len(who))))
    stream = keys(len(who), seed)
    room = size - max(
        len({i for u, i in pairs if u == w} | {t}) for w, t in zip(who, target, strict=True)
    )
    if room < n:
        with pytest.raises(DataError, match=r"negatives cannot be drawn.* user u"):
            negatives(stream, who, target, known, n)
        return
    drawn = negatives(stream, who, target, known, n)
    for row, user, item in zip(drawn.tolist(), who.tolist(), target.tolist(), strict=True):
        assert len(set(row)) == n
        assert item not in row
        assert not {(user, one) for one in row} & pairs
        assert all(0 <= one < size for one in row)
    alone = negatives(stream[-1:], who[-1:], target[-1:], known, n)
    assert np.array_equal(alone[0], drawn[-1])


@pytest.mark.parametrize(("size", "n"), [(200, 5), (12, 5)], ids=["sparse", "crowded"])
def test_every_allowed_item_is_drawn_as_often(size: int, n: int) -> None:
    queries = 20_000
    known = seen(1, size, {(0, 0), (0, 3)})
    zeros = np.zeros(queries, dtype=np.int64)
    drawn = negatives(keys(queries), zeros, zeros + 5, known, n)
    counts = np.bincount(drawn.ravel(), minlength=size)
    allowed = np.setdiff1d(np.arange(size), [0, 3, 5])
    share = n / len(allowed)
    spread = np.sqrt(queries * share * (1 - share))
    assert counts.sum() == counts[allowed].sum()
    assert np.abs(counts[allowed] - queries * share).max() < 5 * spread


def test_the_positive_stands_anywhere() -> None:
    queries, width = 20_000, 5
    rows = np.tile(np.arange(width), (queries, 1))
    mixed = shuffled(keys(queries), rows)
    assert (np.sort(mixed, axis=1) == rows).all()
    places = np.bincount(np.argmax(mixed == 0, axis=1), minlength=width)
    assert np.abs(places - queries / width).max() < 5 * np.sqrt(queries * 0.16)


@pytest.mark.parametrize("size", [9, 60], ids=["crowded", "sparse"])
def test_weighted_draws_are_successive_samples_in_proportion_to_the_weights(size: int) -> None:
    queries, n = 40_000, 2
    weights = Weights.by_popularity(np.repeat(np.arange(size), np.arange(size)), size)
    known = seen(1, size, {(0, size - 1), (0, 0)})
    zeros = np.zeros(queries, dtype=np.int64)
    drawn = negatives(keys(queries), zeros, zeros + 5, known, n, weights)
    allowed = np.setdiff1d(np.arange(size), [0, 5, size - 1])
    share = (allowed + 1.0) / (allowed + 1.0).sum()
    # Chance to be drawn second: over each first draw, in proportion to what is left.
    odds = share / (1 - share)
    twice = share * (1 + odds.sum() - odds)
    counts = np.bincount(drawn.ravel(), minlength=size)
    assert counts.sum() == counts[allowed].sum()
    spread = np.sqrt(queries * twice * (1 - twice))
    assert (np.abs(counts[allowed] - queries * twice) < 5 * spread).all()


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 99), heavy=st.sampled_from([1, 10_000_000]))
def test_weighted_draws_do_not_depend_on_their_company(seed: int, heavy: int) -> None:
    size, n, users = 120, 4, 6
    # A seen item that has nearly all the weight: its users' draws are made by ordering.
    counts = np.concatenate([np.zeros(heavy, dtype=np.int64), np.arange(size)])
    weights = Weights.by_popularity(counts, size)
    known = seen(users, size, {(0, 0), (1, 3), (2, 0), (2, 7), (3, 9), (4, 1), (5, 0)})
    who = np.random.default_rng(seed).integers(0, users, 12)
    target = np.full(12, 11)
    stream = keys(12, seed)
    drawn = negatives(stream, who, target, known, n, weights)
    for row in range(12):
        one = slice(row, row + 1)
        alone = negatives(stream[one], who[one], target[one], known, n, weights)
        assert np.array_equal(alone[0], drawn[row])
        assert len(set(drawn[row].tolist()) - {11}) == n
        assert not known.has(who[one], drawn[row]).any()
