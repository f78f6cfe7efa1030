"""Trains the ranker. Light to import: torch is loaded when something is trained."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from trsr.models.base import LanguageModel, ScoringModel
from trsr.models.settings import ModelSettings
from trsr.progress import Progress
from trsr.storage import files
from trsr.training.encode import RankingWriter, SizedCases, encode_cases, fingerprint
from trsr.training.settings import TrainSettings

if TYPE_CHECKING:
    from trsr.training.group import Group

Validate = Callable[[ScoringModel], Mapping[str, float]]
"""Ranks validation queries with the model as it is and gives metrics by name."""

WITHOUT_EFFECT = {"checkpoint_steps", "trackers"}
"""Settings that don't change the adapter: a resumed run may have other ones."""


@dataclass(frozen=True, slots=True)
class TrainResult:
    """What a training run did, earlier sittings of a resumed run included.

    Attributes:
        adapter: The folder of the adapter, in PEFT's format; None when nothing was trained
            (`epochs = 0`), so that the model stays the one it started from.
        steps: Optimizer steps made.
        cases: Cases trained on, counted once an epoch.
        tokens: Tokens of all sequences trained on, as if each pair were computed alone.
        distinct_tokens: Tokens that were computed; shared prefixes count once a micro-batch.
        parameters: Trained numbers.
        seconds: Time spent in steps and validations.
        losses: The loss of each step, the first step first.
        validations: (step, metrics) of each validation, in order.
        best_step: The step whose adapter was kept.
        best_score: The sum of `SELECTED_ON` at that step; None without validation.
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


def train(
    cases: SizedCases,
    *,
    model: ModelSettings,
    words: Callable[[LanguageModel], RankingWriter],
    settings: TrainSettings,
    seed: int,
    out: Path,
    state: Path,
    validate: Validate | None,
    progress: Progress,
    group: Group | None = None,
    sharded: bool | None = None,
    start: Path | None = None,
) -> TrainResult:
    """Fine-tunes the yes/no ranker by LoRA (Hu et al. 2021), stoppable and resumable at any step.

    Each step's gradient is the mean over its cases of the loss in `settings.loss`. A stopped run
    resumes from the last state in `state`. On a CPU its adapter is then, bit for bit, that of an
    unbroken run with the same number of threads. With `epochs = 0` nothing is loaded or written.

    Args:
        cases: Training cases; each query has its candidates (relevant and others) and summary.
        model: The base model; its backend must be `transformers`.
        words: Makes the prompt writer for the base model, the same as in ranking; called once.
        settings: What to train and how.
        seed: The run's seed, from which every other seed is derived.
        out: A folder for the adapter in PEFT's format, `curves.jsonl`, and the TensorBoard files
            where asked for. The caller makes it appear at once.
        state: A folder for what a stopped run needs to resume. The caller removes it once `out`
            is in place; until then the same call gives the same result at once.
        validate: Called every `validate_steps` and after the last step, with the model being
            trained, in evaluation mode and without a response cache; None: the last adapter is
            kept.
        progress: Advances with each step.
        group: The workers that make each step together, of which this process is one; None: it
            trains alone. Without dropout the gradients are then the same but for rounding.
        sharded: Whether the workers share the weights of the frozen layers; None: where the model
            is too large for one worker's GPU (see `must_shard`).
        start: The folder of an adapter of the same base and shape to go on from; None: a new one.

    Raises:
        ConfigError: If the backend cannot be trained, a LoRA target is no layer of the model, a
            tracker is not installed, or the validation lacks a metric of `SELECTED_ON`.
        DataError: If there are no cases, or the listwise loss has nothing to compare in one.
        ModelError: If the model cannot be loaded, or a loss is not finite; names step and case.
        PromptError: If a case's prompt does not fit; names the query.
        StaleRunError: If `state` was made with other settings; names those that differ.
        StoreError: If the state cannot be read or written.
    """
    if settings.epochs == 0:
        return TrainResult(adapter=None)
    from safetensors.torch import load_file

    from trsr.training.sharded import must_shard
    from trsr.training.start import ModelInTraining, open_trainable, run_training

    weights = start and start / "adapter_model.safetensors"
    sharded = must_shard(model, group) if sharded is None else sharded
    advice = "set it to transformers, or set train.epochs to 0"
    opened = open_trainable(model, advice, sharded=sharded)
    writer = words(opened)
    before = writer.shortened
    encoded = encode_cases(cases, writer, opened, compared=settings.loss == "listwise")
    shortened = writer.shortened - before
    in_training = ModelInTraining(opened)
    result = run_training(
        opened,
        encoded,
        settings,
        name=model.name,
        identity={
            "cases": fingerprint(encoded),
            "validated": validate is not None,
            **({"start": files.hash_file(weights)} if weights else {}),
            **{k: v for k, v in settings.meaning().items() if k not in WITHOUT_EFFECT | {"seed"}},
        },
        seed=seed,
        out=out,
        state=state,
        validate=None if validate is None else lambda: validate(in_training),
        progress=progress,
        group=group,
        sharded=sharded,
        start=load_file(weights) if weights else None,
    )
    return replace(result, shortened=shortened)
