"""Fine-tunes a model to write given texts after given prompts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from trsr.errors import DataError
from trsr.models.hf.model import TransformersModel
from trsr.models.settings import ModelSettings
from trsr.progress import Progress
from trsr.training.adapter import check_targets
from trsr.training.encode import EncodedCase, TextExample, fingerprint
from trsr.training.fit import TrainResult
from trsr.training.losses import text_example_loss
from trsr.training.settings import TrainSettings
from trsr.training.start import open_trainable, run_training


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

    Args:
        texts: Gives what to train on, for the opened model.
        model: The model that the adapter is for; read through the backend `transformers`.
        settings: How to train.
        seed: Every other seed is derived from it.
        out: A folder for the adapter in PEFT's format and `curves.jsonl`.
        state: A folder for what a stopped run needs to resume.
        progress: Advances with each step.

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
