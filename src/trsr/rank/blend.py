"""Ranks by a weighted sum of other rankers' scores, its weights learned on validation cases."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from trsr.errors import ConfigError, DataError
from trsr.plugins import near, optional
from trsr.rank.base import checked, make_ranker, rank_what_fits
from trsr.rank.tune import validation_cases
from trsr.settings import derive_seed
from trsr.types import Case, Query, RankedList

if TYPE_CHECKING:
    from trsr.rank.base import RankContext, Ranker

Array = npt.NDArray[np.float64]


def standardized(ranked: RankedList) -> dict[str, float]:
    """Each item's (score − mean) / standard deviation over a query's candidates; 0 where all tie.

    The sums are exact, so the order of the candidates changes nothing.

    Raises:
        DataError: If a score is infinite.
    """
    scores = [entry.score for entry in ranked]
    if not (math.isfinite(scores[0]) and math.isfinite(scores[-1])):  # sorted: the rest lie between
        raise DataError(
            f"query {ranked.query}: a score is infinite, which cannot be added to other scores; a "
            "blend's member must score by finite numbers"
        )
    mean = math.fsum(scores) / len(scores)
    spread = math.sqrt(math.fsum((score - mean) ** 2 for score in scores) / len(scores))
    # a spread of rounding errors alone tells nothing apart
    if spread <= 1e-12 * max(abs(score) for score in scores):
        return dict.fromkeys((entry.item for entry in ranked), 0.0)
    return {entry.item: (entry.score - mean) / spread for entry in ranked}


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
    def of(cls, cases: Sequence[Case], lists: Sequence[Mapping[str, RankedList]]) -> Examples:
        """Of cases and, a member each, the lists of their queries by query id."""
        widest = max(len(case.query.candidates) for case in cases)
        scores = np.zeros((len(cases), widest, len(lists)))
        relevant = np.zeros((len(cases), widest))
        real = np.zeros((len(cases), widest), np.bool_)
        for row, case in enumerate(cases):
            ids = [item.id for item in case.query.candidates]
            real[row, : len(ids)] = True
            relevant[row, : len(ids)] = [(i in case.relevant) / len(case.relevant) for i in ids]
            for member, found in enumerate(lists):
                of = standardized(found[case.query.id])
                scores[row, : len(ids), member] = [of[i] for i in ids]
        return cls(scores, relevant, real, [case.query.history.user for case in cases])

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


class BlendRanker:
    """Σ weight · standardized score over the members; a weight may be negative.

    Scores are standardized a query and a member; a query whose candidates a member cannot tell
    apart gets 0 from it. Candidates that tie for every member tie.

    Args:
        members: The rankers by name.
        weights: One each.
        queries_per_batch: How many queries go to the members together.
        chosen: Weights and how they were found, for the manifest.
    """

    def __init__(
        self,
        members: Mapping[str, Ranker],
        weights: Mapping[str, float],
        queries_per_batch: int = 8,
        chosen: Mapping[str, Any] | None = None,
    ) -> None:
        self.members = members
        self.weights = weights
        self.queries_per_batch = queries_per_batch
        self.chosen = dict(chosen or {"weights": dict(weights)})

    def rank(self, queries: Iterable[Query]) -> Iterator[RankedList]:
        """Yields one list a query, in their order.

        Raises:
            PromptError: If a member that is a language model cannot be asked.
            DataError: If a member does not rank just the candidates of each query.
        """
        source = iter(queries)
        while batch := list(itertools.islice(source, self.queries_per_batch)):
            found = {name: list(checked(one, batch, name)) for name, one in self.members.items()}
            for place, query in enumerate(batch):
                of = {name: standardized(lists[place]) for name, lists in found.items()}
                yield RankedList.of(
                    query,
                    [
                        sum(self.weights[name] * of[name][item.id] for name in self.members)
                        for item in query.candidates
                    ],
                )


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


def make_blend(context: RankContext) -> BlendRanker:
    """The blend of `rank.blend`, its weights fitted on the validation cases.

    Each member scores each validation case once. Cases that some member cannot be asked about are
    left out and counted.

    Raises:
        ConfigError: If a member does not exist or there are no validation cases.
        DataError: If a member does not rank just the candidates of each query.
    """
    settings = context.settings
    for name in settings.blend:
        others = [one for one in settings.names if one != "blend"]
        if name not in others:
            raise ConfigError(f"rank.blend: there is no member {name!r}{near(name, others)}")
    cases = validation_cases(context)
    check_cases(len(cases))
    members = {name: make_ranker(name, context) for name in settings.blend}
    lists = [_scored(name, one, cases, context) for name, one in members.items()]
    whole = [case for case in cases if all(case.query.id in found for found in lists)]
    if not whole:
        raise ConfigError("the ranker blend: no validation case fits the context of all members")
    examples = Examples.of(whole, lists)
    l2 = choose_l2(examples, settings.blend_l2, settings.blend_folds, context.seed)
    found = fit_weights(examples, l2)
    weights = {name: float(weight) for name, weight in zip(members, found, strict=True)}
    chosen = {
        "weights": {name: round(weight, 4) for name, weight in weights.items()},
        "l2": l2,
        "why": f"least loss on {len(whole)} validation cases",
        "unfit": len(cases) - len(whole),
    }
    return BlendRanker(members, weights, context.queries_per_batch, chosen)


def _scored(
    name: str, ranker: Ranker, cases: Sequence[Case], context: RankContext
) -> dict[str, RankedList]:
    """The ranker's lists of the cases' queries, by query id."""
    context.progress.begin(len(cases), f"validation queries by {name}")
    found = {}
    queries = (case.query for case in cases)
    for ranked in rank_what_fits(ranker, queries, lambda query, error: None, name):
        found[ranked.query] = ranked
        context.progress.advance()
    return found
