"""Fine-tunes a model on texts: what it is to write after a prompt."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from trsr.errors import ConfigError, DataError
from trsr.models.hf.model import TransformersModel
from trsr.models.settings import ModelSettings, open_model
from trsr.progress import Progress
from trsr.training.adapter import check_targets
from trsr.training.encode import EncodedCase, fingerprint
from trsr.training.examples import Written
from trsr.training.losses import text_example_loss
from trsr.training.result import TrainResult
from trsr.training.schedule import Schedule
from trsr.training.settings import TuneSummarizerSettings
from trsr.training.start import HUB_IDS, own_world
from trsr.training.step import Learner
from trsr.training.trainer import Loop

_TOLD = frozenset({"epochs", "learning_rate", "texts_per_step", "rank", "alpha", "targets"})
"""Settings that decide about the adapter: a run goes on with the same ones only."""


def train_on_texts(
    texts: Sequence[Written],
    *,
    model: ModelSettings,
    settings: TuneSummarizerSettings,
    seed: int,
    out: Path,
    state: Path,
    progress: Progress,
) -> TrainResult:
    """Trains a LoRA adapter to write these texts; stoppable and resumable at any step.

    The loss is the cross-entropy of a text's tokens, mean over them, and of the end of the turn
    where the text is whole; the prompt's tokens count nothing.

    Args:
        texts: What to learn.
        model: The model that the adapter is for; read through the backend `transformers`.
        settings: How to train.
        seed: Every draw is derived from it.
        out: A folder for the adapter in PEFT's format and `curves.jsonl`.
        state: A folder for what a stopped run needs to go on.
        progress: Told of each step.

    Raises:
        ConfigError: If the model is not one of transformers, or a LoRA target is no layer of it.
        DataError: If there are no texts.
        ModelError: If the model cannot be loaded, or a loss is not finite.
        StaleRunError: If `state` was made with other settings; names those that differ.
        StoreError: If the state cannot be read or written.
    """
    if not texts:
        raise DataError("there are no texts to train on")
    opened = open_model(model.model_copy(update={"prefix_cache_tokens": 0, "scorer": "torch"}))
    if not isinstance(opened, TransformersModel):
        raise ConfigError(f"model.backend: {model.backend} cannot be trained; use transformers")
    check_targets(opened.network, settings.targets, "tune_summarizer.targets")
    encoded = [_encoded(one, opened) for one in texts]
    schedule = Schedule(len(encoded), settings.training, seed)
    with own_world(opened.device):
        learner = Learner(
            opened.network,
            encoded,
            schedule,
            settings.training,
            base=HUB_IDS.get(model.name, model.name),
            batch_tokens=model.batch_tokens,
            seed=seed,
            loss=text_example_loss,
        )
        loop = Loop(
            learner,
            schedule,
            settings.training,
            identity={
                "model": opened.identity,
                "batch_tokens": model.batch_tokens,
                "texts": fingerprint(encoded),
                "seed": seed,
                **settings.model_dump(mode="json", include=set(_TOLD)),
            },
            folder=state,
            validate=None,
            progress=progress,
        )
        return loop.run(out)


def _encoded(one: Written, model: TransformersModel) -> EncodedCase:
    """A text as a case of one candidate, whose right answer the text is."""
    stem, tokens = model.encode_text(one.prompt, one.text, whole=one.whole)
    return EncodedCase.of(one.query, [stem], [(tokens, ())], [True])
