"""A run whose ranker reads items as vectors: lists, recommendations, and what is refused."""

from __future__ import annotations

import json
import shutil

import pytest
from pipeline_data import FEW

from trsr.errors import ConfigError, TrsrError
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


def weights(folder, *, encoder):
    found = sorted((folder / "adapter").rglob("*.safetensors"))
    own = {path.relative_to(folder): path for path in found}
    return {
        str(name): path.read_bytes()
        for name, path in own.items()
        if ("encoder" in name.parts) == encoder
    }


@pytest.fixture(scope="module")
def texts(load, tmp_path_factory):
    """The same run, whose ranker reads texts."""
    folder = tmp_path_factory.mktemp("runs") / "texts"
    config = load("prompts.item_vectors=0", f"run.folder={folder}", "train.validate_steps=0")
    list(run(config))
    return config.run.folder


def test_a_ranker_of_texts_of_another_run_is_followed(load, finished, texts, tmp_path):
    config = load(f"run.folder={tmp_path}", f"train.start={texts}")
    list(run(config))
    for encoder in (True, False):
        assert weights(config.run.folder, encoder=encoder) == weights(finished, encoder=encoder)
    whole, rest = (
        json.loads((one / "manifest.json").read_text())["stages"]["train"]["info"]
        for one in (finished, config.run.folder)
    )
    assert rest["cases"] * 3 == whole["cases"] * 2


def test_of_a_ranker_of_vectors_the_encoder_stays(load, finished, tmp_path):
    config = load(f"run.folder={tmp_path}", f"train.start={finished}", "prompts.recent=1")
    list(run(config))
    assert weights(config.run.folder, encoder=True) == weights(finished, encoder=True)
    assert weights(config.run.folder, encoder=False) != weights(finished, encoder=False)
    # what it goes on from is part of what it is
    changed = load(f"run.folder={tmp_path}", "prompts.recent=1")
    assert is_finished(config)
    assert not is_finished(changed)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (["train.start=nothing"], "not a run directory"),
        (["train.start={}", "train.rank=4"], r"texts has train.rank = 8, and this run 4: make"),
        (["train.start={}", "data.train_users=3"], r"texts was trained on other cases: give both"),
    ],
)
def test_a_run_that_training_cannot_go_on_from_is_refused(load, texts, tmp_path, changes, said):
    config = load(f"run.folder={tmp_path}", *(one.format(texts) for one in changes))
    with pytest.raises(TrsrError, match=said):
        list(run(config))
    # other cases are seen when there are cases; all else before any work
    assert (config.run.folder / "manifest.json").exists() == ("other cases" in said)


def test_a_run_does_not_go_on_from_itself(load, finished, tmp_path):
    """It would train over what it starts from, and count as made from another run ever after."""
    own = tmp_path / "own"
    shutil.copytree(finished, own)
    before = (own / "manifest.json").read_bytes(), (own / "config.toml").read_bytes()
    (tmp_path / "link").symlink_to(own)
    for start in (own, tmp_path / "link"):
        with pytest.raises(ConfigError, match="is this run itself: name another one"):
            list(run(load(f"run.folder={own}", f"train.start={start}")))
    assert before == ((own / "manifest.json").read_bytes(), (own / "config.toml").read_bytes())


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
        load(override, "train.start=elsewhere")


def test_a_ranker_of_vectors_is_not_exported(finished, tmp_path):
    with pytest.raises(ConfigError, match=r"train with prompts.item_vectors = 0"):
        export(finished, "onnx", tmp_path / "out")
