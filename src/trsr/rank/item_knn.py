"""Ranks by co-occurrence: items that the same users met as those of the history."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from trsr.rank.matrix import InteractionMatrix
from trsr.rank.tune import QueryRanker, tuned
from trsr.types import Query

if TYPE_CHECKING:
    from trsr.rank.base import RankContext


class ItemKnnRanker(QueryRanker):
    """Σ decayᵃ · c(i, j) / (√(c(i) c(j)) + shrinkage) over the history's items j, and popularity.

    c(i) is the number of users who met i in training, c(i, j) of those who met both, and a the
    age of j, 0 for the latest. Deshpande and Karypis, "Item-based top-N recommendation
    algorithms" (TOIS 2004), with shrinkage as in Dacrema et al. (RecSys 2019); no neighbour is cut
    off. An item is no evidence for itself. To the sum comes popularity · log(1 + c(i)) /
    log(1 + m), m the largest c: a small weight orders what shares no user with the history, most of
    a sparse catalogue. Candidates that nobody met in training score 0.

    Co-occurrences are counted for the asked pairs only, so memory grows with the interactions and
    not with the square of the catalogue.

    Args:
        matrix: Who met what in training.
        shrinkage: Holds back similarities that rest on few users.
        last: How many of the latest items count; 0: all.
        decay: An item's weight against the one after it.
        popularity: The weight of a candidate's own popularity.
    """

    def __init__(
        self,
        matrix: InteractionMatrix,
        shrinkage: float,
        last: int = 0,
        decay: float = 1.0,
        popularity: float = 0.0,
    ) -> None:
        self.matrix = matrix
        self.shrinkage = shrinkage
        self.last = last
        self.decay = decay
        self.popularity = popularity

    def scores(self, query: Query) -> Sequence[float]:
        """One score a candidate."""
        history = query.history.items[::-1]
        met = self.matrix.rows(history[: self.last] if self.last else history)
        weights = self.decay ** np.arange(len(met))
        met, weights = met[met >= 0], weights[met >= 0]
        asked = self.matrix.rows(query.candidates)
        known = asked >= 0
        asked = asked[known]
        total = np.zeros(len(query.candidates))
        total[known] = self.popularity * self.matrix.fame[asked]
        if not len(met) or not len(asked):
            return [float(score) for score in total]
        users_of, counts = self.matrix.users_of, self.matrix.counts
        both = (users_of[met] @ users_of[asked].T).toarray()
        both[met[:, None] == asked] = 0.0
        cosine = both / (np.sqrt(counts[met][:, None] * counts[asked]) + self.shrinkage)
        total[known] += (weights[:, None] * cosine).sum(axis=0)
        return [float(score) for score in total]


def make_item_knn(context: RankContext) -> ItemKnnRanker:
    """Co-occurrence with the whole history, tuned on the validation cases."""
    own = context.settings.item_knn
    options = [
        {"shrinkage": shrinkage, "popularity": popularity}
        for shrinkage, popularity in itertools.product(own.shrinkage, own.popularity)
    ]
    matrix = InteractionMatrix(context.interactions, "item_knn")
    return tuned("item_knn", context, options, functools.partial(ItemKnnRanker, matrix))


def make_item_knn_recent(context: RankContext) -> ItemKnnRanker:
    """Co-occurrence with the last items, the later the stronger; tuned on the validation cases."""
    own = context.settings.item_knn_recent
    options = [
        {"last": last, "decay": decay, "shrinkage": shrinkage, "popularity": popularity}
        for last, decay, shrinkage, popularity in itertools.product(
            own.last, own.decay, own.shrinkage, own.popularity
        )
        if last != 1 or decay == own.decay[0]
    ]
    matrix = InteractionMatrix(context.interactions, "item_knn_recent")
    return tuned("item_knn_recent", context, options, functools.partial(ItemKnnRanker, matrix))
