"""Where relevant candidates stand, ties included: all that an accuracy metric needs to know."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Counts = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

NOT_FOUND = 1 << 40
"""The place of a relevant item that a list leaves out: beyond every cut-off."""


@dataclass(frozen=True, slots=True)
class Ranks:
    """The places of the relevant candidates of some queries.

    Attributes:
        row: Which query each relevant candidate is of, from 0; shape (relevant candidates,), as
            the next three.
        above: How many candidates have a strictly better score.
        tied: How many have the same score, itself included.
        partners: How many of those are relevant.
        relevant: How many candidates of each query are relevant; shape (queries,).
        candidates: How many candidates each query has; shape (queries,).
    """

    row: Counts
    above: Counts
    tied: Counts
    partners: Counts
    relevant: Counts
    candidates: Counts

    @classmethod
    def at_random(cls, relevant: Counts, candidates: Counts) -> Ranks:
        """All candidates of each query tied: the expectation over random orders, chance level."""
        row = np.repeat(np.arange(len(relevant)), relevant)
        return cls(row, np.zeros_like(row), candidates[row], relevant[row], relevant, candidates)

    @property
    def before(self) -> Counts:
        """How many relevant candidates have a strictly better score; as `above`."""
        keys = self.row * (2 * NOT_FOUND) + self.above
        ordered = np.sort(keys)
        return np.searchsorted(ordered, keys) - np.searchsorted(
            self.row[np.argsort(keys)], self.row
        )

    def sum(self, values: Floats) -> Floats:
        """Sums values of relevant candidates over each query; shape (queries,)."""
        return np.bincount(self.row, values, len(self.relevant)).astype(np.float64)

    def best(self, values: Floats) -> Floats:
        """The highest of the values of each query's relevant candidates, at least 0."""
        found = np.zeros(len(self.relevant))
        np.maximum.at(found, self.row, values)
        return found

    @property
    def ambiguous(self) -> npt.NDArray[np.bool_]:
        """Whether a relevant candidate ties with one that is not; shape (queries,)."""
        return self.best((self.tied > self.partners).astype(np.float64)) > 0
