"""Whole runs with the trained model asked without the user."""

from __future__ import annotations

import json

import pytest

from trsr.config import check_config, load_config
from trsr.errors import ConfigError
from trsr.pipeline import run
from trsr.rankers import read_rankings
from trsr.storage.run_directory import RunDirectory


@pytest.fixture
def one_run(tmp_path, monkeypatch, small_run):
    pytest.importorskip("torch", reason="the extra `local` is not installed")
    pytest.importorskip("scipy", reason="the extra `baselines` is not installed")
    monkeypatch.chdir(tmp_path)
    path = small_run(tmp_path)
    places = [f"run.folder={tmp_path / 'run'}", f"run.cache={tmp_path / 'out.sqlite'}"]
    return lambda *settings: load_config(path, [*settings, "train.epochs=1", *places])


@pytest.mark.timeout(300)
def test_a_run_trains_for_it_and_a_blend_takes_it_as_a_member(one_run):
    config = one_run('rank.rankers=["llm_item_only"]', "summarize.strategy=none")
    list(run(config))
    trained = RunDirectory(config.run.folder).records()["train"].info
    assert trained["steps"] > 0
    alone = scores_of(config, "llm_item_only")
    text = (config.run.folder / "report.md").read_text()
    assert "tiny, shown nothing of the user" in text
    both = one_run(
        'rank.rankers=["llm", "llm_item_only", "blend"]',
        'rank.blend.members=["llm", "llm_item_only"]',
        "summarize.strategy=none",
    )
    again = [one.stage for one in run(both) if one.made]
    assert "train" not in again
    assert scores_of(both, "llm_item_only") == pytest.approx(alone, abs=1e-5)
    chosen = RunDirectory(both.run.folder).records()["rank"].info["chosen"]["blend"]
    assert set(chosen["weights"]) == {"llm", "llm_item_only"}
    report = json.loads((both.run.folder / "report.json").read_text())
    assert {"llm", "llm_item_only", "blend"} <= set(report["rankers"])


def scores_of(config, name):
    lists = read_rankings(config.run.folder / "rankings.parquet")[name]
    return {(one.query, entry.item): entry.score for one in lists for entry in one}


def test_without_training_it_is_refused(one_run):
    config = one_run('rank.rankers=["llm_item_only"]')
    config = config.model_copy(update={"train": config.train.model_copy(update={"epochs": 0})})
    with pytest.raises(ConfigError, match="llm_item_only needs the trained model"):
        check_config(config.model_dump(exclude_none=True))
