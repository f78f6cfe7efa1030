"""Trainings whose layers' weights are sharded: the same steps, half of the weights each."""

from __future__ import annotations

from pathlib import Path

import pytest
from forked import forks

torch = pytest.importorskip("torch", reason="the extra `local` is not installed")

import sharded_worker  # noqa: E402

from trsr.training import sharded  # noqa: E402
from trsr.training.group import LOST, Group  # noqa: E402

PATIENCE = 900.0


def test_weights_are_sharded_where_they_are_too_large_for_one_gpu():
    gib = 1 << 30
    assert sharded.too_large(140 * gib, 80 * gib, 8)
    assert sharded.too_large(49 * gib, 80 * gib, 2)
    assert not sharded.too_large(47 * gib, 80 * gib, 2)
    assert not sharded.too_large(140 * gib, 80 * gib, 1)
    assert not sharded.too_large(140 * gib, 0, 8)


def test_weights_are_never_sharded_on_cpus_or_alone(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
):
    from trsr.models import ModelSettings

    class Two(Group):
        size = 2

    settings = ModelSettings(name=str(tiny_model), device="cpu")
    monkeypatch.setattr(sharded, "too_large", lambda *_: True)
    assert not sharded.must_shard(settings, None)
    assert not sharded.must_shard(settings, Group())
    assert not sharded.must_shard(settings, Two())


def test_the_numbers_of_a_stored_model_are_counted(tiny_model: Path):
    from trsr.models import ModelSettings, open_model
    from trsr.models.hf.load import numbers_stored
    from trsr.models.weights import local_weights

    opened = open_model(ModelSettings(name=str(tiny_model), device="cpu"))
    here = set(opened.network.parameters())
    assert numbers_stored(local_weights(str(tiny_model))) == sum(one.numel() for one in here)


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two processes made together, until the second one was lost."""
    folder = tmp_path_factory.mktemp("together")
    both = [forks().Process(target=sharded_worker.work, args=(n, 2, folder)) for n in range(2)]
    for one in both:
        one.start()
    for one in both:
        one.join(PATIENCE)
    codes = [one.exitcode for one in both]
    for one in both:
        one.kill()
    assert codes == [0, 9]
    return folder


@pytest.mark.parametrize("variant", sharded_worker.VARIANTS)
def test_two_workers_with_sharded_weights_train_as_one_with_all(together: Path, variant: str):
    alone = sharded_worker.trained(variant)
    first, second = (
        torch.load(together / f"{variant} {rank}", weights_only=True) for rank in range(2)
    )
    for key in ("adapter", "moments"):
        for name, wanted in alone[key].items():
            assert (first[key][name] - wanted).norm() <= 1e-5 * wanted.norm(), name
            assert torch.equal(first[key][name], second[key][name])
    gradients = [one for name, one in alone["moments"].items() if name.endswith("exp_avg")]
    assert all(one.norm() > 1e-3 for one in gradients)
    for key in ("loss", "grad_norm"):
        wanted = [one[key] for one in alone["results"]]
        assert [one[key] for one in first["results"]] == pytest.approx(wanted, rel=1e-5)
    for found, wanted in zip(second["validations"], alone["validations"], strict=True):
        assert found == pytest.approx(wanted, rel=1e-5, abs=1e-4)
    for one in (first, second):
        (layers, rest), (every, same) = one["numbers"]
        assert layers == every // 2
        assert rest == same


def test_a_worker_lost_within_a_step_ends_the_other(together: Path):
    assert LOST in (together / "said").read_text()
