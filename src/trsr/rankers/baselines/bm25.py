"""Ranks by BM25: the history's texts are the query, the candidates' texts the documents."""

from __future__ import annotations

import functools
import itertools
import math
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple, Self

import numpy as np

from trsr.rankers.base import FitData, FitOptions, Part, Ranker
from trsr.rankers.batch import Floats, Ints, QueryBatch, ScoreBatch
from trsr.rankers.item_text import Remembered, item_text
from trsr.rankers.settings import RankSettings, Traits
from trsr.rankers.tuning import tune
from trsr.registry import optional
from trsr.types import Item

EXTRAS = (("bm25s", "baselines"), ("scipy", "baselines"))


K1, B = 1.5, 0.75
"""How fast repeated terms saturate, and how far long texts are held back."""


class _Counts(NamedTuple):
    """How often each known term stands in a text, and how many words that has."""

    rows: Ints
    values: Floats
    words: int


class TextIndex:
    """The catalog's texts as one index (bm25s, the Lucene variant of BM25).

    Robertson and Zaragoza, "The probabilistic relevance framework: BM25 and beyond" (2009), with
    the never negative idf log(1 + (N − n + ½)/(n + ½)).

    Attributes:
        terms: Term → its row in `scores`.
        scores: [terms, catalog] sparse: what a term adds to the score of an item's text.

    Raises:
        ConfigError: If bm25s is not installed.
    """

    def __init__(self, settings: RankSettings, ranker: str) -> None:
        self._settings = settings
        self._library = optional("bm25s", "baselines", f"the ranker {ranker}")
        self._sparse = optional("scipy.sparse", "baselines", f"the ranker {ranker}")
        self.terms: dict[str, int] = {}
        self.scores: Any = None
        self._of_items = Remembered(lambda items: self._read([self.text(item) for item in items]))

    def build(self, items: Sequence[Item]) -> None:
        """Reads the catalog's texts."""
        tokens = self._tokens([self.text(item) for item in items])
        self.terms = {}
        self.scores = self._sparse.csr_array((0, len(items)))
        if not any(tokens):
            return
        # float64, so that equal texts have equal scores whatever was added to them before
        index = self._library.BM25(method="lucene", k1=K1, b=B, dtype="float64")
        index.index(tokens, show_progress=False)
        parts = tuple(index.scores[key] for key in ("data", "indices", "indptr"))
        shape = (len(items), len(parts[2]) - 1)
        # columns of terms there, rows of terms here; in an order that no hash decides
        rows = {str(term): row for term, row in index.vocab_dict.items() if row < shape[1]}
        columns = self._sparse.csc_array(parts, shape=shape)
        self.scores = columns.T.tocsr()[[rows[term] for term in sorted(rows)]]
        self.terms = {term: row for row, term in enumerate(sorted(rows))}

    def text(self, item: Item) -> str:
        """What an item's text is, in the catalog or not."""
        return item_text(item, self._settings)

    def counted(self, texts: Sequence[str]) -> Any:
        """[texts, terms] sparse: how often each known term stands in each text."""
        return self._counts(self._read(texts))

    def of_items(self, items: Sequence[Item]) -> tuple[Any, Ints]:
        """What `counted` gives of items' texts, and how many words each has."""
        found = self._of_items(items)
        return self._counts(found), np.array([one.words for one in found], np.int64)

    def added(self, counts: Any, words: Ints, average: float) -> Any:
        """[terms, texts] sparse: as `scores`, of texts beside the catalog's, by its frequencies.

        Args:
            counts: What `counted` gives of the texts.
            words: How many words each has.
            average: How many words a text of the catalog has.
        """
        long = np.repeat(words, np.diff(counts.indptr))
        held = K1 * ((1 - B) + B * long / average) + counts.data
        values = self._idf[counts.indices] * (counts.data / held)
        found = self._sparse.csr_array((values, counts.indices, counts.indptr), shape=counts.shape)
        return found.T

    @functools.cached_property
    def _idf(self) -> Floats:
        size = self.scores.shape[1]
        # one logarithm for all, as the library's, so that equal texts tie
        idf = [math.log(1 + (size - n + 0.5) / (n + 0.5)) for n in np.diff(self.scores.indptr)]
        return np.array(idf)

    def _read(self, texts: Sequence[str]) -> list[_Counts]:
        found = []
        for tokens in self._tokens(list(texts)):
            counts = Counter(self.terms[token] for token in tokens if token in self.terms)
            values = np.array(list(counts.values()), np.float64)
            found.append(_Counts(np.array(list(counts), np.int64), values, len(tokens)))
        return found

    def _counts(self, read: Sequence[_Counts]) -> Any:
        starts = np.concatenate([[0], np.cumsum([len(one.rows) for one in read])])
        rows = np.concatenate([np.zeros(0, np.int64), *(one.rows for one in read)])
        values = np.concatenate([np.zeros(0), *(one.values for one in read)])
        shape = (len(read), len(self.terms))
        return self._sparse.csr_array((values, rows, starts), shape=shape)

    def _tokens(self, texts: list[str]) -> Any:
        return self._library.tokenize(
            texts, stopwords=[], return_ids=False, show_progress=False, allow_empty=True
        )


class Bm25Ranker(Ranker):
    """Σ decayᵃ · BM25(candidate's text; text of the history item of age a), a = 0 for the latest.

    Equal texts tie. An item without text, one that shares no term with the history and every
    candidate of an empty history score 0. An item outside the catalog is scored as if it were in
    it, by the catalog's terms.

    Attributes:
        terms_: The terms, by their rows.
        scores_: [terms, catalog] sparse: what a term adds.
        counts_: [catalog, terms] sparse: how often a term stands in an item's text.
        last_: How many of the latest items are asked for; 0: all.
        decay_: An item's weight against the one after it.
    """

    traits = Traits(tuned=True, reads_text=True, extras=EXTRAS)
    tried = tuple(
        {"last": last, "decay": decay}
        for last, decay in itertools.product((0, 5, 1), (0.8, 0.5, 1.0))
        if last != 1 or decay == 0.8
    )
    """One item alone has nothing to decay against."""
    terms_: list[str]
    scores_: Any
    counts_: Any
    last_: int
    decay_: float

    def fit(self, data: FitData, options: FitOptions) -> None:
        """Reads the catalog's texts; the settings are tuned on the validation cases.

        Raises:
            ConfigError: If bm25s is not installed.
        """
        vars(self).pop("_index", None)
        index = TextIndex(self.resources.settings, self.name)
        items = list(data.catalog)
        index.build(items)
        self.terms_ = sorted(index.terms, key=index.terms.__getitem__)
        self.scores_ = index.scores
        self.counts_ = index.counted([index.text(item) for item in items])
        tune(self, data, options, self.tried, self.with_settings)

    def with_settings(self, last: int, decay: float) -> Self:
        """The same with these settings."""
        return self.altered(last_=last, decay_=decay)

    def score(self, batch: QueryBatch) -> ScoreBatch:
        """[queries, columns] sums."""
        return ScoreBatch(of_terms(batch, *self._terms(batch)))

    def parts(self, batch: QueryBatch) -> dict[str, Part]:
        """What each word adds that stands in a history and in a candidate."""
        weights, scores = self._terms(batch)
        found = {}
        for row in np.unique(weights.indices).tolist():
            added = of_terms(batch, weights[:, [row]], [one[[row]] for one in scores])
            if added.any():
                found[self.terms_[row]] = Part(added)
        return found

    def _terms(self, batch: QueryBatch) -> tuple[Any, list[Any]]:
        """What `of_terms` reads: [queries, terms] weights, and [terms, items] scores."""
        sparse = optional("scipy.sparse", "baselines", f"the ranker {self.name}")
        queries, numbers = batch.histories.rows, batch.histories.values
        ages = np.repeat(batch.histories.starts[1:], batch.histories.lengths) - 1
        ages = ages - np.arange(len(numbers))
        near = ages < self.last_ if self.last_ else np.ones(len(ages), np.bool_)
        read, numbers = np.unique(numbers[near], return_inverse=True)
        size = len(batch.catalog)
        counts, scores = self.counts_[read[read < size]], [self.scores_]
        if batch.outside:
            more, words = self._index.of_items(batch.outside)
            counts = sparse.vstack([counts, more[read[read >= size] - size]]).tocsr()
            if batch.columns[-1:] >= size:
                average = self.counts_.data.sum() / size
                scores.append(self._index.added(more, words, average))
        values = self.decay_ ** ages[near].astype(np.float64)
        places = (queries[near], numbers)
        weights = sparse.csr_array((values, places), shape=(len(batch), len(read)))
        return weights @ counts, scores

    @functools.cached_property
    def _index(self) -> TextIndex:
        """What reads further texts."""
        index = TextIndex(self.resources.settings, self.name)
        index.terms = {term: row for row, term in enumerate(self.terms_)}
        index.scores = self.scores_
        return index


def of_terms(batch: QueryBatch, weights: Any, scores: Sequence[Any]) -> Floats:
    """[queries, columns] BM25 of the candidates' texts for weighted terms.

    Weights are [queries, terms], scores [terms, items], all sparse; the items stand in several
    matrices, one behind the other.
    """
    weights.sort_indices()  # sums of one order for every query
    return np.hstack([(weights @ one).toarray() for one in scores])[:, batch.columns]
