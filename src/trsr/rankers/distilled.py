"""The ranker `distilled`: text vectors, taught to rank as the tuned language model does."""

from __future__ import annotations

import heapq
import itertools
import logging
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from pydantic import Field

from trsr.data import Catalog
from trsr.errors import ConfigError, DataError
from trsr.metrics.significance import rank_correlation
from trsr.rankers.base import FitData, FitOptions, score_what_fits
from trsr.rankers.baselines.text_knn import EMBEDDINGS, TextVectorRanker
from trsr.rankers.batch import Floats, Ints, QueryBatch, ScoreBatch
from trsr.rankers.settings import RankerConfig, Traits
from trsr.settings import derive_seed
from trsr.types import Query

_log = logging.getLogger(__name__)

TEACHER = "llm"
LEAST = 16
"""Candidates a query that the teacher scores at least; before that, queries are left out."""

ITEM, USER = 512, 24
"""Most main components of the texts' vectors that w reads, and that B reads."""
FOLDS = 5
DECAYS = (1.0, 0.7)
"""Weights of a history's item against the one after it to try."""
PENALTIES = (0.3, 3.0, 30.0)
TASTES = (0.1, 1.0, 1e6)
"""Penalties on w to try; and by how much those on B are higher: with the last B is 0."""


class DistilledConfig(RankerConfig):
    """Text vectors, taught to rank as the tuned language model does."""

    scores: int = Field(
        5000,
        ge=2,
        description="most scores of llm that it learns from; each is asked for once, and costs "
        "what a candidate of llm costs",
    )


class _List(NamedTuple):
    """What the teacher makes of a query: rows of vectors, latest last, and its scores."""

    user: str
    history: Ints
    candidates: Ints
    scores: Floats


class DistilledRanker(TextVectorRanker):
    """Ranks as the tuned language model does, without it: a vector a user, a product an item.

    The student's score of an item with the text vector x is (w + B u) · x. u is the decayed mean of
    the history's text vectors, and all vectors are taken from their mean; so an item without text,
    which scores 0, is like the average one, and of an empty history w remains: the list that the
    teacher would give anybody.

    The teacher, `llm`, scores the candidates of training queries and sampled items that are not in
    their histories. w and B follow its scores, less their mean within each query, by least squares
    with an L2 penalty: knowledge distillation at a high temperature (Hinton et al.,
    arXiv:1503.02531, section 2.1), in closed form. No answer is learned, as in "Ranking
    distillation" (Tang and Wang, KDD 2018) without its labels. Cross-validation over users chooses
    the penalties and the decay.

    Attributes:
        center_: [width] the mean vector.
        weights_: [width] w.
        left_: [width, components] first half of B; right_: [components, width] the other.
        decay_: A history's item's weight against the one after it.
    """

    traits = Traits(
        reads_text=True, embeds_text=True, needs_training=True, distills=True, extras=EMBEDDINGS
    )
    config: DistilledConfig
    center_: Floats
    weights_: Floats
    left_: Floats
    right_: Floats
    decay_: float

    def fit(self, data: FitData, options: FitOptions) -> None:
        """Asks the teacher, and solves for the student.

        The teacher's scores go through the response cache, so a fit that is stopped asks only for
        the others when it is made again.

        Raises:
            ConfigError: If there are no training cases, or sentence-transformers is not installed.
            DataError: If no item has a text, or the teacher tells no candidates apart.
            ModelError: If a model cannot be had.
            StoreError: If the teacher is not trained.
        """
        super().fit(data, options)
        if not self.vectors_.size:
            raise DataError(
                f"ranker {self.name}: no item has a text, and it knows items by their texts alone; "
                "name the columns in rank.text_fields, or take it out of rank.rankers"
            )
        found = {"teacher": TEACHER, "scores": 0, "queries": 0, "unfit": 0}
        lists = list(self._taught(data, options, found))
        spread = float(np.mean([one.scores.std() for one in lists])) if lists else 0.0
        if not spread:
            raise DataError(
                f"ranker {self.name}: {TEACHER} tells no candidates of the {found['queries']:,} "
                f"training queries apart, so there is nothing to learn; take {self.name} out of "
                "rank.rankers"
            )
        self.chosen = found | self._solve(lists, spread, options)
        _log.info("%s: %s", self.name, self.chosen)

    def _taught(self, data: FitData, options: FitOptions, found: dict[str, Any]) -> Iterator[_List]:
        """The teacher's lists of items with texts; what was asked is counted."""
        queries = self._queries(data, options.seed)
        options.progress.begin(len(queries), f"queries by {TEACHER}")

        def skipped(query: Query, error: Exception) -> None:
            found["unfit"] += 1
            options.progress.advance()

        # one at a time: what a stopped fit has asked until then is kept
        batches = (QueryBatch.of([query], data.catalog) for query in queries)
        teacher = self.resources.ranker(TEACHER)
        for batch, scores in score_what_fits(teacher, batches, skipped, TEACHER):
            options.progress.advance()
            found["queries"] += 1
            found["scores"] += len(batch.columns)
            rows = batch.extended(self.rows_, -1)
            history, candidates = rows[batch.histories.values], rows[batch.columns]
            there = candidates >= 0
            if there.sum() > 1:
                own = scores.scores[0, there]
                yield _List(batch.users[0], history[history >= 0], candidates[there], own)

    def _queries(self, data: FitData, seed: int) -> list[Query]:
        """Training queries, with as many candidates as there are scores for; drawn by the seed."""
        drawn = heapq.nsmallest(
            max(1, self.config.scores // LEAST),
            (
                (derive_seed(seed, "distill", case.query.id), case.query.id, case.query)
                for case in data.training()
            ),
        )
        if not drawn:
            raise ConfigError(
                f"the ranker {self.name} learns from {TEACHER}'s lists for training cases, and "
                f"there are none; raise data.train_users, or take it out of rank.rankers"
            )
        width = self.config.scores // len(drawn)
        return [_widened(query, data.catalog, width, own) for own, _, query in drawn]

    def _solve(self, lists: Sequence[_List], spread: float, options: FitOptions) -> dict[str, Any]:
        """Finds w, B and the decay; says what was chosen, and how it holds for users left out."""
        users = {one.user: derive_seed(options.seed, "folds", one.user) for one in lists}
        order = sorted(users, key=users.__getitem__)
        folds = [{*order[start::FOLDS]} for start in range(min(FOLDS, len(order)))]
        self.center_ = self.vectors_[self.rows_[self.rows_ >= 0]].mean(axis=0, dtype=np.float64)
        centred = self.vectors_ - self.center_
        there = centred[np.unique(self.rows_[self.rows_ >= 0])]
        values, basis = np.linalg.eigh(there.T @ there / len(there))
        basis = basis[:, ::-1][:, :ITEM] / np.sqrt(max(values.sum(), 1e-12))
        read = centred @ basis
        items, size = read.shape[1], min(USER, read.shape[1])
        options.progress.begin(len(DECAYS), "decays")
        tried = []
        for decay in DECAYS:
            parts = [
                _part([one for one in lists if one.user in own], read, decay, spread)
                for own in folds
            ]
            for penalty, taste in itertools.product(PENALTIES, TASTES):
                weights = np.repeat([penalty, penalty * taste], [items, size**2])
                error, agreement = _left_out(parts, weights)
                choice: dict[str, Any] = {"decay": decay, "penalty": penalty, "taste": taste}
                tried.append((error, choice | agreement, parts, weights))
            options.progress.advance()
        _, chosen, parts, weights = min(tried, key=lambda one: one[0])
        solved = _solved(parts, weights)
        if len(folds) < 2:  # nobody was left out
            chosen |= {"spearman": None, "top1": None}
        self.decay_ = chosen["decay"]
        self.weights_ = basis @ solved[:items]
        self.left_ = basis[:, :size]
        self.right_ = solved[items:].reshape(size, size) @ self.left_.T
        return {"deviation": round(spread, 4), **chosen}

    def score(self, batch: QueryBatch) -> ScoreBatch:
        """[queries, columns] products; 0 for an item without text."""
        vectors, rows = self.placed(batch)
        seen = np.split(rows[batch.histories.values], batch.histories.starts[1:-1])
        profiles = np.stack(
            [_mean(vectors[own[own >= 0]] - self.center_, self.decay_) for own in seen]
        )
        asked = self.weights_ + (profiles @ self.left_) @ self.right_
        found = self.cosines(asked, vectors, rows[batch.columns])
        found -= (asked @ self.center_)[:, None] * (rows[batch.columns] >= 0)
        how = self.chosen
        known = (
            "all of one user, so nothing says what it is worth for others; raise "
            "rank.distilled.scores or data.train_users."
            if how["spearman"] is None
            else f"for users left out its order correlates with {TEACHER}'s by "
            f"{how['spearman']:.2f} (Spearman)."
        )
        self.notes["note"] = (
            f"learned from {how['scores']:,} scores of {TEACHER} for {how['queries']:,} "
            f"quer{'y' if how['queries'] == 1 else 'ies'}; {known}"
        )
        return ScoreBatch(found)


class _Part(NamedTuple):
    """Some users' lists as a least-squares problem.

    Of each list `features` [candidates, weights] and `targets` [candidates], both less their mean;
    of all together the products `gram` [weights, weights] and `product` [weights].
    """

    features: list[Floats]
    targets: list[Floats]
    gram: Floats
    product: Floats


def _part(lists: Sequence[_List], read: Floats, decay: float, spread: float) -> _Part:
    """The lists' problem, with what is read of each vector."""
    features, targets = [], []
    size = min(USER, read.shape[1])
    for one in lists:
        own = read[one.candidates]
        user = _mean(read[one.history, :size], decay)
        taste = np.einsum("a,cb->cab", user, own[:, :size]).reshape(len(own), -1)
        whole = np.concatenate([own, taste], axis=1)
        features.append(whole - whole.mean(axis=0))
        targets.append((one.scores - one.scores.mean()) / spread)
    every = np.concatenate(features)
    return _Part(features, targets, every.T @ every, every.T @ np.concatenate(targets))


def _solved(parts: Sequence[_Part], weights: Floats) -> Floats:
    """The weights with the least squared error, each penalized by its own factor."""
    gram = np.sum([one.gram for one in parts], axis=0) + np.diag(weights)
    found: Floats = np.linalg.solve(gram, np.sum([one.product for one in parts], axis=0))
    return found


def _left_out(parts: Sequence[_Part], weights: Floats) -> tuple[float, dict[str, float]]:
    """The squared error on each part by the others, and how the orders agree there."""
    error, agreement = 0.0, []
    for part in parts:
        solved = _solved([one for one in parts if one is not part] or parts, weights)
        for features, targets in zip(part.features, part.targets, strict=True):
            own = features @ solved
            error += float(((own - targets) ** 2).sum())
            agreement.append((rank_correlation(own, targets), own.argmax() == targets.argmax()))
    correlation, first = np.mean(agreement, axis=0)
    return error, {"spearman": round(float(correlation), 4), "top1": round(float(first), 4)}


def _mean(vectors: Floats, decay: float) -> Floats:
    """[width] the decayed mean of [n, width], latest last; zeros of none."""
    if not len(vectors):
        return np.zeros(vectors.shape[1])
    weights = decay ** np.arange(len(vectors))[::-1]
    found: Floats = weights @ vectors / weights.sum()
    return found


def _widened(query: Query, catalog: Catalog, width: int, seed: int) -> Query:
    """The query with `width` candidates: its own, and sampled items that it does not name."""
    own = query.candidates[:width]
    named = {item.id for item in (*query.history.items, *query.candidates)}
    most = min(len(catalog), width - len(own) + len(named))
    drawn = np.random.default_rng(seed).choice(len(catalog), most, replace=False)
    items = (catalog.at(int(number)) for number in drawn)
    more = [item for item in items if item.id not in named]
    return replace(query, candidates=(*own, *more[: width - len(own)]))
