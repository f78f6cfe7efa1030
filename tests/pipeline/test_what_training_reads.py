"""Training, the dearest stage, is made again for what it reads, and for nothing else."""

from __future__ import annotations

import polars as pl
import pytest

from trsr.config import load_config
from trsr.pipeline import run
from trsr.pipeline.artifacts import SUMMARIES
from trsr.storage.run_directory import hash_file

TRAINED = ["train.epochs=1", "train.validate_steps=0", "rank.rankers=['llm']"]
BLEND = ["rank.rankers=['llm', 'blend']", "rank.blend.members=['popular', 'llm']"]


@pytest.fixture
def made(tmp_path, small_run):
    path = small_run(tmp_path)
    config = load_config(path, [*TRAINED, f"run.folder={tmp_path / 'run'}"])

    def make(*settings: str) -> list[str]:
        """The stages that were made."""
        more = [*TRAINED, f"run.folder={config.run.folder}", *settings]
        return [one.stage for one in run(load_config(path, more)) if one.made]

    assert make() == ["prepare", "summarize", "train", "rank", "evaluate"]
    return make


def test_summaries_of_other_cases_leave_the_training_as_it_is(made, tmp_path):
    before = {name: hash_file(tmp_path / "run" / name) for name in (*SUMMARIES, "adapter")}
    rows = [len(pl.read_parquet(tmp_path / "run" / name)) for name in SUMMARIES]
    assert rows[0]
    assert not rows[1]  # no ranker asks about validation cases
    assert made(*BLEND) == ["summarize", "rank", "evaluate"]
    assert len(pl.read_parquet(tmp_path / "run" / "summaries.valid.parquet"))
    assert made("rank.split=valid") == ["summarize", "rank", "evaluate"]
    assert not len(pl.read_parquet(tmp_path / "run" / "summaries.test.parquet"))
    assert hash_file(tmp_path / "run" / "adapter") == before["adapter"]
    assert made() == ["summarize", "rank", "evaluate"]
    assert {name: hash_file(tmp_path / "run" / name) for name in before} == before
    # ... but those that training reads, for its cases or to choose a step, do not
    assert made("train.validate_steps=1") == ["summarize", "train", "rank", "evaluate"]
    assert made("summarize.block_items=2") == ["summarize", "train", "rank", "evaluate"]


def test_further_validation_cases_leave_the_training_as_it_is(made):
    few = ["data.train_users=8", "data.test_cases=6"]
    made(*few, "data.valid_cases=4")
    assert "train" not in made(*few, "data.valid_cases=5")
    assert made(*few, "data.valid_cases=6", *BLEND) == ["prepare", "summarize", "rank", "evaluate"]
