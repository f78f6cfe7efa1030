"""Where relevant candidates stand, ties included: all that any metric needs to know."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Counts = npt.NDArray[np.int64]


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
    def of(
        cls,
        scores: npt.NDArray[np.float64],
        relevant: npt.NDArray[np.bool_],
        real: npt.NDArray[np.bool_],
    ) -> Ranks:
        """Counts places by score; the order of the columns means nothing.

        Args:
            scores: Shape (queries, most candidates); none is NaN where `real`.
            relevant: Same shape; at least one a query.
            real: Same shape; False where a query has fewer candidates.
        """
        row, column = np.nonzero(relevant)
        own = scores[row, column][:, None]
        beside, there = scores[row], real[row]
        same = (beside == own) & there
        return cls(
            row,
            np.count_nonzero((beside > own) & there, axis=1),
            np.count_nonzero(same, axis=1),
            np.count_nonzero(same & relevant[row], axis=1),
            np.count_nonzero(relevant, axis=1),
            np.count_nonzero(real, axis=1),
        )

    @classmethod
    def at_random(cls, relevant: Counts, candidates: Counts) -> Ranks:
        """All candidates of each query tied: the expectation over random orders, chance level."""
        row = np.repeat(np.arange(len(relevant)), relevant)
        return cls(row, np.zeros_like(row), candidates[row], relevant[row], relevant, candidates)

    def sum(self, values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Sums values of relevant candidates over each query; shape (queries,)."""
        found = np.zeros(len(self.relevant))
        np.add.at(found, self.row, values)
        return found

    def best(self, values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """The highest of the values of each query's relevant candidates, at least 0."""
        found = np.zeros(len(self.relevant))
        np.maximum.at(found, self.row, values)
        return found

    @property
    def ambiguous(self) -> npt.NDArray[np.bool_]:
        """Whether a relevant candidate ties with one that is not; shape (queries,)."""
        return self.best((self.tied > self.partners).astype(np.float64)) > 0
