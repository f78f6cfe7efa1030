"""The tuned ranking model made smaller: the stage `compress`, and `trsr compress`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from trsr.config import Config
from trsr.data import Dataset
from trsr.errors import ConfigError, ModelError, PromptError
from trsr.models import ModelSettings, open_model
from trsr.models.weights import local_weights
from trsr.pipeline.artifacts import run_summaries, with_summaries
from trsr.progress import Progress
from trsr.recommender import ranking_writer
from trsr.settings import derive_seed
from trsr.storage import files
from trsr.types import Case

RESULT = "compress.json"


def compress_ranker(
    config: Config,
    dataset: Dataset,
    adapter: Path | None,
    out: Path,
    state: Path,
    progress: Progress,
) -> dict[str, Any]:
    """Compresses a run's ranking model, calibrated on its own prompts of training cases.

    Args:
        config: All settings; `compress` says which share of the layers is kept, and how.
        dataset: The run's data.
        adapter: The trained adapter; None: the model as it came.
        out: An empty folder for the model.
        state: A folder for finished layers: a stopped call goes on there.
        progress: Shows the layers.

    Returns:
        What `compress.json` holds.

    Raises:
        ConfigError: If the model has no weights here, or is quantized or compressed already.
        ModelError: If model and adapter do not fit, or it cannot be compressed.
    """
    from trsr.models.hf import compression, low_rank
    from trsr.models.hf.load import TOKENIZER

    settings = config.compress
    base = base_folder(config.model)
    model = open_model(_exact(config.model), adapter)
    if hasattr(model.network, "peft_config"):
        raise ModelError(
            "compress: the adapter adapts a matrix that the model's head and embeddings share, so "
            "that it cannot be merged; train with train.targets that leave out both"
        )
    if model.takes_images:
        raise ModelError(
            f"model.name: {config.model.name} looks at images, and its calibration would not; name "
            "a model of texts"
        )
    network = model.network
    before = _parameters(network)
    cases, skipped = _calibration(config, dataset, model)
    made = compression.compress(network, cases, settings, state, progress)
    low_rank.save(network, out)
    for path in files.listed(base):
        if path.name.startswith(TOKENIZER):
            files.copy(path, out / path.name)
    found = {
        "of": model.identity,
        "settings": settings.model_dump(mode="json"),
        "cases": len(cases),
        "skipped": skipped,
        "tokens": made.tokens,
        "widest": made.widest,
        "parameters": {"before": before, "after": _parameters(network)},
        "layers": len(made.ranks),
        "whole": made.whole,
        "lost": made.losses,
    }
    if made.tokens < compression.ENOUGH * made.widest:
        found["note"] = (
            f"{made.tokens:,} distinct calibration tokens are few for inputs of {made.widest:,} "
            f"numbers: from {compression.ENOUGH * made.widest:,} on more hardly help; raise "
            "compress.cases"
        )
    files.write_json(out / RESULT, found)
    return found


def base_folder(settings: ModelSettings) -> Path:
    """The folder of a model that can be compressed.

    Raises:
        ConfigError: If the model has no weights here, or is quantized or compressed already.
    """
    from trsr.models.hf.low_rank import LOW_RANK

    if settings.backend != "transformers":
        raise ConfigError(
            f"model.backend: {settings.backend} holds no weights that trsr could compress; runs "
            "with a local model (transformers) can be compressed"
        )
    if settings.quantize != "none":
        raise ConfigError(
            f"model.quantize: a model in {settings.quantize} cannot be compressed; train with "
            "quantize = none, and compress that run"
        )
    folder = local_weights(settings.name, revision=settings.revision)
    if files.is_file(folder / LOW_RANK):
        raise ConfigError(
            f"model.name: {settings.name} is compressed already; compress the run that it is from, "
            "with another ratio"
        )
    return folder


def _exact(settings: ModelSettings) -> ModelSettings:
    """The same model in float32, where adapters are merged, and by torch's own pass."""
    changed = {"dtype": "float32", "scorer": "torch", "prefix_cache_tokens": 0}
    return settings.model_copy(update=changed)


def _parameters(network: Any) -> int:
    return sum(one.numel() for one in network.parameters())


def _calibration(
    config: Config, dataset: Dataset, model: Any
) -> tuple[list[list[tuple[int, ...]]], int]:
    """The tokens of sampled training cases' ranking prompts; and how many cases do not fit."""
    writer = ranking_writer(config, model)
    summaries, _ = run_summaries(dataset, ("train",), needed=config.summarized)
    cases = list(with_summaries(dataset.cases("train"), summaries))
    if not cases:
        raise ConfigError("compress: the run has no training cases; raise data.train_users")
    seed = config.run.seed

    def place(case: Case) -> tuple[int, str]:
        return derive_seed(seed, "compress", case.query.id), case.query.id

    found, skipped = [], 0
    for case in sorted(cases, key=place)[: config.compress.cases]:
        try:
            prompts = writer.rank(case.query)
            found.append([model.encode_answers(one, writer.answers).stem for one in prompts])
        except PromptError:
            skipped += 1
    return found, skipped
