"""Ranks by a weighted sum of other rankers' scores, its weights learned on validation cases."""

from __future__ import annotations

import functools
import itertools
import math
import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from pydantic import Field

from trsr.errors import ConfigError, DataError
from trsr.progress import Progress
from trsr.rankers.base import FitData, FitOptions, Part, Ranker, score_what_fits, scored
from trsr.rankers.batch import Floats, QueryBatch, ScoreBatch, batched
from trsr.rankers.settings import RankerConfig, Traits
from trsr.rankers.tuning import validation_cases
from trsr.registry import optional
from trsr.settings import derive_seed
from trsr.types import Case

Array = Floats

FOLDS = 5
"""Of the cross-validation over validation users."""


L2 = (0.01, 0.001, 0.1, 1.0)
"""Penalties on the weights to try, by cross-validation over validation users."""


class BlendConfig(RankerConfig):
    """A weighted sum of other rankers' scores."""

    members: tuple[str, ...] = Field(
        ("popular_recent", "item_knn", "bm25"),
        min_length=1,
        description="the rankers whose scores are added, with weights learned on the validation "
        "cases",
    )


def standardized(scores: Array) -> Array:
    """(score − mean) / standard deviation over a query's candidates; 0 where all tie.

    Args:
        scores: [candidates] finite numbers, in an order that does not depend on the query's.
    """
    mean = scores.sum() / len(scores)
    spread = math.sqrt(((scores - mean) ** 2).sum() / len(scores))
    # a spread of rounding errors alone tells nothing apart
    if spread <= 1e-12 * np.abs(scores).max():
        return np.zeros(len(scores))
    found: Array = (scores - mean) / spread
    return found


def standardized_batch(batch: QueryBatch, found: ScoreBatch) -> Array:
    """[queries, columns] standardized scores of each query's candidates; 0 elsewhere.

    Raises:
        DataError: If a score is infinite.
    """
    result = batch.blank()
    for row, query in enumerate(batch.ids):
        places = batch.places[row] if batch.full else np.sort(batch.places[row])
        own = found.scores[row, places]
        if np.isinf(own).any():
            raise DataError(
                f"query {query}: a score is infinite, which cannot be added to other scores; a "
                "blend's member must score by finite numbers"
            )
        result[row, places] = standardized(own)
    return result


@dataclass(frozen=True)
class Examples:
    """Standardized scores of validation cases, padded to the longest candidate list.

    Attributes:
        scores: Shape (cases, candidates, members); 0 where padded.
        relevant: Each case's answer as a distribution, shape (cases, candidates).
        real: Whether there is a candidate, same shape.
        users: Each case's user, for folds that no user is on both sides of.
    """

    scores: Array
    relevant: Array
    real: npt.NDArray[np.bool_]
    users: Sequence[str]

    @classmethod
    def of(cls, cases: Sequence[Case], scores: Sequence[Mapping[str, Array]]) -> Examples:
        """Of cases and, a member each, the candidates' standardized scores by query id."""
        widest = max(len(case.query.candidates) for case in cases)
        found = np.zeros((len(cases), widest, len(scores)))
        relevant = np.zeros((len(cases), widest))
        real = np.zeros((len(cases), widest), np.bool_)
        for row, case in enumerate(cases):
            ids = [item.id for item in case.query.candidates]
            real[row, : len(ids)] = True
            relevant[row, : len(ids)] = [(i in case.relevant) / len(case.relevant) for i in ids]
            for member, own in enumerate(scores):
                found[row, : len(ids), member] = own[case.query.id]
        return cls(found, relevant, real, [case.query.history.user for case in cases])

    def __getitem__(self, rows: npt.NDArray[np.bool_]) -> Examples:
        users = list(itertools.compress(self.users, rows))
        return Examples(self.scores[rows], self.relevant[rows], self.real[rows], users)

    def loss(self, weights: Array) -> tuple[float, Array]:
        """Mean listwise cross-entropy and its gradient: softmax of the sums over the candidates.

        McFadden's conditional logit (1974); the list loss of Cao et al. (ICML 2007) for one
        relevant item.
        """
        sums = np.where(self.real, self.scores @ weights, -np.inf)
        sums -= sums.max(axis=1, keepdims=True)
        chances = np.exp(sums)
        chances /= chances.sum(axis=1, keepdims=True)
        logs = np.log(np.where(self.relevant > 0, chances, 1.0).clip(1e-300))
        gradient = np.einsum("qc,qcm->m", chances - self.relevant, self.scores)
        return -float((self.relevant * logs).sum()) / len(sums), gradient / len(sums)


def fit_weights(examples: Examples, l2: float) -> Array:
    """The weights with the least loss + l2/2 · ‖weights‖²; the problem is convex."""
    optimize = optional("scipy.optimize", "baselines", "the ranker blend")

    def objective(weights: Array) -> tuple[float, Array]:
        loss, gradient = examples.loss(weights)
        return loss + l2 / 2 * float(weights @ weights), gradient + l2 * weights

    start = np.zeros(examples.scores.shape[2])
    found: Array = optimize.minimize(objective, start, jac=True, method="L-BFGS-B").x
    return found


def choose_l2(examples: Examples, options: Sequence[float], folds: int, seed: int) -> float:
    """The penalty with the least loss on users left out, over folds drawn by user and seed.

    The first option where there is nothing to choose, or fewer users than two.
    """
    users = sorted(set(examples.users), key=lambda user: derive_seed(seed, "blend folds", user))
    folds = min(folds, len(users))
    if len(options) == 1 or folds < 2:
        return options[0]
    fold_of = {user: place % folds for place, user in enumerate(users)}
    fold = np.array([fold_of[user] for user in examples.users])

    def left_out(l2: float) -> float:
        return math.fsum(
            examples[fold == n].loss(fit_weights(examples[fold != n], l2))[0] * sum(fold == n)
            for n in range(folds)
        )

    losses = [left_out(l2) for l2 in options]
    return options[losses.index(min(losses))]


class BlendRanker(Ranker):
    """Σ weight · standardized score over the members; a weight may be negative.

    Scores are standardized a query and a member; a query whose candidates a member cannot tell
    apart gets 0 from it. Candidates that tie for every member tie.

    Attributes:
        weights_: One a member, by its name.
    """

    traits = Traits(learns_weights=True, extras=(("scipy", "baselines"),))
    config: BlendConfig
    weights_: dict[str, float]

    @classmethod
    def members(cls, config: BlendConfig) -> tuple[str, ...]:
        """The rankers whose scores are added."""
        return config.members

    @property
    def batch_size(self) -> int:
        """The least of its members'."""
        return min(self.resources.ranker(name).batch_size for name in self.config.members)

    def fit(self, data: FitData, options: FitOptions) -> None:
        """Learns the weights on the validation cases.

        Each member scores each validation case once. Cases that some member cannot be asked about
        are left out and counted.

        Raises:
            ConfigError: If there are no validation cases.
            DataError: If a member's score is not a finite number.
        """
        cases = validation_cases(data, options)
        check_cases(len(cases))
        found = [self._asked(name, cases, options.progress) for name in self.config.members]
        whole = [case for case in cases if all(case.query.id in one for one in found)]
        if not whole:
            raise ConfigError(
                "the ranker blend: no validation case fits the context of all members"
            )
        examples = Examples.of(whole, found)
        l2 = choose_l2(examples, L2, FOLDS, options.seed)
        weights = fit_weights(examples, l2)
        self.weights_ = {
            name: float(weight) for name, weight in zip(self.config.members, weights, strict=True)
        }
        self.chosen = {
            "weights": {name: round(weight, 4) for name, weight in self.weights_.items()},
            "l2": l2,
            "why": f"least loss on {len(whole)} validation cases",
            "unfit": len(cases) - len(whole),
        }

    def _asked(self, name: str, cases: Sequence[Case], progress: Progress) -> dict[str, Array]:
        """A member's standardized scores of the cases' candidates, by query id."""
        ranker = self.resources.ranker(name)
        progress.begin(len(cases), f"validation queries by {name}")
        found = {}
        batches = batched((case.query for case in cases), self.resources.catalog, ranker.batch_size)
        for batch, scores in score_what_fits(ranker, batches, lambda query, error: None, name):
            own = standardized_batch(batch, scores)
            for row, query in enumerate(batch.ids):
                found[query] = own[row, batch.places[row]]
            progress.advance(len(batch))
        return found

    def score(self, batch: QueryBatch) -> ScoreBatch:
        """[queries, columns] sums.

        Raises:
            PromptError: If a member that is a language model cannot be asked.
            DataError: If a member's score is not a finite number.
        """
        return ScoreBatch(sum_of(self.parts(batch)))

    def parts(self, batch: QueryBatch) -> dict[str, Part]:
        """What each member adds, and its own scores; raises as `score` does."""
        found = {}
        for name, weight in self.weights_.items():
            own = scored(self.resources.ranker(name), batch, name)
            found[name] = Part(weight * standardized_batch(batch, own), own.scores)
        return found


def sum_of(parts: Mapping[str, Part]) -> Floats:
    """[queries, columns] the scores of a blend, from what its members add."""
    return functools.reduce(operator.add, [part.added for part in parts.values()])


def check_cases(count: int) -> None:
    """Refuses to learn on no validation cases.

    Raises:
        ConfigError: If there are none.
    """
    if not count:
        raise ConfigError(
            "the ranker blend learns its weights on validation cases, and there are none: make "
            "some (data.split, data.valid_cases), or leave blend out of rank.rankers"
        )
