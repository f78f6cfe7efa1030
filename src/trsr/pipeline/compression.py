"""The tuned ranking model made smaller: the stage `compress`, and `trsr compress`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

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
from trsr.training.encode import EncodedCase, encode_cases
from trsr.types import Case

if TYPE_CHECKING:
    from trsr.training.recovery import Lessons

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

    Finished layers and steps lie in `state`, where a stopped call goes on.

    Returns:
        What `compress.json` holds.

    Raises:
        ConfigError: If the model has no weights here, or is quantized or compressed already.
        ModelError: If model and adapter do not fit, or it cannot be compressed.
    """
    from trsr.models.hf import compression
    from trsr.training import recovery

    settings, steps = config.compress, config.compress.recover_steps
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
    reached = recovery.reached(steps)
    cases, skipped = _encoded(config, dataset, model, max(settings.cases, reached))
    taught = cases[:reached]
    wanted = _lessons(config, adapter, taught, state, progress)
    prompts = [case.prompts for case in cases[: settings.cases]]
    made = compression.compress(network, prompts, settings, state, progress)
    losses: Sequence[float] = ()
    if steps:
        truncated, recovered = state / "truncated", state / "recovered"
        _save(network, base, truncated)
        smaller = config.model.model_copy(update={"name": str(truncated), "revision": None})
        losses = recovery.recover(
            taught,
            wanted,
            model=smaller,
            steps=steps,
            seed=config.run.seed,
            out=recovered,
            state=state / "recovery",
            progress=progress,
        ).losses
        network = open_model(_exact(smaller)).network
        recovery.put_factors(network, recovered)
    _save(network, base, out)
    found = {
        "of": model.identity,
        "settings": settings.model_dump(mode="json"),
        "cases": len(prompts),
        "skipped": skipped,
        "tokens": made.tokens,
        "widest": made.widest,
        "parameters": {"before": before, "after": _parameters(network)},
        "layers": len(made.ranks),
        "whole": made.whole,
        "lost": made.losses,
        "recovery_losses": losses,
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
    return settings.model_copy(update={"dtype": "float32", "scorer": "torch"})


def _parameters(network: Any) -> int:
    return sum(one.numel() for one in network.parameters())


def _lessons(
    config: Config,
    adapter: Path | None,
    cases: Sequence[EncodedCase],
    state: Path,
    progress: Progress,
) -> Lessons:
    """What the whole model gives the cases that the smaller one is to learn from."""
    from trsr.training.recovery import lessons
    from trsr.training.start import open_trainable

    if not cases:
        return {}
    return lessons(open_trainable(config.model, "", adapter), cases, state / "lessons", progress)


def _save(network: Any, base: Path, folder: Path) -> None:
    """Writes a compressed model with the tokenizer of the one that it is from."""
    from trsr.models.hf import low_rank
    from trsr.models.hf.load import TOKENIZER

    files.empty_folder(folder)
    low_rank.save(network, folder)
    for path in files.listed(base):
        if path.name.startswith(TOKENIZER):
            files.copy(path, folder / path.name)


def _encoded(
    config: Config, dataset: Dataset, model: Any, most: int
) -> tuple[list[EncodedCase], int]:
    """Sampled training cases in tokens; and how many did not fit."""
    writer = ranking_writer(config, model)
    summaries, _ = run_summaries(dataset, ("train",), needed=config.summarized)
    cases = list(with_summaries(dataset.cases("train"), summaries))
    if not cases:
        raise ConfigError("compress: the run has no training cases; raise data.train_users")
    seed = config.run.seed

    def place(case: Case) -> tuple[int, str]:
        return derive_seed(seed, "compress", case.query.id), case.query.id

    found: list[EncodedCase] = []
    skipped = 0
    for case in sorted(cases, key=place):
        if len(found) == most:
            break
        try:
            found += encode_cases([case], writer, model, compared=False)
        except PromptError:
            skipped += 1
    return found, skipped
