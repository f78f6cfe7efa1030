"""Draws each query's negatives: without replacement, never an item the user has met.

They are drawn uniformly, or with probabilities proportional to items' weights. Every query has its
own stream of numbers: number `i` of the stream with key `k` is the splitmix64 mix of
`k + i · golden` (Steele, Lea and Flood 2014), so that all queries are drawn at once and none
depends on another. The negatives are the first `n` distinct allowed items of the stream. With
weights, that is successive sampling: each draw is proportional to the weights of what is left.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from trsr.data.records import Ints, Mask, Records
from trsr.errors import DataError

Keys = npt.NDArray[np.uint64]

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
ORDER = 1 << 40
"""The place from which on a stream's numbers order candidates; before it they choose them."""

_CELLS = 4_000_000
"""Numbers drawn at a time: bounds the memory."""


_WIDEST = 64
"""Numbers of a stream that are looked at for each negative before all items are put in order: a
few very popular items that the user has met can refuse nearly every number."""


@dataclass(frozen=True)
class Weights:
    """How likely each item is drawn.

    Attributes:
        of: [items] weights, all above 0.
        upto: [items] the share of all weights that items up to each one have; the last is 1.
    """

    of: npt.NDArray[np.float64]
    upto: npt.NDArray[np.float64]

    @classmethod
    def by_popularity(cls, items: Ints, size: int, smoothing: float) -> Weights:
        """Weights proportional to `count + smoothing`.

        Args:
            items: [n] the item code of each interaction that may be fitted on.
            size: Items of the catalog.
            smoothing: Added to each count, above 0: every item can be drawn.
        """
        weights = np.bincount(items, minlength=size).astype(np.float64) + smoothing
        upto = np.cumsum(weights)
        return cls(weights, upto / upto[-1])


@dataclass(frozen=True)
class Met:
    """Which pairs of user and item have ever met.

    Attributes:
        pairs: `user * size + item`, sorted, each once.
        size: Items of the catalog.
        counts: [users] items that each user has met.
        users: Their ids, for messages.
    """

    pairs: Ints
    size: int
    counts: Ints
    users: pl.Series

    @classmethod
    def of(cls, records: Records) -> Met:
        """The pairs of some records."""
        size = len(records.items)
        counts = np.bincount(records.known // size, minlength=len(records.users))
        return cls(records.known, size, counts, records.users)

    def has(self, user: Ints, item: Ints) -> Mask:
        """Whether each user has met the item beside it; shapes broadcast."""
        wanted = user * self.size + item
        place = np.searchsorted(self.pairs, wanted)
        found: Mask = self.pairs[np.minimum(place, len(self.pairs) - 1)] == wanted
        return found


def numbers(keys: Keys, places: Keys) -> Keys:
    """The 64-bit number at each place of the stream with the key beside it; shapes broadcast."""
    mixed = keys + (places + np.uint64(1)) * _GOLDEN
    mixed ^= mixed >> np.uint64(30)
    mixed *= np.uint64(0xBF58476D1CE4E5B9)
    mixed ^= mixed >> np.uint64(27)
    mixed *= np.uint64(0x94D049BB133111EB)
    mixed ^= mixed >> np.uint64(31)
    return mixed


def _stream(keys: Keys, length: int, first: int = 0) -> Keys:
    """[keys, length] the numbers of each key's stream from place `first` on."""
    return numbers(keys[:, None], np.arange(first, first + length, dtype=np.uint64)[None, :])


def _fractions(drawn: Keys) -> npt.NDArray[np.float64]:
    """The numbers as fractions from 0 up to, but not, 1."""
    fractions = (drawn >> np.uint64(11)).astype(np.float64)
    fractions *= 2.0**-53
    return fractions


def negatives(
    keys: Keys, users: Ints, targets: Ints, met: Met, n: int, weights: Weights | None = None
) -> Ints:
    """[queries, n] items that the query's user has never met and that are not its target.

    Args:
        keys: [queries] a key a query.
        users: [queries] codes.
        targets: [queries] codes.
        met: What every user has met, in history or later.
        n: Negatives a query.
        weights: How likely each item is drawn; left out: all alike.

    Raises:
        DataError: If the catalog has too few such items for a user.
    """
    known_target = met.has(users, targets)
    taken = met.counts[users] + ~known_target
    if len(users) and met.size - taken.max() < n:
        worst = int(taken.argmax())
        raise DataError(
            f"{n} negatives cannot be drawn: the catalog has {met.size} items, and user "
            f"{met.users[int(users[worst])]} has met {int(taken[worst])} of them; lower "
            "data.negatives and data.train_negatives, or leave such users out with "
            "data.max_items_per_user"
        )
    drawn = np.empty((len(users), n), dtype=np.int64)
    # Where a stream's number is more often refused than not, all items are put in its order.
    crowded = 2 * (taken + n) >= met.size
    width = 4 * n + 16
    for part in _parts(np.flatnonzero(~crowded), width):
        found, rows = _refusing(keys[part], users[part], targets[part], met, n, weights)
        drawn[part] = found
        crowded[part[rows]] = True
    for part in _parts(np.flatnonzero(crowded), met.size):
        drawn[part] = _ordering(keys[part], users[part], targets[part], met, n, weights)
    return drawn


def _parts(rows: Ints, width: int) -> list[Ints]:
    """The rows in parts whose draws, `width` a row, fit the memory."""
    step = max(1, _CELLS // width)
    return [rows[begin : begin + step] for begin in range(0, len(rows), step)]


def _refusing(
    keys: Keys, users: Ints, targets: Ints, met: Met, n: int, weights: Weights | None
) -> tuple[Ints, Ints]:
    """Takes the stream's numbers as items, refusing those not allowed or taken before.

    Returns:
        The items, and the rows that it gave up: whose numbers were refused too often. Whether a
        row is given up depends on its own stream alone.
    """
    drawn = np.zeros((len(users), n), dtype=np.int64)
    left = np.arange(len(users))
    width = n + 2
    while len(left) and width <= max(_WIDEST * n, n + 2):
        items = _as_items(_fractions(_stream(keys[left], width)), met.size, weights)
        user, target = users[left, None], targets[left, None]
        good = ~met.has(user, items) & (items != target) & ~_seen_before(items)
        rank = np.cumsum(good, axis=1)
        done = rank[:, -1] >= n
        chosen = good[done] & (rank[done] <= n)
        drawn[left[done]] = items[done][chosen].reshape(-1, n)
        left = left[~done]
        width *= 2
    return drawn, left


def _as_items(fractions: npt.NDArray[np.float64], size: int, weights: Weights | None) -> Ints:
    """The items that fractions stand for, each item as much of them as its weight."""
    if weights is None:
        return (fractions * size).astype(np.int64)
    found = np.searchsorted(weights.upto, fractions, side="right")
    return np.minimum(found, size - 1)


def _seen_before(items: Ints) -> Mask:
    """[rows, columns] whether the same item stands earlier in its row."""
    order = np.argsort(items, axis=1, kind="stable")
    ordered = np.take_along_axis(items, order, axis=1)
    again = np.zeros(items.shape, dtype=np.bool_)
    again[:, 1:] = ordered[:, 1:] == ordered[:, :-1]
    seen = np.empty_like(again)
    np.put_along_axis(seen, order, again, axis=1)
    return seen


def _ordering(
    keys: Keys, users: Ints, targets: Ints, met: Met, n: int, weights: Weights | None
) -> Ints:
    """Puts all items in the stream's order and takes the first that are allowed.

    With weights, item i has the place of an exponential variable with the rate w_i: the first of
    such places are successive draws proportional to the weights (Efraimidis and Spirakis 2006).
    """
    places: npt.NDArray[Any] = _stream(keys, met.size)
    if weights is not None:
        places = -np.log1p(-_fractions(places)) / weights.of
    order = np.argsort(places, axis=1, kind="stable")
    allowed = ~met.has(users[:, None], order) & (order != targets[:, None])
    chosen = allowed & (np.cumsum(allowed, axis=1) <= n)
    taken: Ints = order[chosen].reshape(-1, n)
    return taken


def shuffled(keys: Keys, rows: Ints) -> Ints:
    """Each row in an order of its own key's, by numbers that drawing its items did not use."""
    order = np.argsort(_stream(keys, rows.shape[1], ORDER), axis=1, kind="stable")
    mixed: Ints = np.take_along_axis(rows, order, axis=1)
    return mixed
