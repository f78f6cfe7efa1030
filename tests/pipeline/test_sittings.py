"""A training that was stopped and went on: its record tells the time of all its sittings."""

from __future__ import annotations

import time

import pytest

from trsr.config import load_config
from trsr.pipeline import run_prepare, run_stage, run_summarize
from trsr.progress import Silent
from trsr.store.rundir import RunDirectory

pytest.importorskip("torch", reason="the extra `local` is not installed")


class StopHereError(Exception):
    pass


class Stopping(Silent):
    """Progress that dawdles after the first step and ends the stage after the third."""

    def __init__(self) -> None:
        self.made = 0

    def advance(self, steps: int = 1, note: str = "") -> None:
        self.made += note.startswith("loss")
        if self.made == 1:
            time.sleep(1.5)
        if self.made == 3:
            raise StopHereError


def test_the_seconds_of_a_training_are_those_of_all_its_sittings(tmp_path, small_run) -> None:
    config = load_config(small_run(tmp_path), [f"run.folder={tmp_path / 'run'}"])
    run_prepare(config)
    run_summarize(config)
    with pytest.raises(StopHereError):
        run_stage(config, "train", Stopping())
    began = time.perf_counter()
    run_stage(config, "train")
    sitting = time.perf_counter() - began
    info = RunDirectory(config.run.folder).records()["train"].info
    assert info["earlier_seconds"] >= 1.5
    assert -0.01 < info["seconds"] - info["earlier_seconds"] < sitting + 0.01
