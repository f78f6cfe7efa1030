"""A whole run with tuned rankers and a blend that holds a language model."""

from __future__ import annotations

import json

import pytest

from trsr.config import load_config
from trsr.pipeline import run
from trsr.recommender import Recommender
from trsr.storage.run_directory import RunDirectory


def made(outcomes) -> list[str]:
    return [one.stage for one in outcomes if one.made]


@pytest.mark.timeout(300)
def test_a_blend_with_the_trained_model_runs_and_recommends_as_it_ranked(
    tmp_path, monkeypatch, small_run
):
    monkeypatch.chdir(tmp_path)
    path = small_run(tmp_path)
    changes = [
        "train.epochs=1",
        "train.validate_steps=0",
        'rank.rankers=["popular", "blend"]',
        'rank.blend.members=["item_knn", "bm25", "llm"]',
    ]
    config = load_config(path, changes)
    assert made(run(config)) == ["prepare", "summarize", "train", "rank", "evaluate"]
    folder = tmp_path / "runs" / "small"

    info = RunDirectory(folder).records()["rank"].info
    assert set(info["chosen"]) == {"blend"}
    assert set(info["chosen"]["blend"]["weights"]) == {"item_knn", "bm25", "llm"}
    # what the blend learns from is told the same as what it ranks: validation users have summaries
    summaries = RunDirectory(folder).records()["summarize"].info["summaries"]
    counts = json.loads((folder / "prepare.json").read_text())["counts"]
    assert summaries == counts["cases_train"] + counts["cases_valid"] + counts["cases_test"]

    assert made(run(config)) == []
    unused = load_config(path, [*changes, "rank.sequential.layers=3"])
    assert made(run(unused)) == []

    from trsr.rankers import read_rankings

    stored = list(read_rankings(folder / "rankings.parquet")["blend"])
    recommender = Recommender.load(folder, "blend")
    queries = list(recommender.dataset.cases("test").queries())
    again = list(recommender.rank(queries))
    assert again == stored

    used = load_config(path, [*changes, "rank.text_words=5"])
    assert made(run(used))[0] == "rank"
