"""Scoring: yes or no for many candidates, each alone or what they share once."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from benchmarks.engines import ENGINES, REFERENCE, Calls, Engine, Scores, shared_prefixes
from benchmarks.options import ScoreOptions
from benchmarks.peak import Cost, matmul_peak
from benchmarks.records import Place, Result, Work, record, speed_ratio
from benchmarks.timing import Variant, interleave
from trsr.config import Config, check_config, find_config, load_config
from trsr.data import Dataset, guess, located, prepare
from trsr.errors import ConfigError, DataError, ModelError
from trsr.models.hf.model import TransformersModel
from trsr.models.settings import ModelSettings, open_model
from trsr.models.token_tree.tokens import Tokens, tree_stats
from trsr.pipeline.artifacts import read_summaries, summarized
from trsr.progress import Progress, Silent
from trsr.rankers.batch import ASKED
from trsr.recommender import ranking_writer
from trsr.registry import near
from trsr.types import Query


@dataclass(frozen=True)
class Workload:
    """Prompts to be scored.

    Attributes:
        name: In the records: the data and the candidates.
        calls: The prompts' tokens, in the groups that go to the model in one call.
        sizes: How many prompts each query has, in order.
        answers: The tokens of yes and of no.
    """

    name: str
    calls: Calls
    sizes: tuple[int, ...]
    answers: tuple[int, int]

    @property
    def prompts(self) -> list[Tokens]:
        """All prompts."""
        return [tokens for call in self.calls for tokens in call]


def synthetic(
    model: TransformersModel, options: ScoreOptions, queries: int, candidates: int
) -> Workload:
    """Random tokens: a shared prefix of `options.prefix`, then candidates of `options.rest`."""
    prefix, rest, seed = options.prefix, options.rest, options.seed
    vocabulary = int(model.network.config.vocab_size)
    calls = shared_prefixes(queries, prefix, candidates, rest, vocabulary=vocabulary, seed=seed)
    name = f"{prefix}+{candidates}x{rest}"
    return Workload(name, calls, (candidates,) * queries, (vocabulary // 3, vocabulary // 2))


def open_local(settings: ModelSettings) -> TransformersModel:
    """Opens the model that is measured.

    Raises:
        ConfigError: If its backend is not `transformers`, which the reference way needs.
    """
    model = open_model(settings)
    if not isinstance(model, TransformersModel):
        raise ConfigError(
            f"model.backend: {settings.backend} cannot be compared with the plain way, which needs "
            "the transformers backend"
        )
    return model


def place_of(model: TransformersModel, *, peak: bool = True) -> Place:
    """Where the model runs, with the machine's peak at its dtype."""
    dtype = next(model.network.parameters()).dtype
    device = model.device.type
    shapes = Cost.of(model.network).shapes
    return Place(
        device,
        str(dtype).removeprefix("torch."),
        matmul_peak(dtype, device, shapes) if peak else None,
    )


def bench_score(
    model: TransformersModel,
    workloads: Sequence[Workload],
    options: ScoreOptions,
    progress: Progress,
    place: Place | None = None,
) -> list[Result]:
    """Times every engine on every workload.

    Args:
        model: The model; all engines score with its weights.
        workloads: What is scored.
        options: Engines by name (empty: all that run here, the reference always) and repeats.
        progress: Shows each run.
        place: Where the model runs; None: found out, with the peak.

    Raises:
        ConfigError: If a variant that was asked for is not known or cannot run here.
        ModelError: The same.
    """
    engines, notes = _engines(model, options.variants)
    where = place or place_of(model)
    return [
        _one(model, load, engines, options.repeats, progress, where, notes) for load in workloads
    ]


def _engines(
    model: TransformersModel, variants: Sequence[str]
) -> tuple[dict[str, Engine], list[str]]:
    """The engines that run here, the reference first; and why others do not."""
    names = [REFERENCE, *(name for name in variants or ENGINES if name != REFERENCE)]
    engines: dict[str, Engine] = {}
    notes = []
    for name in names:
        if name not in ENGINES:
            raise ConfigError(f"there is no engine {name!r}{near(name, list(ENGINES))}")
        try:
            engines[name] = ENGINES[name](model)
        except (ConfigError, ModelError) as error:
            if variants:
                raise
            notes.append(f"{name}: not run: {error}")
    return engines, notes


def _one(
    model: TransformersModel,
    load: Workload,
    engines: dict[str, Engine],
    repeats: int,
    progress: Progress,
    place: Place,
    notes: Sequence[str],
) -> Result:
    def variant(name: str, engine: Engine) -> Variant:
        return Variant(name, lambda: engine(load.calls, load.answers))

    timings = interleave(
        [variant(name, engine) for name, engine in engines.items()],
        repeats,
        place.device,
        progress,
    )
    prompts = load.prompts
    stats = tree_stats(prompts)
    flops = Cost.of(model.network).forward(prompts, len(load.answers) * len(prompts))
    work = Work(len(prompts), len(prompts), stats.tokens, stats.distinct_tokens, flops)
    reference = timings[REFERENCE]
    records = tuple(
        record(
            "score",
            f"{load.name}/{name}",
            Place(place.device, str(getattr(engines[name], "dtype", place.dtype)), place.peak),
            timing,
            work,
            speed_ratio(timing, work, reference, work),
        )
        for name, timing in timings.items()
    )
    agreed = [
        agreement(name, timing.result, reference.result, load.sizes)
        for name, timing in timings.items()
        if name != REFERENCE
    ]
    title = f"score, {load.name}: {len(load.sizes)} queries, {len(prompts)} prompts"
    return Result(title, records, (*agreed, *notes))


def agreement(name: str, found: Scores, reference: Scores, sizes: Sequence[int]) -> str:
    """How far an engine's yes-minus-no scores are from the reference's, in a line.

    Args:
        name: The engine's.
        found: Its scores, [prompts, 2].
        reference: The reference's.
        sizes: Prompts of each query, in order.
    """
    own, other = found[:, 0] - found[:, 1], reference[:, 0] - reference[:, 1]
    ends = np.cumsum(sizes)[:-1]
    correlations = [
        rank_correlation(one, two)
        for one, two in zip(np.split(own, ends), np.split(other, ends), strict=True)
        if len(one) > 1
    ]
    text = f"{name}: largest difference of a score {np.abs(own - other).max():.2g}"
    if not correlations:
        return text
    mean = float(np.mean(correlations))
    return f"{text}, rank correlation within a query {mean:.5f} (Spearman, mean)"


def rank_correlation(one: Scores, other: Scores) -> float:
    """Spearman's, ties ranked by their mean; 1 where neither tells anything apart."""
    if len(np.unique(one)) == 1 and len(np.unique(other)) == 1:
        return 1.0
    frame = pl.DataFrame({"one": one, "other": other})
    found = frame.select(pl.corr("one", "other", method="spearman")).item()
    return 0.0 if found is None or not np.isfinite(found) else float(found)


def config_for(
    path: Path, overrides: Sequence[str] = (), data: Path | None = None
) -> tuple[str, Config]:
    """A configuration and the name of its data.

    Args:
        path: A TOML file, a recipe's name or a run directory.
        overrides: `section.key=value` each.
        data: A folder whose folder of the configuration's name holds its files; None: the files
            are where the configuration says.

    Raises:
        ConfigError: Listing every mistake.
    """
    found = find_config(path)
    name = path.name if path.is_dir() else found.stem
    config = load_config(path, overrides)
    if data is None:
        return name, config
    moved: dict[str, Any] = {}
    for key in ("interactions", "items", "impressions"):
        file: Path | None = getattr(config.data, key)
        if file is not None:
            moved[key] = data.absolute() / name / file.name
    return name, config.model_copy(update={"data": config.data.model_copy(update=moved)})


def config_of_files(interactions: Path, items: Path) -> tuple[str, Config]:
    """A configuration guessed from two files, with words for small models.

    Raises:
        DataError: If the files cannot be read, or a column cannot be guessed.
    """
    found = guess(interactions, items)
    data = found.settings.model_dump(mode="json", exclude_defaults=True)
    data |= {"interactions": str(interactions.absolute()), "items": str(items.absolute())}
    values = {
        "data": data,
        "prompts": {"domain": found.domain, "style": "worked", "fields": list(found.fields)},
        "train": {"epochs": 0},
        "rank": {"rankers": ["llm_zero_shot"]},
    }
    return interactions.name.split(".")[0], check_config(values, str(interactions))


@contextmanager
def prepared(
    config: Config, *, queries: int, candidates: int = 0, progress: Progress | None = None
) -> Iterator[Dataset]:
    """A configuration's data, prepared in a folder that is gone afterwards.

    Args:
        config: Says where the data is and how it is cut.
        queries: Test queries that are drawn.
        candidates: Candidates of each; 0: as the configuration says. Data with candidate lists of
            its own keeps them.
        progress: Shows the steps.

    Raises:
        DataError: If the data cannot be used.
    """
    changed: dict[str, Any] = {"train_users": 1, "valid_cases": 1, "test_cases": queries}
    if candidates:
        changed["negatives"] = candidates - 1
    settings = located(config.data).model_copy(update=changed)
    with tempfile.TemporaryDirectory(prefix="benchmarks-") as folder:
        prepare(settings, Path(folder), seed=config.run.seed, progress=progress or Silent())
        yield Dataset.load(folder)


def judged(
    name: str, config: Config, model: TransformersModel, *, queries: int, candidates: int
) -> Workload:
    """The judge prompts of a configuration's test queries, as ranking asks them.

    Summaries are shown where the configuration's run directory holds them for the same queries;
    else the prompts say that there is none.

    Raises:
        ConfigError: If yes and no are more than one token each, or not the same everywhere.
        DataError: If the data cannot be used.
    """
    writer = ranking_writer(config, model)
    known = read_summaries(config.run.folder, ("test",))

    def summarized_query(query: Query) -> Query:
        summary = known.get(query.id)
        fits = summary is not None and summary.user == query.history.user
        return summarized(query, summary) if summary is not None and fits else query

    with prepared(config, queries=queries, candidates=candidates) as dataset:
        asked = [summarized_query(case.query) for case in dataset.cases("test")]
    if not asked:
        raise DataError(f"{name}: the data holds no test query")
    encoded = [
        [model.encode_answers(prompt, writer.answers) for prompt in writer.rank(query)]
        for query in asked
    ]
    answers = {question.answers for query in encoded for question in query}
    if len(answers) != 1 or any(len(tokens) != 1 for tokens in next(iter(answers))):
        raise ConfigError(
            f"{name}: the answers {writer.answers} are not one token each for {model.settings.name}"
        )
    (yes,), (no,) = next(iter(answers))
    prompts = [[tuple(question.stem) for question in query] for query in encoded]
    together = ASKED
    calls = [
        [tokens for query in prompts[start : start + together] for tokens in query]
        for start in range(0, len(prompts), together)
    ]
    sizes = tuple(len(query) for query in prompts)
    return Workload(f"{name}-{max(sizes)}", calls, sizes, (yes, no))
