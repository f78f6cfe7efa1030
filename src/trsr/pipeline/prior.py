"""The prior in the stage of training: fits it, weighs it, and gives its part of every score."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from trsr.config import Config
from trsr.data import Dataset
from trsr.errors import ConfigError
from trsr.llm import ScoringModel
from trsr.progress import Progress
from trsr.prompts import PromptWriter
from trsr.rank import Ranker, make_ranker
from trsr.rank.prior import Prior, PriorRanker, cross_fitted, learned_weight
from trsr.rank.settings import TRAINED, RankSettings
from trsr.recommender import rank_context


@dataclass(frozen=True)
class TrainingPrior:
    """What training needs of a prior.

    Attributes:
        prior: The ranker's name and weight, which go with the adapter.
        ranker: The ranker, fitted as in ranking; for validation.
        added: Training query id → what is added to each candidate's score.
        info: For the manifest.
    """

    prior: Prior
    ranker: Ranker
    added: Mapping[str, tuple[float, ...]]
    info: Mapping[str, Any]

    def beside(self, ranker: Ranker) -> Ranker:
        """The model's ranker with the prior, for a validation."""
        return PriorRanker(ranker, self.ranker, self.prior.weight, name=self.prior.ranker)


def training_prior(config: Config, dataset: Dataset, progress: Progress) -> TrainingPrior | None:
    """Fits the prior of `train.prior`; None where there is none.

    Validation cases are scored as test cases will be, by a ranker fitted on all interactions for
    fitting, none of which is later than a held-out target of its user. Training cases are scored
    by rankers that were fitted without their users (`cross_fitted`).

    Raises:
        ConfigError: If the ranker needs a language model, or its weight is to be learned and there
            are no validation cases.
        DataError: If there are too few interactions to fit it on.
    """
    name = config.train.prior
    if not name:
        return None

    def no_model(tuned: bool) -> tuple[ScoringModel, PromptWriter]:
        raise ConfigError(f"train.prior: {name} asks a language model; name a cheap ranker")

    context = rank_context(
        config,
        dataset,
        no_model,
        validation=lambda: dataset.cases("valid"),
        progress=progress,
    )
    ranker = make_ranker(name, context)
    weight, why = config.train.prior_weight, "given"
    if not weight:
        weight, why = learned_weight(ranker, context, name)
    queries = list(dataset.cases("train").queries())
    scores = cross_fitted(name, context, queries, config.train.prior_folds)
    added = {query: tuple(weight * one for one in own) for query, own in scores.items()}
    info = {"ranker": name, "weight": weight, "why": why, "folds": config.train.prior_folds}
    return TrainingPrior(Prior(name, weight), ranker, added, info)


def prior_settings(config: Config) -> dict[str, Any]:
    """What the prior's scores and its learned weight depend on; empty without one."""
    if not config.train.prior or not TRAINED & set(config.rank.used):
        return {}
    rank = config.rank.only(config.train.prior)
    drawn = {"seed": config.train_seed} if draws_apart(config, rank) else {}
    return {"prior": rank.meaning() | {"tune_cases": config.rank.tune_cases} | drawn}


def draws_apart(config: Config, rank: RankSettings) -> bool:
    """Whether rankers are trained by other draws than run.seed's, on which all depends anyway."""
    return bool(rank.learning) and config.train_seed != config.run.seed


def prior_reads(config: Config) -> tuple[str, ...]:
    """The files that training reads for the prior's sake."""
    return ("interactions.parquet",) if prior_settings(config) else ()
