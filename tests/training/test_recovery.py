"""A compressed model follows the whole one: the loss, what is learned, stopping and going on."""

from __future__ import annotations

import copy
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from stopping import StopHereError, Stopping
from tiny import tiny_model_folder

from trsr.models import ModelSettings
from trsr.models.hf import low_rank
from trsr.models.hf.compression import compress
from trsr.models.hf.model import TransformersModel
from trsr.models.settings import CompressSettings
from trsr.progress import Silent
from trsr.training.encode import EncodedCase
from trsr.training.losses import scores
from trsr.training.recovery import FACTORS, Factors, following_loss, lessons, put_factors, recover

pytestmark = pytest.mark.usefixtures("one_thread")
LONG = ((7, 11, 13), (7, 12))
"""Answers that begin alike, of several tokens."""


def cases(count: int, answers: Any = ((11,), (12,)), seed: int = 0) -> list[EncodedCase]:
    """Cases of four prompts each, which share an instruction and then the case's user."""
    rng = random.Random(seed)

    def drawn(size: int) -> tuple[int, ...]:
        return tuple(rng.choices(range(13, 40), k=size))

    made = []
    for number in range(count):
        user = (3, 4, 5, 6, *drawn(8))
        prompts = [user + drawn(rng.randrange(2, 6)) for _ in range(4)]
        made.append(EncodedCase.of(f"{number}", prompts, [answers] * 4, [True] + [False] * 3))
    return made


def settings(folder: Path) -> ModelSettings:
    return ModelSettings(name=str(folder), device="cpu", dtype="float32")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[TransformersModel, Path]:
    """A tiny model, and the folder of the same one with three tenths of its layers' numbers."""
    folder = tmp_path_factory.mktemp("models")
    tiny_model_folder(folder / "whole")
    whole = TransformersModel(
        ModelSettings(name=str(folder / "whole"), device="cpu", dtype="float32")
    )
    smaller, state = copy.deepcopy(whole.network), folder / "state"
    state.mkdir()
    compress(smaller, [one.prompts for one in cases(8)], CompressSettings(ratio=0.3), state)
    tiny_model_folder(folder / "smaller")
    (folder / "smaller" / "model.safetensors").unlink()
    low_rank.save(smaller, folder / "smaller")
    return whole, folder / "smaller"


def opened(folder: Path) -> TransformersModel:
    return TransformersModel(settings(folder))


@pytest.mark.parametrize("answers", [((11,), (12,)), LONG], ids=["one token", "several"])
def test_only_another_model_is_far_and_company_changes_nothing(
    models: tuple[TransformersModel, Path], tmp_path: Path, answers: Any
) -> None:
    whole, folder = models
    own = cases(3, answers)
    wanted = lessons(whole, own, tmp_path / "lessons", Silent())
    loss = following_loss(wanted)
    with torch.no_grad():
        assert loss(whole.network, own, 4096).abs().max() < 1e-5
        far = loss(opened(folder).network, own, 4096)
        assert far.min() > 0.01
        alone = [loss(opened(folder).network, [case], 4096) for case in own[::-1]]
    torch.testing.assert_close(far, torch.cat(alone[::-1]), atol=1e-4, rtol=0)


def test_unseen_cases_are_followed_better_and_a_stopped_call_goes_on_to_the_same_bits(
    models: tuple[TransformersModel, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, folder = models
    monkeypatch.setattr("trsr.training.recovery.RATE", 2e-3)  # of a model 32 numbers wide
    own, unseen = cases(60), cases(20, seed=1)
    wanted = lessons(whole, own, tmp_path / "lessons", Silent())
    for name, progress in (("straight", Silent()), ("stopped", Stopping(40))):
        options: dict[str, Any] = {
            "model": settings(folder),
            "steps": 60,
            "seed": 1,
            "out": tmp_path / name,
            "state": tmp_path / f"{name}.state",
        }
        try:
            result = recover(own, wanted, progress=progress, **options)
        except StopHereError:
            result = recover(own, wanted, progress=Silent(), **options)
        assert result.steps == 60
    one, other = (load_file(tmp_path / name / FACTORS) for name in ("straight", "stopped"))
    assert all(torch.equal(one[key], other[key]) for key in one.keys() | other.keys())

    loss = following_loss(lessons(whole, unseen, tmp_path / "unseen", Silent()))
    recovered = opened(folder).network
    put_factors(recovered, tmp_path / "straight")
    assert one.keys() == {
        f"{name}.{side}.weight" for name in low_rank.ranks_of(recovered) for side in (0, 1)
    }
    with torch.no_grad():
        before, after = (
            float(loss(network, unseen, 4096).mean())
            for network in (opened(folder).network, recovered)
        )
    assert after < 0.9 * before


def test_lessons_are_kept_part_by_part(
    models: tuple[TransformersModel, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, _ = models
    own, given = cases(60), []
    monkeypatch.setattr(
        "trsr.training.recovery.scores", lambda *all: (given.append(1), scores(*all))[1]
    )
    with pytest.raises(StopHereError):
        lessons(whole, own, tmp_path, Stopping(30))
    assert len(given) == 30
    wanted = lessons(whole, own, tmp_path, Silent())
    assert len(given) == 30 + 35  # the first 25 were there
    torch.testing.assert_close(wanted["7"][0], scores(whole.network, own[7:8], 4096))


def test_factors_are_trained_in_full_precision_and_rounded_where_they_are_multiplied(
    models: tuple[TransformersModel, Path],
) -> None:
    _, folder = models
    half = TransformersModel(ModelSettings(name=str(folder), device="cpu", dtype="bfloat16"))
    name = next(iter(low_rank.ranks_of(half.network)))
    layer: Any = half.network.get_submodule(name)[0]
    states = torch.randn(3, layer.in_features).bfloat16()
    before = layer(states)
    factors = Factors(half.network)
    assert torch.equal(layer(states), before)
    assert {one.dtype for one in factors.parameters.values()} == {torch.float32}
    layer(states).float().square().sum().backward()
    assert layer.weight.grad.dtype == torch.float32
    assert layer.weight.grad.norm() > 0
