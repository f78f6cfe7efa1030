"""The benches as the command line calls them: options in, results out."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from benchmarks.options import (
    ClusterOptions,
    DataOptions,
    EncodeOptions,
    GpuOptions,
    ModelOptions,
    OverheadOptions,
    PrepareOptions,
    ScoreOptions,
    ServeOptions,
    SummarizeOptions,
    TrainOptions,
    VectorsOptions,
)
from benchmarks.records import Result
from trsr.config import Config
from trsr.errors import ConfigError
from trsr.models.settings import ModelSettings
from trsr.progress import Progress

REAL_QUERIES = 8


@dataclass(frozen=True)
class Source:
    """Real data by name, and all settings that go with it."""

    name: str
    config: Config


def source(options: DataOptions) -> Source:
    """The configuration that the options name.

    Raises:
        ConfigError: If they name none, or its settings are wrong.
    """
    from benchmarks.score import config_for

    if options.config is None:
        raise ConfigError("name a configuration: a TOML file, a recipe or a run directory")
    return Source(*config_for(options.config, options.settings, options.data))


def scored_source(options: ScoreOptions) -> Source | None:
    """The real data to be scored; None where random tokens are.

    Raises:
        ConfigError: If the settings are wrong, or only one of two files is given.
        DataError: If the files cannot be read.
    """
    from benchmarks.score import config_of_files

    interactions, items = options.interactions, options.items
    if (interactions is None) != (items is None):
        raise ConfigError("give both --interactions and --items, or a configuration")
    if interactions is not None and items is not None:
        if options.config is not None:
            raise ConfigError("give a configuration, or --interactions and --items, not both")
        return Source(*config_of_files(interactions, items))
    return None if options.config is None else source(options)


def model_settings(
    source: Source | None, options: ModelOptions, *, summarizer: bool = False
) -> ModelSettings:
    """The measured model's settings: the source's, changed by the options.

    Args:
        source: The configuration; None: defaults.
        options: What replaces its settings.
        summarizer: Of the configuration's two models, the one that summarizes.

    Raises:
        ConfigError: If a value is none that the setting takes.
    """
    base = ModelSettings()
    if source:
        base = source.config.summarizer if summarizer else source.config.model
    given = {
        "name": options.model,
        "dtype": options.dtype,
        "device": options.device,
        "batch_tokens": options.batch_tokens,
    }
    values: dict[str, Any] = base.model_dump() | {key: one for key, one in given.items() if one}
    try:
        return ModelSettings.model_validate(values)
    except ValidationError as error:
        said = "; ".join(f"--{one['loc'][0]}: {one['msg']}" for one in error.errors())
        raise ConfigError(said.replace("_", "-")) from error


def score(options: ScoreOptions, progress: Progress) -> list[Result]:
    """Times scoring: one result for each number of candidates.

    Raises:
        TrsrError: If the model or the data cannot be used.
    """
    from benchmarks.score import bench_score, judged, open_local, synthetic

    named = scored_source(options)
    opened = open_local(model_settings(named, options))
    queries = options.queries or (REAL_QUERIES if named else 1)
    if named is None:
        loads = [synthetic(opened, options, queries, one) for one in options.candidates]
    else:
        loads = [
            judged(named.name, named.config, opened, queries=queries, candidates=one)
            for one in options.candidates
        ]
    return bench_score(opened, loads, options, progress)


def train(options: TrainOptions, progress: Progress) -> list[Result]:
    """Measures memory, then times the gradient of one training step; see `benchmarks.train`."""
    from benchmarks.memory import bench_memory
    from benchmarks.score import open_local
    from benchmarks.train import bench_train

    settings = model_settings(None, options)
    alone = bench_memory(settings, options, progress)  # while nothing else holds memory
    return [bench_train(open_local(settings), options, progress), alone]


def summarize(options: SummarizeOptions, progress: Progress) -> list[Result]:
    """Times summaries; see `benchmarks.summarize.bench_summarize`."""
    from benchmarks.summarize import bench_summarize

    named = source(options)
    config = _with_models(named, options)
    return [bench_summarize(named.name, config, options, progress)]


def prepare(options: PrepareOptions, progress: Progress) -> list[Result]:
    """Times preparing; see `benchmarks.prepare.bench_prepare`."""
    from benchmarks.prepare import bench_prepare

    return [bench_prepare(options, progress)]


def overhead(options: OverheadOptions, progress: Progress) -> list[Result]:
    """Times what is not the model's; see `benchmarks.overhead.bench_overhead`."""
    from benchmarks.overhead import bench_overhead

    named = source(options)
    return [bench_overhead(named.name, _with_models(named, options), options, progress)]


def encode(options: EncodeOptions, progress: Progress) -> list[Result]:
    """Times a run's item encoder; see `benchmarks.encode.bench_encode`."""
    from benchmarks.encode import bench_encode

    return [bench_encode(options, progress)]


def vectors(options: VectorsOptions, progress: Progress) -> Iterator[Result]:
    """Times items as vectors beside texts; see `benchmarks.vectors.bench_vectors`."""
    from benchmarks.vectors import bench_vectors

    named = source(options)
    model = model_settings(named, options)
    return bench_vectors(named.name, named.config, model, options, progress)


def serve(options: ServeOptions, progress: Progress) -> Iterator[Result]:
    """Times the live service; see `benchmarks.serve.bench_serve`."""
    from benchmarks.serve import bench_serve

    return bench_serve(options, progress)


def gpu(options: GpuOptions, progress: Progress) -> Iterator[Result]:
    """Measures one CUDA card; see `benchmarks.gpu.bench_gpu`."""
    from benchmarks.gpu import bench_gpu

    return bench_gpu(options, progress)


def cluster(options: ClusterOptions, progress: Progress) -> list[Result]:
    """Simulates a cluster, or runs on one; see `benchmarks.cluster`."""
    from benchmarks.cluster import bench_cluster, bench_ray

    if options.config is not None:
        return [bench_ray(options.config, options, progress)]
    return [bench_cluster(options, progress)]


def _with_models(named: Source, options: ModelOptions) -> Config:
    """The configuration with both of its models as the options say."""
    writer = model_settings(named, options, summarizer=True)
    summarizing = named.config.summarize.model_copy(update={"model": writer})
    changed = {"model": model_settings(named, options), "summarize": summarizing}
    return named.config.model_copy(update=changed)
