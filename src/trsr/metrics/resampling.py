"""Bootstrap intervals and sign-flip tests of means over queries, users being the sampling unit.

A user's queries go together: the bootstrap draws users, and a sign flip turns all differences of
a user at once, so neither takes a user's queries as independent. Where each user has one query,
both are the usual ones over queries. All columns (rankers × metrics) are resampled with the same
draws, which depend on the number of users and the seed only.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import special

from trsr.settings import derive_seed

Floats = npt.NDArray[np.float64]

RESAMPLES = 10_000
"""Bootstrap samples, where the users are not too many."""

FLIPS = 100_000
"""Patterns of signs that are drawn: the lowest p-value, 1e-5, has to bear Holm's correction."""

FEWEST = 1_000
"""The least of both, where there are very many users: means are nearly normal then."""

_DRAWS = 100_000_000  # most draws in all
_CELLS = 4_000_000  # draws held at a time
_EXACT = 14  # with at most this many users that differ at all, every pattern of signs is tried
_ROUNDING = 1e-10  # share of the sum by which two equal sums may differ


@dataclass(frozen=True, slots=True)
class Sample:
    """Values of queries, summed up by user.

    Attributes:
        sums: [users, columns] sums of each user's values.
        counts: [users] how many queries each user has.
    """

    sums: Floats
    counts: Floats

    @classmethod
    def of(cls, values: Floats, user: npt.NDArray[np.int64]) -> Sample:
        """Sums up.

        Args:
            values: [queries, columns].
            user: [queries] the user of each query as a code from 0, without gaps.
        """
        users = int(user.max(initial=-1)) + 1
        sums = np.zeros((users, values.shape[1]))
        np.add.at(sums, user, values)
        return cls(sums, np.bincount(user, minlength=users).astype(np.float64))

    @property
    def users(self) -> int:
        """How many there are."""
        return len(self.counts)

    @property
    def means(self) -> Floats:
        """[columns] means over queries."""
        means: Floats = self.sums.sum(axis=0) / self.counts.sum()
        return means

    @property
    def standard_errors(self) -> Floats:
        """[columns] standard errors of the means that allow for likeness within a user.

        The cluster-robust variance G/(G−1) Σ (sᵍ − m nᵍ)² / N² over the G users, with the sum sᵍ
        and number nᵍ of their values (Liang and Zeger, "Longitudinal data analysis using
        generalized linear models", Biometrika 1986, for a mean). With one query a user it is the
        usual variance of a mean.
        """
        rest = self.sums - self.means * self.counts[:, None]
        spread = (rest**2).sum(axis=0) * self.users / (self.users - 1)
        errors: Floats = np.sqrt(spread) / self.counts.sum()
        return errors


def bootstrap(sample: Sample, *, seed: int = 0, confidence: float = 0.95) -> Floats:
    """BCa intervals of the means over queries.

    Bias-corrected and accelerated percentiles (Efron, "Better bootstrap confidence intervals",
    JASA 1987, equations 2.3 and 6.6), users drawn with replacement, the acceleration from leaving
    out a user at a time. A column whose resampled means are all equal has an interval of one
    point. `scipy.stats.bootstrap` finds the same up to its draws, but needs users² numbers for
    each column.

    Args:
        sample: Of at least two users.
        seed: Of the draws.
        confidence: Of the interval.

    Returns:
        [2, columns] lower and upper ends.
    """
    drawn = np.concatenate(list(_drawn_means(sample, seed)))
    means, tails = sample.means, np.array([(1 - confidence) / 2, (1 + confidence) / 2])
    near = _ROUNDING * np.abs(drawn).max(axis=0)
    below = (drawn < means - near).sum(axis=0) + (np.abs(drawn - means) <= near).sum(axis=0) / 2
    left_out = (sample.sums.sum(axis=0) - sample.sums) / (sample.counts.sum() - sample.counts)[
        :, None
    ]
    pull = left_out.mean(axis=0) - left_out
    cubes, squares = (pull**3).sum(axis=0), (pull**2).sum(axis=0)
    share = below / len(drawn)
    plain = (share <= 0) | (share >= 1) | (squares <= 0)
    bias = special.ndtri(np.where(plain, 0.5, share))
    acceleration = np.where(plain, 0.0, cubes / (6 * np.where(plain, 1.0, squares) ** 1.5))
    z = bias + special.ndtri(tails)[:, None]
    places = special.ndtr(bias + z / np.maximum(1 - acceleration * z, 1e-3))
    places[:, plain] = tails[:, None]
    each = [np.quantile(one, ends) for one, ends in zip(drawn.T, places.T, strict=True)]
    return np.array(each).T


def flip_signs(sample: Sample, *, seed: int = 0) -> tuple[Floats, npt.NDArray[np.bool_]]:
    """The paired randomization test: how often chance makes a mean difference as large as seen.

    If two rankers are alike, each user's differences could as well have had the other sign
    (Fisher 1935; Smucker, Allan and Carterette, "A comparison of statistical significance tests
    for information retrieval evaluation", CIKM 2007). Two-sided. With at most 14 users whose sums
    are not 0 all patterns are tried; else the p-value is (1 + hits) / (1 + draws), which is never
    0 (Phipson and Smyth, "Permutation p-values should never be zero", 2010, equation 2). Where the
    users are too many for all draws and none of them was a hit, it is the normal tail, as sums of
    so many flipped signs are normal, and no lower than all draws could give.

    Args:
        sample: Differences; at least one user.
        seed: Of the draws.

    Returns:
        [columns] p-values, and whether each is exact.
    """
    sums = sample.sums
    seen = np.abs(sums.sum(axis=0))
    near = _ROUNDING * np.abs(sums).sum(axis=0)
    nonzero = np.count_nonzero(sums, axis=0)
    exact: npt.NDArray[np.bool_] = nonzero <= _EXACT
    found = np.ones(sums.shape[1])
    for column in np.flatnonzero(exact):
        moving = sums[sums[:, column] != 0, column]
        patterns = np.arange(1 << len(moving))[:, None] >> np.arange(len(moving)) & 1
        totals = np.abs((1.0 - 2.0 * patterns) @ moving)
        found[column] = np.mean(totals >= seen[column] - near[column])
    rest = np.flatnonzero(~exact)
    if len(rest):
        hits = np.zeros(len(rest))
        draws = 0
        for signs in _signs(sample.users, seed):
            totals = np.abs(signs @ sums[:, rest])
            hits += (totals >= seen[rest] - near[rest]).sum(axis=0)
            draws += len(signs)
        found[rest] = (1 + hits) / (1 + draws)
        if draws < FLIPS:
            spread = np.sqrt((sums[:, rest] ** 2).sum(axis=0))
            tail = 2 * special.ndtr(-seen[rest] / spread)
            bounded = np.clip(tail, 1 / (1 + FLIPS), found[rest])
            found[rest] = np.where(hits == 0, bounded, found[rest])
    return found, exact


def _chunks(users: int, wanted: int) -> Iterator[int]:
    """How many to draw at a time, for all that are drawn."""
    left = max(FEWEST, min(wanted, _DRAWS // users))
    most = max(1, _CELLS // users)
    while left > 0:
        yield min(left, most)
        left -= most


def _drawn_means(sample: Sample, seed: int) -> Iterator[Floats]:
    """[resamples, columns] in chunks."""
    users = sample.users
    generator = np.random.default_rng(derive_seed(seed, "bootstrap", str(users)))
    for rows in _chunks(users, RESAMPLES):
        drawn = generator.integers(0, users, (rows, users))
        drawn += np.arange(rows)[:, None] * users
        times = np.bincount(drawn.ravel(), minlength=rows * users).reshape(rows, users)
        weights = times.astype(np.float64)
        yield (weights @ sample.sums) / (weights @ sample.counts)[:, None]


def _signs(users: int, seed: int) -> Iterator[Floats]:
    """[flips, users] of −1 and 1 in chunks."""
    generator = np.random.default_rng(derive_seed(seed, "sign flips", str(users)))
    width = math.ceil(users / 8)
    for rows in _chunks(users, FLIPS):
        octets = np.frombuffer(generator.bytes(rows * width), np.uint8).reshape(rows, width)
        bits = np.unpackbits(octets, axis=1, count=users)
        yield 1.0 - 2.0 * bits.astype(np.float64)
