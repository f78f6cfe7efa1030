from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from stopping import StopHereError, Stopping
from train_toy import ToyWriter, metrics, recall, toy_cases, toy_train

from trsr.errors import StaleRunError
from trsr.training import trainer


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


@pytest.mark.parametrize("stop", [1, 2, 5])  # before a state is kept, with it, and long after
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
    for stop in (3, 4, 6):
        with pytest.raises(StopHereError):
            toy_train(tiny_model, tmp_path, progress=Stopping(stop), **options(checkpoint_steps=1))
    result = toy_train(tiny_model, tmp_path, **options(checkpoint_steps=1))
    assert outcome(tmp_path) == unbroken
    assert result.steps == len(result.losses) == 6


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
        ({"batch_tokens": 512}, "batch_tokens: 8192, now 512"),
        ({"validate": None}, "validated: True, now False"),
    ):
        with pytest.raises(StaleRunError, match=said):
            toy_train(tiny_model, tmp_path, **options(**changed))
    toy_train(tiny_model, tmp_path, **options(checkpoint_steps=5))
    assert outcome(tmp_path) == unbroken
