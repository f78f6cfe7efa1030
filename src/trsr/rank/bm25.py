"""Ranks by BM25: the history's texts are the query, the candidates' texts the documents."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from trsr.plugins import optional
from trsr.rank.item_text import item_text
from trsr.rank.settings import RankSettings
from trsr.rank.tune import QueryRanker, tuned
from trsr.types import Item, Query

if TYPE_CHECKING:
    from trsr.rank.base import RankContext

_REMEMBERED = 64 << 20
"""Bytes of document scores kept for texts that are asked for again."""


class Bm25Index:
    """The catalogue's texts as one index (bm25s, the Lucene variant of BM25).

    Robertson and Zaragoza, "The probabilistic relevance framework: BM25 and beyond" (2009), with
    the never negative idf log(1 + (N − n + ½)/(n + ½)).

    Args:
        items: The catalogue.
        settings: The settings of ranking.

    Raises:
        ConfigError: If bm25s is not installed.
    """

    def __init__(self, items: Iterable[Item], settings: RankSettings) -> None:
        self._settings = settings
        self._library = optional("bm25s", "baselines", "the ranker bm25")
        self.rows: dict[str, int] = {}
        texts: list[str] = []
        for item in items:
            self.rows[item.id] = len(texts)
            texts.append(item_text(item, settings))
        tokens = self._tokens(texts)
        own = settings.bm25
        # float64, so that equal texts have equal scores whatever was added to them before
        self._index = self._library.BM25(method="lucene", k1=own.k1, b=own.b, dtype="float64")
        if any(tokens):
            self._index.index(tokens, show_progress=False)
        self._empty = not any(tokens)
        size = _REMEMBERED // (8 * max(len(texts), 1))
        self.scores = functools.lru_cache(maxsize=max(size, 1))(self._scores)

    def text(self, item: Item) -> str:
        """What is asked for an item of a history, in the catalogue or not."""
        return item_text(item, self._settings)

    def _scores(self, text: str) -> npt.NDArray[np.float64]:
        """The BM25 score of each document for a text; a term said twice counts twice."""
        (tokens,) = self._tokens([text])
        if not tokens or self._empty:
            return np.zeros(len(self.rows))
        return np.asarray(self._index.get_scores(tokens), dtype=np.float64)

    def _tokens(self, texts: list[str]) -> Any:
        words: str | list[str] = self._settings.bm25.stopwords or []
        return self._library.tokenize(
            texts, stopwords=words, return_ids=False, show_progress=False, allow_empty=True
        )


class Bm25Ranker(QueryRanker):
    """Σ decayᵃ · BM25(candidate's text; text of the history item of age a), a = 0 for the latest.

    Equal texts tie. An item without text, one that shares no term with the history, one outside
    the catalogue and every candidate of an empty history score 0.

    Args:
        index: The catalogue's texts.
        last: How many of the latest items are asked for; 0: all.
        decay: An item's weight against the one after it.
    """

    def __init__(self, index: Bm25Index, last: int, decay: float) -> None:
        self.index = index
        self.last = last
        self.decay = decay

    def scores(self, query: Query) -> Sequence[float]:
        """One score a candidate."""
        history = query.history.items[::-1]
        total = np.zeros(len(query.candidates))
        rows = np.array([self.index.rows.get(item.id, -1) for item in query.candidates])
        known = rows >= 0
        weight = 1.0
        for item in history[: self.last] if self.last else history:
            total[known] += weight * self.index.scores(self.index.text(item))[rows[known]]
            weight *= self.decay
        return [float(score) for score in total]


def make_bm25(context: RankContext) -> Bm25Ranker:
    """The BM25 ranker on the catalogue's texts, tuned on the validation cases."""
    own = context.settings.bm25
    index = Bm25Index(context.catalog, context.settings)
    options = [{"last": n, "decay": decay} for n, decay in itertools.product(own.last, own.decay)]
    # a single item has nothing to decay against
    options = [o for o in options if o["last"] != 1 or o["decay"] == own.decay[0]]
    return tuned("bm25", context, options, functools.partial(Bm25Ranker, index))
