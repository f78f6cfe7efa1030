from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from trsr.errors import ConfigError, StaleRunError, StoreError
from trsr.training import trackers
from trsr.training.state import Counts, State, load, save
from trsr.training.trackers import TRACKERS, Curves, Trackers, numbers

IDENTITY = {"learning_rate": 1e-3, "model": "tiny"}


class KilledError(BaseException):
    pass


def state(step: int) -> State:
    weights = {"lora_A": torch.full((2, 3), float(step))}
    counts = Counts(cases=step * 4, seconds=1.5, best_step=step, best_score=0.5, worse=1)
    return State(step, weights, {"lora_A/exp_avg": torch.ones(2, 3)}, weights, counts)


def test_a_state_comes_back_as_it_was(tmp_path: Path):
    save(tmp_path, state(7), IDENTITY)
    found = load(tmp_path, IDENTITY)
    assert found is not None
    assert found.step == 7
    assert found.counts == state(7).counts
    assert torch.equal(found.adapter["lora_A"], torch.full((2, 3), 7.0))
    assert torch.equal(found.moments["lora_A/exp_avg"], torch.ones(2, 3))
    assert torch.equal(found.best["lora_A"], torch.full((2, 3), 7.0))


def test_no_state_is_none_and_only_the_latest_is_kept(tmp_path: Path):
    assert load(tmp_path / "none", IDENTITY) is None
    for step in (1, 2, 3):
        save(tmp_path, state(step), IDENTITY)
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000003"]


def test_a_state_of_other_settings_is_refused_by_name(tmp_path: Path):
    save(tmp_path, state(1), IDENTITY)
    with pytest.raises(StaleRunError, match=r"learning_rate: 0\.001, now 0\.1") as caught:
        load(tmp_path, {**IDENTITY, "learning_rate": 0.1})
    assert "model" not in str(caught.value).partition("settings:")[2]


@pytest.mark.parametrize("name", ["adapter.safetensors", "moments.safetensors", "state.json"])
def test_a_damaged_state_is_refused_in_words(tmp_path: Path, name: str):
    save(tmp_path, state(1), IDENTITY)
    path = tmp_path / "step-00000001" / name
    path.write_bytes(path.read_bytes()[:5])
    with pytest.raises(StoreError, match="cannot be read"):
        load(tmp_path, IDENTITY)


def test_a_kill_at_any_moment_leaves_the_old_state_or_the_new(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Counts every change to the disk while saving, then stops before each of them in turn."""
    seen: list[int] = []

    def run(stop: int, folder: Path) -> int:
        calls = 0

        def counted(real: Callable) -> Callable:
            def call(*args: object, **kwargs: object) -> object:
                nonlocal calls
                calls += 1
                if calls == stop:
                    raise KilledError
                return real(*args, **kwargs)

            return call

        with monkeypatch.context() as patch:
            for owner, name in (
                (os, "fsync"),
                (os, "unlink"),
                (os, "rmdir"),
                (Path, "rename"),
                (Path, "mkdir"),
                (Path, "write_text"),
                (shutil, "rmtree"),
            ):
                patch.setattr(owner, name, counted(getattr(owner, name)))
            patch.setattr("trsr.training.state.save_file", counted(save_file))
            with contextlib.suppress(KilledError):
                save(folder, state(2), IDENTITY)
        return calls

    from safetensors.torch import save_file

    stop = 0
    while True:
        stop += 1
        folder = tmp_path / str(stop)
        folder.mkdir()
        save(folder, state(1), IDENTITY)
        calls = run(stop, folder)
        found = load(folder, IDENTITY)
        assert found is not None
        assert torch.equal(found.adapter["lora_A"], torch.full((2, 3), float(found.step)))
        seen.append(found.step)
        assert len(list(folder.iterdir())) <= 2
        save(folder, state(3), IDENTITY)
        assert [path.name for path in folder.iterdir()] == ["step-00000003"]
        if calls < stop:
            break
    assert seen[0] == 1
    assert seen[-1] == 2
    assert seen == sorted(seen)
    assert len(seen) > 10


def test_a_full_disk_keeps_the_older_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    save(tmp_path, state(1), IDENTITY)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StoreError, match="No space left"):
        save(tmp_path, state(2), IDENTITY)
    monkeypatch.undo()
    found = load(tmp_path, IDENTITY)
    assert found is not None
    assert found.step == 1


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_rows_after_the_state_and_a_torn_line_are_dropped(tmp_path: Path):
    path = tmp_path / "curves.jsonl"
    with Curves(path, 0) as curves:
        for step in range(1, 6):
            curves.add({"step": step, "loss": 1 / step})
        curves.add({"step": 5, "validation": {"auc": 0.5}})
    with path.open("a") as file:
        file.write('{"step": 6, "lo')
    with Curves(path, 3) as curves:
        assert curves.dropped == 5
        assert [row["step"] for row in curves.rows] == [1, 2, 3]
        curves.add({"step": 4, "loss": 0.25})
        curves.sync()
    assert [row["step"] for row in lines(path)] == [1, 2, 3, 4]


def test_numbers_name_what_they_are():
    row = {"step": 3, "loss": 0.5, "tokens": 7}
    assert dict(numbers(row)) == {"train/loss": 0.5, "train/tokens": 7}
    row = {"step": 3, "validation": {"recall@3": 0.25, "auc": None}, "seconds": 3.0}
    assert dict(numbers(row)) == {"validation/recall@3": 0.25}


def test_tensorboard_has_each_step_once_after_a_stop(tmp_path: Path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    rows = [{"step": step, "loss": float(step)} for step in (1, 2, 3)]
    first = Trackers(["tensorboard"], tmp_path, {"rank": 8}, [], 0)
    for row in rows:
        first.send(row)
    first.close()
    second = Trackers(["tensorboard"], tmp_path, {"rank": 8}, rows[:2], 3)
    second.send(rows[2])
    second.send({"step": 3, "validation": {"recall@3": 0.75}})
    second.close()
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [(e.step, e.value) for e in events.Scalars("train/loss")] == [(1, 1), (2, 2), (3, 3)]
    assert [e.step for e in events.Scalars("validation/recall@3")] == [3]


@pytest.mark.filterwarnings("default")  # its own libraries' deprecations
def test_mlflow_gets_each_step_once_after_a_stop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    for sent, steps in ((0, (1, 2)), (2, (2, 3))):
        tracker = Trackers(["mlflow"], tmp_path, {"rank": 8}, [], sent)
        for step in steps:
            tracker.send({"step": step, "loss": float(step)})
        tracker.send({"step": 3, "validation": {"recall@3": 0.5}}) if sent else None
        tracker.close()
    run = (tmp_path / "mlflow_run.txt").read_text()
    client = mlflow.MlflowClient()
    assert [m.step for m in client.get_metric_history(run, "train/loss")] == [1, 2, 3]
    assert client.get_run(run).data.metrics["validation/recall_3"] == 0.5


@pytest.mark.parametrize("name", sorted(TRACKERS))
def test_a_tracker_that_is_not_installed_names_its_extra(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def absent(module: str) -> None:
        raise ImportError(module)

    monkeypatch.setattr(trackers.importlib, "import_module", absent)
    with pytest.raises(ConfigError, match=rf"trsr\[{name}\]"):
        Trackers([name], tmp_path, {}, [], 0)


def test_a_tracker_that_fails_is_left_out_and_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    class Failing:
        calls = 0

        def __init__(self, *_: object) -> None: ...

        def send(self, row: object) -> None:
            Failing.calls += 1
            raise OSError("unreachable")

        def close(self) -> None:
            raise AssertionError("left out before")

    monkeypatch.setattr(trackers, "TRACKERS", {"tensorboard": Failing})
    sending = Trackers(["tensorboard"], tmp_path, {}, [], 0)
    sending.send({"step": 4, "loss": 1.0})
    sending.send({"step": 5, "loss": 1.0})
    sending.close()
    assert Failing.calls == 1
    assert "tensorboard failed at step 4" in caplog.text
