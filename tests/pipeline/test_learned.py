"""A run whose training did not get far from guessing says so."""

from __future__ import annotations

import json

import pytest

from trsr.config import load_config
from trsr.pipeline import run
from trsr.storage.run_directory import RunDirectory

pytest.importorskip("torch", reason="the extra `local` is not installed")

STEPS = [
    "train.cases_per_step=1",
    "train.validate_steps=0",
    "train.epochs=30",
    "train.dropout=0",
    "data.train_users=3",
    "data.targets_per_user=1",
]


@pytest.mark.parametrize(("rate", "learned"), [("1e-9", False), ("1e-2", True)])
def test_a_training_that_hardly_learned_is_told(tmp_path, monkeypatch, small_run, rate, learned):
    monkeypatch.chdir(tmp_path)
    config = load_config(small_run(tmp_path), [*STEPS, f"train.learning_rate={rate}"])
    list(run(config))
    info = RunDirectory(config.run.folder).records()["train"].info
    assert info["steps"] >= 25
    assert (info["late_loss"] < 0.95 * info["guess_loss"]) is learned
    assert info.get("hardly_learned", False) is not learned
    report = json.loads((config.run.folder / "report.json").read_text("utf-8"))
    notes = [note for note in report["table"]["notes"] if "training hardly learned" in note]
    assert [note.partition(":")[0] for note in notes] == ([] if learned else ["llm"])
    page = (config.run.folder / "report.html").read_text("utf-8")
    box = page.partition('id="warnings"')[2].partition("</section>")[0]
    assert ("training hardly learned" in box) is not learned
    assert page.count("training hardly learned") == box.count("training hardly learned")


def test_too_few_steps_say_nothing(tmp_path, monkeypatch, small_run):
    monkeypatch.chdir(tmp_path)
    config = load_config(small_run(tmp_path), ["train.epochs=1", "train.validate_steps=0"])
    list(run(config))
    info = RunDirectory(config.run.folder).records()["train"].info
    assert info["steps"] < 25
    assert "late_loss" not in info
