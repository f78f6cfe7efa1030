"""The benches as a Python user and the command line call them: sizes in, results out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from trsr.bench.records import Result
from trsr.config import Config
from trsr.errors import ConfigError
from trsr.llm.settings import ModelSettings
from trsr.progress import Progress
from trsr.train.settings import TrainSettings

LORA = TrainSettings(loss="listwise", learning_rate=1e-3, dropout=0)
"""As in the recipes."""

REAL_QUERIES = 8


@dataclass(frozen=True)
class Source:
    """Real data by name, and all settings that go with it."""

    name: str
    config: Config


def source(
    config: Path | None,
    overrides: Sequence[str] = (),
    data: Path | None = None,
    interactions: Path | None = None,
    items: Path | None = None,
) -> Source | None:
    """The real data that is asked for; None where none is.

    Args:
        config: A TOML file, a recipe's name or a run directory.
        overrides: Settings that replace the file's.
        data: A folder whose folder of the configuration's name holds the data.
        interactions: Instead of a configuration: the interactions' file.
        items: And the items'.

    Raises:
        ConfigError: If the settings are wrong, or only one of two files is given.
        DataError: If the files cannot be read.
    """
    from trsr.bench.queries import config_for, config_of_files

    if (interactions is None) != (items is None):
        raise ConfigError("give both --interactions and --items, or a configuration")
    if interactions is not None and items is not None:
        if config is not None:
            raise ConfigError("give a configuration, or --interactions and --items, not both")
        return Source(*config_of_files(interactions, items))
    return None if config is None else Source(*config_for(config, overrides, data))


def model_settings(
    source: Source | None,
    name: str = "",
    dtype: str = "",
    device: str = "",
    batch_tokens: int = 0,
    *,
    summarizer: bool = False,
) -> ModelSettings:
    """The measured model's settings: the source's, changed by what is given.

    Args:
        source: The configuration; None: defaults.
        name: Another model.
        dtype: Another number format.
        device: Another device.
        batch_tokens: Another bound of a forward pass.
        summarizer: Of the configuration's two models, the one that summarizes.

    Raises:
        ConfigError: If a value is none that the setting takes.
    """
    base = ModelSettings()
    if source:
        base = source.config.summarizer if summarizer else source.config.model
    given = {"name": name, "dtype": dtype, "device": device, "batch_tokens": batch_tokens}
    values: dict[str, Any] = base.model_dump() | {key: one for key, one in given.items() if one}
    try:
        return ModelSettings.model_validate(values)
    except ValidationError as error:
        said = "; ".join(f"--{one['loc'][0]}: {one['msg']}" for one in error.errors())
        raise ConfigError(said.replace("_", "-")) from error


def score(
    source: Source | None,
    model: ModelSettings,
    *,
    queries: int = 0,
    candidates: Sequence[int] = (20,),
    prefix: int = 350,
    rest: int = 60,
    variants: Sequence[str] = (),
    repeats: int = 5,
    seed: int = 0,
    progress: Progress,
) -> list[Result]:
    """Times scoring: one result for each number of candidates.

    Args:
        source: Real data; None: random tokens.
        model: The model.
        queries: 0: 1 of random tokens, 8 of real data.
        candidates: A query's, one or more numbers.
        prefix: Random tokens that a query's prompts share.
        rest: Random tokens of one candidate.
        variants: Engines; empty: all that run here.
        repeats: Timed runs of each.
        seed: Of the random tokens.
        progress: Told of each run.

    Raises:
        TrsrError: If the model or the data cannot be used.
    """
    from trsr.bench.queries import judged
    from trsr.bench.score import bench_score, open_local, synthetic

    opened = open_local(model)
    if source is None:
        loads = [
            synthetic(
                opened, queries=queries or 1, prefix=prefix, candidates=one, rest=rest, seed=seed
            )
            for one in candidates
        ]
    else:
        asked = queries or REAL_QUERIES
        loads = [
            judged(source.name, source.config, opened, queries=asked, candidates=one)
            for one in candidates
        ]
    return bench_score(opened, loads, variants=variants, repeats=repeats, progress=progress)


def train(
    model: ModelSettings,
    *,
    cases: int = 4,
    prefix: int = 350,
    negatives: int = 4,
    rest: int = 60,
    loss: str = "listwise",
    repeats: int = 5,
    seed: int = 0,
    progress: Progress,
) -> Result:
    """Times the gradient of one training step; see `trsr.bench.train.bench_train`."""
    from trsr.bench.score import open_local
    from trsr.bench.train import bench_train

    return bench_train(
        open_local(model),
        settings=LORA,
        cases=cases,
        prefix=prefix,
        negatives=negatives,
        rest=rest,
        loss=loss,
        repeats=repeats,
        seed=seed,
        progress=progress,
    )


def summarize(
    source: Source,
    model: ModelSettings,
    *,
    users: int = 400,
    alone_users: int = 4,
    batches: Sequence[int] = (8, 16, 32),
    repeats: int = 5,
    progress: Progress,
) -> Result:
    """Times summaries; see `trsr.bench.summarize.bench_summarize`.

    Args:
        source: The data and the words.
        model: The model; its sampling is the source's.
        users: Users that trsr's engines summarize.
        alone_users: Users summarized one prompt at a time.
        batches: Batch sizes of transformers' own `generate`.
        repeats: Timed runs of each.
        progress: Told of each run.

    Raises:
        TrsrError: If the model or the data cannot be used.
    """
    from trsr.bench.summarize import bench_summarize

    summarizing = source.config.summarize.model_copy(update={"model": model})
    return bench_summarize(
        source.name,
        source.config.model_copy(update={"summarize": summarizing}),
        users=users,
        alone_users=alone_users,
        batches=batches,
        repeats=repeats,
        progress=progress,
    )
