"""Ranks by how like a candidate's text is to the history's, by their embeddings."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Sequence
from typing import Any, Literal, Self

import numpy as np
from pydantic import Field

from trsr.rankers.base import FitData, FitOptions, Ranker, Resources
from trsr.rankers.batch import Floats, Ints, QueryBatch, ScoreBatch
from trsr.rankers.item_text import (
    DIGITS,
    Remembered,
    distinct,
    item_text,
    text_vectors,
    unit,
)
from trsr.rankers.settings import RankerConfig, Traits
from trsr.rankers.tuning import tune
from trsr.settings import Settings
from trsr.types import Item

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


_NONE = np.zeros((0, 0), np.float32)


class Vectors:
    """The catalog's different vectors and further ones behind them, without a copy of the first."""

    def __init__(self, own: Any, more: Any = _NONE) -> None:
        if len(more) and not own.size:  # no item of the catalog has a text
            own = np.zeros((0, more.shape[1]), np.float32)
        self.width = own.shape[1]
        self._own, self._more = own, more if len(more) else own[:0]

    def __getitem__(self, rows: Ints) -> Floats:
        """[rows, width] the vectors of these rows."""
        inside = rows < len(self._own)
        found = np.empty((len(rows), self.width))
        found[inside] = self._own[rows[inside]]
        found[~inside] = self._more[rows[~inside] - len(self._own)]
        return found


class _Further:
    """The vectors of items outside the catalog, each made once.

    Args:
        own: [different, width] the catalog's vectors, each once.
        text: An item's text.
        embed: Embeds texts.
    """

    def __init__(
        self, own: Any, text: Callable[[Item], str], embed: Callable[[Sequence[str]], Floats]
    ) -> None:
        self._own, self._text, self._embed = own, text, embed
        self._of_items = Remembered(self._read)

    def placed(self, items: Sequence[Item]) -> tuple[Ints, Any]:
        """Of each item its vector's row, −1 without text, and the vectors behind the catalog's."""
        first = len(self._own) if self._own.size else 0
        behind: dict[bytes, int] = {}
        rows = [
            one if isinstance(one, int) else behind.setdefault(one, first + len(behind))
            for one in self._of_items(items)
        ]
        vectors = np.frombuffer(b"".join(behind), np.float32)
        return np.array(rows, np.int64), vectors.reshape(len(behind), -1) if behind else _NONE

    def _read(self, items: Sequence[Item]) -> list[int | bytes]:
        """Of each the row of the catalog's vector that is equal, or its own; −1 without text."""
        texts = [self._text(item) for item in items]
        vectors = text_vectors(texts, self._embed).astype(np.float32)
        found: list[int | bytes] = []
        for text, vector in zip(texts, vectors, strict=True):
            own = vector.tobytes()
            row = self._places.get(hash(own), -1) if text else -1
            equal = row >= 0 and self._own[row].tobytes() == own
            found.append(row if equal or not text else own)
        return found

    @functools.cached_property
    def _places(self) -> dict[int, int]:
        """The row of each of the catalog's vectors, by the hash of its bytes."""
        return {hash(own.tobytes()): row for row, own in enumerate(self._own)}


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
        vars(self).pop("_further", None)
        texts = [item_text(item, self.resources.settings) for item in data.catalog]
        vectors, rows = distinct(text_vectors(texts, self.embed))
        self.vectors_ = vectors.astype(np.float32)
        self.rows_ = np.where([bool(text) for text in texts], rows, -1)

    def placed(self, batch: QueryBatch) -> tuple[Vectors, Ints]:
        """[different, width] vectors, and for each item of a batch its row; −1 without text."""
        if not batch.outside:
            return Vectors(self.vectors_), self.rows_
        rows, vectors = self._further.placed(batch.outside)
        return Vectors(self.vectors_, vectors), np.concatenate([self.rows_, rows])

    def vectors_of(self, items: Sequence[Item]) -> Floats:
        """[items, width] the vectors of items outside the catalog; zeros without text."""
        rows, more = self._further.placed(items)
        found = Vectors(self.vectors_, more)[np.maximum(rows, 0)]
        found[rows < 0] = 0.0
        return found

    @functools.cached_property
    def _further(self) -> _Further:
        text = functools.partial(item_text, settings=self.resources.settings)
        return _Further(self.vectors_, text, self.embed)

    def cosines(self, asked: Floats, vectors: Vectors, rows: Ints) -> Floats:
        """[asked, rows] the product of each asked vector with that of each row; 0 for row −1."""
        different, places = np.unique(rows, return_inverse=True)
        own = vectors[np.maximum(different, 0)]
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
            return [vectors[history] for history in histories]
        return [one[None] for one in self._profiles(histories, vectors)]

    def _histories(self, batch: QueryBatch, rows: Ints) -> list[Ints]:
        seen = rows[batch.histories.values]
        return [self._read(seen[start:end]) for start, end in _spans(batch)]

    def _profiles(self, histories: list[Ints], vectors: Vectors) -> Floats:
        decay = self.decay_ if self.profile_ == "decayed" else 1.0
        profiles = np.zeros((len(histories), vectors.width))
        for row, history in enumerate(histories):
            if len(history):
                weights = decay ** np.arange(len(history))
                own = vectors[history]
                profiles[row] = (weights[:, None] * own).sum(axis=0)
        return unit(profiles)

    def _read(self, seen: Ints) -> Ints:
        """The rows of the history's texts that the profile reads, latest first."""
        known = seen[seen >= 0][::-1]
        if self.profile_ == "last":
            return seen[-1:] if len(seen) and seen[-1] >= 0 else seen[:0]
        return known

    def _nearest(
        self, batch: QueryBatch, histories: list[Ints], vectors: Vectors, rows: Ints
    ) -> Floats:
        found = batch.blank()
        read = np.unique(np.concatenate(histories)) if histories else rows[:0]
        if not len(read):
            return found
        cosines = self.cosines(vectors[read], vectors, rows[batch.columns])
        for row, history in enumerate(histories):
            if len(history):
                near = np.sort(cosines[np.searchsorted(read, history)], axis=0)[-3:]
                found[row] = near.sum(axis=0) / len(near)
        return found


def _spans(batch: QueryBatch) -> list[tuple[int, int]]:
    starts = batch.histories.starts.tolist()
    return list(itertools.pairwise(starts))
