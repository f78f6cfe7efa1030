"""LLM2Rec as a method: its encoder and item vectors stand in place of the sentence encoder's."""

from __future__ import annotations

import shutil

import polars as pl
import pytest

from trsr.errors import ConfigError, StaleRunError, StoreError
from trsr.methods import METHODS
from trsr.pipeline import is_finished, run, run_stage
from trsr.rankers.item_text import read_item_vectors
from trsr.recommender import Recommender
from trsr.storage import files
from trsr.types import Item, Query

CONFIG = """
method = "llm2rec"

[data]
interactions = "clicks.csv"
items = "products.jsonl"
min_history = 4
negatives = 6

[model]
dtype = "float32"
device = "cpu"

[encode]
csft_steps = 2
mntp_steps = 2
contrast_steps = 2
batch_size = 8

[rank]
rankers = ["text_knn", "sasrec_text", "sasrec_llm2rec"]
text_fields = ["title"]

[rank.sequential]
hidden = 8
layers = 1
max_epochs = 1
"""

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def load(tiny_loader, one_thread):
    return tiny_loader(CONFIG)


@pytest.fixture(scope="module")
def outcomes(load):
    return list(run(load()))


def test_a_run_makes_an_encoder_that_every_text_ranker_reads(load, outcomes):
    config = load()
    assert [one.stage for one in outcomes] == list(METHODS.load("llm2rec").stages)
    assert is_finished(config)
    info = outcomes[1].info
    assert [*info["phases"]] == ["base", "csft", "mntp", "contrast"]
    assert (info["items"], info["without_text"], info["width"]) == (30, 0, 32)
    folder = config.run.folder
    frame = files.read_parquet(folder / "item_vectors.parquet")
    assert frame.columns == ["item", "text", "vector"]
    assert frame.schema["vector"] == pl.Array(pl.Float32, 32)
    assert files.parquet_metadata(folder / "item_vectors.parquet")["encoder"] == info["encoder"]


def test_an_encoder_of_other_texts_is_stale(load, outcomes, tmp_path):
    shutil.copytree(load().run.folder, tmp_path / "run")
    folder = f"run.folder={tmp_path / 'run'}"
    assert not run_stage(load(folder, "rank.sequential.max_epochs=2"), "encode").made
    with pytest.raises(StaleRunError, match=r"encode .*rank.text_fields"):
        run_stage(load(folder, 'rank.text_fields=["title", "brand"]'), "rank")


def test_new_items_are_read_by_the_runs_encoder_also_in_a_copy(load, outcomes, tmp_path):
    recommender = Recommender.load(load().run.folder, "sasrec_llm2rec")
    (user,) = recommender.dataset.interactions["user"].head(1)
    history = recommender.dataset.history(user)
    known = recommender.catalog.at(0)
    news = [Item("new", (("title", "a hinge nobody has seen"),)), Item("twin", known.fields)]
    asked = Query("q", history, (known, *news))
    (found,) = recommender.rank([asked])
    own = {entry.item: entry.score for entry in found}
    assert own["twin"] == pytest.approx(own[known.id], abs=1e-6)
    assert own["new"] != own["twin"]
    recommender.save(tmp_path / "copy")
    (again,) = Recommender.load(tmp_path / "copy", "sasrec_llm2rec").rank([asked])
    assert {entry.item: entry.score for entry in again} == pytest.approx(own)


def test_item_vectors_do_without_the_encoder_and_must_be_whole(load, outcomes, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(load().run.folder, folder)
    shutil.rmtree(folder / "encoder")
    knn = Recommender.load(folder, "text_knn")
    vectors = read_item_vectors(folder / "item_vectors.parquet")
    text, vector = next(iter(vectors.items()))
    assert knn.fitted("text_knn").embed([text])[0] == pytest.approx(vector)
    frame = files.read_parquet(folder / "item_vectors.parquet")
    files.write_parquet(frame.drop("vector"), folder / "item_vectors.parquet")
    with pytest.raises(StoreError, match=r"no item vectors .* Give `trsr run` again"):
        read_item_vectors(folder / "item_vectors.parquet")


def test_other_methods_have_no_encoder_of_their_own(load):
    with pytest.raises(ConfigError, match=r"rank.text_model: the method llm_trsr makes no encoder"):
        load('method="llm_trsr"', "rank.text_model=run", 'rank.rankers=["text_knn"]')


def test_where_nothing_reads_the_encoder_none_is_made(load, tmp_path):
    config = load(f"run.folder={tmp_path / 'run'}", 'rank.rankers=["popular"]')
    run_stage(config, "prepare")
    outcome = run_stage(config, "encode")
    assert "no ranker reads the encoder" in outcome.info["why"]
    assert not files.exists(config.run.folder / "encoder")
