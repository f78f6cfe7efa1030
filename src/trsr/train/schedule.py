"""The plan of a training run: which cases each step takes, and its learning rate."""

from __future__ import annotations

import itertools
from bisect import bisect_right
from collections.abc import Sequence

import numpy as np

from trsr.settings import derive_seed
from trsr.train.settings import TrainSettings


class Schedule:
    """Which cases each step takes, and its learning rate; steps count from 1.

    Every epoch has its own seeded order of the groups. A step takes the next groups, as long as
    they have at most `cases_per_step` cases together; an epoch's last step may be smaller.

    Args:
        cases: How many cases there are.
        settings: Epochs, cases a step, the learning rate and its warm-up and decay.
        seed: The run's seed.
        groups: The positions of cases that stay in one step, at most `cases_per_step` each;
            empty: each case alone.
    """

    def __init__(
        self,
        cases: int,
        settings: TrainSettings,
        seed: int,
        groups: Sequence[Sequence[int]] = (),
    ) -> None:
        self._groups = groups or [(case,) for case in range(cases)]
        self._settings = settings
        self._seed = seed
        self._planned: tuple[int, list[list[int]]] = (-1, [])
        # Epochs may have different numbers of steps: groups of several sizes fill them otherwise.
        counts = (len(self._plan(epoch)) for epoch in range(settings.epochs))
        self._ends = list(itertools.accumulate(counts))
        self.steps = self._ends[-1] if self._ends else 0

    def epoch(self, step: int) -> int:
        """The epoch, from 0, that a step belongs to."""
        return bisect_right(self._ends, step - 1)

    def cases(self, step: int) -> list[int]:
        """Positions of the cases that a step learns from, those of a group side by side."""
        epoch = self.epoch(step)
        before = self._ends[epoch - 1] if epoch else 0
        return self._plan(epoch)[step - 1 - before]

    def _plan(self, epoch: int) -> list[list[int]]:
        """The cases of each step of an epoch."""
        if self._planned[0] != epoch:
            draw = np.random.default_rng(derive_seed(self._seed, "epoch", str(epoch)))
            steps: list[list[int]] = [[]]
            for place in draw.permutation(len(self._groups)).tolist():
                group = self._groups[place]
                if steps[-1] and len(steps[-1]) + len(group) > self._settings.cases_per_step:
                    steps.append([])
                steps[-1].extend(group)
            self._planned = (epoch, steps)
        return self._planned[1]

    def rate(self, step: int, spent: float = 0.0) -> float:
        """The learning rate: rising over the warm-up, then falling linearly to zero.

        It is never zero at a step that is made: the first step has 1/warm-up of the peak, and
        zero would be reached one step after the last. In a run with limited time it falls with
        the time as well, linearly from the start, and the lower of the two counts.

        Args:
            step: The step.
            spent: The share of the run's time that earlier steps have taken, below 1.
        """
        peak, warmup = self._settings.learning_rate, self._settings.warmup_steps
        share = 1.0
        if step <= warmup:
            share = step / warmup
        elif self._settings.decay:
            share = (self.steps - step + 1) / (self.steps - warmup + 1)
        return peak * (min(share, 1 - spent) if self._settings.decay else share)
