"""The room's one function, light to import: torch is loaded when something is trained."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from trsr.models.base import LanguageModel, ScoringModel
from trsr.models.settings import ModelSettings
from trsr.progress import Progress
from trsr.training.examples import RankingWriter, SizedCases
from trsr.training.result import TrainResult
from trsr.training.settings import TrainSettings

Validate = Callable[[ScoringModel], Mapping[str, float]]
"""Ranks validation queries with the model as it is and gives metrics by name."""


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
) -> TrainResult:
    """Fine-tunes the yes/no ranker by LoRA (Hu et al. 2021), stoppable and resumable at any step.

    Each step's gradient is the mean over its cases of the loss in `settings.loss`. A run that was
    stopped, at any moment and by anything, goes on from the last state in `state`; on a CPU its
    adapter is then, bit for bit, that of an unbroken run with the same number of threads.

    With `epochs = 0` nothing is trained, written or loaded: the result holds no adapter, and the
    model stays the one it was.

    Args:
        cases: Training cases; each query has its candidates (relevant and others) and summary.
        model: The base model; its backend must be `transformers`.
        words: Makes the writer of the prompts for a model, the same as in ranking; called once,
            with the base model, whose tokens the prompts are fitted to.
        settings: What to train and how.
        seed: The run's seed, from which every draw is derived.
        out: A folder for the result: the adapter in PEFT's format, `curves.jsonl`, and the
            TensorBoard files where asked for. Making it appear at once is the caller's work.
        state: A folder for what a stopped run needs to go on. The caller removes it once `out` is
            in place; until then the same call gives the same result at once.
        validate: Called every `validate_steps` and after the last step, with the model being
            trained, in evaluation mode and without an output store; None: the last adapter is
            kept.
        progress: Told of each step.

    Raises:
        ConfigError: If the backend cannot be trained, a LoRA target is no layer of the model, a
            tracker is not installed, or the validation lacks a metric of `select_on`.
        DataError: If there are no cases, or the listwise loss has nothing to compare in one.
        ModelError: If the model cannot be loaded, or a loss is not finite; names step and case.
        PromptError: If a case's prompt does not fit; names the query.
        StaleRunError: If `state` was made with other settings; names those that differ.
        StoreError: If the state cannot be read or written.
    """
    if settings.epochs == 0:
        return TrainResult(adapter=None)
    from trsr.training.start import start

    return start(
        cases,
        model=model,
        words=words,
        settings=settings,
        seed=seed,
        out=out,
        state=state,
        validate=validate,
        progress=progress,
    )
