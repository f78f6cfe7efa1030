"""Samples each query's negatives: without replacement, never an item the user has seen.

They are uniform, or proportional to items' weights. Every query has its own stream of numbers:
number `i` of the stream with key `k` is the splitmix64 mix of `k + i · golden` (Steele, Lea and
Flood 2014). So all queries are sampled at once, and none depends on another. The negatives are the
first `n` distinct allowed items of the stream. With weights, that is successive sampling: each is
proportional to the weights of what is left.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from trsr.data.records import Codes, Ints, Mask, Records, spans
from trsr.errors import DataError

Keys = npt.NDArray[np.uint64]

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
ORDER = 1 << 40
"""The place from which on a stream's numbers order candidates; before it they choose them."""

_CELLS = 4_000_000
"""Numbers drawn at a time: bounds the memory."""

_WIDEST = 64
"""Numbers of a stream tried for each negative before all items are put in order: a few very popular
items that the user has seen can refuse nearly every number."""


@dataclass(frozen=True)
class Weights:
    """How likely each item is drawn.

    Attributes:
        each: [items] weights, all above 0.
        cumulative: [items] the share of all weights up to each item; the last is 1.
    """

    each: npt.NDArray[np.float64]
    cumulative: npt.NDArray[np.float64]

    @classmethod
    def by_popularity(cls, items: Ints, size: int) -> Weights:
        """Weights proportional to `count + 1`: every item can be drawn.

        Of the item codes, [n], of the interactions that may be fitted on.
        """
        weights = np.bincount(items, minlength=size).astype(np.float64) + 1
        cumulative = np.cumsum(weights)
        return cls(weights, cumulative / cumulative[-1])


@dataclass(frozen=True)
class Seen:
    """Which pairs of user and item ever occurred.

    Attributes:
        pairs: `user * size + item`, sorted, each once.
        size: Items of the catalog.
        counts: [users] items that each user has seen.
        users: Their ids, for messages.
    """

    pairs: Ints
    size: int
    counts: Ints
    users: pl.Series

    @classmethod
    def of(cls, records: Records, users: Codes) -> Seen:
        """What some users have seen, these numbered from 0; `users` rise, each once."""
        size = len(records.items)
        begins = np.searchsorted(records.seen_user, users)
        row, flat = spans(begins, np.searchsorted(records.seen_user, users, side="right"))
        pairs = row * size + records.seen_item[flat]
        pairs.sort()  # np.unique hashes, which is slower
        pairs = pairs[np.diff(pairs, prepend=-1) > 0]
        counts = np.bincount(pairs // size, minlength=len(users))
        return cls(pairs, size, counts, records.users.gather(users))

    def has(self, user: Ints, item: Ints) -> Mask:
        """Whether each user has seen the item beside it; shapes broadcast."""
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
    """The numbers as fractions in [0, 1)."""
    fractions = (drawn >> np.uint64(11)).astype(np.float64)
    fractions *= 2.0**-53
    return fractions


def excluded_items(users: Ints, targets: Ints, seen: Seen, n: int) -> Ints:
    """[queries] how many items are no negatives of each query; see `negatives`.

    Raises:
        DataError: If fewer than `n` are left for one.
    """
    excluded: Ints = seen.counts[users] + ~seen.has(users, targets)
    if len(users) and seen.size - excluded.max() < n:
        worst = int(excluded.argmax())
        raise DataError(
            f"{n} negatives cannot be drawn: the catalog has {seen.size} items, and user "
            f"{seen.users[int(users[worst])]} has seen {int(excluded[worst])} of them; lower "
            "data.negatives and data.train_negatives, or leave such users out with "
            "data.max_items_per_user"
        )
    return excluded


def negatives(
    keys: Keys, users: Ints, targets: Ints, seen: Seen, n: int, weights: Weights | None = None
) -> Ints:
    """[queries, n] items that the query's user has never seen and that are not its target.

    Without weights all items are as likely.

    Raises:
        DataError: If the catalog has too few such items for a user.
    """
    excluded = excluded_items(users, targets, seen, n)
    drawn = np.empty((len(users), n), dtype=np.int64)
    # Where a stream's number is more often refused than not, all items are put in its order.
    crowded = 2 * (excluded + n) >= seen.size
    for rows in _chunks(np.flatnonzero(~crowded), 4 * n + 16):
        drawn[rows], given_up = _by_refusal(
            keys[rows], users[rows], targets[rows], seen, n, weights
        )
        crowded[rows[given_up]] = True
    for rows in _chunks(np.flatnonzero(crowded), seen.size):
        drawn[rows] = _by_order(keys[rows], users[rows], targets[rows], seen, n, weights)
    return drawn


def _chunks(rows: Ints, width: int) -> list[Ints]:
    """The rows in chunks whose numbers, `width` a row, fit the memory."""
    step = max(1, _CELLS // width)
    return [rows[begin : begin + step] for begin in range(0, len(rows), step)]


def _by_refusal(
    keys: Keys, users: Ints, targets: Ints, seen: Seen, n: int, weights: Weights | None
) -> tuple[Ints, Ints]:
    """Reads the stream's numbers as items and refuses those excluded or drawn before.

    Returns:
        The items, and the rows that it gave up: whose numbers were refused too often. Whether a
        row is given up depends on its own stream alone.
    """
    drawn = np.zeros((len(users), n), dtype=np.int64)
    left = np.arange(len(users))
    width = n + 2
    while len(left) and width <= max(_WIDEST * n, n + 2):
        items = _as_items(_fractions(_stream(keys[left], width)), seen.size, weights)
        allowed = ~seen.has(users[left, None], items) & (items != targets[left, None])
        allowed &= ~_repeated(items)
        rank = np.cumsum(allowed, axis=1)
        done = rank[:, -1] >= n
        chosen = allowed[done] & (rank[done] <= n)
        drawn[left[done]] = items[done][chosen].reshape(-1, n)
        left = left[~done]
        width *= 2
    return drawn, left


def _as_items(fractions: npt.NDArray[np.float64], size: int, weights: Weights | None) -> Ints:
    """The items of fractions, each item as likely as its weight."""
    if weights is None:
        return (fractions * size).astype(np.int64)
    found = np.searchsorted(weights.cumulative, fractions, side="right")
    return np.minimum(found, size - 1)


def _repeated(items: Ints) -> Mask:
    """[rows, columns] whether the same item stands earlier in its row."""
    order = np.argsort(items, axis=1, kind="stable")
    ordered = np.take_along_axis(items, order, axis=1)
    again = np.zeros(items.shape, dtype=np.bool_)
    again[:, 1:] = ordered[:, 1:] == ordered[:, :-1]
    repeated = np.empty_like(again)
    np.put_along_axis(repeated, order, again, axis=1)
    return repeated


def _by_order(
    keys: Keys, users: Ints, targets: Ints, seen: Seen, n: int, weights: Weights | None
) -> Ints:
    """Puts all items in the stream's order and takes the first that are allowed.

    With weights, item i has the place of an exponential variable with the rate w_i: the first of
    such places are successive draws proportional to the weights (Efraimidis and Spirakis 2006).
    """
    places: npt.NDArray[Any] = _stream(keys, seen.size)
    if weights is not None:
        places = -np.log1p(-_fractions(places)) / weights.each
    order = np.argsort(places, axis=1, kind="stable")
    allowed = ~seen.has(users[:, None], order) & (order != targets[:, None])
    first: Ints = order[allowed & (np.cumsum(allowed, axis=1) <= n)].reshape(-1, n)
    return first


def shuffled(keys: Keys, rows: Ints) -> Ints:
    """Each row in an order of its own key's, by numbers that drawing its items did not use."""
    order = np.argsort(_stream(keys, rows.shape[1], ORDER), axis=1, kind="stable")
    mixed: Ints = np.take_along_axis(rows, order, axis=1)
    return mixed
