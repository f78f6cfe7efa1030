"""Writes a model and its adapter as one checkpoint, which any backend reads as a model."""

from __future__ import annotations

from pathlib import Path

import torch

from trsr.errors import ModelError
from trsr.models.hf.load import TOKENIZER, load_network
from trsr.models.settings import ModelSettings
from trsr.models.weights import local_weights, quiet
from trsr.storage import files


def write_merged(settings: ModelSettings, adapter: Path | None, folder: Path) -> None:
    """Writes the model with the adapter's part added to its weights, and its tokenizer.

    The weights are fp32, four bytes each, whatever the format that the model runs in: in fewer
    bits part of what training taught would be rounded away here already.

    Args:
        settings: The model that the adapter is for.
        adapter: A LoRA adapter in PEFT's format; None: the model as it came.
        folder: Made where it is missing.

    Raises:
        ModelError: If model or adapter cannot be loaded, or there is no room for the checkpoint.
    """
    base = local_weights(settings.name, revision=settings.revision)
    plain = settings.model_copy(update={"dtype": "float32", "quantize": "none"})
    network = load_network(plain, base, adapter, torch.device("cpu"))
    try:
        with quiet():
            network.save_pretrained(folder)
        # as they are, so that texts become the same tokens, byte for byte
        for path in files.listed(base):
            if path.name.startswith(TOKENIZER):
                files.copy(path, folder / path.name)
    except OSError as error:
        raise ModelError(
            f"the tuned model cannot be written into {folder} ({error}): make room or choose "
            "another folder, then run the same command again"
        ) from error
