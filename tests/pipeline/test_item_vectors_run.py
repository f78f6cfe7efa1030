"""A run whose ranker reads items as vectors: lists, recommendations, and what is refused."""

from __future__ import annotations

import json

import pytest
from pipeline_data import FEW

from trsr.errors import ConfigError
from trsr.export import export
from trsr.models.hf.item_vectors import ItemEncoder
from trsr.pipeline import is_finished, run
from trsr.recommender import Recommender
from trsr.types import Item, Query

CONFIG = f"""{FEW}
[prompts]
item_vectors = 2

[summarize]
strategy = "none"

[train]
learning_rate = 1e-2
validate_steps = 2

[rank]
rankers = ["popular", "llm_zero_shot", "llm"]
"""

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def load(tiny_loader, one_thread):
    return tiny_loader(CONFIG)


@pytest.fixture(scope="module")
def finished(load):
    list(run(load()))
    return load().run.folder


def test_a_run_ranks_by_vectors_and_words_stay_words(load, finished, monkeypatch):
    assert is_finished(load())
    info = json.loads((finished / "manifest.json").read_text())["stages"]
    words, vectors = info["rank"]["info"]["models"].values()
    assert "items" not in next(iter(info["rank"]["info"]["models"]))
    # the model that is not trained reads texts, which are longer
    assert words["written"] == vectors["written"]
    assert vectors["tokens"] < words["tokens"]
    # the catalog's vectors are in the file: nothing is encoded to recommend
    monkeypatch.setattr(ItemEncoder, "encode", None)
    recommender = Recommender.load(finished, "llm")
    found = recommender.recommend(["u1"], k=3)
    assert found["item"].n_unique() == 3
    shown = repr(recommender.explain("u1").prompt)
    assert "text='title: " in shown
    assert recommender.explain("u1").prompt.messages[-1].shown.count("[2 vectors of 'title: ") == 4


def test_a_new_item_is_ranked_by_its_text(load, finished):
    recommender = Recommender.load(finished, "llm")
    history = recommender.dataset.history("u1")
    known = recommender.catalog.at(recommender.catalog.number("p3"))
    twin, other = Item("new", known.fields), Item("newer", (("title", "quite another thing"),))
    (found,) = recommender.rank([Query("q", history, (known, twin, other))])
    score = {entry.item: entry.score for entry in found}
    assert score["new"] == score["p3"] != score["newer"]


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("train.loss=text", "text learns words, and vectors are none"),
        ("model.backend=openai", "openai reads text alone; use transformers"),
        ("train.epochs=0", "only a trained ranker reads them"),
        ('rank.rankers=["llm","llm_compressed"]', "llm_compressed reads texts"),
    ],
)
def test_what_cannot_be_with_vectors_is_refused(load, override, said):
    with pytest.raises(ConfigError, match=said):
        load(override)


def test_a_ranker_of_vectors_is_not_exported(finished, tmp_path):
    with pytest.raises(ConfigError, match=r"train with prompts.item_vectors = 0"):
        export(finished, "onnx", tmp_path / "out")
