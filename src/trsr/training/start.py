"""Puts a training run together: the model, the cases in tokens, the steps, the loop."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from trsr.errors import ConfigError
from trsr.hub import SMOLLM2_REPO
from trsr.models.base import Feed, LanguageModel, Sampling, ScoringModel
from trsr.models.hf.model import TransformersModel
from trsr.models.settings import ModelSettings, open_model
from trsr.progress import Progress
from trsr.training.activation_cache import FILE, ActivationCache, lasting
from trsr.training.encode import EncodedCase, encode_cases, fingerprint
from trsr.training.examples import RankingWriter, SizedCases
from trsr.training.result import TrainResult
from trsr.training.schedule import Schedule
from trsr.training.settings import TrainSettings
from trsr.training.step import Learner
from trsr.training.trainer import Loop
from trsr.types import Prompt

HUB_IDS = {"smollm2-135m": SMOLLM2_REPO}
"""Embedded models by the name that a person without trsr can load them by."""

WITHOUT_EFFECT = {"checkpoint_steps", "trackers"}
"""Settings that change nothing about the adapter: a run may go on with other ones."""


def start(
    cases: SizedCases,
    *,
    model: ModelSettings,
    words: Callable[[LanguageModel], RankingWriter],
    settings: TrainSettings,
    seed: int,
    out: Path,
    state: Path,
    validate: Callable[[ScoringModel], Mapping[str, float]] | None,
    progress: Progress,
) -> TrainResult:
    """Trains; arguments, result and errors are those of `trsr.training.train`."""
    # the weights change under what would be kept or compiled
    opened = open_model(model.model_copy(update={"prefix_cache_tokens": 0, "scorer": "torch"}))
    if not isinstance(opened, TransformersModel):
        raise ConfigError(
            f"model.backend: {model.backend} cannot be trained; set it to transformers, or set "
            "train.epochs to 0"
        )
    writer = words(opened)
    shortened = writer.shortened
    compared = settings.loss == "listwise"
    encoded = encode_cases(cases, writer, opened, compared=compared)
    shortened = writer.shortened - shortened
    schedule = Schedule(len(encoded), settings, seed)

    def lower(network: Any) -> ActivationCache | None:
        first = lasting(network, encoded, settings)
        if first is None:
            return None
        most, file = model.batch_tokens, state / FILE
        return ActivationCache(network, first, encoded, batch_tokens=most, file=file)

    with own_world(opened.device):
        learner = Learner(
            opened.network,
            encoded,
            schedule,
            settings,
            base=HUB_IDS.get(model.name, model.name),
            batch_tokens=model.batch_tokens,
            seed=seed,
            lower=lower,
        )
        rated = InTraining(opened)
        loop = Loop(
            learner,
            schedule,
            settings,
            identity=_identity(opened, encoded, settings, seed, validate is not None),
            folder=state,
            validate=None if validate is None else lambda: validate(rated),
            progress=progress,
        )
        result = loop.run(out)
    return replace(result, shortened=shortened)


@dataclass(frozen=True)
class InTraining:
    """The model being trained, as a `ScoringModel` for a validation.

    Attributes:
        model: The model, whose network holds the adapter as it is now.
    """

    model: TransformersModel

    @property
    def identity(self) -> str:
        """No identity that an output store may know: the weights change under it."""
        return f"{self.model.identity} in training"

    @property
    def context_tokens(self) -> int:
        """The most tokens of a prompt and its answer together."""
        return self.model.context_tokens

    def count_tokens(self, prompt: Prompt) -> int:
        """The prompt's tokens as the model would read it."""
        return self.model.count_tokens(prompt)

    def generate(self, prompts: Feed, sampling: Sampling) -> Iterator[tuple[int, str]]:
        """Yields (position, text) of each prompt."""
        return self.model.generate(prompts, sampling)

    def score(self, prompts: Sequence[Prompt], answers: Sequence[str]) -> npt.NDArray[np.float64]:
        """The log-probability of each answer after each prompt."""
        return self.model.score(prompts, answers)


def _identity(
    model: TransformersModel,
    cases: Sequence[EncodedCase],
    settings: TrainSettings,
    seed: int,
    validated: bool,
) -> dict[str, Any]:
    """What a state must have been made from to be gone on with, by name."""
    told = {k: v for k, v in settings.meaning().items() if k not in WITHOUT_EFFECT | {"seed"}}
    return {
        "model": model.identity,
        "batch_tokens": model.settings.batch_tokens,
        "cases": fingerprint(cases),
        "seed": seed,
        "validated": validated,
        **told,
    }


@contextlib.contextmanager
def own_world(device: torch.device) -> Iterator[None]:
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
