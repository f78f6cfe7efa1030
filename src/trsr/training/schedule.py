"""The plan of a training run."""

from __future__ import annotations

import numpy as np

from trsr.settings import derive_seed
from trsr.training.settings import TrainSettings


class Schedule:
    """Which cases each step takes, and its learning rate; steps count from 1.

    Every epoch has its own seeded order of the cases. A step takes the next `cases_per_step` of
    them; an epoch's last step may be smaller.

    Args:
        cases: How many cases there are.
        settings: Epochs, cases a step, the learning rate and its warm-up.
        seed: The run's seed.
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
