"""Training for a given time: when it stops, what it keeps, and how it goes on."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from stopping import StopHereError, Stopping
from train_toy import metrics, toy_cases, toy_train

from trsr.errors import StaleRunError
from trsr.train import loop
from trsr.train.schedule import Schedule
from trsr.train.settings import TrainSettings


class Clock:
    """Moves on by ten seconds each time it is read: a step, read before and after, takes ten."""

    def __init__(self) -> None:
        self.now = 0.0

    def perf_counter(self) -> float:
        self.now += 10
        return self.now


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "time", SimpleNamespace(perf_counter=Clock().perf_counter))


def rates(folder: Path) -> list[float]:
    rows = [json.loads(line) for line in (folder / "out/curves.jsonl").read_text().splitlines()]
    return [row["learning_rate"] for row in rows if "loss" in row]


LIMITED: dict[str, Any] = {"max_minutes": 0.75, "epochs": 20, "warmup_steps": 2}


def test_it_ends_after_the_step_that_uses_the_time_up_with_a_validation(
    tiny_model: Path, tmp_path: Path
) -> None:
    validate = {"validate": lambda model: metrics(0.5), "validate_steps": 100}
    result = toy_train(tiny_model, tmp_path, **LIMITED, **validate)
    assert result.steps == 5  # ten seconds each; validations do not count
    assert result.step_seconds == 50
    assert result.seconds > 50
    assert [step for step, _ in result.validations] == [5]
    assert result.out_of_time
    assert not result.stopped_early
    again = toy_train(tiny_model, tmp_path, **LIMITED, **validate)
    assert again == replace(result, earlier_seconds=result.seconds)


def test_the_rate_falls_with_the_time_or_the_steps_whichever_is_lower(
    tiny_model: Path, tmp_path: Path
) -> None:
    toy_train(tiny_model, tmp_path, **LIMITED)
    by_time = [1 - spent / 45 for spent in (0, 10, 20, 30, 40)]
    assert rates(tmp_path) == pytest.approx([1e-2 * r for r in (0.5, *by_time[1:])])
    chosen = TrainSettings(epochs=1, cases_per_step=1, learning_rate=1, warmup_steps=0)
    assert Schedule(10, chosen, 0).rate(6, 0.2) == pytest.approx(5 / 11)
    assert Schedule(10, chosen, 0).rate(6, 0.6) == pytest.approx(0.4)
    flat = chosen.model_copy(update={"decay": False})
    assert Schedule(10, flat, 0).rate(6, 0.6) == 1


def test_a_run_that_ends_before_its_time_is_not_out_of_time(
    tiny_model: Path, tmp_path: Path
) -> None:
    result = toy_train(tiny_model, tmp_path, max_minutes=60, epochs=1)
    assert (result.steps, result.out_of_time, result.stopped_early) == (3, False, False)


@pytest.mark.parametrize("stop", [1, 3, 4])
def test_a_resumed_run_has_the_rest_of_its_time(
    stop: int, tiny_model: Path, tmp_path: Path
) -> None:
    whole = toy_train(tiny_model, tmp_path / "whole", checkpoint_steps=1, **LIMITED)
    broken = tmp_path / "broken"
    with pytest.raises(StopHereError):
        toy_train(tiny_model, broken, progress=Stopping(stop), checkpoint_steps=1, **LIMITED)
    with pytest.raises(StaleRunError, match=r"max_minutes: 0\.75, now 1\.0"):
        toy_train(tiny_model, broken, checkpoint_steps=1, **{**LIMITED, "max_minutes": 1.0})
    result = toy_train(tiny_model, broken, checkpoint_steps=1, **LIMITED)
    assert (result.steps, result.step_seconds) == (whole.steps, whole.step_seconds)
    assert whole.earlier_seconds == 0
    assert 10 * (stop - 1) <= result.earlier_seconds < result.seconds
    # as no step is lost and each takes as long as before, even the weights are the same
    weights = "out/adapter_model.safetensors"
    assert (broken / weights).read_bytes() == (tmp_path / "whole" / weights).read_bytes()


def test_steps_that_were_lost_do_not_count(tiny_model: Path, tmp_path: Path) -> None:
    cases = toy_cases(4)
    with pytest.raises(StopHereError):
        toy_train(tiny_model, tmp_path, cases, progress=Stopping(3), checkpoint_steps=2, **LIMITED)
    result = toy_train(tiny_model, tmp_path, cases, checkpoint_steps=2, **LIMITED)
    assert (result.steps, result.step_seconds) == (5, 50)
