from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from trsr.errors import StaleRunError, StoreError
from trsr.training.state import Counts, State, load, save

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
