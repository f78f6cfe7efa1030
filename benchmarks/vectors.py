"""Items as vectors beside items as texts: the token tree scores and trains on both."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch

from benchmarks.options import VectorsOptions
from benchmarks.records import Result, Work, record, speed_ratio
from benchmarks.score import judged, open_local, place_of, prepared
from benchmarks.timing import Variant, interleave
from benchmarks.train import as_training, micro_batches
from trsr.config import Config
from trsr.models.hf.model import TransformersModel
from trsr.models.settings import ModelSettings
from trsr.models.token_tree.tokens import Tokens, tree_stats
from trsr.models.token_tree.tree import answer_logits, answer_states
from trsr.progress import Progress
from trsr.recommender import ranking_writer
from trsr.training.adapter import Adapter
from trsr.training.encode import EncodedCase, encode_cases
from trsr.training.losses import listwise_loss
from trsr.training.settings import TrainSettings
from trsr.training.start import pass_tokens, token_bytes
from trsr.training.vectors import take_encoder

REFERENCE = "text"
LORA = TrainSettings(loss="listwise", dropout=0)


def bench_vectors(
    name: str, config: Config, model: ModelSettings, options: VectorsOptions, progress: Progress
) -> Iterator[Result]:
    """Times a query's candidates, and the gradient of a step; weights are those before training.

    Args:
        name: Of the data.
        config: Says where the data is, and what prompts show of an item.
        model: The model.
        options: How much.
        progress: Shows each run.
    """
    prompts = config.prompts.model_copy(update={"item_vectors": options.vectors})
    config = config.model_copy(update={"prompts": prompts})
    text, vectors = open_local(model), open_local(model)
    adapter, _ = take_encoder(vectors, options.vectors, LORA, options.seed)
    own = f"{options.vectors} vectors"
    ways = {REFERENCE: text, own: vectors}
    where = place_of(text, peak=False)

    def result(
        bench: str, title: str, runs: Mapping[str, tuple[Callable[[], Any], Work]], *notes: str
    ) -> Result:
        variants = [Variant(way, run) for way, (run, _) in runs.items()]
        timings = interleave(variants, options.repeats, where.device, progress)
        first = timings[REFERENCE], runs[REFERENCE][1]
        records = tuple(
            record(
                bench,
                f"{name}/{way}",
                where,
                timing,
                runs[way][1],
                speed_ratio(timing, runs[way][1], *first),
            )
            for way, timing in timings.items()
        )
        return Result(title, records, notes)

    scoring = {}
    for way, opened in ways.items():
        load = judged(name, config, opened, queries=1, candidates=options.candidates)
        run = functools.partial(_score, opened, load.prompts, load.answers)
        # the warm-up makes the items' vectors, which are read from a file in use
        stats = tree_stats(load.prompts)
        work = Work(len(load.prompts), len(load.prompts), stats.tokens, stats.distinct_tokens)
        scoring[way] = run, work
    yield result(
        "score",
        f"vectors, score, {name}: 1 query, {options.candidates} candidates",
        scoring,
        "the items' vectors are made before: reading a text takes an item about what it takes as a "
        "candidate",
    )
    step = {}
    adapter.encoder.requires_grad_(False)
    taught = open_local(model)
    learner, encoded = take_encoder(taught, options.vectors, LORA, options.seed)
    trainings: dict[str, tuple[TransformersModel, Adapter, Any]] = {
        REFERENCE: (text, Adapter(text.network, LORA, "bench", options.seed), None),
        own: (vectors, adapter, None),
        f"{own}, with the encoder": (taught, learner, encoded.activations if encoded else None),
    }
    with (
        prepared(config, queries=options.cases, candidates=5) as dataset,
        as_training(where.device),
    ):
        for way, (opened, trained, given) in trainings.items():
            cases = encode_cases(
                dataset.cases("test"), ranking_writer(config, opened), opened, compared=True
            )
            opened.network.train()
            stats = tree_stats([one for case in cases for one in case.prompts])
            work = Work(len(cases), None, stats.tokens, stats.distinct_tokens)
            step[way] = functools.partial(_step, opened, trained, cases, given), work
        yield result(
            "train",
            f"vectors, train, {name}: {options.cases} cases a step",
            step,
            "a training makes a pass over the cases in each form: of texts, then with the encoder, "
            "then of its vectors, which are made once before",
        )


def _score(opened: TransformersModel, prompts: list[Tokens], answers: tuple[int, int]) -> Any:
    with torch.no_grad():
        states = answer_states(opened.network, prompts, batch_tokens=opened.settings.batch_tokens)
        return np.asarray(answer_logits(opened.network, states, answers).cpu())


def _step(
    opened: TransformersModel, adapter: Adapter, cases: list[EncodedCase], given: Any
) -> None:
    budget = pass_tokens(opened.settings, opened.device, token_bytes(opened.network))
    for batch in micro_batches(cases, lambda case: case.distinct_tokens, budget):
        if given is None:
            total: Any = listwise_loss(opened.network, batch, budget).sum()
        else:
            with given(batch):
                total = listwise_loss(opened.network, batch, budget).sum()
        total.backward()
    for one in adapter.parameters.values():
        one.grad = None
