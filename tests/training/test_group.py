"""Data-parallel training: two workers make the gradient of one, and each goes on for the other."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from stopping import train_with_breaks

from trsr.config import Config, load_config
from trsr.engine import workers_kept
from trsr.pipeline import run_prepare, run_stage, run_summarize
from trsr.pipeline.runner import Job
from trsr.pipeline.training import trained, trained_together
from trsr.progress import Silent
from trsr.storage.run_directory import RunDirectory

torch = pytest.importorskip("torch", reason="the extra `local` is not installed")

PLAIN = ("train.dropout=0", "train.validate_steps=0")


@pytest.fixture(scope="module", autouse=True)
def kept() -> Iterator[None]:
    """The second training goes on with the first one's processes, until one of them is lost."""
    with workers_kept():
        yield


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory, small_run: Any) -> Path:
    made: Path = small_run(tmp_path_factory.mktemp("group"))
    return made


def prepared(config: Path, folder: Path, *settings: str) -> Config:
    own = [f"run.folder={folder}", f"run.cache={config.parent / 'r.sqlite'}", *PLAIN, *settings]
    loaded = load_config(config, own)
    run_prepare(loaded)
    run_summarize(loaded)
    return loaded


def job(config: Config, work: Path) -> Job:
    (work / "out").mkdir(parents=True)
    run = RunDirectory(config.run.folder)
    return Job("train", "key", config, run, work / "out", work / "state", Silent())


def test_the_gradient_of_two_workers_is_that_of_one(config: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    # three cases a step: one worker has two of them
    settings = prepared(config, tmp_path / "run", "train.epochs=1", "train.cases_per_step=27")
    both = settings.model_copy(update={"run": settings.run.model_copy(update={"workers": 2})})
    alone, together = job(settings, tmp_path / "alone"), job(both, tmp_path / "together")
    one = trained(settings, alone.run, alone.out, alone.work, Silent())
    two = trained_together(together)
    assert two["losses"] == pytest.approx(one["losses"], rel=1e-6)
    assert two["tokens"] == one["tokens"]
    state = "step-00000002/moments.safetensors"
    first, second = (
        load_file(work / "state" / state) for work in (tmp_path / "alone", tmp_path / "together")
    )
    for name, moment in first.items():
        if name.endswith("exp_avg"):
            assert moment.norm() > 0
            assert (moment - second[name]).norm() <= 1e-5 * moment.norm(), name


def losses(config: Config) -> list[Any]:
    rows = (config.run.folder / "adapter" / "curves.jsonl").read_text().splitlines()
    found = map(json.loads, rows)
    return [one[key] for one in found for key in ("loss", "grad_norm") if "loss" in one]


def test_a_training_goes_on_with_another_number_of_workers_and_after_a_lost_one(
    config: Path, tmp_path: Path
) -> None:
    settings = prepared(config, tmp_path / "run")
    train_with_breaks(settings, lost=True)
    unbroken = prepared(config, tmp_path / "unbroken")
    run_stage(unbroken, "train")
    assert losses(settings) == pytest.approx(losses(unbroken), rel=1e-3)
