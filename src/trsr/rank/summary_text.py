"""Ranks by the words or the meaning of the summary alone: how much of the user it tells."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from trsr.llm.embeddings import Encoder, SentenceEncoder, embed
from trsr.rank.bm25 import Bm25Index
from trsr.rank.text_knn import ItemVectors, unit
from trsr.rank.tune import QueryRanker
from trsr.types import Query, RankedList

if TYPE_CHECKING:
    from trsr.rank.base import RankContext

_TOGETHER = 2048
"""Queries whose summaries are embedded in one call."""


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


class TextSummaryRanker:
    """The cosine of the embeddings of a candidate's text and of the summary.

    Every candidate of a query without a summary scores 0, and so does one without text.

    Args:
        vectors: The items' vectors.
        encoder: The model that made them.
    """

    chosen: Mapping[str, Any] = {"why": "nothing to choose"}

    def __init__(self, vectors: ItemVectors, encoder: Encoder) -> None:
        self.vectors = vectors
        self.encoder = encoder

    def rank(self, queries: Iterable[Query]) -> Iterator[RankedList]:
        """Yields one list a query, in their order."""
        source = iter(queries)
        while batch := list(itertools.islice(source, _TOGETHER)):
            texts = {query.id: query.summary.text for query in batch if query.summary}
            found = embed((text for text in texts.values() if text), self.encoder)
            for query in batch:
                vector = found.get(texts.get(query.id, ""))
                scores = np.zeros(len(query.candidates))
                if vector is not None:
                    summary = unit(np.asarray(vector, np.float64))
                    # one sum a row: a score must not depend on its row's place
                    scores = (self.vectors.of(query.candidates) * summary).sum(axis=1)
                yield RankedList.of(query, [float(score) for score in scores])


def make_bm25_summary(context: RankContext) -> Bm25SummaryRanker:
    """BM25 with the summary for the query.

    Raises:
        ConfigError: If bm25s is not installed.
    """
    return Bm25SummaryRanker(Bm25Index(context.catalog, context.settings))


def make_text_summary(context: RankContext) -> TextSummaryRanker:
    """Likeness to the summary's text.

    Raises:
        ConfigError: If sentence-transformers is not installed.
        ModelError: If the embedding model cannot be had.
    """
    settings = context.settings
    encoder = SentenceEncoder(settings.text_model, context.progress)
    vectors = ItemVectors(context.catalog, encoder, settings, context.progress)
    return TextSummaryRanker(vectors, encoder)
