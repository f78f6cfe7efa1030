"""Items that came after the run: rankers that know ids alone judge them by the nearest texts."""

from __future__ import annotations

import dataclasses
import functools
import importlib
import importlib.util
from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from trsr.data import Catalog
from trsr.rankers.base import Ranker
from trsr.rankers.baselines.bm25 import TextIndex
from trsr.rankers.batch import Floats, Ints, QueryBatch, Ragged, ScoreBatch
from trsr.rankers.item_text import Remembered, TextEmbedder, item_text, text_vectors
from trsr.rankers.settings import RankSettings
from trsr.types import Item

LARGE = 100_000
"""Catalogs with more items are searched by an index of vectors, where the ranker compares such."""
NEIGHBOURS = 5
MOST_COLD = 2000
"""Items that nobody has met are judged as new ones where there are no more."""

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


class NewItems:
    """Lets rankers that know items by ids alone judge items that came after the run.

    In a history the catalog's nearest item stands for a new one, or none where nothing is like it.
    A new candidate's score is the mean of its neighbours', weighted by how near they are; without a
    neighbour it is the query's lowest. Items of the same text are its only neighbours. Near are
    texts by their embeddings where the run reads such, else by BM25. What that needs is made when
    the first new item comes.

    Args:
        catalog: The run's items.
        settings: Which texts are read, and by which embedding model.
        run: The run directory, where the embedding model is its own.
        cold: Catalog numbers of items that nobody has met: they are judged as new ones are.
    """

    def __init__(
        self,
        catalog: Catalog,
        settings: RankSettings,
        run: Path | None = None,
        cold: Collection[int] = (),
    ) -> None:
        self._catalog = catalog
        self._settings = settings
        self._run = run
        self._cold = np.array(sorted(cold), np.int64)
        self._found = Remembered(self._search)

    def neighbours(self, items: Iterable[Item]) -> list[Near]:
        """Of each an item of the catalog itself, or the catalog's nearest to a new one's text."""
        asked = list(items)
        new = [item for item in asked if item.id not in self._catalog]
        found = dict(zip(new, self._found(new), strict=True))
        return [found[item] if item in found else self._itself(item) for item in asked]

    def _itself(self, item: Item) -> Near:
        return np.array([self._catalog.number(item.id)]), np.ones(1)

    def among(self, items: Iterable[Item]) -> tuple[str, ...]:
        """The ids of those that the run does not know, each once."""
        return tuple(dict.fromkeys(one.id for one in items if one.id not in self._catalog))

    def judges(self, ranker: Ranker, batch: QueryBatch) -> bool:
        """Whether there are new items in a batch of a ranker that knows items by ids alone."""
        if not (batch.outside or len(self._cold)) or ranker.members(ranker.config):
            return False  # members are asked one by one
        if ranker.traits_of(ranker.config).reads_new:
            return False
        return bool(self.among(batch.outside)) or bool(len(self._cold_in(batch)))

    def _cold_in(self, batch: QueryBatch) -> Ints:
        """The numbers of a batch's items, candidates or in histories, that nobody has met."""
        there = np.union1d(batch.columns, batch.histories.values)
        return np.intersect1d(self._cold, there)

    def scores(self, ranker: Ranker, batch: QueryBatch) -> ScoreBatch:
        """The ranker's scores, of new items by their neighbours'."""
        near = dict(enumerate(self.neighbours(batch.outside), len(self._catalog)))
        cold = self._cold_in(batch).tolist()
        near |= dict(zip(cold, self._found(list(map(self._catalog.at, cold))), strict=True))
        known = self._known_histories(batch, near)
        if batch.candidates is None and not cold:
            return ranker.score(known)
        # [columns, neighbours]; fewer ones are filled up with the first one, without a weight
        columns = batch.columns
        widest = max(1, *(len(nearest) for nearest, _ in near.values()))
        numbers = np.repeat(columns[:, None], widest, axis=1)
        weights = np.zeros((len(columns), widest))
        weights[:, 0] = 1.0
        found_any = np.ones(len(columns), np.bool_)
        for column in np.flatnonzero(np.isin(columns, list(near))).tolist():
            nearest, how_near = near[int(columns[column])]
            found_any[column] = len(nearest) > 0
            weights[column] = 0.0
            if len(nearest):
                numbers[column] = nearest[0]
                numbers[column, : len(nearest)] = nearest
                weights[column, : len(nearest)] = how_near
        places = [batch.places[row] for row in range(len(batch))]
        shown = [np.unique(numbers[own[found_any[own]]]) for own in places]
        asked = dataclasses.replace(known, candidates=Ragged.of(shown))
        result = batch.blank()
        if not len(asked.columns):  # nothing is like anything: all tie
            return ScoreBatch(result)
        found = ranker.score(asked).scores
        at = np.searchsorted(asked.columns, numbers)
        for row, own in enumerate(places):
            lowest = found[row, asked.places[row]].min() if len(shown[row]) else 0.0
            result[row, own] = lowest
            liked = own[found_any[own]]
            sums = (found[row, at[liked]] * weights[liked]).sum(axis=1)
            result[row, liked] = sums / weights[liked].sum(axis=1)
        return ScoreBatch(result)

    def _known_histories(self, batch: QueryBatch, near: dict[int, Near]) -> QueryBatch:
        """The same queries, with catalog items in the histories alone."""
        numbers = np.arange(len(self._catalog) + len(batch.outside))
        for number, (nearest, _) in near.items():
            numbers[number] = nearest[0] if len(nearest) else -1
        values = numbers[batch.histories.values]
        kept = values >= 0
        lengths = np.bincount(batch.histories.rows[kept], minlength=len(batch))
        starts = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        return dataclasses.replace(
            batch, histories=Ragged(values[kept], starts), times=batch.times[kept]
        )

    def _search(self, items: Sequence[Item]) -> list[Near]:
        texts = [item_text(item, self._settings) for item in items]
        read = dict.fromkeys(text for text in texts if text)
        found = dict(zip(read, self._nearest(list(read)), strict=True)) if read else {}
        return [_liked(*found[text]) if text else _NOBODY for text in texts]

    @functools.cached_property
    def _nearest(self) -> Callable[[Sequence[str]], list[Near]]:
        numbers = np.setdiff1d(np.arange(len(self._catalog)), self._cold)
        items = list(map(self._catalog.at, numbers.tolist()))
        texts = [item_text(item, self._settings) for item in items]
        if not any(texts):
            return lambda asked: [_NOBODY] * len(asked)
        same: dict[str, list[int]] = {}
        for number, text in zip(numbers.tolist(), texts, strict=True):
            same.setdefault(text, []).append(number)
        places = self._by_text(items, texts)

        def nearest(asked: Sequence[str]) -> list[Near]:
            return [(numbers[found], near) for found, near in places(asked)]

        def found(asked: Sequence[str]) -> list[Near]:
            others = [text for text in asked if text not in same]
            near = dict(zip(others, nearest(others), strict=True)) if others else {}
            for text in {*asked} & same.keys():
                alike = same[text][:NEIGHBOURS]
                near[text] = np.array(alike), np.ones(len(alike))
            return [near[text] for text in asked]

        return found

    def _by_text(
        self, items: list[Item], texts: list[str]
    ) -> Callable[[Sequence[str]], list[Near]]:
        if self._settings.embedding:
            embed = TextEmbedder.of(self._settings, run=self._run)
            index = VectorIndex(text_vectors(texts, embed).astype(np.float32))
            return lambda asked: [
                index.search(vector, NEIGHBOURS) for vector in text_vectors(asked, embed)
            ]
        words = TextIndex(self._settings, "new items")
        words.build(items)

        def by_words(asked: Sequence[str]) -> list[Near]:
            counts, found = words.counted(asked), []
            for row in range(len(asked)):
                scores = (counts[[row]] @ words.scores).toarray()[0]
                best = np.argsort(-scores, kind="stable")[:NEIGHBOURS]
                found.append((best, scores[best]))
            return found

        return by_words


def _liked(numbers: Ints, near: Floats) -> Near:
    return numbers[near > 0], near[near > 0]
