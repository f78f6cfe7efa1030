"""Measures this machine for seconds: the run's own models on the run's own prompts."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from trsr.config import Config
from trsr.data import Catalog, Dataset
from trsr.errors import TrsrError
from trsr.machine import ResourceUsage, give_back_memory
from trsr.metrics import tuning_quality
from trsr.models import ModelSettings, Sampling, open_model
from trsr.models.cached import cached
from trsr.planning.counting import Counts, Reader, StandIn
from trsr.planning.machines import Shape, Speeds, Work
from trsr.progress import Progress
from trsr.rankers import (
    FitData,
    FitOptions,
    PointwiseLLMRanker,
    QueryBatch,
    Ranker,
    Resources,
    case_batches,
    make_ranker,
    scored,
)
from trsr.rankers.batch import ASKED
from trsr.recommender import ranking_writer
from trsr.storage import files
from trsr.storage.response_cache import ResponseCache
from trsr.training.encode import EncodedCase
from trsr.types import Prompt, Query

_log = logging.getLogger(__name__)

SECONDS = 6.0
"""About what each kind of work is measured for."""


def computing(shape: Shape | None, kind: str, counts: Counts, settings: ModelSettings) -> Work:
    """The work of counted prompts.

    Without a shape nothing is known of its operations.
    """
    asked = max(counts.prompts - counts.hits, 0)
    context = counts.tokens / max(asked, 1)
    tokens = counts.generated if kind == "generation" else counts.distinct
    if shape is None:
        return Work(kind, tokens, 0.0)
    if kind == "generation":
        # a step reads all weights once, and the keys and values of each prompt under way
        read = tokens * (shape.weights / settings.batch_size + shape.cache(context))
        return Work(kind, tokens, shape.forward(tokens, context) + tokens * shape.head, read)
    heads = asked * shape.head if kind.startswith("scoring") else 0.0
    return Work(kind, tokens, shape.forward(tokens, context) + heads)


def training_work(
    shape: Shape | None, counts: Counts, config: Config, *, whole: bool = False
) -> Work:
    """The work of LoRA's steps: forward, and backward through the adapted layers.

    A frozen layer's backward product is done once, for its input's gradient; attention's twice.
    With `whole`, gradients go through all layers, down to vectors that an encoder made.
    """
    if shape is None:
        return Work("training", counts.distinct, 0.0)
    upper = config.train.upper_layers
    share = upper / shape.layers if 0 < upper < shape.layers and not whole else 1.0
    context = counts.tokens / max(counts.prompts, 1)
    heads = 3 * shape.head * (counts.distinct if config.train.loss == "text" else counts.prompts)
    work = encoding(shape, "training", counts.distinct, context, backward=share)
    return replace(work, operations=work.operations + heads)


def encoding(
    shape: Shape | None, kind: str, tokens: float, context: float, *, backward: float = 0.0
) -> Work:
    """The work of passes that score nothing, as an encoder's.

    Each token looks at `context` others, in the mean; gradients go through the share `backward` of
    the layers.
    """
    if shape is None:
        return Work(kind, tokens, 0.0)
    forward, plain = shape.forward(tokens, context), shape.forward(tokens, 0)
    return Work(kind, tokens, forward + backward * (2 * forward - plain))


@contextlib.contextmanager
def _watched(speeds: Speeds, stage: str) -> Iterator[None]:
    """Takes down the most memory that is in use within."""
    usage = ResourceUsage()
    yield
    found = usage.tell()
    peak = found["peak_gpu_bytes"] or found["peak_memory_bytes"]
    if peak:
        speeds.memory[stage] = max(speeds.memory.get(stage, 0.0), float(peak))
    give_back_memory()


def bench_writing(
    reader: Reader, prompts: Sequence[Prompt], sampling: Sampling, speeds: Speeds
) -> tuple[str, list[str]]:
    """Times the reading of prompts, and the writing of texts, side by side as in a run.

    Returns:
        The model's identity, and what it wrote.
    """
    settings = reader.settings
    with _watched(speeds, "summarize"):
        started = time.perf_counter()
        model = open_model(settings)
        identity = str(model.identity)
        speeds.opening["summarize"] = time.perf_counter() - started
        size = min(settings.batch_size, max(1, len(prompts) // 3))
        first, reading, writing = prompts[:1], prompts[1 : size + 1], prompts[size + 1 :]
        counter = StandIn(reader, ["."])
        short = sampling.model_copy(update={"max_tokens": 1})
        _written(model, counter, first, short)
        seconds, counts, _ = _written(model, counter, reading or first, short)
        speeds.note("prefill", computing(reader.shape, "prefill", counts, settings), seconds)
        seconds, counts, texts = _written(model, counter, writing or first, sampling)
        prefill = computing(reader.shape, "prefill", counts, settings)
        # reading comes between the steps of writing; what is left is writing's own
        rest = max(seconds - (speeds.seconds(prefill) or 0.0), 0.2 * seconds)
        counts.generated = sum(min(reader.count_text(one), sampling.max_tokens) for one in texts)
        speeds.note("generation", computing(reader.shape, "generation", counts, settings), rest)
        del model
    return identity, texts


def _written(
    model: Any, counter: StandIn, prompts: Sequence[Prompt], sampling: Sampling
) -> tuple[float, Counts, list[str]]:
    """Seconds, what was asked, and the texts; at least two rounds, until the time is up."""
    size = model.settings.batch_size if hasattr(model, "settings") else len(prompts)
    taken: list[Prompt] = []
    started = time.perf_counter()

    def feed() -> Iterator[Prompt]:
        for place, prompt in enumerate(prompts):
            late = time.perf_counter() - started > SECONDS
            if place >= 2 * size and place % size == 0 and late:
                return
            taken.append(prompt)
            yield prompt

    texts = [text for _, text in model.generate(feed(), sampling)]
    seconds = time.perf_counter() - started
    for prompt in taken:
        counter.ask(prompt, {"bench": sampling.max_tokens})
    return seconds, counter.take(), texts


def bench_training(
    config: Config, reader: Reader, cases: Sequence[EncodedCase], folder: Path, speeds: Speeds
) -> None:
    """Times some of training's steps, with several epochs also those of the second, and passes.

    The adapter is left in the folder's `adapter`.
    """
    from trsr.training.activation_cache import FILE, ActivationCache, first_adapted_layer
    from trsr.training.start import isolated_random_state, open_trainable
    from trsr.training.step import Schedule, TrainingStep

    several = config.train.epochs > 1 and config.train.upper_layers > 0
    settings = config.train.model_copy(update={"epochs": 2 if several else 1})
    some = list(cases[: 8 * settings.cases_per_step])
    with _watched(speeds, "train"):
        started = time.perf_counter()
        opened = open_trainable(config.model, "set train.epochs = 0")
        speeds.opening["train"] = time.perf_counter() - started
        tokens = opened.settings.batch_tokens
        schedule = Schedule(len(some), settings, config.train_seed)

        def stored(network: Any) -> ActivationCache | None:
            first = first_adapted_layer(network, some, settings)
            if first is None:
                return None
            return ActivationCache(network, first, some, batch_tokens=tokens, file=folder / FILE)

        with isolated_random_state(opened.device):
            step = TrainingStep(
                opened.network,
                some,
                schedule,
                settings,
                base=config.model.name,
                batch_tokens=tokens,
                seed=config.train_seed,
                activation_cache=stored,
            )
            half = schedule.steps // settings.epochs
            last = _time_steps(step, range(1, half + 1), "training", reader, config, speeds)
            if several and last == half:
                begin = half + 1
                steps = range(begin, begin + half)
                _time_steps(step, steps, "training_cached", reader, config, speeds)
            step.adapter.write(folder / "adapter", step.adapter.weights())
            if config.train.validate_steps or config.prompts.item_vectors:
                _time_passes(opened, some, reader, speeds)
        del step, opened


def _time_passes(opened: Any, cases: Sequence[EncodedCase], reader: Reader, speeds: Speeds) -> None:
    """Times passes without gradients over cases."""
    import torch

    from trsr.training.losses import scores

    opened.network.eval()
    counts, started = Counts(), time.perf_counter()
    with torch.no_grad():
        for case in cases:
            scores(opened.network, [case], opened.settings.batch_tokens).tolist()
            counts += Counts(len(case.rests), tokens=case.tokens, distinct=case.distinct_tokens)
            seconds = time.perf_counter() - started
            if seconds > SECONDS / 2:
                break
    work = computing(reader.shape, "scoring", counts, reader.settings)
    speeds.note("training_forward", work, seconds)


def _time_steps(
    step: Any, numbers: range, kind: str, reader: Reader, config: Config, speeds: Speeds
) -> int:
    """Times steps, the first of which is left out where there are more; the last step's number."""
    counts, seconds = Counts(), 0.0
    for number in numbers:
        started = time.perf_counter()
        made = step.run(number)
        took = time.perf_counter() - started
        if number > numbers.start or len(numbers) == 1:
            prompts = made.cases * (1 + config.data.train_negatives)
            counts += Counts(prompts, tokens=made.tokens, distinct=made.distinct_tokens)
            seconds += took
        if seconds > SECONDS:
            break
    speeds.note(kind, training_work(reader.shape, counts, config), seconds)
    return number


def bench_scoring(
    config: Config,
    catalog: Catalog,
    reader: Reader,
    queries: Sequence[Query],
    adapter: Path | None,
    speeds: Speeds,
) -> str:
    """Times the ranking of some queries by the language model, as the stage does it.

    The first query warms up.

    Returns:
        The model's identity.
    """
    kind = "scoring" if adapter is None else "scoring_tuned"
    with files.temporary_folder() as folder, _watched(speeds, "rank"):
        started = time.perf_counter()
        model = open_model(config.model, adapter)
        with contextlib.closing(ResponseCache(folder / "bench.sqlite")) as store:
            ranker = PointwiseLLMRanker(cached(model, store), ranking_writer(config, model))  # type: ignore[arg-type]
            counter = StandIn(reader)
            first, rest = queries[:1], queries[1:]
            ranker.score(QueryBatch.of(first, catalog))
            speeds.opening["rank"] = seconds = time.perf_counter() - started
            _ask_all(counter, ranker, first)
            if rest:  # the instruction is read, and the pass compiled
                counter.take()
                seconds = 0.0
            for at in range(0, len(rest), ASKED):
                batch = rest[at : at + ASKED]
                began = time.perf_counter()
                ranker.score(QueryBatch.of(batch, catalog))
                seconds += time.perf_counter() - began
                _ask_all(counter, ranker, batch)
                if seconds > SECONDS:
                    break
        work = computing(reader.shape, kind, counter.take(), config.model)
        speeds.note(kind, work, seconds)
        identity = str(model.identity)
        del model, ranker
    return identity


def _ask_all(counter: StandIn, ranker: PointwiseLLMRanker, queries: Sequence[Query]) -> None:
    for query in queries:
        for prompt in ranker.writer.rank(query):
            counter.ask(prompt, {"score": list(ranker.writer.answers)})


class _EnoughError(Exception):
    """A ranker's fitting has gone on for long enough to know its pace."""


@dataclass
class _Pace:
    """Watches a fitting: what it would take, from its pace.

    Attributes:
        passes: How many there are at most where the fitting does not say how many steps.
        seconds: What all of it would take, as far as it was seen.
    """

    passes: int
    seconds: float = 0.0
    _total: int = 0
    _done: int = 0
    _started: float = 0.0
    _first: tuple[float, int] = (0.0, 0)
    _once: bool = False

    def begin(self, total: int | None, unit: str) -> None:
        self.end()
        self._total, self._done = total or self.passes, 0
        self._once = unit == "texts to embed"  # what was embedded once is found by a run

    def end(self) -> None:
        """The present part is done."""
        now = time.perf_counter()
        self.seconds += 0.0 if self._once or not self._started else now - self._started
        self._started, self._once = now, False

    def advance(self, steps: int = 1, note: str = "") -> None:
        self._done += steps
        now = time.perf_counter()
        if self._done == steps:  # the first step also makes things ready
            self._first = now, steps
        (since, before), took = self._first, now - self._started
        if took < SECONDS / 2 or self._once or not before + 1 < self._done < self._total:
            return
        self.seconds += took + (now - since) / (self._done - before) * (self._total - self._done)
        raise _EnoughError


def bench_rankers(config: Config, dataset: Dataset, progress: Progress) -> dict[str, float]:
    """Seconds that each cheap ranker takes to be fitted and to rank all cases.

    A ranker that asks others is left out: adding their scores takes next to nothing.
    """
    found: dict[str, float] = {}
    rank = config.rank
    own = [
        name
        for name in dict.fromkeys((*rank.used, rank.retriever))
        if not (rank.those("uses_llm", (name,)) or rank.members(name) or name in rank.external)
        and not rank.traits(name).distills  # what it learns from is counted, and takes most
    ]
    data = FitData(
        dataset.catalog,
        dataset.interactions,
        training=lambda: dataset.cases("train"),
        validation=lambda: dataset.cases("valid"),
    )

    for name in own:
        progress.advance(0, f"measuring {name}")
        pace = _Pace(rank.sequential.max_epochs)
        ranker = make_ranker(name, Resources(dataset.catalog, rank, progress=pace))
        options = FitOptions(config.run.seed, config.train_seed, tuning_quality, pace)
        pace.begin(1, "")
        try:
            ranker.fit(data, options)
            pace.end()
            pace.seconds += _ranking_seconds(config, dataset, ranker)
        except _EnoughError:
            pass
        except TrsrError as error:  # what an earlier stage makes is not there
            _log.warning("%s is not measured: %s", name, error)
        found[name] = pace.seconds
    return found


def _ranking_seconds(config: Config, dataset: Dataset, ranker: Ranker) -> float:
    """What ranking all cases takes; the first batches are measured."""
    cases = dataset.cases(config.rank.split)
    started, done = time.perf_counter(), 0
    for batch in case_batches(cases, dataset.catalog, {}):
        scored(ranker, batch)
        done += len(batch)
        if time.perf_counter() - started > SECONDS / 2:
            break
    return (time.perf_counter() - started) * len(cases) / max(done, 1)
