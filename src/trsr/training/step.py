"""One optimizer step: the cases' losses in micro-batches, the gradient, the move."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from trsr.errors import ConfigError, ModelError
from trsr.settings import derive_seed
from trsr.training.activation_cache import ActivationCache
from trsr.training.adapter import Adapter
from trsr.training.batches import batches
from trsr.training.encode import EncodedCase
from trsr.training.losses import LOSSES, Loss
from trsr.training.optimizer import Optimizer
from trsr.training.schedule import Schedule
from trsr.training.settings import TrainSettings
from trsr.training.state import Weights


@dataclass(frozen=True, slots=True)
class Step:
    """What one step did: its mean loss over cases, and what it read.

    `distinct_tokens` were computed: what a micro-batch's prompts begin alike is counted once.
    """

    loss: float
    learning_rate: float
    grad_norm: float
    cases: int
    tokens: int
    distinct_tokens: int


class Learner:
    """Makes the steps of a schedule; each depends on the weights, the moments and its number only.

    The gradient is
    the mean over the step's cases, however they are cut into micro-batches.

    Args:
        network: A causal language model of transformers; LoRA layers are put into it.
        cases: What there is to learn.
        schedule: Which cases each step takes.
        settings: The loss, LoRA and AdamW.
        base: The base model's name, for the adapter's configuration.
        batch_tokens: About how many tokens one forward and backward pass may hold.
        seed: The run's seed.
        loss: What is learned; None: as the settings say.
        lower: Keeps the frozen lower layers' work; made of the network with its adapter. It may
            give None: that work is then done each time.

    Attributes:
        adapter: The LoRA weights on the network.

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
        lower: Callable[[Any], ActivationCache | None] = lambda network: None,
    ) -> None:
        self.adapter = Adapter(network, settings, base, seed)
        self._network = network
        self._cases = cases
        self._schedule = schedule
        self._batch_tokens = batch_tokens
        self._seed = seed
        self._loss = loss or LOSSES[settings.loss]
        # Gradient checkpointing keeps no keys and values: what candidates begin alike is computed
        # for each of them.
        self._alone = settings.gradient_checkpointing
        self._optimizer = Optimizer(self.adapter.parameters, settings)
        if settings.gradient_checkpointing:
            _checkpoint_activations(network)
        network.train()
        self._lower = lower(network)

    @property
    def moments(self) -> Weights:
        """A copy of the optimizer's moments."""
        return self._optimizer.moments()

    def restore(self, adapter: Weights, moments: Weights) -> None:
        """Goes back to the weights and moments after some step."""
        self.adapter.restore(adapter)
        self._optimizer.restore(moments)

    @contextlib.contextmanager
    def resting(self) -> Iterator[None]:
        """Dropout off, for a validation between two steps."""
        self._network.eval()
        try:
            yield
        finally:
            self._network.train()

    def step(self, number: int) -> Step:
        """Makes a step.

        Args:
            number: Which one, from 1.

        Raises:
            ModelError: If a loss or the gradient is not finite; the weights stay as they were.
        """
        # Dropout's draws follow the step's number, not what was drawn before: a run that goes on
        # after a stop draws the same.
        torch.manual_seed(derive_seed(self._seed, "step", str(number)))
        cases = [self._cases[position] for position in self._schedule.cases(number)]
        loss, computed = 0.0, 0
        for batch in batches(cases, self._batch_tokens, alone=self._alone):
            with self._given(batch.cases):
                losses = self._loss(self._network, batch.cases, self._batch_tokens)
            loss += self._sum(number, batch.cases, losses.detach().tolist())
            computed += batch.tokens
            (losses.sum() / len(cases)).backward()  # type: ignore[no-untyped-call]
        norm = self._optimizer.gradient_norm()
        if not math.isfinite(norm):
            named = ", ".join(case.id for case in cases)
            raise _not_finite(f"step {number}: the gradient of cases {named} is not finite")
        rate = self._schedule.rate(number)
        self._optimizer.step(rate)
        tokens = sum(case.tokens for case in cases)
        return Step(loss / len(cases), rate, norm, len(cases), tokens, computed)

    def _given(self, cases: Sequence[EncodedCase]) -> contextlib.AbstractContextManager[None]:
        return self._lower.given(cases) if self._lower else contextlib.nullcontext()

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
        f"{what}: lower train.learning_rate, or set model.dtype to float32; the last state that "
        "was kept is still there"
    )
