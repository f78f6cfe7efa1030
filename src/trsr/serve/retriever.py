"""The first stage: candidates for a user, also among items that the run never saw.

Any ranker of the run proposes. What it cannot know by itself, an item that came after the run, is
judged by its text: by what the ranker makes of the catalog's items nearest to it.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
import importlib.util
import threading
from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from trsr.data import Catalog
from trsr.errors import DataError
from trsr.rankers import QueryBatch, Ranker, ScoreBatch, ranked, scored
from trsr.rankers.baselines.bm25 import TextIndex
from trsr.rankers.baselines.text_knn import TextKnnRanker
from trsr.rankers.batch import Floats, Ints, Ragged
from trsr.rankers.item_text import DIGITS, TextEmbedder, item_text, text_vectors
from trsr.rankers.settings import RankSettings
from trsr.recommender import Recommender
from trsr.types import Interaction, Item, Query, UserHistory

LARGE = 100_000
"""Catalogs with more items are searched by an index of vectors, where the ranker compares such."""
NEIGHBOURS = 5
_SHORTLIST = 4  # times as many as are wanted come out of the index, to be scored exactly
_KEPT = 100_000

Near = tuple[Ints, Floats]
"""Catalog numbers of the items nearest in text, nearest first, and how near each is, above 0."""

_NOBODY: Near = (np.zeros(0, np.int64), np.zeros(0))


class VectorIndex:
    """Finds the vectors with the largest products: by faiss where it is installed, else NumPy.

    Vectors are [n, width] float32 unit ones; more than `large` are searched in the nearest cells
    alone.
    """

    def __init__(self, vectors: Any, large: int = LARGE) -> None:
        self._vectors = vectors
        self._index: Any = None
        if len(vectors) > large and importlib.util.find_spec("faiss"):
            import faiss

            width = vectors.shape[1]
            # k-means needs some 40 vectors a cell, and not more
            cells = max(1, min(int(4 * np.sqrt(len(vectors))), len(vectors) // 40))
            self._index = faiss.IndexIVFFlat(
                faiss.IndexFlatIP(width), width, cells, faiss.METRIC_INNER_PRODUCT
            )
            own = np.ascontiguousarray(vectors, np.float32)
            drawn = np.random.default_rng(0).permutation(len(own))[: 40 * cells]
            self._index.train(own[drawn])
            self._index.add(own)

    def search(self, asked: Floats, n: int) -> Near:
        """The places of the `n` largest products with one vector, best first, and the products."""
        if self._index is not None:
            faiss: Any = importlib.import_module("faiss")  # its types lack the parameters' names
            # a sixteenth of the cells, and more where so many are wanted
            cells = max(
                self._index.nlist // 16, 10 * n * self._index.nlist // self._index.ntotal, 1
            )
            probes = faiss.SearchParametersIVF(nprobe=min(cells, self._index.nlist))
            products, places = self._index.search(
                np.asarray(asked, np.float32)[None], n, params=probes
            )
            found = places[0] >= 0
            return places[0][found].astype(np.int64), products[0][found].astype(np.float64)
        products = self._vectors @ np.asarray(asked, np.float32)
        n = min(n, len(products))
        best = np.argpartition(-products, n - 1)[:n] if n else np.zeros(0, np.int64)
        best = best[np.argsort(-products[best], kind="stable")]
        return best.astype(np.int64), products[best].astype(np.float64)


class TextNeighbours:
    """The catalog's items nearest to a text.

    By embeddings where the run reads such, else by BM25. The index is made when it is first needed.
    """

    def __init__(self, catalog: Catalog, settings: RankSettings, run: Path | None = None) -> None:
        self._catalog = catalog
        self._settings = settings
        self._run = run
        self._lock = threading.Lock()
        self._found = functools.lru_cache(_KEPT)(self._search)

    def __call__(self, item: Item) -> Near:
        """The catalog's items nearest to an item's text; none where nothing is like it."""
        return self._found(item_text(item, self._settings))

    def _search(self, text: str) -> Near:
        if not text:
            return _NOBODY
        with self._lock:
            numbers, near = self._near(text)
        return numbers[near > 0], near[near > 0]

    @functools.cached_property
    def _near(self) -> Callable[[str], Near]:
        items = list(self._catalog)
        texts = [item_text(item, self._settings) for item in items]
        if not any(texts):
            return lambda text: _NOBODY
        if self._settings.embedding:
            embed = TextEmbedder.of(self._settings, run=self._run)
            index = VectorIndex(text_vectors(texts, embed).astype(np.float32))
            return lambda text: index.search(text_vectors([text], embed)[0], NEIGHBOURS)
        words = TextIndex(self._settings, "new items")
        words.build(items)

        def by_words(text: str) -> Near:
            scores = (words.counted([text]) @ words.scores).toarray()[0]
            best = np.argsort(-scores, kind="stable")[:NEIGHBOURS]
            return best, scores[best]

        return by_words


class Retriever:
    """Proposes candidates, and lets rankers that know items by ids alone judge new ones.

    Catalogs with more than `large` items are searched by an index.
    """

    def __init__(self, recommender: Recommender, large: int = LARGE) -> None:
        self._recommender = recommender
        self._catalog = recommender.catalog
        self._rank = recommender.config.rank
        self._large = large
        self._lock = threading.Lock()
        self._index: tuple[VectorIndex, Any] | None = None
        self.neighbours = TextNeighbours(
            recommender.catalog, self._rank, recommender.dataset.folder
        )

    def propose(
        self,
        history: UserHistory,
        n: int,
        new: Iterable[Item],
        excluded: Collection[str] = frozenset(),
    ) -> tuple[Item, ...]:
        """The `n` items that the run's retriever puts first, without those of the history.

        Raises:
            DataError: If the history holds every item.
        """
        ranker = self._recommender.fitted(self._rank.retriever)
        seen = {item.id for item in history.items} | set(excluded)
        fresh = [item for item in new if item.id not in seen]
        batch = QueryBatch.whole([("propose", self.known(history), None)], self._catalog)
        if isinstance(ranker, TextKnnRanker) and len(self._catalog) > self._large:
            pairs = self._by_index(ranker, batch, n + len(seen), fresh)
        else:
            pairs = self._by_scores(ranker, batch, n + len(seen), fresh)
        pairs = [pair for pair in pairs if pair[1].id not in seen]
        if not pairs:
            raise DataError("the history holds every item there is, so there is none to propose")
        # ties in the catalog's order, new items last
        return tuple(item for _, item in sorted(pairs, key=lambda pair: -pair[0])[:n])

    def known(self, history: UserHistory) -> UserHistory:
        """A history in which the catalog's nearest item stands for one that came after the run."""
        seen = []
        for one in history.interactions:
            if one.item.id in self._catalog:
                seen.append(Interaction(self._catalog[one.item.id], one.time))
                continue
            numbers, _ = self.neighbours(one.item)
            if len(numbers):
                seen.append(Interaction(self._catalog.at(int(numbers[0])), one.time))
        return UserHistory(history.user, tuple(seen))

    def scores(self, query: Query, name: str) -> Floats:
        """[candidates] a ranker's scores; where it reads no text, new items' by their neighbours.

        A new item without a neighbour has the lowest score.
        """
        ranker = self._recommender.fitted(name)
        items = (*query.candidates, *query.history.items)
        if self._reads_text(name) or all(one.id in self._catalog for one in items):
            batch = QueryBatch.of([query], self._catalog)
            own: Floats = scored(ranker, batch, name).scores[0][batch.places[0]]
            return own
        near = [self._near(item) for item in query.candidates]
        numbers = np.unique(np.concatenate([one for one, _ in near]))
        if not len(numbers):
            return np.zeros(len(near))
        shown = tuple(self._catalog.at(int(number)) for number in numbers)
        batch = QueryBatch.of([Query(query.id, self.known(query.history), shown)], self._catalog)
        row = scored(ranker, batch, name).scores[0][batch.places[0]]
        found: Floats = np.array(
            [
                np.average(row[np.searchsorted(numbers, nearest)], weights=weights)
                if len(nearest)
                else row.min()
                for nearest, weights in near
            ]
        )
        return found

    @functools.cache  # noqa: B019 - it lives as long as the service
    def _reads_text(self, name: str) -> bool:
        members = self._rank.with_members(name)
        return bool(
            self._rank.those("reads_text", members) or self._rank.those("uses_llm", members)
        )

    def _near(self, item: Item) -> Near:
        if item.id in self._catalog:
            return np.array([self._catalog.number(item.id)]), np.ones(1)
        return self.neighbours(item)

    def _by_scores(
        self, ranker: Ranker, batch: QueryBatch, n: int, fresh: Sequence[Item]
    ) -> list[tuple[float, Item]]:
        """The first of the catalog, and new items by the mean score of their neighbours."""
        # of the whole catalog: what stands in for a new item of the history is a candidate too
        batch = dataclasses.replace(batch, excluded=Ragged.empty(1))
        row = scored(ranker, batch).scores[0]
        best = ranked(batch, ScoreBatch(row[None]), n, self._recommender.config.run.seed).items[0]
        pairs = [(float(row[number]), self._catalog.at(int(number))) for number in best]
        for item in fresh:
            numbers, weights = self._near(item)
            if len(numbers):
                pairs.append((float(np.average(row[numbers], weights=weights)), item))
        return pairs

    def _by_index(
        self, ranker: TextKnnRanker, batch: QueryBatch, n: int, fresh: Sequence[Item]
    ) -> list[tuple[float, Item]]:
        """What the index finds near the history, and all new items, scored exactly."""
        index, items_of = self._vectors(ranker)
        (asked,) = ranker.asked(batch)
        if not len(asked):
            return self._by_scores(ranker, batch, n, fresh)
        found = np.unique(np.concatenate([index.search(one, _SHORTLIST * n)[0] for one in asked]))
        pairs = []
        for row, score in zip(
            found.tolist(), _likeness(asked, ranker.vectors_[found]), strict=True
        ):
            pairs += [(score, self._catalog.at(int(number))) for number in items_of[row]]
        if fresh:
            texts = [item_text(item, self._rank) for item in fresh]
            vectors = text_vectors(texts, ranker.embed)
            if vectors.shape[1]:
                pairs += zip(_likeness(asked, vectors), fresh, strict=True)
        return pairs

    def _vectors(self, ranker: TextKnnRanker) -> tuple[VectorIndex, Any]:
        """The index of the ranker's vectors, and the catalog numbers of each."""
        with self._lock:
            if self._index is None:
                order = np.argsort(ranker.rows_, kind="stable")
                starts = np.searchsorted(ranker.rows_[order], np.arange(len(ranker.vectors_) + 1))
                items_of = np.split(order, starts)[1:-1]
                self._index = VectorIndex(ranker.vectors_, self._large), items_of
            return self._index


def _likeness(asked: Floats, vectors: Any) -> list[float]:
    """A text_knn score for each vector: the mean of its three largest products with the asked."""
    products = np.sort(asked @ np.asarray(vectors, np.float64).T, axis=0)[-3:]
    found: list[float] = np.round(products.mean(axis=0), DIGITS).tolist()
    return found
