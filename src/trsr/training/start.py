"""Sets up a training run: the model, the steps, the trainer; also one on given texts."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from trsr.errors import ConfigError, DataError
from trsr.hub import SMOLLM2_REPO
from trsr.machine import memory
from trsr.models.base import ModelWrapper
from trsr.models.hf.load import pick_device, pick_dtype
from trsr.models.hf.model import TransformersModel
from trsr.models.settings import ModelSettings, open_model
from trsr.models.token_tree.kv_cache import decoder_of
from trsr.progress import Progress
from trsr.training.activation_cache import FILE, ActivationCache, first_adapted_layer
from trsr.training.adapter import Adapter, check_targets
from trsr.training.encode import EncodedCase, TextExample, fingerprint
from trsr.training.fit import TrainResult
from trsr.training.group import Group
from trsr.training.losses import Loss, text_example_loss
from trsr.training.settings import TrainSettings
from trsr.training.state import Weights
from trsr.training.step import Activations, Schedule, TrainingStep
from trsr.training.trainer import Trainer
from trsr.types import Prompt

PASS_BYTES = 2**31
"""Most bytes that one pass keeps for the way back on a CPU, beside a single larger case; an eighth
of the memory where that is less."""
SMALL_PASS = 1024
"""So many tokens a pass holds anyway: with fewer, threads mostly wait (docs/performance.md)."""

HUB_IDS = {"smollm2-135m": SMOLLM2_REPO}
"""Embedded models by the name that a person without trsr can load them by."""


def open_trainable(
    model: ModelSettings, advice: str, adapter: Path | None = None, *, sharded: bool = False
) -> TransformersModel:
    """Opens a model for training; ConfigError with the advice if its backend cannot be trained.

    Where its weights are to be sharded they stay in the machine's memory, in the format of the
    device that it is opened for: that may not hold them.
    """
    # the weights change under what would be compiled or kept
    plain = model.model_copy(update={"scorer": "torch"})
    if sharded:
        dtype = str(pick_dtype(model, pick_device(model))).removeprefix("torch.")
        plain = plain.model_copy(update={"device": "cpu", "dtype": dtype})
    opened = open_model(plain, adapter)
    if not isinstance(opened, TransformersModel):
        raise ConfigError(f"model.backend: {model.backend} cannot be trained; {advice}")
    opened.keep_prefixes(0)
    if sharded:
        opened.device = pick_device(model)
    tokens = pass_tokens(model, opened.device, token_bytes(opened.network))
    most = {"batch_tokens": tokens, "device": model.device}
    opened.settings = opened.settings.model_copy(update=most)
    return opened


def pass_tokens(model: ModelSettings, device: torch.device, token_bytes: float) -> int:
    """About how many tokens one forward and backward pass of a training holds.

    On a CPU memory decides, which each token's activations take: `token_bytes`.
    """
    if device.type != "cpu":
        return model.batch_tokens
    room = min(PASS_BYTES, memory() / 8)
    return min(model.batch_tokens, max(SMALL_PASS, int(room / token_bytes)))


def token_bytes(network: Any) -> float:
    """About how many bytes a pass keeps of a token, as `activation_numbers` counts them."""
    decoder = decoder_of(network)
    sizes = decoder.config
    inner = getattr(sizes, "intermediate_size", None) or 4 * sizes.hidden_size
    inner = float(np.mean(inner))  # some name one a layer, as Gemma 3n does
    numbers = activation_numbers(sizes.num_hidden_layers, sizes.hidden_size, inner)
    return float(numbers * next(decoder.parameters()).dtype.itemsize)


def activation_numbers(layers: int, hidden: int, inner: float) -> float:
    """About how many numbers a pass keeps of a token: measured, of a fused decoder.

    That is a layer's inputs, queries, keys, values and sums, and the two halves of its MLP.
    """
    return layers * (6 * hidden + 2 * inner)


def run_training(
    opened: TransformersModel,
    cases: Sequence[EncodedCase],
    settings: TrainSettings,
    *,
    name: str,
    identity: Mapping[str, Any],
    seed: int,
    out: Path,
    state: Path,
    progress: Progress,
    validate: Callable[[], Mapping[str, float]] | None = None,
    loss: Loss | None = None,
    start: Weights | None = None,
    schedule: Schedule | None = None,
    unit: str = "steps",
    adapter: Adapter | None = None,
    activations: Activations | None = None,
    group: Group | None = None,
    sharded: bool = False,
) -> TrainResult:
    """Trains an adapter on encoded cases, from the start or from the last state.

    Args:
        opened: The model; its network is changed in place.
        cases: What to train on.
        settings: How to train.
        name: The base model's name.
        identity: What else a state must have been made from to be resumed, by name.
        seed: The run's seed.
        out: A folder for the adapter and the curves.
        state: A folder for the states.
        progress: Advances with each step.
        validate: Gives the metrics of the network as it is; None: the last adapter is kept.
        loss: What to minimize; None: as the settings say.
        start: An adapter's weights to go on with; None: a new adapter.
        schedule: Which cases each step takes; None: a drawn order of all of them.
        unit: What the progress counts.
        adapter: What is trained, on the network already; None: a new LoRA adapter.
        activations: What each pass needs; None: an activation cache where that can be.
        group: The workers that make each step together; None: this process alone.
        sharded: Whether they share the weights of the frozen layers.
    """
    schedule = schedule or Schedule(len(cases), settings, seed)
    batch_tokens = opened.settings.batch_tokens

    def activation_cache(network: Any) -> Activations | None:
        if activations is not None:
            return activations
        first = first_adapted_layer(network, cases, settings)
        if first is None:
            return None
        file = state / (f"worker-{group.rank}.{FILE}" if group and group.rank else FILE)
        return ActivationCache(network, first, cases, batch_tokens=batch_tokens, file=file)

    with isolated_random_state(opened.device):
        step = TrainingStep(
            opened.network,
            cases,
            schedule,
            settings,
            base=HUB_IDS.get(name, name),
            batch_tokens=batch_tokens,
            seed=seed,
            loss=loss,
            activation_cache=activation_cache,
            adapter=adapter,
            group=group,
            sharded=opened.device if sharded else None,
        )
        if start is not None:
            step.adapter.restore(start)
        model = {"model": opened.identity, "batch_tokens": batch_tokens, "seed": seed}
        trainer = Trainer(
            step,
            schedule,
            settings,
            identity={**model, **identity},
            folder=state,
            validate=validate,
            progress=progress,
            unit=unit,
            group=group,
        )
        return trainer.run(out)


class ModelInTraining(ModelWrapper):
    """The model being trained, as a `ScoringModel` for a validation."""

    inner: TransformersModel

    @property
    def identity(self) -> str:
        """No identity that a response cache may know: the weights change under it."""
        return f"{self.inner.identity} in training"

    def score(self, prompts: Sequence[Prompt], answers: Sequence[str]) -> npt.NDArray[np.float64]:
        """The log-probability of each answer after each prompt."""
        return self.inner.score(prompts, answers)


@contextlib.contextmanager
def isolated_random_state(device: torch.device) -> Iterator[None]:
    """Leaves the process's random state and switches as they were; sums in a fixed order on a CPU.

    With several threads some backward passes on a CPU add in the order the threads come;
    on a GPU the switch would refuse operations, so runs there repeat only nearly.
    """
    switched = torch.are_deterministic_algorithms_enabled()
    filler: Any = torch.utils.deterministic  # its attribute is not declared
    filling = filler.fill_uninitialized_memory
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        try:
            if device.type == "cpu":
                torch.use_deterministic_algorithms(True)
                filler.fill_uninitialized_memory = False
            yield
        finally:
            torch.use_deterministic_algorithms(switched)
            filler.fill_uninitialized_memory = filling


def train_on_texts(
    texts: Callable[[TransformersModel], Sequence[TextExample]],
    *,
    model: ModelSettings,
    settings: TrainSettings,
    seed: int,
    out: Path,
    state: Path,
    progress: Progress,
) -> TrainResult:
    """Trains a LoRA adapter to write these texts; stoppable and resumable at any step.

    The loss is the cross-entropy of a text's tokens, mean over them. Where the text is complete
    the end of the turn counts too; the prompt's tokens count nothing.

    Raises:
        ConfigError: If the model is not one of transformers, or a LoRA target is no layer of it.
        DataError: If there are no texts.
        ModelError: If the model cannot be loaded, or a loss is not finite.
        StaleRunError: If `state` was made with other settings; names those that differ.
        StoreError: If the state cannot be read or written.
    """
    opened = open_trainable(model, "use transformers")
    check_targets(opened.network, settings.targets)
    encoded = [_encoded(one, opened) for one in texts(opened)]
    if not encoded:
        raise DataError("there are no texts to train on")
    return run_training(
        opened,
        encoded,
        settings,
        name=model.name,
        identity={"texts": fingerprint(encoded), **settings.meaning()},
        seed=seed,
        out=out,
        state=state,
        progress=progress,
        loss=text_example_loss,
    )


def _encoded(example: TextExample, model: TransformersModel) -> EncodedCase:
    """A text as a case of one candidate, whose right answer the text is."""
    prompt, text = model.encode_text(example.prompt, example.text, complete=example.complete)
    return EncodedCase.of(example.query, [prompt], [(text, ())], [True])
