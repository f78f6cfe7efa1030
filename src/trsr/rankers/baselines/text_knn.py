"""Ranks by how like a candidate's text is to the history's, by their embeddings."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any, Literal, Self

import numpy as np
from pydantic import Field

from trsr.rankers.base import FitData, FitOptions, Ranker, Resources
from trsr.rankers.batch import Floats, Ints, QueryBatch, ScoreBatch
from trsr.rankers.item_text import DIGITS, distinct, item_text, text_vectors, unit
from trsr.rankers.settings import RankerConfig, Traits
from trsr.rankers.tuning import tune
from trsr.settings import Settings

EMBEDDINGS = (("sentence_transformers", "embeddings"),)


Profile = Literal["mean", "last", "decayed", "max3"]
DECAYS = (0.8, 0.5, 0.3, 0.9)
"""Weights of an item against the one after it to try, for the profile `decayed`."""


class TextKnnConfig(RankerConfig):
    """Likeness of item texts by their embeddings."""

    profile: tuple[Profile, ...] = Field(
        ("decayed", "mean", "last", "max3"),
        min_length=1,
        description="candidates for what a candidate is compared with: the mean of the history's "
        "embeddings, the last item's, their decayed mean, or each one (mean of the three nearest)",
    )


class TextVectorRanker(Ranker):
    """Compares a vector a query with those of item texts, by the cosine.

    Attributes:
        vectors_: [different, width] float32 unit vectors, each once.
        rows_: [catalog] the vector of an item's text; −1 where it has none.
        embed: Embeds further texts; the model is opened when one is seen.
    """

    traits = Traits(reads_text=True, embeds_text=True, extras=EMBEDDINGS)
    vectors_: Any
    rows_: Ints

    def __init__(
        self,
        config: Settings | None = None,
        resources: Resources | None = None,
        name: str = "",
    ) -> None:
        super().__init__(config, resources, name)
        self.embed: Callable[..., Floats] = self.resources.embedder()

    def fit(self, data: FitData, options: FitOptions) -> None:
        """Embeds the catalog's texts.

        Raises:
            ConfigError: If sentence-transformers is not installed.
            ModelError: If the embedding model cannot be had.
        """
        texts = [item_text(item, self.resources.settings) for item in data.catalog]
        vectors, rows = distinct(text_vectors(texts, self.embed))
        self.vectors_ = vectors.astype(np.float32)
        self.rows_ = np.where([bool(text) for text in texts], rows, -1)

    def placed(self, batch: QueryBatch) -> tuple[Floats, Ints]:
        """[different, width] vectors, and for each item of a batch its row; −1 without text."""
        if not batch.outside:
            return self.vectors_, self.rows_
        texts = [item_text(item, self.resources.settings) for item in batch.outside]
        more = text_vectors(texts, self.embed)
        if not more.shape[1]:  # none of them has a text
            return self.vectors_, np.concatenate([self.rows_, np.full(len(texts), -1)])
        own = self.vectors_ if self.vectors_.size else np.zeros((0, more.shape[1]))
        # an outside item may have the text of one inside: equal vectors are one row
        vectors, rows = distinct(np.concatenate([own, more]).astype(np.float64))
        inside = np.where(self.rows_ >= 0, rows[self.rows_], -1)
        outside = np.where([bool(text) for text in texts], rows[len(own) :], -1)
        return vectors, np.concatenate([inside, outside])

    def cosines(self, asked: Floats, vectors: Floats, rows: Ints) -> Floats:
        """[asked, rows] the product of each asked vector with that of each row; 0 for row −1."""
        different, places = np.unique(rows, return_inverse=True)
        own = vectors[np.maximum(different, 0)].astype(np.float64)
        found = np.round(asked @ own.T, DIGITS) + 0.0  # no −0
        found[:, different < 0] = 0.0
        return found[:, places]


class TextKnnRanker(TextVectorRanker):
    """The cosine of a candidate's text and a profile of the history's texts.

    Harte et al., "Leveraging large language models for sequential recommendation" (RecSys 2023),
    LLMSeqSim. Profiles, of the unit vectors of the history's items that have text: `mean`; `last`,
    that of the history's latest item; `decayed`, Σ decayᵃ vector, a = 0 for the latest. `max3` has
    no profile: it is the mean cosine of the three history items nearest to the candidate, or of
    all where there are fewer.

    Equal texts tie. A candidate without text, and every candidate of a history without text,
    scores 0. Items outside the catalog are embedded when they are seen.

    Attributes:
        profile_: mean, last, decayed or max3.
        decay_: For `decayed`: an item's weight against the one after it.
    """

    traits = Traits(tuned=True, reads_text=True, embeds_text=True, extras=EMBEDDINGS)
    config: TextKnnConfig
    profile_: str
    decay_: float

    def fit(self, data: FitData, options: FitOptions) -> None:
        """Embeds the catalog's texts; the profile is tuned on the validation cases."""
        super().fit(data, options)
        settings: list[dict[str, Any]] = []
        for profile in self.config.profile:
            decays = DECAYS if profile == "decayed" else ()
            settings += [{"profile": profile, "decay": decay} for decay in decays]
            settings += [] if decays else [{"profile": profile}]
        tune(self, data, options, settings, self.with_profile)

    def with_profile(self, profile: str, decay: float = 1.0) -> Self:
        """The same with another profile."""
        return self.altered(profile_=profile, decay_=decay)

    def score(self, batch: QueryBatch) -> ScoreBatch:
        """[queries, columns] cosines."""
        vectors, rows = self.placed(batch)
        histories = self._histories(batch, rows)
        if self.profile_ == "max3":
            return ScoreBatch(self._nearest(batch, histories, vectors, rows))
        profiles = self._profiles(histories, vectors)
        return ScoreBatch(self.cosines(profiles, vectors, rows[batch.columns]))

    def asked(self, batch: QueryBatch) -> list[Floats]:
        """For each query the unit vectors, [any, width], that its candidates are compared with.

        A candidate's score is the mean of its three largest products with them.
        """
        vectors, rows = self.placed(batch)
        histories = self._histories(batch, rows)
        if self.profile_ == "max3":
            return [vectors[history].astype(np.float64) for history in histories]
        return [one[None] for one in self._profiles(histories, vectors)]

    def _histories(self, batch: QueryBatch, rows: Ints) -> list[Ints]:
        seen = rows[batch.histories.values]
        return [self._read(seen[start:end]) for start, end in _spans(batch)]

    def _profiles(self, histories: list[Ints], vectors: Floats) -> Floats:
        decay = self.decay_ if self.profile_ == "decayed" else 1.0
        profiles = np.zeros((len(histories), vectors.shape[1]))
        for row, history in enumerate(histories):
            if len(history):
                weights = decay ** np.arange(len(history))
                own = vectors[history].astype(np.float64)
                profiles[row] = (weights[:, None] * own).sum(axis=0)
        return unit(profiles)

    def _read(self, seen: Ints) -> Ints:
        """The rows of the history's texts that the profile reads, latest first."""
        known = seen[seen >= 0][::-1]
        if self.profile_ == "last":
            return seen[-1:] if len(seen) and seen[-1] >= 0 else seen[:0]
        return known

    def _nearest(
        self, batch: QueryBatch, histories: list[Ints], vectors: Floats, rows: Ints
    ) -> Floats:
        found = batch.blank()
        read = np.unique(np.concatenate(histories)) if histories else rows[:0]
        if not len(read):
            return found
        cosines = self.cosines(vectors[read].astype(np.float64), vectors, rows[batch.columns])
        for row, history in enumerate(histories):
            if len(history):
                near = np.sort(cosines[np.searchsorted(read, history)], axis=0)[-3:]
                found[row] = near.sum(axis=0) / len(near)
        return found


def _spans(batch: QueryBatch) -> list[tuple[int, int]]:
    starts = batch.histories.starts.tolist()
    return list(itertools.pairwise(starts))
