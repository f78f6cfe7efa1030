"""What a training run hands back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class TrainResult:
    """What a training run did, earlier sittings of a resumed run included.

    Attributes:
        adapter: The folder of the adapter, in PEFT's format; None when nothing was trained
            (`epochs = 0`), so that the model stays the one it started from.
        steps: Optimizer steps made.
        cases: Cases learned from, counted once an epoch.
        tokens: Tokens of all sequences learned from, as if each pair were computed alone.
        distinct_tokens: Tokens that were computed: what the prompts of a micro-batch begin alike
            is counted once.
        parameters: Numbers that were trained.
        seconds: Time spent in steps and validations.
        losses: The loss of each step, the first step first.
        validations: (step, metrics) of each validation, in order.
        best_step: The step whose adapter was kept.
        best_score: The sum of `select_on` at that step; None without validation.
        stopped_early: Whether `patience` ran out before the last step.
        step_seconds: Time spent in steps.
        earlier_seconds: Of `seconds`, what sittings before the last one took, to their last state.
        shortened: Training prompts that were shortened to fit the context.
    """

    adapter: Path | None
    steps: int = 0
    cases: int = 0
    tokens: int = 0
    distinct_tokens: int = 0
    parameters: int = 0
    seconds: float = 0.0
    losses: tuple[float, ...] = ()
    validations: tuple[tuple[int, Mapping[str, float]], ...] = ()
    best_step: int = 0
    best_score: float | None = None
    stopped_early: bool = False
    step_seconds: float = 0.0
    earlier_seconds: float = 0.0
    shortened: int = 0
