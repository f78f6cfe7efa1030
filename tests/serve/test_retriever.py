"""Retrieval: an index finds what scoring all finds; text says where new items stand."""

from __future__ import annotations

import hashlib

import numpy as np
import polars as pl
import pytest

from trsr.config import Config
from trsr.data import Catalog, Dataset
from trsr.errors import DataError
from trsr.rankers import FitData, FitOptions, RankSettings, Resources
from trsr.rankers.baselines.text_knn import TextKnnRanker
from trsr.rankers.new_items import VectorIndex
from trsr.recommender import Recommender
from trsr.serve.retriever import Retriever
from trsr.types import Interaction, Item, UserHistory

KINDS = "bolt lamp rope glove drill mask hinge cable valve brush".split()


def embed(texts):
    """A vector a text: near where words are shared."""
    found = np.zeros((len(texts), 24))
    for row, text in enumerate(texts):
        for word in text.split():
            digest = hashlib.sha256(word.encode()).digest()
            seed = int.from_bytes(digest[:4], "big")
            found[row] += np.random.default_rng(seed).normal(size=24)
    return found


@pytest.fixture(scope="module")
def catalog():
    names = [f"i{n}" for n in range(400)]
    texts = [f"{KINDS[n % 10]} {KINDS[n // 10 % 10]} size{n % 7} no{n}" for n in range(400)]
    return Catalog(pl.DataFrame({"id": names, "title": texts}))


@pytest.fixture(params=["decayed", "max3"])
def retrievers(request, catalog, tmp_path_factory):
    """One that scores the catalog, and one with an index."""
    rank = RankSettings(rankers=("text_knn",), retriever="text_knn")
    ranker = TextKnnRanker(None, Resources(catalog, rank))
    ranker.embed = embed
    ranker.fit(FitData(catalog, pl.DataFrame({"user": [], "item": [], "time": []})), FitOptions())
    ranker = ranker.with_profile(request.param, ranker.decay_)
    dataset = Dataset(tmp_path_factory.mktemp("run"), catalog)
    recommender = Recommender(Config(rank=rank), dataset)
    recommender._loaded["text_knn"] = ranker
    return Retriever(recommender), Retriever(recommender, large=100)


def history(catalog, *names):
    return UserHistory("u", tuple(Interaction(catalog[name], n) for n, name in enumerate(names)))


def test_the_index_proposes_what_scoring_everything_proposes(catalog, retrievers) -> None:
    plain, indexed = retrievers
    shares = []
    for n in range(0, 200, 13):
        met = history(catalog, f"i{n}", f"i{n + 10}", f"i{n + 20}")
        expected = [item.id for item in plain.propose(met, 20, ())]
        found = [item.id for item in indexed.propose(met, 20, ())]
        assert len(found) == 20
        assert not {f"i{n}", f"i{n + 10}", f"i{n + 20}"} & set(found)
        shares.append(len(set(expected) & set(found)) / 20)
    assert np.mean(shares) >= 0.95


def test_a_new_item_comes_where_its_text_puts_it(catalog, retrievers) -> None:
    met = history(catalog, "i5")
    like = Item("new/one", (("title", catalog["i5"].fields[0][1] + " better"),))
    for one in retrievers:
        assert "new/one" in [item.id for item in one.propose(met, 20, [like])]
        assert "new/one" not in [item.id for item in one.propose(met, 20, [like], {"new/one"})]
        seen = UserHistory("u", (Interaction(like, 0.0),))
        # a history of new items is read by what stands nearest
        assert "i5" in [item.id for item in one.propose(seen, 20, [like])]
        assert "new/one" not in [item.id for item in one.propose(seen, 20, [like])]


def test_an_item_with_another_text_comes_where_that_puts_it(catalog, retrievers) -> None:
    met = history(catalog, "i5")
    text = catalog["i5"].fields[0][1]
    near = Item("i222", {"title": f"{text} better"})
    for one in retrievers:
        far = Item(one.propose(met, 20, ())[0].id, {"title": "qqq"})
        found = one.propose(met, 20, [near, far, catalog["i25"]])
        assert near in found
        assert far.id not in [item.id for item in found]
        every = one.propose(met, 1000, [near, far, catalog["i25"]])
        assert len(every) == len({item.id for item in every})
        assert catalog["i222"] not in every


def test_nothing_is_left_to_propose(catalog, retrievers) -> None:
    for one in retrievers:
        with pytest.raises(DataError, match="holds every item"):
            one.propose(history(catalog, *catalog.ids), 5, ())


def test_a_large_index_finds_nearly_all_that_are_nearest() -> None:
    pytest.importorskip("faiss")
    draw = np.random.default_rng(0)
    centres = draw.normal(size=(60, 32))
    vectors = centres[draw.integers(0, 60, 20_000)] + 0.4 * draw.normal(size=(20_000, 32))
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    exact, index = VectorIndex(vectors), VectorIndex(vectors, large=1000)
    assert exact._index is None
    assert index._index is not None
    found = []
    for row in draw.integers(0, len(vectors), 40):
        best, products = exact.search(vectors[row], 50)
        near, _ = index.search(vectors[row], 50)
        assert best[0] == row
        assert (np.diff(products) <= 0).all()
        found.append(len(set(best.tolist()) & set(near.tolist())) / 50)
    assert np.mean(found) >= 0.95
