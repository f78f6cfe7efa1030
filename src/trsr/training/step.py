"""One optimizer step: the cases' losses in micro-batches, the gradient, the move."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from trsr.errors import ConfigError, ModelError
from trsr.models.token_tree.tokens import Tokens, added
from trsr.settings import derive_seed
from trsr.training.adapter import Adapter
from trsr.training.encode import EncodedCase
from trsr.training.group import Group
from trsr.training.losses import LOSSES, Loss
from trsr.training.settings import TrainSettings
from trsr.training.sharded import ShardedLayers, lost_explained
from trsr.training.state import Weights

T = TypeVar("T")


class Schedule:
    """Which cases each step takes, and its learning rate; steps count from 1.

    Every epoch has its own seeded order of the cases. A step takes the next `cases_per_step` of
    them; an epoch's last step may be smaller.
    """

    def __init__(self, cases: int, settings: TrainSettings, seed: int) -> None:
        self._cases = cases
        self._settings = settings
        self._seed = seed
        self._order_of: tuple[int, list[int]] = (-1, [])
        self._epoch_steps = -(-cases // settings.cases_per_step)
        self.steps = settings.epochs * self._epoch_steps

    def epoch(self, step: int) -> int:
        """The epoch, from 0, that a step belongs to."""
        return (step - 1) // self._epoch_steps

    def cases(self, step: int) -> list[int]:
        """Positions of the cases that a step learns from."""
        size = self._settings.cases_per_step
        start = (step - 1) % self._epoch_steps * size
        return self._order(self.epoch(step))[start : start + size]

    def _order(self, epoch: int) -> list[int]:
        if self._order_of[0] != epoch:
            rng = np.random.default_rng(derive_seed(self._seed, "epoch", str(epoch)))
            self._order_of = epoch, rng.permutation(self._cases).tolist()
        return self._order_of[1]

    def rate(self, step: int) -> float:
        """The learning rate: rises over the warm-up, then falls linearly, to zero after the end."""
        peak, warmup = self._settings.learning_rate, self._settings.warmup_steps
        if step <= warmup:
            return peak * step / warmup
        return peak * (self.steps - step + 1) / (self.steps - warmup + 1)


BETAS = 0.9, 0.95
"""AdamW's decay of the two moments (the paper's)."""

MAX_NORM = 1.0
"""The gradient is clipped to this norm."""


@dataclass(frozen=True, slots=True)
class StepResult:
    """What one step did: its mean loss over cases, and its sizes.

    `distinct_tokens` were computed: shared prefixes count once a micro-batch.
    """

    loss: float
    learning_rate: float
    grad_norm: float
    cases: int
    tokens: int
    distinct_tokens: int


class Activations(Protocol):
    """Gives the network what a pass over some cases needs beside their tokens."""

    def activations(self, cases: Sequence[EncodedCase]) -> contextlib.AbstractContextManager[None]:
        """Holds for the passes within the block, over prompts and answers of these cases."""


class TrainingStep:
    """Makes the steps of a schedule; each depends on the weights, the moments and its number only.

    The gradient is the mean over the step's cases, however they are cut into micro-batches.
    `activation_cache` makes the cache for the frozen lower layers from the network with its
    adapter; where it gives None, each step computes them. With `sharded` the network runs there,
    its layers' weights sharded over the group; else each worker has all of them, where they are.
    What else may be left out is as of `run_training`.

    Raises:
        ConfigError: If a target is no layer of the network, or it cannot checkpoint gradients.
    """

    def __init__(
        self,
        network: Any,
        cases: Sequence[EncodedCase],
        schedule: Schedule,
        settings: TrainSettings,
        *,
        base: str,
        batch_tokens: int,
        seed: int,
        loss: Loss | None = None,
        activation_cache: Callable[[Any], Activations | None] = lambda network: None,
        adapter: Adapter | None = None,
        group: Group | None = None,
        sharded: torch.device | None = None,
    ) -> None:
        self._group = group or Group()
        self.adapter = adapter or Adapter(network, settings, base, seed)
        self._layers = None if sharded is None else ShardedLayers(network, self._group, sharded)
        self._network = network
        self._cases = cases
        self._schedule = schedule
        self._batch_tokens = batch_tokens
        self._seed = seed
        self._loss = loss or LOSSES[settings.loss]
        # There no keys and values are kept, so candidates can't share a prefix.
        self._alone = settings.gradient_checkpointing or self._layers is not None
        self._optimizer = Optimizer(self.adapter.parameters, settings)
        if settings.gradient_checkpointing:
            _checkpoint_activations(network)
        network.train()
        self._activation_cache = activation_cache(network)

    @property
    def moments(self) -> Weights:
        """A copy of the optimizer's moments."""
        return self._optimizer.moments()

    def restore(self, adapter: Weights, moments: Weights) -> None:
        """Goes back to the weights and moments after some step."""
        self.adapter.restore(adapter)
        self._optimizer.restore(moments)

    def led(self, make: Callable[[], T]) -> T:
        """What the leading worker makes of the network between two steps, for all; JSON-able.

        Dropout is off. Where the layers are sharded, the others make empty passes with it.

        Raises:
            ModelError: If another worker was lost.
        """
        self._network.eval()
        try:
            if self._layers is None:
                return self._group.led(make)
            with lost_explained():
                return self._layers.led(make)
        finally:
            self._network.train()

    def run(self, number: int) -> StepResult:
        """Makes a step; steps count from 1.

        Raises:
            ModelError: If a loss or the gradient is not finite, or another worker was lost; the
                weights stay as they were.
        """
        # seeded by the step's number, so that a resumed run has the same dropout
        rank = [str(self._group.rank)] if self._group.rank else []
        torch.manual_seed(derive_seed(self._seed, "step", str(number), *rank))
        cases = [self._cases[position] for position in self._schedule.cases(number)]
        loss, computed = 0.0, 0.0
        own = self._group.share(cases)
        with lost_explained() if self._layers else contextlib.nullcontext():
            for batch in self._micro_batches(own):
                mean: Tensor | float = 0.0
                if batch.cases:
                    with self._cached(batch.cases):
                        losses = self._loss(self._network, batch.cases, self._batch_tokens)
                    loss += self._sum(number, batch.cases, losses.detach().tolist())
                    computed += batch.tokens
                    mean = losses.sum() / len(cases)
                if self._layers:
                    mean = mean + self._layers.finish()
                mean.backward()  # type: ignore[union-attr]
        loss, computed = self._group.add(self.adapter.parameters.values(), (loss, computed))
        norm = self._optimizer.gradient_norm()
        if not math.isfinite(norm):
            named = ", ".join(case.id for case in cases)
            raise _not_finite(f"step {number}: the gradient of cases {named} is not finite")
        rate = self._schedule.rate(number)
        self._optimizer.step(rate)
        tokens = sum(case.tokens for case in cases)
        return StepResult(loss / len(cases), rate, norm, len(cases), tokens, int(computed))

    def _micro_batches(self, own: Sequence[EncodedCase]) -> Iterator[Batch]:
        """This worker's; where the layers are sharded, as many for each: some then hold nothing."""
        found = batches(own, self._batch_tokens, alone=self._alone) if own else iter(())
        if self._layers is None:
            yield from found
            return
        batch = next(found, None)
        while self._group.any(batch is not None):
            yield batch or Batch(alone=True)
            batch = next(found, None)

    def _cached(self, cases: Sequence[EncodedCase]) -> contextlib.AbstractContextManager[None]:
        cache = self._activation_cache
        return cache.activations(cases) if cache else contextlib.nullcontext()

    def _sum(self, number: int, batch: Sequence[EncodedCase], losses: Sequence[float]) -> float:
        for case, loss in zip(batch, losses, strict=True):
            if not math.isfinite(loss):
                raise _not_finite(f"step {number}: the loss of case {case.id} is {loss}")
        return math.fsum(losses)


def _checkpoint_activations(network: Any) -> None:
    # transformers 5.2x renamed it; the older name warns from there on
    enable = getattr(network, "activation_checkpointing_enable", None)
    try:
        (enable or network.gradient_checkpointing_enable)({"use_reentrant": False})
    except ValueError as error:
        raise ConfigError(
            f"train.gradient_checkpointing: {type(network).__name__} cannot do it; set it to false"
        ) from error


def _not_finite(what: str) -> ModelError:
    return ModelError(
        f"{what}: lower train.learning_rate, or set model.dtype to float32; the last saved state "
        "is still there"
    )


class Optimizer:
    """AdamW (Loshchilov and Hutter 2019) over named parameters, with a clipped gradient."""

    def __init__(self, parameters: Mapping[str, nn.Parameter], settings: TrainSettings) -> None:
        self._parameters = dict(parameters)
        self._adamw = torch.optim.AdamW(
            self._parameters.values(),
            lr=settings.learning_rate,
            betas=BETAS,
            weight_decay=settings.weight_decay,
        )

    def gradient_norm(self) -> float:
        """Clips the gradient and returns its norm before that."""
        return float(nn.utils.clip_grad_norm_(self._parameters.values(), MAX_NORM))

    def step(self, rate: float) -> None:
        """Moves the weights at this learning rate and forgets the gradient."""
        for group in self._adamw.param_groups:
            group["lr"] = rate
        self._adamw.step()
        self._adamw.zero_grad(set_to_none=True)

    def moments(self) -> dict[str, Tensor]:
        """A copy of the moments on the CPU, `<parameter>/<moment>` → tensor."""
        return {
            f"{name}/{moment}": tensor.detach().cpu().clone()
            for name, parameter in self._parameters.items()
            for moment, tensor in self._adamw.state[parameter].items()
        }

    def restore(self, moments: Mapping[str, Tensor]) -> None:
        """Puts back what `moments()` gave."""
        for key, tensor in moments.items():
            name, _, moment = key.rpartition("/")
            parameter = self._parameters[name]
            # AdamW counts its steps on the CPU whatever the parameter's device.
            place = tensor.device if moment == "step" else parameter.device
            self._adamw.state[parameter][moment] = tensor.to(place)


class Batch:
    """Cases that go through one forward and backward pass."""

    def __init__(self, alone: bool) -> None:
        self.cases: list[EncodedCase] = []
        self.tokens = 0
        self._alone = alone
        self._texts: list[Tokens] = []

    def with_cases(self, cases: Iterable[EncodedCase]) -> Batch:
        """A copy with these cases added."""
        batch = Batch(self._alone)
        batch.cases, batch.tokens = [*self.cases], self.tokens
        batch._texts = [*self._texts]
        for case in cases:
            batch.cases.append(case)
            new = (added(batch._texts, text) for text in case.texts)
            batch.tokens += case.tokens if self._alone else sum(new)
        return batch


def batches(cases: Sequence[EncodedCase], most: int, *, alone: bool) -> Iterator[Batch]:
    """Groups of neighbouring cases with about `most` tokens; a larger case is a group alone."""
    batch = Batch(alone)
    for case in cases:
        more = batch.with_cases([case])
        if batch.cases and more.tokens > most:
            yield batch
            more = Batch(alone).with_cases([case])
        batch = more
    yield batch
