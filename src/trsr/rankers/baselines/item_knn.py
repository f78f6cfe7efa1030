"""Ranks by what the same users had: co-occurrence, and EASE, which solves for it."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

import numpy as np
import polars as pl

from trsr.data import Catalog
from trsr.errors import ConfigError
from trsr.machine import memory
from trsr.rankers.base import FitData, FitOptions, Ranker
from trsr.rankers.batch import Floats, Ints, QueryBatch, ScoreBatch
from trsr.rankers.settings import Traits
from trsr.rankers.tuning import tune
from trsr.registry import optional

POPULARITY = (1e-3, 0.0, 1e-2, 1e-1, 1.0)
"""Weights of a candidate's own popularity to try, beside the sum; a small one orders what shares no
user with the history."""
SHRINKAGE = (10.0, 0.0, 50.0, 200.0)
"""Numbers to try that are added to the cosine's denominator."""


class InteractionMatrix:
    """Binary: a user who had an item twice had it.

    Attributes:
        users_of: [rows, users] compressed sparse rows of ones, a row for each item that a user had,
            sorted by id.
        counts: [rows] how many users had each item.
        popularity_share: [rows] log(1 + count) / log(1 + the largest count), from 0 to 1.
        rows: [catalog] an item's row; −1 where nobody had it.

    Raises:
        ConfigError: If scipy is not installed.
    """

    def __init__(self, interactions: pl.DataFrame, catalog: Catalog, ranker: str) -> None:
        sparse = optional("scipy.sparse", "baselines", f"the ranker {ranker}")
        pairs = interactions.select("user", "item").unique()
        items = pairs.select("item").unique().sort("item").with_row_index("row")
        users = pairs.select("user").unique().sort("user").with_row_index("column")
        placed = pairs.join(items, on="item").join(users, on="user")
        rows, columns = placed["row"].to_numpy(), placed["column"].to_numpy()
        shape = (len(items), len(users))
        self.users_of: Any = sparse.csr_array((np.ones(len(placed)), (rows, columns)), shape=shape)
        self.counts: Floats = np.bincount(rows, minlength=len(items)).astype(float)
        most = self.counts.max(initial=0.0)
        self.popularity_share: Floats = np.log1p(self.counts) / (np.log1p(most) if most else 1.0)
        row_of = dict(zip(items["item"], items["row"], strict=True))
        self.rows: Ints = np.array([row_of.get(item, -1) for item in catalog.ids], np.int64)


def known_histories(batch: QueryBatch, rows: Ints) -> tuple[Ints, Ints, Ints]:
    """The items of histories that a ranker knows.

    `rows` is an item's row by its place in the catalog; −1 where it is not known.

    Returns:
        The query, the row and the age of each, oldest first; the latest item's age is 0.
    """
    found = batch.extended(rows, -1)[batch.histories.values]
    known = found >= 0
    ends = np.repeat(batch.histories.starts[1:], batch.histories.lengths)
    age = ends - 1 - np.arange(len(found))
    return batch.histories.rows[known], found[known], age[known]


def of_popularity(batch: QueryBatch, queries: Ints, weight: float, shares: Floats) -> Floats:
    """What popularity adds, [queries or 1, columns]: by its weight, and all of an unknown history.

    `queries` are those with a known item; of the others nothing else tells anything.
    """
    nothing = np.bincount(queries, minlength=len(batch)) == 0
    weights: Floats = np.array([weight]) if weight else nothing.astype(np.float64)
    return weights[:, None] * shares


class ItemKnnRanker(Ranker):
    """Σ decayᵃ · c(i, j) / (√(c(i) c(j)) + shrinkage) over the history's items j, and popularity.

    c(i) is the number of users who had i in training, c(i, j) of those who had both, and a the
    age of j, 0 for the latest. Deshpande and Karypis, "Item-based top-N recommendation
    algorithms" (TOIS 2004), with shrinkage as in Dacrema et al. (RecSys 2019); no neighbour is cut
    off. An item is no evidence for itself. To the sum comes popularity · log(1 + c(i)) /
    log(1 + m), m the largest c: a small weight orders what shares no user with the history, most of
    a sparse catalog. Candidates that nobody had in training score 0.

    Co-occurrences are counted for the asked pairs only, so memory grows with the interactions and
    not with the square of the catalog.

    Attributes:
        rows_: [catalog] an item's row in `users_of_`; −1 where nobody had it.
        users_of_: [rows, users] sparse, 1 where a user had an item.
        counts_: [rows] how many users had each item.
        popularity_shares_: [rows] its popularity.
        shrinkage_: Holds back similarities that rest on few users.
        last_: How many of the latest items count; 0: all.
        decay_: An item's weight against the one after it.
        popularity_: The weight of a candidate's own popularity.
    """

    traits = Traits(tuned=True, extras=(("scipy", "baselines"),))
    tried: ClassVar[Sequence[Mapping[str, Any]]] = tuple(
        {"shrinkage": shrinkage, "popularity": popularity}
        for shrinkage, popularity in itertools.product(SHRINKAGE, POPULARITY)
    )
    rows_: Ints
    users_of_: Any
    counts_: Floats
    popularity_shares_: Floats
    shrinkage_: float
    last_: int
    decay_: float
    popularity_: float

    def fit(self, data: FitData, options: FitOptions) -> None:
        """Counts who had what; the settings are tuned on the validation cases."""
        matrix = InteractionMatrix(data.interactions, data.catalog, self.name)
        self.rows_, self.popularity_shares_ = matrix.rows, matrix.popularity_share
        self.users_of_, self.counts_ = matrix.users_of, matrix.counts
        tune(self, data, options, self.tried, self.with_settings)

    def with_settings(
        self, shrinkage: float, last: int = 0, decay: float = 1.0, popularity: float = 0.0
    ) -> Self:
        """The same with these settings."""
        return self.altered(shrinkage_=shrinkage, last_=last, decay_=decay, popularity_=popularity)

    def score(self, batch: QueryBatch) -> ScoreBatch:
        """[queries, columns] sums."""
        sparse = optional("scipy.sparse", "baselines", f"the ranker {self.name}")
        queries, seen, ages = known_histories(batch, self.rows_)
        if self.last_:
            near = ages < self.last_
            queries, seen, ages = queries[near], seen[near], ages[near]
        asked = batch.extended(self.rows_, -1)[batch.columns]
        known = asked >= 0
        asked = asked[known]
        found = batch.blank()
        shares = self.popularity_shares_[asked]
        found[:, known] = of_popularity(batch, queries, self.popularity_, shares)
        if not len(seen) or not len(asked):
            return ScoreBatch(found)
        read, places = np.unique(seen, return_inverse=True)
        # latest first, as the sum is written; each item as often as it stands in the history
        order = np.lexsort((ages, queries))
        starts = np.concatenate([[0], np.cumsum(np.bincount(queries, minlength=len(batch)))])
        parts = (self._powers(int(ages.max()))[ages[order]], places[order], starts)
        weights = sparse.csr_array(parts, shape=(len(batch), len(read)))
        found[:, known] += (weights @ self._cosines(read, asked)).toarray()
        return ScoreBatch(found)

    def _powers(self, most: int) -> Floats:
        return np.power(self.decay_, np.arange(most + 1), dtype=np.float64)

    def _cosines(self, read: Ints, asked: Ints) -> Any:
        """[read, asked] sparse similarities."""
        both = (self.users_of_[read] @ self.users_of_[asked].T).tocsr()
        rows = np.repeat(np.arange(len(read)), np.diff(both.indptr))
        mine, other = read[rows], asked[both.indices]
        root = np.sqrt(self.counts_[mine] * self.counts_[other]) + self.shrinkage_
        both.data = np.where(mine == other, 0.0, both.data / root)
        return both


class ItemKnnRecentRanker(ItemKnnRanker):
    """The same for the last items, the later the stronger."""

    tried = tuple(
        {"last": last, "decay": decay, "shrinkage": shrinkage, "popularity": popularity}
        for last, decay, shrinkage, popularity in itertools.product(
            (5, 1, 3, 10, 0), (0.7, 0.9), SHRINKAGE, POPULARITY
        )
        if last != 1 or decay == 0.7
    )
    """0 as `last`: all. One item alone has nothing to decay against."""


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
        shares = self.popularity_shares_[asked[known]]
        found[:, known] = of_popularity(batch, queries, self.popularity_, shares)
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
