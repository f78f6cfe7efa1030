"""Items that came after the run: thousands are read together, and each once."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import polars as pl
import pytest

from trsr.data import Catalog
from trsr.rankers import FitData, FitOptions, QueryBatch, RankSettings, Resources, make_ranker
from trsr.rankers.baselines.bm25 import TextIndex
from trsr.rankers.item_text import TextEmbedder
from trsr.rankers.new_items import NewItems
from trsr.types import Interaction, Item, Query, UserHistory

WORDS = "bolt lamp rope glove drill mask hinge cable valve brush".split()
NEW = [Item(f"new{n}", {"title": f"{WORDS[n % 10]} {WORDS[n // 10]} new{n}"}) for n in range(40)]
NEW += [Item("twin", {"title": "bolt lamp no1"}), Item("bare"), Item("strange", {"title": "qqq"})]


class Embed:
    """A vector a text, near where words are shared; notes what it is asked for."""

    def __init__(self) -> None:
        self.asked: list[list[str]] = []

    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        self.asked.append(list(texts))
        found = np.zeros((len(texts), 24))
        for row, text in enumerate(texts):
            for word in text.split():
                seed = int.from_bytes(hashlib.sha256(word.encode()).digest()[:4], "big")
                found[row] += np.random.default_rng(seed).normal(size=24)
        return found


@pytest.fixture(scope="module")
def catalog() -> Catalog:
    titles = [f"{WORDS[n // 10]} {WORDS[n % 10]} no{n}" for n in range(100)]
    return Catalog(pl.DataFrame({"id": [f"i{n}" for n in range(100)], "title": titles}))


@pytest.mark.parametrize("used", ["text_knn", "bm25"])
def test_neighbours_of_many_are_those_of_each_and_found_at_once(used, catalog, monkeypatch) -> None:
    embed = Embed()
    monkeypatch.setattr(TextEmbedder, "of", lambda *_, **__: embed)
    settings = RankSettings(rankers=(used,))
    several = NewItems(catalog, settings)
    found = several.neighbours([*NEW, catalog.at(3), *NEW[:2]])
    assert len(embed.asked) == (2 if used == "text_knn" else 0)  # the catalog, and all new ones
    assert several.neighbours(NEW)[0] is found[0]
    for item, (numbers, near) in zip([*NEW, catalog.at(3), *NEW[:2]], found, strict=True):
        ((alone, how_near),) = NewItems(catalog, settings).neighbours([item])
        assert numbers.tolist() == alone.tolist()
        assert near == pytest.approx(how_near, rel=1e-6)
    by_id = dict(zip([*(item.id for item in NEW), "i3"], found, strict=False))
    assert [one.tolist() for one in by_id["twin"]] == [[1], [1.0]]
    assert [one.tolist() for one in by_id["i3"]] == [[3], [1.0]]
    assert not len(by_id["bare"][0])


@pytest.mark.parametrize("name", ["text_knn", "bm25"])
def test_a_new_text_is_read_once_and_scores_as_in_another_batch(name, catalog, monkeypatch) -> None:
    asked: list[list[str]] = []
    tokens = TextIndex._tokens

    def noted(index: TextIndex, texts: list[str]):
        asked.append(texts)
        return tokens(index, texts)

    def made():
        ranker = make_ranker(name, Resources(catalog, RankSettings(rankers=(name,))))
        ranker.embed = Embed()
        ranker.fit(FitData(catalog, pl.DataFrame({"user": [], "item": []})), FitOptions())
        ranker.embed.asked = asked
        asked.clear()
        return ranker

    def scores(ranker, items):
        batch = QueryBatch.of([Query("q", history, items)], catalog)
        found = ranker.score(batch).scores[0][batch.places[0]]
        return dict(zip((item.id for item in items), found.tolist(), strict=True))

    monkeypatch.setattr(TextIndex, "_tokens", noted)
    met = (catalog.at(3), NEW[5], catalog.at(50), NEW[-1])
    history = UserHistory("u", tuple(Interaction(item, float(n)) for n, item in enumerate(met)))
    candidates = (catalog.at(1), catalog.at(2), *NEW)
    ranker = made()
    every = scores(ranker, candidates)
    assert every["twin"] == every["i1"] != 0
    assert every["bare"] == 0
    assert len(asked) == 1
    assert scores(ranker, candidates) == every
    assert scores(ranker, candidates[::-1]) == every
    assert len(asked) == 1
    for item in (*candidates[:4], NEW[-3]):
        assert scores(made(), (item,))[item.id] == every[item.id]
