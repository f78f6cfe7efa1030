"""Ranks by EASE: a linear model between items, solved in closed form."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from trsr.errors import ConfigError
from trsr.plugins import optional
from trsr.rank.matrix import InteractionMatrix
from trsr.rank.tune import QueryRanker, tuned
from trsr.types import Query

if TYPE_CHECKING:
    from trsr.rank.base import RankContext
    from trsr.rank.baseline_settings import EaseSettings


_BYTES = 28
"""For each pair of items, at most: two matrices of float64, and the counts as a sparse one."""

Weights = npt.NDArray[np.float64]


class EaseRanker(QueryRanker):
    """Σ B(j, i) over the history's different items j, and popularity.

    Steck, "Embarrassingly shallow autoencoders for sparse data" (WWW 2019), equation 8: with
    P = (XᵀX + λI)⁻¹, B(j, i) = −P(j, i) / P(i, i) and B(i, i) = 0. X is the binary matrix of users
    and items. B is a little below 0 where no user met both, so to the sum comes popularity ·
    log(1 + c(i)) / log(1 + the largest c), c(i) being the users who met i; it orders what the
    history tells nothing of, most of a sparse catalogue. Candidates that nobody met in training
    score 0.

    Args:
        matrix: Who met what in training.
        weights: B, shape (items, items).
        popularity: The weight of a candidate's own popularity.
    """

    def __init__(
        self, matrix: InteractionMatrix, weights: Weights, popularity: float = 0.0
    ) -> None:
        self.matrix = matrix
        self.weights = weights
        self.popularity = popularity

    def scores(self, query: Query) -> Sequence[float]:
        """One score a candidate."""
        met = np.unique(self.matrix.rows(query.history.items))
        met = met[met >= 0]
        asked = self.matrix.rows(query.candidates)
        known = asked >= 0
        total = np.zeros(len(query.candidates))
        total[known] = self.popularity * self.matrix.fame[asked[known]]
        if len(met) and known.any():
            total[known] += self.weights[met[:, None], asked[known]].sum(axis=0)
        return [float(score) for score in total]


def ease_weights(matrix: InteractionMatrix, penalty: float) -> Weights:
    """B of EASE, shape (items, items), float64.

    Args:
        matrix: Who met what in training.
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
            f"rank.ease.penalty = {penalty:g} is too small: the item matrix has no inverse in "
            "double precision; set a larger one"
        )
    for row in range(len(inverse)):  # LAPACK fills one triangle only
        inverse[row, row + 1 :] = inverse[row + 1 :, row]
    inverse /= -inverse.diagonal().copy()
    np.fill_diagonal(inverse, 0.0)
    weights: Weights = inverse
    return weights


def check_size(items: int, settings: EaseSettings) -> None:
    """Refuses a matrix that is too large.

    Args:
        items: How many items have interactions.
        settings: How many may.

    Raises:
        ConfigError: If there are more.
    """
    if items > settings.max_items:
        raise ConfigError(
            f"the ranker ease inverts a dense matrix of all {items:,} items with interactions, "
            f"which takes about {_BYTES * items**2 / 2**30:.1f} GiB; the limit is "
            f"rank.ease.max_items = {settings.max_items:,}. Raise it if there is the memory, keep "
            "fewer items with data.k_core, or leave ease out"
        )


def make_ease(context: RankContext) -> EaseRanker:
    """EASE on the training interactions, its penalty tuned on the validation cases.

    Raises:
        ConfigError: If there are more items than `rank.ease.max_items`.
    """
    own = context.settings.ease
    matrix = InteractionMatrix(context.interactions, "ease")
    check_size(len(matrix), own)
    options = [
        {"penalty": penalty, "popularity": popularity}
        for penalty, popularity in itertools.product(own.penalty, own.popularity)
    ]
    # options of one penalty follow each other: each is solved once, and two are held at most
    solved: dict[float, Weights] = {}

    def make(penalty: float, popularity: float) -> EaseRanker:
        if penalty not in solved:
            solved.clear()
            solved[penalty] = ease_weights(matrix, penalty)
        return EaseRanker(matrix, solved[penalty], popularity)

    return tuned("ease", context, options, make)
