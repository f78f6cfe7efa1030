"""Data-parallel training: two workers make the gradient of one, and each goes on for the other."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from forked import forked_workers
from stopping import train_with_breaks

from trsr.config import Config, load_config
from trsr.engine import workers_kept
from trsr.pipeline import run_prepare, run_stage, run_summarize
from trsr.pipeline.runner import Job
from trsr.pipeline.training import trained, trained_together
from trsr.progress import Silent
from trsr.storage.run_directory import RunDirectory

torch = pytest.importorskip("torch", reason="the extra `local` is not installed")

import sharded_worker  # noqa: E402

# more steps than workers make before they notice that they end, and small ones: a case a worker
LONG = (
    "data.train_users=7",
    "data.test_cases=2",
    "train.epochs=6",
    "train.cases_per_step=2",
    "train.validate_steps=12",
)


@pytest.fixture(scope="module", autouse=True)
def kept() -> Iterator[None]:
    """The second training goes on with the first one's processes, until they are stopped."""
    with forked_workers(), workers_kept(), pytest.MonkeyPatch.context() as patch:
        patch.setattr("trsr.engine.dispatch.LOOK", 0.1)  # small steps: else all are made by then
        yield


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory, small_run: Any) -> Path:
    made: Path = small_run(tmp_path_factory.mktemp("group"))
    return made


def prepared(config: Path, folder: Path, *settings: str) -> Config:
    own = [f"run.folder={folder}", f"run.cache={config.parent / 'r.sqlite'}", "train.dropout=0"]
    loaded = load_config(config, [*own, *settings])
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
    few = ("train.epochs=1", "train.cases_per_step=27", "train.validate_steps=0")
    settings = prepared(config, tmp_path / "run", *few)
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


def curves(config: Config) -> list[dict[str, Any]]:
    rows = (config.run.folder / "adapter" / "curves.jsonl").read_text().splitlines()
    return [json.loads(row) for row in rows]


@pytest.fixture(scope="module")
def unbroken(config: Path, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    settings = prepared(config, tmp_path_factory.mktemp("unbroken") / "run", *LONG)
    run_stage(settings, "train")
    return curves(settings)


@pytest.mark.parametrize("how", ["sharded", "lost"])
def test_a_training_goes_on_with_other_workers_sharded_or_lost_and_alone_again(
    config: Path,
    tmp_path: Path,
    unbroken: list[dict[str, Any]],
    how: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settings = prepared(config, tmp_path / "run", *LONG)
    if how == "sharded":
        monkeypatch.setattr("trsr.pipeline.training._train_shard", sharded_worker.train_shard)
    train_with_breaks(settings, lost=how == "lost")
    found = curves(settings)
    for key in ("loss", "grad_norm"):
        expected = [row[key] for row in unbroken if key in row]
        assert [row[key] for row in found if key in row] == pytest.approx(expected, rel=1e-3)
    for one, other in zip(found, unbroken, strict=True):
        assert one.get("validation") == pytest.approx(other.get("validation"), abs=1e-6)
    steps = [row for row in found if "loss" in row]
    assert steps[0]["distinct_tokens"] < steps[0]["tokens"]
    assert steps[-1]["distinct_tokens"] < steps[-1]["tokens"]
    apart = any(row["distinct_tokens"] == row["tokens"] for row in steps)
    assert apart == (how == "sharded")  # which shares no prefixes
