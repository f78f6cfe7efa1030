"""Ranks by EASE: a linear model between items, solved in closed form."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np

from trsr.errors import ConfigError
from trsr.machine import memory
from trsr.rankers.base import FitData, FitOptions, Ranker
from trsr.rankers.baselines.item_knn import (
    POPULARITY,
    InteractionMatrix,
    known_histories,
)
from trsr.rankers.batch import Floats, Ints, QueryBatch, ScoreBatch
from trsr.rankers.settings import Traits
from trsr.rankers.tuning import tune
from trsr.registry import optional

_BYTES = 28
"""For each pair of items, at most: two matrices of float64, and the counts as a sparse one."""


class EaseRanker(Ranker):
    """Σ B(j, i) over the history's different items j, and popularity.

    Steck, "Embarrassingly shallow autoencoders for sparse data" (WWW 2019), equation 8: with
    P = (XᵀX + λI)⁻¹, B(j, i) = −P(j, i) / P(i, i) and B(i, i) = 0. X is the binary matrix of users
    and items. B is a little below 0 where no user had both, so to the sum comes popularity ·
    log(1 + c(i)) / log(1 + the largest c), c(i) being the users who had i; it orders what the
    history tells nothing of, most of a sparse catalog. Candidates that nobody had in training
    score 0.

    Attributes:
        rows_: [catalog] an item's row in `weights_`; −1 where nobody had it.
        popularity_shares_: [rows] the popularity of each.
        weights_: [rows, rows] B.
        popularity_: The weight of a candidate's own popularity.
    """

    traits = Traits(tuned=True, extras=(("scipy", "baselines"),))
    tried = tuple(
        {"penalty": penalty, "popularity": popularity}
        for penalty, popularity in itertools.product(
            (200.0, 20.0, 1000.0, 5000.0, 20_000.0), POPULARITY
        )
    )
    rows_: Ints
    popularity_shares_: Floats
    weights_: Floats
    popularity_: float

    def fit(self, data: FitData, options: FitOptions) -> None:
        """Solves for B, its penalty tuned on the validation cases.

        Raises:
            ConfigError: If there are more items than the memory holds.
        """
        matrix = InteractionMatrix(data.interactions, data.catalog, self.name)
        check_size(len(matrix.counts))
        self.rows_, self.popularity_shares_ = matrix.rows, matrix.popularity_share
        # settings of one penalty follow each other: each is solved once, and two are held at most
        solved: dict[float, Floats] = {}

        def make(penalty: float, popularity: float) -> Ranker:
            if penalty not in solved:
                solved.clear()
                solved[penalty] = ease_weights(matrix, penalty)
            return self.altered(weights_=solved[penalty], popularity_=popularity)

        tune(self, data, options, self.tried, make)

    def score(self, batch: QueryBatch) -> ScoreBatch:
        """[queries, columns] sums."""
        sparse = optional("scipy.sparse", "baselines", f"the ranker {self.name}")
        queries, seen, _ = known_histories(batch, self.rows_)
        # each once and in order, so that a sum does not depend on how the history was
        pairs = np.unique(queries * len(self.popularity_shares_) + seen)
        asked = batch.extended(self.rows_, -1)[batch.columns]
        known = asked >= 0
        found = batch.blank()
        found[:, known] = self.popularity_ * self.popularity_shares_[asked[known]]
        if not len(pairs):
            return ScoreBatch(found)
        queries, seen = np.divmod(pairs, len(self.popularity_shares_))
        if batch.full:
            shape = (len(batch), len(self.popularity_shares_))
            histories = sparse.csr_array((np.ones(len(seen)), (queries, seen)), shape=shape)
            found[:, known] += (histories @ self.weights_)[:, asked[known]]
            return ScoreBatch(found)
        # of few candidates: only their columns, and only the rows of what was seen
        read, places = np.unique(seen, return_inverse=True)
        shape = (len(batch), len(read))
        histories = sparse.csr_array((np.ones(len(seen)), (queries, places)), shape=shape)
        found[:, known] += histories @ self.weights_[read[:, None], asked[known]]
        return ScoreBatch(found)


def ease_weights(matrix: InteractionMatrix, penalty: float) -> Floats:
    """B of EASE, shape (items, items), float64.

    Args:
        matrix: Who had what in training.
        penalty: λ.

    Raises:
        ConfigError: If λ is too small for the matrix to have an inverse.
    """
    lapack: Any = optional("scipy.linalg.lapack", "baselines", "the ranker ease")
    # symmetric, so its transpose is itself in the order that LAPACK overwrites without a copy
    gram = (matrix.users_of @ matrix.users_of.T).toarray().T
    if not len(gram):
        return np.zeros((0, 0))  # LAPACK refuses an empty one
    gram[np.diag_indices_from(gram)] += penalty
    inverse, failed = lapack.dpotrf(gram, lower=1, overwrite_a=1)
    if not failed:
        inverse, failed = lapack.dpotri(inverse, lower=1, overwrite_c=1)
    if failed:
        raise ConfigError(
            f"the ranker ease: with the penalty {penalty:g} the item matrix has no inverse in "
            "double precision; leave ease out"
        )
    for row in range(len(inverse)):  # LAPACK fills one triangle only
        inverse[row, row + 1 :] = inverse[row + 1 :, row]
    inverse = inverse.T  # symmetric: the same matrix, row by row, as a product reads it
    inverse /= -inverse.diagonal().copy()
    np.fill_diagonal(inverse, 0.0)
    weights: Floats = inverse
    return weights


def check_size(items: int) -> None:
    """Refuses a matrix that this machine cannot hold.

    Args:
        items: How many items have interactions.

    Raises:
        ConfigError: If it takes more than the memory.
    """
    needed, there = _BYTES * items**2, memory()
    if needed > there:
        raise ConfigError(
            f"the ranker ease inverts a dense matrix of all {items:,} items with interactions, "
            f"which takes about {needed / 2**30:.1f} GiB, and this machine has "
            f"{there / 2**30:.1f} GiB; keep fewer items with data.k_core, or leave ease out"
        )
