"""Users' summaries: one prompt at a time, in batches, and by trsr's engines."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from benchmarks.options import SummarizeOptions
from benchmarks.peak import Cost
from benchmarks.records import Place, Record, Result, Work, record, speed_ratio
from benchmarks.score import open_local, place_of, prepared
from benchmarks.timing import Timing, Variant, interleave
from trsr.config import Config
from trsr.models.base import Feed, LanguageModel, ModelWrapper, Sampling
from trsr.models.cached import cached
from trsr.models.hf.model import TransformersModel
from trsr.models.settings import open_model
from trsr.models.token_tree.tokens import Tokens, tree_stats
from trsr.models.weights import quiet
from trsr.progress import Progress, Silent
from trsr.recommender import summary_writer
from trsr.storage.response_cache import ResponseCache
from trsr.summarize import summarize
from trsr.types import Prompt, UserHistory


class PlainGenerate:
    """A `LanguageModel` that answers a batch, waits for its slowest text, and takes the next.

    Greedy only. Penalty and forbidden runs count the prompt too, as transformers does.

    Args:
        model: Its network and its chat_format are used.
        batch_size: Prompts side by side; fewer where fewer are ready.
    """

    def __init__(self, model: TransformersModel, batch_size: int) -> None:
        self.model = model
        self.batch_size = batch_size

    @property
    def identity(self) -> str:
        """The model's, by this way."""
        return f"{self.model.identity} generate {self.batch_size}"

    @property
    def context_tokens(self) -> int:
        """The most tokens of a prompt and its answer together."""
        return self.model.context_tokens

    def count_tokens(self, prompt: Prompt) -> int:
        """The prompt's tokens as the model reads it."""
        return self.model.count_tokens(prompt)

    def generate(self, prompts: Feed, sampling: Sampling) -> Iterator[tuple[int, str]]:
        """Yields (position, text), a batch at a time.

        Raises:
            ValueError: If texts are to be drawn.
        """
        if sampling.temperature > 0:
            raise ValueError("the plain way is compared greedily: set the temperature to 0")
        feed, position, ended = iter(prompts), 0, False
        while not ended:
            batch: list[Prompt] = []
            while len(batch) < self.batch_size:
                try:
                    prompt = next(feed)
                except StopIteration:
                    ended = True
                    break
                if prompt is None:
                    break
                batch.append(prompt)
            for text in self._texts(batch, sampling) if batch else ():
                yield position, text
                position += 1

    @torch.no_grad()
    def _texts(self, batch: Sequence[Prompt], sampling: Sampling) -> list[str]:
        chat_format = self.model.chat_format
        prompts: list[Tokens] = [chat_format.encode(prompt) for prompt in batch]
        width = max(map(len, prompts))
        ids = torch.zeros(len(prompts), width, dtype=torch.long)
        mask = torch.zeros_like(ids)
        for row, tokens in enumerate(prompts):
            ids[row, width - len(tokens) :] = torch.tensor(tokens)
            mask[row, width - len(tokens) :] = 1
        stops = _stops(self.model)
        with quiet():
            found: Any = self.model.network.generate(
                input_ids=ids.to(self.model.device),
                attention_mask=mask.to(self.model.device),
                max_new_tokens=sampling.max_tokens,
                do_sample=False,
                repetition_penalty=sampling.repetition_penalty,
                no_repeat_ngram_size=sampling.no_repeat_ngram,
                eos_token_id=stops,
                pad_token_id=stops[0],
            )
        texts = []
        for tokens, row in zip(prompts, found[:, width:].tolist(), strict=True):
            end = next((at for at, token in enumerate(row) if token in stops), len(row))
            text = chat_format.decode(tokens, row[:end])
            texts.append(text.partition(chat_format.stop)[0] if chat_format.stop else text)
        return texts


def _stops(model: TransformersModel) -> list[int]:
    named = getattr(model.network.generation_config, "eos_token_id", None)
    every = [
        *(named if isinstance(named, list) else [named]),
        model.chat_format.tokenizer.eos_token_id,
    ]
    return sorted({token for token in every if token is not None})


History = tuple[str, UserHistory]

ALONE = "generate-1"
"""The reference: one prompt at a time."""
WARM_USERS = 2


class Recorder(ModelWrapper):
    """A `LanguageModel` that remembers what was said, to be counted when the clock has stopped.

    Args:
        inner: The model that answers.

    Attributes:
        said: (prompt, text) of each answer.
    """

    def __init__(self, inner: LanguageModel) -> None:
        super().__init__(inner)
        self.said: list[tuple[Prompt, str]] = []

    def generate(self, prompts: Feed, sampling: Sampling) -> Iterator[tuple[int, str]]:
        """Yields what the inner model yields."""
        taken: list[Prompt] = []

        def feed() -> Iterator[Prompt | None]:
            for prompt in prompts:
                if prompt is not None:
                    taken.append(prompt)
                yield prompt

        for position, text in self.inner.generate(feed(), sampling):
            self.said.append((taken[position], text))
            yield position, text


@dataclass
class Way:
    """One way to make summaries.

    Attributes:
        name: In the records.
        open: Opens the model, before each repeat: an engine may keep prompts it has read.
        users: How many users' summaries are made.
        dtype: Of the record.
    """

    name: str
    open: Callable[[], LanguageModel]
    users: int
    dtype: str
    model: LanguageModel | None = None

    def ready(self) -> None:
        """Opens the model anew."""
        self.model = None  # the old one goes first: memory for one
        self.model = self.open()


def bench_summarize(
    name: str,
    config: Config,
    options: SummarizeOptions,
    progress: Progress,
    place: Place | None = None,
) -> Result:
    """Times the summaries of a configuration's test users, recurrent, with nothing stored.

    The slow ways make fewer users' summaries (a batch of n those of n users): what is compared is
    prompts a second.

    Args:
        name: Of the data.
        config: The data, the words, the model and the sampling.
        options: Users, batch sizes of transformers' own `generate`, and repeats.
        progress: Shows each run.
        place: Where the model runs; None: found out, with the peak.

    Raises:
        TrsrError: If the model or the data cannot be used.
    """
    summarizing = config.summarize.model_copy(update={"strategy": "recurrent"})
    config = config.model_copy(update={"summarize": summarizing})
    settings = config.summarizer.model_copy(update={"backend": "transformers"})
    local = open_local(settings)
    where = place or place_of(local)
    ways = _ways(config, local, where.dtype, options)
    wanted = max(way.users for way in ways)
    with (
        prepared(config, queries=wanted + WARM_USERS) as dataset,
        tempfile.TemporaryDirectory(prefix="benchmarks-") as folder,
    ):
        histories = [(case.query.id, case.query.history) for case in dataset.cases("test")]
        warm, asked = histories[:WARM_USERS], histories[WARM_USERS:]
        stores = _Stores(Path(folder))

        def variant(way: Way) -> Variant:
            def run(of: Sequence[History]) -> list[tuple[Prompt, str]]:
                local.chat_format.forget()
                return _summarized(config, way.model, of, stores.fresh())

            return Variant(way.name, lambda: run(asked[: way.users]), way.ready, lambda: run(warm))

        timings = interleave(
            [variant(way) for way in ways], options.repeats, where.device, progress
        )
    return _result(name, ways, timings, local, where)


class _Stores:
    """Empty output stores, so that nothing is answered from one."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.made = 0

    def fresh(self) -> Path:
        self.made += 1
        return self.folder / f"{self.made}.sqlite"


def _ways(
    config: Config, local: TransformersModel, dtype: str, options: SummarizeOptions
) -> list[Way]:
    users, alone, batches = options.users, options.alone_users, options.batches

    def plain(size: int, of: int) -> Way:
        return Way(f"generate-{size}", lambda: PlainGenerate(local, size), of, dtype)

    settings = config.summarizer.model_copy(update={"backend": "transformers"})
    ways = [plain(1, alone), *(plain(size, size) for size in batches)]
    most = max([alone, *batches])
    ways.append(Way("transformers", lambda: TransformersModel(settings), most, dtype))
    if local.device.type == "cpu" and find_spec("openvino_genai") is not None:
        fast = config.summarizer.model_copy(update={"backend": "openvino", "quantize": "none"})
        ways.append(Way("openvino", lambda: open_model(fast), users, fast.dtype))
    return ways


def _summarized(
    config: Config, model: Any, histories: Sequence[History], store: Path
) -> list[tuple[Prompt, str]]:
    recorder = Recorder(model)
    with ResponseCache(store) as outputs:
        asked = cached(recorder, outputs)
        done = summarize(
            histories,
            model=asked,
            writer=summary_writer(config, asked),
            settings=config.summarize,
            sampling=config.summary_sampling,
            progress=Silent(),
        )
        for _ in done:
            pass
    return recorder.said


def _result(
    name: str,
    ways: Sequence[Way],
    timings: dict[str, Timing],
    local: TransformersModel,
    where: Place,
) -> Result:
    cost = Cost.of(local.network)
    works: dict[str, Work] = {}
    notes = []
    for way in ways:
        said: list[tuple[Prompt, str]] = timings[way.name].result
        texts = [_tokens(local, text) for _, text in said]
        whole: list[Tokens] = [
            tuple(local.chat_format.encode(prompt)) + text
            for (prompt, _), text in zip(said, texts, strict=True)
        ]
        stats = tree_stats(whole)
        generated = sum(map(len, texts))
        flops = cost.forward(whole, cost.vocabulary * generated)
        works[way.name] = Work(len(said), len(said), stats.tokens, stats.distinct_tokens, flops)
        seconds = timings[way.name].median
        notes.append(
            f"{way.name}: {way.users} users, {len(said)} prompts, {len(said) / seconds:.3g} "
            f"prompts a second, {generated} tokens generated ({generated / seconds:.3g} a second)"
        )
    records = tuple(
        record(
            "summarize",
            f"{name}/{way.name}",
            Place(where.device, way.dtype, where.peak),
            timings[way.name],
            works[way.name],
            speed_ratio(timings[way.name], works[way.name], timings[ALONE], works[ALONE]),
        )
        for way in ways
    )
    title = f"summarize, {name}: recurrent summaries; ratios are of prompts a second"
    return Result(title, records, (*notes, *_beside_best(records)))


def _beside_best(records: Sequence[Record]) -> Iterator[str]:
    """How trsr's engines stand to the plain way at its best batch size."""
    plain = [one for one in records if "/generate-" in one.variant]
    best = max(plain, key=lambda one: one.ratio)
    for one in records:
        if one not in plain:
            engine, size = one.variant.rpartition("/")[2], best.variant.rpartition("-")[2]
            yield (
                f"{engine}: {one.ratio / best.ratio:.2f} times generate at its best batch size "
                f"({size}), {one.ratio:.2f} times one prompt at a time"
            )


def _tokens(model: TransformersModel, text: str) -> Tokens:
    return tuple(model.chat_format.tokenizer.encode(text, add_special_tokens=False))
