"""A stage killed at any moment goes on where it was, and ends as if it had not been killed."""

from __future__ import annotations

import gc
import itertools
import json
import shutil
import time
import weakref
from types import SimpleNamespace

import polars as pl
import pytest
from forked import forks
from pipeline_data import SMALL
from polars.testing import assert_frame_equal
from stopping import StopHereError, Stopping

from trsr import recommender
from trsr.config import load_config
from trsr.pipeline import run, run_prepare, run_stage, run_summarize
from trsr.pipeline.artifacts import SUMMARIES
from trsr.storage.run_directory import RunDirectory, hash_file

pytest.importorskip("torch", reason="the extra `local` is not installed")

KILLS = 6
"""Of each stage; killing.py takes more."""


@pytest.mark.timeout(900)
def test_each_stage_killed_again_and_again_ends_like_an_unbroken_run(tmp_path, small_run):
    from killing import kill_stages  # here: it imports much

    few = "valid_cases = 4\ntrain_users = 6\ntest_cases = 8"
    config = small_run(tmp_path, SMALL.replace("valid_cases = 5", few))
    # in a process without threads, from which stages are forked
    driver = forks().Process(target=kill_stages, args=(str(config), tmp_path, 11, KILLS))
    driver.start()
    driver.join(880)
    driver.kill()
    assert driver.exitcode == 0
    assert set(json.loads((tmp_path / "kills.json").read_text()).values()) == {KILLS}
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    tables = sorted(path.name for path in whole.glob("*.parquet"))
    assert "rankings.parquet" in tables
    assert "summaries.test.parquet" in tables
    for name in tables:
        # seen once on a busy machine: scores of two float32 fits apart by 1e-6
        unbroken, stopped = (pl.read_parquet(folder / name) for folder in (whole, broken))
        assert_frame_equal(unbroken, stopped, rel_tol=1e-4, abs_tol=1e-5)
    weights = "adapter/adapter_model.safetensors"
    assert (whole / weights).read_bytes() == (broken / weights).read_bytes()
    first, second = (json.loads((f / "report.json").read_text()) for f in (whole, broken))
    assert first["metrics"] == second["metrics"]
    assert not (broken / ".work" / "train").exists()


# --- A training that was stopped and went on: its record tells the time of all its sittings


def test_the_seconds_of_a_training_are_those_of_all_its_sittings(
    tmp_path, small_run, monkeypatch
) -> None:
    own = ["data.train_users=8", "train.epochs=1", f"run.folder={tmp_path / 'run'}"]
    config = load_config(small_run(tmp_path), own)
    run_prepare(config)
    run_summarize(config)
    # an hour passes each time that the loop reads its clock
    hours = SimpleNamespace(perf_counter=itertools.count(0, 3600).__next__)
    with monkeypatch.context() as patch:
        patch.setattr("trsr.training.trainer.time", hours)
        with pytest.raises(StopHereError):
            run_stage(config, "train", Stopping(3))
    began = time.perf_counter()
    run_stage(config, "train")
    sitting = time.perf_counter() - began
    info = RunDirectory(config.run.folder).records()["train"].info
    assert info["earlier_seconds"] >= 3 * 3600
    assert -0.01 < info["seconds"] - info["earlier_seconds"] < sitting + 0.01


# --- Training, the dearest stage, is made again for what it reads, and for nothing else


TRAINED = ["train.epochs=1", "train.validate_steps=0", "rank.rankers=['llm']"]
TRAINED += ["data.train_users=8", "data.valid_cases=4", "data.test_cases=6"]
BLEND = ["rank.rankers=['llm', 'blend']", "rank.blend.members=['popular', 'llm']"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory, tiny_model, small_run):
    """The folder of a finished run, with its configuration."""
    folder = tmp_path_factory.mktemp("whole")
    own = [*TRAINED, f"model.name={tiny_model}", f"run.folder={folder / 'run'}"]
    list(run(load_config(small_run(folder), own)))
    return folder


@pytest.fixture
def made(whole, tmp_path, tiny_model):
    """Gives what runs a copy of it with other settings."""
    shutil.copytree(whole, tmp_path, dirs_exist_ok=True, symlinks=True)

    def make(*settings: str) -> list[str]:
        """The stages that were made."""
        own = [*TRAINED, f"model.name={tiny_model}", f"run.folder={tmp_path / 'run'}", *settings]
        return [one.stage for one in run(load_config(tmp_path / "small.toml", own)) if one.made]

    assert not make()
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
    assert "train" not in made("data.valid_cases=5")
    assert made("data.valid_cases=6", *BLEND) == ["prepare", "summarize", "rank", "evaluate"]


# --- Rankers that ask a language model hold it no longer than they need it


def test_a_rankers_model_is_gone_before_the_next_one_comes(tmp_path, monkeypatch, made):
    opened, there = [], []

    def watched(*args, **more):
        there.append(sum(one() is not None for one in opened))
        model = open_model(*args, **more)
        opened.append(weakref.ref(model))
        return model

    open_model = recommender.open_model
    monkeypatch.setattr(recommender, "open_model", watched)
    gc.disable()  # when rings are looked for is not to be counted on
    try:
        made("rank.rankers=['llm', 'llm_item_only', 'llm_zero_shot']")
    finally:
        gc.enable()
    assert there == [0, 0, 0]
    info = RunDirectory(tmp_path / "run").records()["rank"].info
    # what was written and asked is still counted, of two rankers that ask one model too
    prompts = {name: one["prompts"] for name, one in info["costs"].items()}
    assert min(prompts.values()) > 0
    written = sorted(one["written"] for one in info["models"].values())
    assert written == sorted([prompts["llm"] + prompts["llm_item_only"], prompts["llm_zero_shot"]])
