"""The trained model's prior: a cheap ranker's score that is added to the model's own."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from trsr.errors import ConfigError, DataError, StoreError
from trsr.rank.base import checked, make_ranker
from trsr.rank.blend import Examples, standardized
from trsr.rank.tune import validation_cases
from trsr.settings import derive_seed
from trsr.types import Query, RankedList

if TYPE_CHECKING:
    from trsr.rank.base import RankContext, Ranker

FILE = "prior.json"
"""Stands in the adapter's folder: who has the adapter knows what it was trained beside."""

MOST = 20.0
"""The largest weight that is learned: only a prior without a mistake asks for more."""


@dataclass(frozen=True)
class Prior:
    """What is added to the trained model's score: weight · the ranker's standardized score.

    Attributes:
        ranker: The cheap ranker's name.
        weight: Any finite number; learned ones are within ±`MOST`.
    """

    ranker: str
    weight: float

    def write(self, adapter: Path) -> None:
        """Writes it beside the weights of an adapter."""
        (adapter / FILE).write_text(json.dumps(dataclasses.asdict(self), indent=1), "utf-8")

    @classmethod
    def read(cls, adapter: Path | None) -> Prior | None:
        """The prior that an adapter was trained with; None where it has none.

        Raises:
            StoreError: If the file is not one that `write` wrote.
        """
        if adapter is None or not (adapter / FILE).is_file():
            return None
        try:
            value = json.loads((adapter / FILE).read_text("utf-8"))
            return cls(str(value["ranker"]), float(value["weight"]))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise StoreError(f"{adapter / FILE}: not a prior ({error}); train again") from error


class PriorRanker:
    """Scores a candidate by another ranker's score plus weight · the prior's standardized one.

    The prior's scores are standardized within the query, as the blend's are. Where it cannot tell
    the candidates apart it adds 0, and the other ranker decides alone.

    Args:
        ranker: Whose scores are added to; the model's, as they are.
        prior: The cheap ranker.
        weight: What its standardized score is multiplied by.
        queries_per_batch: How many queries go to both together.
        chosen: What is told of the prior in the manifest.
        name: The prior's, for messages; left out: its class's.
    """

    def __init__(
        self,
        ranker: Ranker,
        prior: Ranker,
        weight: float,
        queries_per_batch: int = 8,
        chosen: Mapping[str, Any] | None = None,
        name: str = "",
    ) -> None:
        self.ranker = ranker
        self.prior = prior
        self.weight = weight
        self.queries_per_batch = queries_per_batch
        self.chosen = dict(chosen or {"prior_weight": weight})
        self.name = name

    def rank(self, queries: Iterable[Query]) -> Iterator[RankedList]:
        """Yields one list a query, in their order; reads at most one batch ahead.

        Raises:
            PromptError: If the other ranker cannot be asked.
            DataError: If one of them does not rank just the candidates of each query.
        """
        source = iter(queries)
        while batch := list(islice(source, self.queries_per_batch)):
            lists = checked(self.ranker, batch), checked(self.prior, batch, self.name)
            for query, ranked, cheap in zip(batch, *lists, strict=True):
                own = {entry.item: entry.score for entry in ranked}
                added = standardized(cheap)
                yield RankedList.of(
                    query,
                    [own[item.id] + self.weight * added[item.id] for item in query.candidates],
                )


def with_prior(ranker: Ranker, prior: Prior, context: RankContext) -> PriorRanker:
    """The trained model's ranker with the prior that it was trained beside."""
    cheap = make_ranker(prior.ranker, context)
    chosen: dict[str, Any] = {"prior": prior.ranker, "prior_weight": prior.weight}
    if hasattr(cheap, "chosen"):
        chosen["prior_chosen"] = dict(cheap.chosen)
    size = context.queries_per_batch
    return PriorRanker(ranker, cheap, prior.weight, size, chosen, prior.ranker)


def check_cases(count: int) -> None:
    """Refuses to learn a weight on no validation cases.

    Raises:
        ConfigError: If there are none.
    """
    if not count:
        raise ConfigError(
            "train.prior_weight: 0 has the weight learned on validation cases, and there are none: "
            "make some (data.split, data.valid_cases), or give a weight"
        )


def learned_weight(ranker: Ranker, context: RankContext, name: str = "") -> tuple[float, str]:
    """The weight with which the prior alone makes the validation answers likeliest, and on what.

    The likelihood is that of the answers under the softmax of weight · standardized score over
    each query's candidates: the listwise loss of a model that says the same of every candidate.

    Raises:
        ConfigError: If there are no validation cases.
    """
    cases = validation_cases(context)
    check_cases(len(cases))
    ranked = checked(ranker, (case.query for case in cases), name)
    lists = {one.query: one for one in ranked}
    weight = likeliest_weight(Examples.of(cases, [lists]))
    return weight, f"likeliest on {len(cases)} validation cases"


def likeliest_weight(examples: Examples) -> float:
    """The weight, to 4 decimals, with the least loss; the loss is convex, so halving finds it.

    Args:
        examples: Of one ranker.

    Returns:
        Within ±`MOST`; 0 where the scores tell nothing apart.
    """
    low, high = -MOST, MOST
    while high - low > 1e-6:
        middle = (low + high) / 2
        slope = float(examples.loss(np.array([middle]))[1][0])
        if slope == 0:
            return round(middle, 4)
        low, high = (low, middle) if slope > 0 else (middle, high)
    return round((low + high) / 2, 4)


def cross_fitted(
    name: str, context: RankContext, queries: Sequence[Query], folds: int
) -> dict[str, tuple[float, ...]]:
    """The prior's standardized scores of training queries, by rankers that never met their users.

    A training target is one of the interactions that rankers are fitted on. Fitted on all of them,
    the prior would know the training answers, and the model would learn to trust it more than it
    may when ranking, where no ranker has met the target. So the training users are parted by lot,
    and each part is scored by a ranker that was fitted, tuned and stopped without anything of its
    users: no later event of a user, and no answer, has a say in that user's scores. What other
    users did later still has one, as in ranking where the data is not split by time.

    Args:
        name: The ranker.
        context: What a ranker of the run is fitted on.
        queries: The training queries, without their answers.
        folds: Parts; at most one a user.

    Returns:
        Query id → one score a candidate, in the query's order.

    Raises:
        DataError: If nothing is left to fit on without a part, or the ranker does not rank just
            the candidates of each query.
    """
    users = sorted(
        {query.history.user for query in queries},
        key=lambda user: derive_seed(context.seed, "prior folds", user),
    )
    parts = [set(users[first::folds]) for first in range(min(folds, len(users)))]
    found: dict[str, tuple[float, ...]] = {}
    for part in parts:
        ranker = make_ranker(name, without(part, context))
        asked = [query for query in queries if query.history.user in part]
        context.progress.begin(len(asked), f"training queries by {name}")
        for query, ranked in zip(asked, checked(ranker, asked, name), strict=True):
            scores = standardized(ranked)
            found[query.id] = tuple(scores[item.id] for item in query.candidates)
            context.progress.advance()
    return found


def without(users: Collection[str], context: RankContext) -> RankContext:
    """What a ranker is fitted on when nothing of these users is.

    Raises:
        DataError: If no interaction is left.
    """
    others = context.interactions.filter(~pl.col("user").is_in(sorted(users)))
    if others.is_empty():
        raise DataError(
            f"train.prior: without the interactions of {len(users)} training users none is left to "
            "fit the prior on; raise train.prior_folds, or leave train.prior empty"
        )
    return dataclasses.replace(
        context,
        interactions=others,
        training=lambda: (c for c in context.training() if c.query.history.user not in users),
        validation=lambda: (c for c in context.validation() if c.query.history.user not in users),
        kept={},
    )
