"""Ranks by the words or the meaning of the summary alone: how much of the user it tells."""

from __future__ import annotations

from typing import Any

import numpy as np

from trsr.rankers.base import FitData, FitOptions, Ranker
from trsr.rankers.baselines.bm25 import EXTRAS, Bm25Config, TextIndex, of_terms
from trsr.rankers.baselines.text_knn import EXTRAS as EMBEDDINGS
from trsr.rankers.baselines.text_knn import TextVectorRanker
from trsr.rankers.batch import QueryBatch, ScoreBatch
from trsr.rankers.item_text import text_vectors
from trsr.rankers.settings import Traits


class Bm25SummaryRanker(Ranker):
    """BM25 of the candidate's text for the summary's, as `bm25` asks it for the history's items.

    Every candidate of a query without a summary scores 0, as one does that shares no word with it.

    Attributes:
        terms_: The terms, by their rows.
        scores_: [terms, catalog] sparse: what a term adds.
    """

    traits = Traits(reads_summary=True, reads_text=True, extras=EXTRAS)
    config: Bm25Config
    shares = "bm25"
    terms_: list[str]
    scores_: Any

    def fit(self, data: FitData, options: FitOptions) -> None:
        """Reads the catalog's texts.

        Raises:
            ConfigError: If bm25s is not installed.
        """
        index = self._index()
        index.build(list(data.catalog))
        self.terms_ = sorted(index.terms, key=index.terms.__getitem__)
        self.scores_ = index.scores
        self.chosen = {"why": "nothing to choose"}

    def score(self, batch: QueryBatch) -> ScoreBatch:
        """[queries, columns] sums."""
        index = self._index()
        index.terms = {term: row for row, term in enumerate(self.terms_)}
        texts = ["" if one is None else one.text for one in batch.summaries]
        return ScoreBatch(of_terms(batch, index.counted(texts), self.scores_))

    def _index(self) -> TextIndex:
        return TextIndex(self.config, self.resources.settings, self.name)


class TextSummaryRanker(TextVectorRanker):
    """The cosine of the embeddings of a candidate's text and of the summary.

    Every candidate of a query without a summary scores 0, and so does one without text.
    """

    traits = Traits(reads_summary=True, reads_text=True, embeds_text=True, extras=EMBEDDINGS)

    def fit(self, data: FitData, options: FitOptions) -> None:
        """Embeds the catalog's texts; raises as `TextVectorRanker`."""
        super().fit(data, options)
        self.chosen = {"why": "nothing to choose"}

    def score(self, batch: QueryBatch) -> ScoreBatch:
        """[queries, columns] cosines."""
        vectors, rows = self.placed(batch)
        texts = ["" if one is None else one.text for one in batch.summaries]
        told = np.zeros((len(batch), vectors.shape[1]))
        if any(texts):
            told = text_vectors(texts, self.embed)
        if not vectors.shape[1]:
            return ScoreBatch(batch.blank())
        return ScoreBatch(self.cosines(told, vectors, rows[batch.columns]))
