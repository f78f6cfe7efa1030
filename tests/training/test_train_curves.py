from __future__ import annotations

import json
from pathlib import Path

import pytest

from trsr.errors import ConfigError
from trsr.training import trackers
from trsr.training.trackers import TRACKERS, Curves, Trackers, numbers


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
