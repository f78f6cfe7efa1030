"""Ranks by the words or the meaning of the summary alone: how much of the user it tells."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from trsr.rank.bm25 import Bm25Index
from trsr.rank.text_knn import ItemVectors, item_vectors, unit
from trsr.rank.tune import QueryRanker
from trsr.types import Query

if TYPE_CHECKING:
    from trsr.rank.base import RankContext

_REMEMBERED = 4096
"""Vectors of summaries that are kept for texts asked for again."""


class Bm25SummaryRanker(QueryRanker):
    """BM25 of the candidate's text for the summary's, as `bm25` asks it for the history's items.

    Every candidate of a query without a summary scores 0, as one does that shares no word with it.

    Args:
        index: The catalogue's texts.
    """

    chosen: Mapping[str, Any] = {"why": "nothing to choose"}

    def __init__(self, index: Bm25Index) -> None:
        self.index = index

    def scores(self, query: Query) -> Sequence[float]:
        """One score a candidate."""
        if query.summary is None:
            return [0.0] * len(query.candidates)
        of = self.index.scores(query.summary.text)
        rows = [self.index.rows.get(item.id, -1) for item in query.candidates]
        return [float(of[row]) if row >= 0 else 0.0 for row in rows]


class TextSummaryRanker(QueryRanker):
    """The cosine of the embeddings of a candidate's text and of the summary.

    Every candidate of a query without a summary scores 0, and so does one without text.

    Args:
        vectors: The items' vectors, and the model that made them.
    """

    chosen: Mapping[str, Any] = {"why": "nothing to choose"}

    def __init__(self, vectors: ItemVectors) -> None:
        self.vectors = vectors
        self._vector = functools.lru_cache(maxsize=_REMEMBERED)(self._encoded)

    def scores(self, query: Query) -> Sequence[float]:
        """One cosine a candidate."""
        if query.summary is None or not query.summary.text:
            return [0.0] * len(query.candidates)
        # one sum a row: a score must not depend on its row's place
        found = (self.vectors.of(query.candidates) * self._vector(query.summary.text)).sum(axis=1)
        return [float(score) for score in found]

    def _encoded(self, text: str) -> npt.NDArray[np.float64]:
        # alone, so that it does not depend on what else is asked
        return unit(np.asarray(self.vectors.encoder.encode([text])[0], np.float64))


def make_bm25_summary(context: RankContext) -> Bm25SummaryRanker:
    """BM25 with the summary for the query.

    Raises:
        ConfigError: If bm25s is not installed.
    """
    return Bm25SummaryRanker(Bm25Index(context.catalog, context.settings))


def make_text_summary(context: RankContext) -> TextSummaryRanker:
    """Likeness to the summary's text; raises as `item_vectors`."""
    return TextSummaryRanker(item_vectors(context))
