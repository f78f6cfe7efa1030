from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from stopping import StopHereError, Stopping
from train_toy import ToyWriter, metrics, recall, toy_cases, toy_train

from trsr.errors import StaleRunError
from trsr.training import trainer

HERE = Path(__file__).parents[1]


def validate(model: Any) -> Any:
    return metrics(recall(model, toy_cases(6)))


def options(**more: Any) -> dict[str, Any]:
    return {"validate": validate, "validate_steps": 3, "checkpoint_steps": 2, "dropout": 0.3} | more


def outcome(folder: Path) -> tuple[bytes, list[dict[str, Any]]]:
    """The adapter's bytes, and the curves without the time they took."""
    rows = [json.loads(line) for line in (folder / "out/curves.jsonl").read_text().splitlines()]
    for row in rows:
        del row["seconds"]
    return (folder / "out/adapter_model.safetensors").read_bytes(), rows


@pytest.fixture(scope="module")
def unbroken(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("unbroken")
    toy_train(tiny_model, folder, **options())
    return outcome(folder)


@pytest.mark.parametrize("stop", [1, 2, 3, 4, 5])
def test_a_stopped_run_ends_bit_for_bit_like_an_unbroken_one(
    stop: int, tiny_model: Path, tmp_path: Path, unbroken: Any
):
    with pytest.raises(StopHereError):
        toy_train(tiny_model, tmp_path, progress=Stopping(stop), **options())
    toy_train(tiny_model, tmp_path, **options())
    assert outcome(tmp_path) == unbroken


def test_a_run_stopped_again_and_again_ends_the_same(
    tiny_model: Path, tmp_path: Path, unbroken: Any
):
    stops = 0
    for stop in (3, 4, 6):
        progress = Stopping(stop)
        with pytest.raises(StopHereError):
            toy_train(tiny_model, tmp_path, progress=progress, **options(checkpoint_steps=1))
        stops += 1
    result = toy_train(tiny_model, tmp_path, **options(checkpoint_steps=1))
    assert outcome(tmp_path) == unbroken
    assert result.steps == 6
    assert len(result.losses) == 6
    assert stops == 3


def test_slow_steps_are_kept_before_their_turn(
    tiny_model: Path, tmp_path: Path, unbroken: Any, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(trainer, "KEEP_AFTER", 0.0)
    monkeypatch.setattr(trainer, "KEEP_SHARE", math.inf)
    with pytest.raises(StopHereError):
        toy_train(tiny_model, tmp_path, progress=Stopping(4), **options(checkpoint_steps=100))
    progress = Stopping(100)
    toy_train(tiny_model, tmp_path, progress=progress, **options(checkpoint_steps=100))
    assert progress.told[0] == 4  # steps that are there already
    assert outcome(tmp_path) == unbroken


def test_a_failing_validation_is_made_again(tiny_model: Path, tmp_path: Path, unbroken: Any):
    def failing(model: Any) -> Any:
        raise StopHereError

    with pytest.raises(StopHereError):
        toy_train(tiny_model, tmp_path, **options(validate=failing))
    toy_train(tiny_model, tmp_path, **options())
    assert outcome(tmp_path) == unbroken


def test_settings_without_effect_may_change_and_others_may_not(
    tiny_model: Path, tmp_path: Path, unbroken: Any
):
    with pytest.raises(StopHereError):
        toy_train(tiny_model, tmp_path, progress=Stopping(4), **options())
    for changed, said in (
        ({"learning_rate": 1e-3}, r"learning_rate: 0\.01, now 0\.001"),
        ({"seed": 1}, "seed: 0, now 1"),
        ({"cases": toy_cases(9)}, "cases: "),
        ({"writer": ToyWriter(("No", "Yes"))}, "cases: "),
        ({"batch_tokens": 512}, "batch_tokens: 1024, now 512"),
        ({"validate": None}, "validated: True, now False"),
    ):
        with pytest.raises(StaleRunError, match=said):
            toy_train(tiny_model, tmp_path, **options(**changed))
    toy_train(tiny_model, tmp_path, **options(checkpoint_steps=5))
    assert outcome(tmp_path) == unbroken


PROGRAM = """
import sys, time
from pathlib import Path
import torch
torch.set_num_threads(1)
sys.path[:0] = [sys.argv[1], sys.argv[1] + "/training"]
from test_train_resume import options
from train_toy import toy_train
from trsr.progress import Silent

class Slow(Silent):
    made = 0
    def advance(self, steps=1, note=""):
        self.made += 1
        print("step", flush=True)
        time.sleep(0.05 if self.made < 5 else 60)

toy_train(Path(sys.argv[2]), Path(sys.argv[3]), progress=Slow(), **options(checkpoint_steps=1))
"""


def test_a_killed_process_goes_on_and_ends_the_same(
    tiny_model: Path, tmp_path: Path, unbroken: Any
):
    command = [sys.executable, "-c", PROGRAM, str(HERE), str(tiny_model), str(tmp_path)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    assert process.stdout is not None
    assert [process.stdout.readline() for _ in range(3)] == ["step\n"] * 3
    time.sleep(0.06)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert not (tmp_path / "out").exists()
    progress = Stopping(100)
    toy_train(tiny_model, tmp_path, progress=progress, **options(checkpoint_steps=1))
    assert progress.told[0] in (3, 4, 5)
    assert outcome(tmp_path) == unbroken
