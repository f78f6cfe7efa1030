"""A training that was stopped and went on: its record tells the time of all its sittings."""

from __future__ import annotations

import itertools
import time
from types import SimpleNamespace

import pytest
from stopping import StopHereError, Stopping

from trsr.config import load_config
from trsr.pipeline import run_prepare, run_stage, run_summarize
from trsr.storage.run_directory import RunDirectory

pytest.importorskip("torch", reason="the extra `local` is not installed")


def test_the_seconds_of_a_training_are_those_of_all_its_sittings(
    tmp_path, small_run, monkeypatch
) -> None:
    config = load_config(small_run(tmp_path), [f"run.folder={tmp_path / 'run'}"])
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
