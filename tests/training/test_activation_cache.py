"""What the frozen lower layers make of a case is kept: equal gradients, and the work done once."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from stopping import StopHereError, Stopping
from test_train_resume import outcome
from tiny import tiny_model_folder, tiny_network
from train_toy import toy_cases, toy_train

from trsr.errors import StoreError
from trsr.models.token_tree.kv_cache import decoder_of
from trsr.training.activation_cache import FILE, ActivationCache, first_adapted_layer
from trsr.training.adapter import Adapter
from trsr.training.encode import EncodedCase
from trsr.training.losses import LOSSES
from trsr.training.settings import TrainSettings

UPPER = TrainSettings(upper_layers=1, epochs=2, dropout=0)


def random_case(rng: random.Random, name: str, shared: tuple[int, ...]) -> EncodedCase:
    """A case whose prompts begin with what several cases share; answers of one or two tokens."""

    def tokens(most: int) -> tuple[int, ...]:
        return tuple(rng.randrange(3, 300) for _ in range(rng.randint(1, most)))

    start = shared + tokens(40)
    prompts = [start + tokens(20) for _ in range(rng.randint(2, 4))]
    answer = ((5,), (7,)) if rng.random() < 0.5 else ((5, 6), (7, 8))
    positive = [place == 0 for place in range(len(prompts))]
    return EncodedCase.of(name, prompts, [answer] * len(prompts), positive)


def stirred(shape: str) -> tuple[Any, Adapter]:
    network = tiny_network(shape)
    targets = ("query_key_value",) if shape == "gpt_neox" else UPPER.targets
    changes = UPPER.model_copy(update={"targets": targets})
    adapter = Adapter(network, changes, "tiny", 0)
    torch.manual_seed(1)
    for parameter in adapter.parameters.values():
        torch.nn.init.normal_(parameter, std=0.1)
    network.train()
    return network, adapter


def gradients(
    network: Any, adapter: Adapter, loss: str, cases: list[EncodedCase], most: int
) -> tuple[torch.Tensor, list[torch.Tensor]]:
    losses = LOSSES[loss](network, cases, most)
    losses.sum().backward()
    found = [parameter.grad for parameter in adapter.parameters.values()]
    for parameter in adapter.parameters.values():
        parameter.grad = None
    return losses.detach(), [grad for grad in found if grad is not None]


@settings(max_examples=8)
@given(
    seed=st.integers(0, 10**6),
    shape=st.sampled_from(["llama", "qwen2", "qwen3", "gpt_neox"]),
    loss=st.sampled_from(sorted(LOSSES)),
    most=st.sampled_from([30, 10**4]),
)
def test_kept_states_give_the_same_losses_and_gradients(
    tmp_path_factory: pytest.TempPathFactory, seed: int, shape: str, loss: str, most: int
):
    rng = random.Random(seed)
    shared = tuple(rng.randrange(3, 300) for _ in range(rng.choice([1, 40])))
    cases = [random_case(rng, f"c{number}", shared) for number in range(4)]
    network, adapter = stirred(shape)
    file = tmp_path_factory.mktemp("kept") / FILE
    cache = ActivationCache(network, 1, cases, batch_tokens=most, file=file)
    # computed first, then read, then some of both; in other orders, with other neighbours
    for picked in ([0], [3, 0], [1], [2, 0, 3], [0, 1, 2, 3]):
        batch = [cases[position] for position in picked]
        wanted, right = gradients(network, adapter, loss, batch, most)
        with cache.activations(batch):
            changes, own = gradients(network, adapter, loss, batch, most)
        torch.testing.assert_close(changes, wanted, atol=1e-5, rtol=1e-5)
        for one, other in zip(own, right, strict=True):
            assert float((one - other).norm()) <= 1e-5 * float(other.norm()) + 1e-8


def test_what_is_given_does_not_depend_on_the_neighbours(tmp_path: Path):
    rng = random.Random(0)
    cases = [random_case(rng, f"c{number}", (9,) * 40) for number in range(3)]
    found = []
    for number, before in enumerate(([], [2, 1])):
        network, adapter = stirred("llama")
        file = tmp_path / str(number) / FILE
        cache = ActivationCache(network, 1, cases, batch_tokens=10**4, file=file)
        for position in before:
            with cache.activations([cases[position]]):
                pass
        with cache.activations([cases[0]]):
            found.append(gradients(network, adapter, "listwise", [cases[0]], 10**4))
    torch.testing.assert_close(found[0], found[1], atol=0, rtol=0)


@contextmanager
def counted(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """The tokens that go through each model's lowest layer while a run trains."""
    seen: list[int] = []
    from trsr.training.step import TrainingStep

    own = TrainingStep.__init__

    def watched(self: Any, network: Any, *args: Any, **kwargs: Any) -> None:
        own(self, network, *args, **kwargs)
        layer = decoder_of(network).layers[0]
        layer.register_forward_pre_hook(lambda _, changes: seen.append(changes[0].shape[1]))

    with monkeypatch.context() as patched:
        patched.setattr(TrainingStep, "__init__", watched)
        yield seen


def test_later_epochs_do_not_repeat_the_frozen_layers(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    passed = {}
    for epochs in (2, 5):
        with counted(monkeypatch) as seen:
            result = toy_train(tiny_model, tmp_path / str(epochs), upper_layers=1, epochs=epochs)
        passed[epochs] = sum(seen)
        assert result.distinct_tokens == epochs * result.distinct_tokens // epochs
    assert passed[2] == passed[5] > 0
    with counted(monkeypatch) as seen:
        toy_train(tiny_model, tmp_path / "all", epochs=2)
    assert sum(seen) > passed[2]  # with all layers adapted, each epoch goes through all


def test_it_learns_what_it_learns_without(tiny_model: Path, tmp_path: Path, monkeypatch: Any):
    changes = {"upper_layers": 1, "epochs": 3, "dropout": 0.0}
    kept = toy_train(tiny_model, tmp_path / "kept", **changes)
    monkeypatch.setattr("trsr.training.start.first_adapted_layer", lambda *_: None)
    repeated = toy_train(tiny_model, tmp_path / "repeated", **changes)
    assert kept.losses == pytest.approx(repeated.losses, rel=1e-3, abs=1e-4)
    assert kept.losses[-1] < kept.losses[0]


def test_a_stopped_run_ends_bit_for_bit_like_an_unbroken_one(tiny_model: Path, tmp_path: Path):
    changes: dict[str, Any] = {"upper_layers": 1, "epochs": 3}
    toy_train(tiny_model, tmp_path / "unbroken", **changes)
    for step in (2, 5):
        with pytest.raises(StopHereError):
            toy_train(tiny_model, tmp_path / "stopped", progress=Stopping(step), **changes)
    toy_train(tiny_model, tmp_path / "stopped", **changes)
    assert outcome(tmp_path / "stopped") == outcome(tmp_path / "unbroken")


def test_where_it_is_not_worth_it_or_cannot_be_done_nothing_is_kept(tmp_path: Path):
    network, _ = stirred("llama")
    cases = [random_case(random.Random(0), name, ()) for name in ("a", "b")]
    assert first_adapted_layer(network, cases, UPPER) == 1
    for change in ({"epochs": 1}, {"upper_layers": 0}, {"upper_layers": 2}):
        assert first_adapted_layer(network, cases, UPPER.model_copy(update=change)) is None
    assert (
        first_adapted_layer(network, [cases[0], cases[0]], UPPER) is None
    )  # cannot be changes apart
    assert first_adapted_layer(tiny_network("gemma2"), cases, UPPER) is None  # not packed
    dropping, _ = stirred("gpt_neox")
    decoder_of(dropping).layers[0].post_attention_dropout.p = 0.1
    assert first_adapted_layer(dropping, cases, UPPER) is None


def test_a_full_disk_is_an_error(tiny_model: Path, tmp_path: Path):
    (tmp_path / "state" / FILE).mkdir(parents=True)
    with pytest.raises(StoreError, match=r"lower_layers\.bin: the activation cache"):
        toy_train(tiny_model, tmp_path, upper_layers=1, epochs=2)


def test_fused_projections_are_kept_too(tmp_path: Path):
    folder = tiny_model_folder(tmp_path / "neox", shape="gpt_neox", tied=False)
    changes: dict[str, Any] = {"targets": ("query_key_value",), "upper_layers": 1, "epochs": 3}
    result = toy_train(folder, tmp_path, toy_cases(6), **changes)
    assert result.losses[-1] < result.losses[0]
