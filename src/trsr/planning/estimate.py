"""What a run will take: each stage's prompts, tokens, operations, seconds, memory and dollars."""

from __future__ import annotations

import contextlib
import datetime
import importlib.util
import itertools
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

from trsr.config import Config
from trsr.data import Cases, Dataset
from trsr.data.preparation import located, prepare
from trsr.errors import DataError, PromptError, TrsrError
from trsr.explanation import page_writer
from trsr.machine import cores, gpu, memory, processor
from trsr.metrics import AnswerKey, parse_metric
from trsr.metrics import evaluate as compute
from trsr.models import ModelSettings
from trsr.pipeline import stage_names
from trsr.pipeline.artifacts import plan_digest, used_splits
from trsr.pipeline.runner import reason
from trsr.pipeline.stages import PREPARE
from trsr.pipeline.training import start_config
from trsr.planning.bench import (
    bench_rankers,
    bench_scoring,
    bench_training,
    bench_writing,
    computing,
    encoding,
    training_work,
)
from trsr.planning.counting import (
    BYTES_A_TOKEN,
    USERS,
    Counts,
    Encoders,
    Reader,
    Sampled,
    StandIn,
    plain,
    proposed,
    sample,
    totals,
)
from trsr.planning.machines import GPUS, UTILISATION, Shape, Speeds, Work, like, named, own_machine
from trsr.progress import Progress, Silent, duration
from trsr.prompts import PromptWriter
from trsr.rankers import Resources, case_batches, make_ranker, rank_batches
from trsr.rankers.llm import ItemOnlyLLMRanker
from trsr.rankers.settings import ranker_class
from trsr.recommender import ranking_writer, summary_writer
from trsr.settings import derive_seed
from trsr.storage import files
from trsr.storage.response_cache import ResponseCache
from trsr.storage.run_directory import RunDirectory
from trsr.storage.shared_cache import is_kept, open_cache
from trsr.summarize import summarize
from trsr.summarize.settings import GRADIENT_BLOCKS
from trsr.training.encode import EncodedCase, encode_cases
from trsr.types import Case, Prompt, Query, Summary, UserHistory

if TYPE_CHECKING:
    from trsr.training.step import Batch

LONG = 3600.0
"""Seconds from which on a run says first how long it will take."""
FEW = 4
"""Users of each split that are looked at for that."""
MADE_UP = 16
"""Different texts that stand for what a model would write."""
FITS = 0.7
"""The share of this machine's memory that a model may take to be measured here."""


@dataclass
class StagePlan:
    """What one stage will take.

    Attributes:
        stage: Its name.
        prompts: All that are put to a language model.
        hits: Those of them that the response cache will answer.
        tokens: Of the others; of a training those of all epochs, with their answers.
        distinct: Those that are left where common beginnings count once.
        generated: Tokens that are written.
        encoded: Tokens that the encoders of items and of soft summaries read, beside all these.
        error: By how many of `tokens` the estimate may be wrong (95 %); 0: all users were read.
        operations: Floating-point operations of the language model.
        seconds: None where they are not known.
        memory: Bytes at its most; None where they are not known.
        dollars: None where no price is given.
    """

    stage: str
    prompts: int = 0
    hits: int = 0
    tokens: int = 0
    distinct: int = 0
    generated: int = 0
    encoded: int = 0
    error: int = 0
    operations: float = 0.0
    seconds: float | None = None
    memory: float | None = None
    dollars: float | None = None


@dataclass
class Plan:
    """A run's plan.

    Attributes:
        machine: For which machine, in words.
        stages: In order.
        notes: What it rests on, a sentence each.
        bench: The speeds that were measured, for `--like`; empty where none were.
        settings: A digest of the settings that it is of.
    """

    machine: str
    stages: list[StagePlan] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    bench: dict[str, Any] = field(default_factory=dict)
    settings: str = ""

    @property
    def seconds(self) -> float | None:
        """Of all stages; None where one's are not known."""
        known = [one.seconds for one in self.stages if one.seconds is not None]
        return sum(known) if len(known) == len(self.stages) else None

    def to_json(self) -> dict[str, Any]:
        """What plan.json holds."""
        at = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        stages = {one.stage: asdict(one) for one in self.stages}
        head = {"machine": self.machine, "at": at, "seconds": self.seconds}
        head |= {"settings": self.settings}
        return head | {"stages": stages, "notes": self.notes, "bench": self.bench}


def plan(
    config: Config,
    *,
    machine: str = "",
    measured: Path | None = None,
    price: float | None = None,
    progress: Progress | None = None,
) -> Plan:
    """Plans a run. The data is read and tokenized; of more than `USERS` users a split, a sample.

    Without `machine` and `measured`, the run's own models are measured here for seconds.

    Args:
        config: The run's settings.
        machine: A machine of the table.
        measured: A plan.json of another machine.
        price: Dollars an hour of the machine.
        progress: Shows how far the plan is.

    Raises:
        ConfigError: If the machine is not known, or the file does not hold speeds.
        DataError: If the data cannot be read.
    """
    speeds = like(measured) if measured else named(machine) if machine else None
    bar = progress or Silent()
    if speeds is None and (config.rank.those("uses_llm") or config.summarize.uses_llm):
        _open_torch()
    with _dataset(config, bar) as (dataset, seconds):
        return _Planning(config, dataset, speeds, price, bar).plan(seconds)


@contextlib.contextmanager
def _dataset(config: Config, progress: Progress) -> Iterator[tuple[Dataset, float]]:
    """The run's prepared data, or the same in a temporary folder; and what preparing it takes."""
    run = RunDirectory(config.run.folder)
    if run.records().get("prepare") and not reason(PREPARE, config, run):
        yield Dataset.load(run.folder), float(run.records()["prepare"].info["seconds"])
        return
    with files.temporary_folder() as folder:
        started = time.perf_counter()
        prepare(located(config.data), folder, seed=config.data_seed, progress=progress)
        yield Dataset.load(folder), time.perf_counter() - started


def long_run(config: Config) -> str:
    """A sentence where the run's stages that ask a model may take over an hour; else empty.

    A few users are read, and the machine's speed is a guess from one product of matrices, so this
    takes about a second. The data must be prepared.
    """
    run = RunDirectory(config.run.folder)
    waiting = [name for name in ("summarize", "train", "rank") if name not in run.records()]
    endpoint = {config.model.backend, config.summarizer.backend} - {"transformers", "openvino"}
    if not waiting or endpoint or not (config.rank.those("uses_llm") or config.summarize.uses_llm):
        return ""
    _open_torch()
    known = next((name for name in GPUS if name in gpu()), "A10G")
    here = GPUS[known] if gpu() else own_machine()
    planning = _Planning(config, Dataset.load(run.folder), Speeds("", gpu=here), None, Silent())
    planning.users, planning.rough = FEW, True
    try:
        stages = [one for one in planning.plan(0.0).stages if one.stage in waiting]
    except TrsrError:  # the stage itself will say so
        return ""
    seconds = sum(one.seconds or 0.0 for one in stages)
    if seconds < LONG:
        return ""
    tokens = sum(one.tokens + one.generated for one in stages)
    return (
        f"this run reads and writes about {tokens:,} tokens, which may take about "
        f"{duration(seconds)} here (a guess; `trsr plan` measures it). It can be stopped, and "
        "goes on where it was"
    )


def _open_torch() -> None:
    """Loads torch where it is installed: a GPU is known by it, and local models need it anyway."""
    if importlib.util.find_spec("torch") is not None:
        importlib.import_module("trsr.models.hf.load")


@dataclass
class _Training:
    """Training cases as a model reads them.

    Attributes:
        cases: Of a sample of users.
        read: Of each pass of all epochs the tokens that encoders read (see `Encoders.trained`).
        counts: Of all cases, in an epoch.
        error: By how many tokens they may be wrong (95 %).
        seconds: What it takes to write and to read all prompts.
    """

    cases: list[EncodedCase]
    read: list[tuple[int, int, int]]
    counts: Counts
    error: float
    seconds: float


class _Planning:
    """One plan on its way."""

    def __init__(
        self,
        config: Config,
        dataset: Dataset,
        speeds: Speeds | None,
        price: float | None,
        progress: Progress,
    ) -> None:
        here = ", ".join(one for one in (f"{processor()}, {cores()} cores", gpu()) if one)
        self.config = config
        self.dataset = dataset
        self.measuring = speeds is None
        self.speeds = speeds or Speeds(here)
        self.price = price
        self.progress = progress
        self.found = Plan(self.speeds.name, settings=plan_digest(config))
        self.users = USERS
        self.rough = False
        self.readers: list[Reader] = []
        self.summaries: dict[str, Summary] = {}
        self.store: ResponseCache | None = None

    def plan(self, prepared: float) -> Plan:
        """All stages, one after the other."""
        makers = {
            "describe": self._describe,
            "summarize": self._summarize,
            "train": self._train,
            "rank": self._rank,
            "evaluate": self._evaluate,
        }
        with contextlib.ExitStack() as stack, files.temporary_folder() as folder:
            self.folder = folder
            if self.measuring and is_kept(self.config.run.cache):
                opened = open_cache(self.config.run.cache, write=False)
                self.store = stack.enter_context(opened)
            names = stage_names(self.config)
            self.progress.begin(len(names), "stages")
            for name in names:
                self.progress.advance(0, f"planning {name}")
                one = StagePlan(name)
                if name == "prepare":
                    one.seconds = prepared
                elif name in makers:
                    makers[name](one)
                else:
                    self._note(f"{name}: what this stage takes is not counted")
                if one.encoded:
                    self._note(
                        f"{name}: beside its prompts, encoders read {one.encoded:,} tokens, of "
                        "items or of summaries' blocks"
                    )
                self._pay(one)
                self.found.stages.append(one)
                self.progress.advance(1)
        self._explain()
        return self.found

    def _note(self, text: str) -> None:
        if text not in self.found.notes:
            self.found.notes.append(text)

    def _reader(self, settings: ModelSettings, items: int = 0) -> Reader:
        wanted = (settings, items)
        known = next((o for o in self.readers if (o.settings, o.item_vectors) == wanted), None)
        if known is not None:
            return known
        reader = Reader(settings, items, self.config.summarize.soft if items else 0)
        self.readers.append(reader)
        local = settings.backend in ("transformers", "openvino")
        if not reader.exact:
            why = "is not on this machine" if local else "does not show its tokenizer"
            size = ""
            if reader.shape:
                billions = reader.shape.linear / 1e9
                size = f"; its size is guessed from its name: {billions:.3g} billion parameters"
            self._note(
                f"{settings.name} {why}: a token is taken as {BYTES_A_TOKEN} bytes, so tokens may "
                f"be a fifth off{size}"
            )
        return reader

    def _measurable(self, reader: Reader) -> bool:
        """Whether a model can be measured here; says why where it cannot."""
        if not self.measuring or reader.settings.backend not in ("transformers", "openvino"):
            return False
        name = reader.settings.name
        if reader.folder is None:
            self._note(f"seconds of {name} are not known: fetch it, or name a machine (--machine)")
        elif not gpu() and reader.shape and reader.shape.weights > FITS * memory():
            size = f"{reader.shape.weights / 1e9:.0f} GB"
            self._note(f"{name} needs {size}, more than there is here: name a machine (--machine)")
        else:
            return True
        return False

    def _describe(self, one: StagePlan) -> None:
        config, settings = self.config, self.config.describer
        images = len({*self.dataset.catalog.images.values()})
        reader = self._reader(settings)
        each = settings.image_tokens + reader.count_text("What does the picture show, in words?")
        words = 1.4 * config.describe.words
        counts = Counts(images, 0, images * each, images * each, images * words, images)
        self._write(one, counts, reader)
        self._note("describe: answers are taken as long as describe.words allows; none is measured")

    def _summarize(self, one: StagePlan) -> None:
        config = self.config
        splits = used_splits(config) if config.summarized else ()
        if not splits:
            one.seconds = 0.0
            return
        reader = self._reader(config.summarizer)
        made_up = self._made_up(reader)
        stand_in = StandIn(reader, made_up)
        samples = {
            name: sample(self.dataset.cases(name), config.run.seed, self.users) for name in splits
        }
        self._summaries(stand_in, samples)
        if stand_in.asked and self._measurable(reader):
            self.progress.advance(0, "measuring the summarizing model")
            asked = dict.fromkeys(plain(prompt)[0] for prompt in stand_in.asked)
            # some of each kind, in no order, so that neighbours share the instruction alone
            prompts = sorted(asked, key=lambda one: derive_seed(0, "plan", *one.seed_parts))
            sampling = config.summary_sampling
            identity, texts = bench_writing(reader, prompts, sampling, self.speeds)
            stand_in = StandIn(reader, texts, self.store, identity)
        elif stand_in.asked:
            self._note("summaries are taken as long as they may be; none is written to see")
            stand_in = StandIn(reader, made_up)
        counts, error = totals(self._summaries(stand_in, samples))
        one.error = round(error)
        self._write(one, counts, reader)

    def _made_up(self, reader: Reader) -> list[str]:
        """Texts of the catalog's words, as long as a summary may be."""
        config, items = self.config, itertools.cycle(self.dataset.catalog)
        words = (word for item in items for _, text in item.fields for word in text.split())
        found, most = [], config.summarize.sampling.max_tokens
        for _ in range(MADE_UP if any(item.fields for item in self.dataset.catalog) else 0):
            some = list(itertools.islice(words, config.prompts.summary_words))
            while some and (count := reader.count_text(" ".join(some))) > most:
                del some[min(len(some) - 1, len(some) * most // count) :]
            found.append(" ".join(some) or ".")
        return found or ["."]

    def _summaries(
        self, stand_in: StandIn, samples: Mapping[str, tuple[list[Cases], Sampled]]
    ) -> list[Sampled]:
        """Summarizes a sample of users by a stand-in; counts what it was asked."""
        config = self.config
        writer = summary_writer(config, stand_in, self.dataset.catalog)
        found = []
        for users, counted in samples.values():
            own = replace(counted, found=[])
            for cases in users:
                self.summaries |= summarize(
                    cases.histories(),
                    model=stand_in,
                    writer=writer,
                    settings=config.summarize,
                    sampling=config.summary_sampling,
                    progress=Silent(),
                )
                counts = stand_in.take()
                counts.cases = len(cases)
                own.found.append(counts)
            found.append(own)
        return found

    def _write(self, one: StagePlan, counts: Counts, reader: Reader) -> None:
        """Fills in what a stage that writes texts takes."""
        shape, settings = reader.shape, reader.settings
        works = [computing(shape, kind, counts, settings) for kind in ("prefill", "generation")]
        self._count(one, counts)
        kept = counts.tokens / max(counts.prompts - counts.hits, 1) * settings.batch_size
        room = shape.weights + shape.cache(kept) if shape else None
        self._take(one, works, reader, room)

    def _count(self, one: StagePlan, counts: Counts) -> None:
        one.prompts, one.hits = round(counts.prompts), round(counts.hits)
        one.tokens, one.distinct = round(counts.tokens), round(counts.distinct)
        one.generated = round(counts.generated)
        one.encoded += round(counts.encoded)

    def _take(
        self,
        one: StagePlan,
        works: Sequence[Work],
        reader: Reader,
        room: float | None,
        opened: int = 1,
        more: float = 0.0,
    ) -> None:
        """Fills in operations, seconds, memory, and an endpoint's price.

        A model is opened so many times; beside what was measured, more bytes are needed.
        """
        settings, shape = reader.settings, reader.shape
        one.operations += sum(work.operations for work in works)
        if shape is None:
            rates = (settings.price_in, settings.price_out)
            if any(rates):
                spent = one.tokens * rates[0] + one.generated * rates[1]
                one.dollars = (one.dollars or 0.0) + spent / 1e6
            self._note(f"seconds of {settings.name} are not known: its speed, or its size, is not")
            return
        opening = self.speeds.opens(one.stage, shape) * opened if one.tokens else 0.0
        times = [self.speeds.seconds(work) for work in works]
        room = room and room + more
        measured = self.speeds.memory.get(one.stage)
        one.memory = measured + more if measured else room
        known = [took for took in times if took is not None]
        one.seconds = (one.seconds or 0.0) + opening + sum(known)
        if len(known) < len(times):
            one.seconds = None
        limit = self.speeds.gpu.memory if self.speeds.gpu else 0
        if limit and room and room > limit:
            self._note(
                f"{one.stage}: about {room / 1e9:.0f} GB are needed, and {self.speeds.name} has "
                f"{limit / 1e9:.0f}: load it in fewer bits (model.quantize), lower "
                "model.batch_tokens, or serve it on several"
            )

    def _train(self, one: StagePlan) -> None:
        config = self.config
        if not config.trained:
            one.seconds = 0.0
            return
        start = start_config(config)
        reader, epochs = self._reader(config.model), config.train.epochs
        texts = self._training(reader)
        if self._measurable(reader):
            self.progress.advance(0, "measuring training")
            bench_training(config, reader, texts.cases, self.folder, self.speeds)
        every, works = texts.counts.times(epochs), self._epochs(reader, texts)
        seconds, wrong, opened, more = texts.seconds, texts.error, 1, 0.0
        if start is not None and config.prompts.item_vectors:  # another run has made this training
            every, works, wrong = Counts(), [], 0.0
        if config.prompts.item_vectors:
            reader = self._reader(config.model, config.prompts.item_vectors)
            own = self._training(reader)
            made = 1 if start is not None and start.prompts.item_vectors else 2
            every += own.counts.times(made * epochs)
            works += self._vector_trainings(one, reader, texts, own, made)
            seconds, wrong = 2 * (seconds + own.seconds), wrong + made * own.error
            opened = 5  # for each training, for the teacher's scores, and for the items' vectors
            if reader.shape:
                more = reader.shape.activations(max(sum(one[:2]) for one in own.read))
        one.seconds, one.error = seconds, round(wrong * epochs)
        works += self._validations(one, reader, texts.counts.cases)
        self._count(one, every)
        room = _training_room(config, reader.shape, self._pass_tokens())
        self._take(one, works, reader, room, opened, more)

    def _training(self, reader: Reader) -> _Training:
        """The training cases as a reader's model reads them, of a sample of users."""
        config = self.config
        users, counted = sample(self.dataset.cases("train"), config.run.seed, self.users)
        started = time.perf_counter()
        encoded: list[EncodedCase] = []
        writer = ranking_writer(config, reader)  # type: ignore[arg-type]
        compared = config.train.loss == "listwise" or reader.item_vectors > 0
        for some in users:
            own = encode_cases(self._cases(some), writer, reader, compared=compared)
            prompts = sum(len(case.rests) for case in own)
            tokens = sum(case.tokens for case in own)
            counted.found.append(Counts(prompts, 0, tokens, tokens, 0, len(own)))
            encoded += own
        if not encoded:
            raise DataError("train: there are no training cases; set train.epochs to 0")
        scale = counted.cases / len(encoded)
        seconds = (time.perf_counter() - started) * scale
        counts, error = counted.total()
        passes, encoders = self._passes(encoded), Encoders(reader)
        counts.distinct = scale * sum(one.tokens for one in passes) / config.train.epochs
        vectors = reader.item_vectors
        read = [encoders.trained(one.cases, GRADIENT_BLOCKS) for one in passes if vectors]
        return _Training(encoded, read, counts, error, seconds)

    def _epochs(self, reader: Reader, training: _Training, *, whole: bool = False) -> list[Work]:
        """The work of a training's steps."""
        first = training_work(reader.shape, training.counts, self.config, whole=whole)
        later = first.times(self.config.train.epochs - 1)
        return [first, later if whole else replace(later, kind="training_cached")]

    def _vector_trainings(
        self, one: StagePlan, reader: Reader, texts: _Training, own: _Training, made: int
    ) -> list[Work]:
        """The work of what follows the training of a ranker of texts.

        That ranker scores all cases. The ranker of vectors learns from it with the encoders; then
        by itself, maybe with that of summaries, from the vectors of all items, made once. Two
        trainings are made with vectors, or the last alone (`made`).
        """
        config, shape = self.config, reader.shape
        scale = own.counts.cases / len(own.cases)
        items, late, early = (scale * sum(some) for some in zip(*own.read, strict=True))
        late, early = made * late, made * early
        page = page_writer(config)
        lines = {page.item_text(item, config.prompts.words) for item in self.dataset.catalog}
        catalog = sum(map(Encoders(reader).item, lines))
        each, step = catalog / len(lines), self._step_tokens
        one.encoded += round(late + early)
        works = [
            *self._epochs(reader, own, whole=config.summarize.soft > 0),
            encoding(shape, "training", late, step, backward=1.0),
            encoding(shape, "training_forward", early, step),
        ]
        if made == 1:
            return works
        one.encoded += round(items + catalog)
        scoring = computing(shape, "scoring", texts.counts, config.model)
        return [
            replace(scoring, kind="training_forward"),
            *self._epochs(reader, own, whole=True),
            encoding(shape, "training", items, each, backward=1.0),
            encoding(shape, "training_forward", catalog, each),
            *works,
        ]

    @property
    def _step_tokens(self) -> float:
        """Numbers that the summary encoder reads in one step."""
        own = self.config.summarize
        return 2 * own.soft + own.block_items * self.config.prompts.item_vectors

    def _pass_tokens(self) -> int:
        """About how many tokens one pass of training holds on the machine that is planned for."""
        from trsr.models.hf.load import pick_device, pick_dtype
        from trsr.training.start import activation_numbers, pass_tokens

        model, shape = self.config.model, self._reader(self.config.model).shape
        if self.speeds.gpu or shape is None:
            return model.batch_tokens
        device = pick_device(model)
        numbers = activation_numbers(shape.layers, shape.hidden, shape.inner)
        return pass_tokens(model, device, numbers * pick_dtype(model, device).itemsize)

    def _passes(self, encoded: Sequence[EncodedCase]) -> list[Batch]:
        """The cases that go through one pass together, in all epochs."""
        from trsr.training.step import Schedule, batches

        config = self.config
        schedule = Schedule(len(encoded), config.train, config.train_seed)
        alone, most = config.train.gradient_checkpointing, self._pass_tokens()
        return [
            batch
            for number in range(1, schedule.steps + 1)
            for batch in batches(
                [encoded[place] for place in schedule.cases(number)], most, alone=alone
            )
        ]

    def _validations(self, one: StagePlan, reader: Reader, cases: float) -> list[Work]:
        """The work of validations in the midst of training."""
        train = self.config.train
        if not train.validate_steps:
            return []
        steps = train.epochs * -(-cases // train.cases_per_step)
        many = -(-steps // train.validate_steps)
        counts, _ = self._ranked(StandIn(reader), "valid").total()
        self._note(f"train: validations: {many:.0f}, of {counts.prompts:,.0f} prompts each")
        one.encoded += round(many * counts.encoded)
        return [work.times(many) for work in self._scoring(reader, "training_forward", counts)]

    def _scoring(self, reader: Reader, kind: str, counts: Counts) -> list[Work]:
        """The work of scoring, and of the steps to the soft summaries that are read."""
        work = computing(reader.shape, "scoring", counts, reader.settings)
        steps = encoding(reader.shape, kind, counts.encoded, self._step_tokens)
        return [replace(work, kind=kind), steps]

    def _cases(self, cases: Cases) -> list[Case]:
        """Cases with the summaries that they may have."""
        return [replace(case, query=self._summarized(case.query)) for case in cases]

    def _summarized(self, query: Query) -> Query:
        return replace(query, summary=self.summaries.get(query.id))

    def _prompts(self, writer: PromptWriter, query: Query) -> list[Prompt]:
        """A query's prompts; none where they do not fit: the stage leaves it out too."""
        try:
            return writer.rank(query)
        except PromptError:
            return []

    def _ranked(self, stand_in: StandIn, split: str, *, alone: bool = False) -> Sampled:
        """Asks for the scores of a sample of a split's queries, maybe without their users."""
        config, catalog = self.config, self.dataset.catalog
        writer = ranking_writer(config, stand_in)
        kind = {"score": list(writer.answers)}
        users, counted = sample(self.dataset.cases(split), config.run.seed, self.users)
        for some in users:
            cases = proposed(some, catalog, config.rank.retrieve_k, config.run.seed)
            for query in map(self._summarized, cases.queries()):
                stranger = replace(query, history=UserHistory("", ()), summary=None)
                for prompt in self._prompts(writer, stranger if alone else query):
                    stand_in.ask(prompt, kind)
            counts = stand_in.take()
            counts.cases = len(cases)
            counted.found.append(counts)
        return counted

    def _asked(self) -> list[tuple[str, str]]:
        """(the ranker whose model is asked, split) of all that the run's rankers ask, in order."""
        rank = self.config.rank
        found = []
        for name in dict.fromkeys((*rank.rankers, *rank.asked)):
            learns = rank.traits(name).validates
            splits = ["valid"] if learns else []
            splits += [rank.split] if name in rank.rankers else []
            for member in rank.those("uses_llm", rank.with_members(name)):
                if rank.traits(member).writes_titles:
                    self._note(f"rank: the titles that {member} writes are not counted")
                else:
                    found += [(member, split) for split in splits]
        named = rank.with_members(*rank.rankers, rank.retriever)
        return found + [(name, "train") for name in rank.those("distills", named)]

    def _rank(self, one: StagePlan) -> None:
        config = self.config
        asks = self._asked()
        one.seconds = 0.0
        if not self.rough:
            times = bench_rankers(config, self.dataset, self.progress)
            one.seconds = sum(times.values())
            slow = {name: took for name, took in times.items() if took >= 1}
            if slow:
                each = ", ".join(f"{name} {took:.0f} s" for name, took in slow.items())
                self._note(f"rank: of the seconds, cheap rankers take, measured here: {each}")
        if not asks:
            return
        reader = self._reader(config.model)
        vectors = self._reader(config.model, config.prompts.item_vectors)
        tuned = {
            name: config.trained and config.rank.traits(name).needs_training for name, _ in asks
        }
        served = config.model.scorer == "endpoint" and reader.shape is not None
        identities = {} if served else self._measure_scoring(reader, set(tuned.values()))
        stand_ins = {
            kind: StandIn(own, (), self.store, identities.get(kind, ""))
            for kind, own in ((False, reader), (True, vectors))
        }
        total, works, seen = Counts(), [], dict[tuple[str, str], float]()
        for name, split in asks:
            if (name, split) in seen:
                total += Counts(seen[name, split], seen[name, split])
                continue
            alone = issubclass(ranker_class(name), ItemOnlyLLMRanker)
            counts, error = self._ranked(stand_ins[tuned[name]], split, alone=alone).total()
            asked, most = counts.prompts - counts.hits, len(self.dataset.catalog)
            if alone and asked > most:  # each item is asked about once
                counts = counts.times(most / asked)
            if config.rank.traits(name).distills:  # more candidates, of as many queries at most
                more = config.rank.table(name).model_dump()["scores"] / max(counts.prompts, 1)
                counts, error = replace(counts.times(more), encoded=counts.encoded), error * more
            seen[name, split] = counts.prompts
            total, one.error = total + counts, one.error + round(error)
            kind = "scoring_tuned" if tuned[name] else "scoring"
            works += self._scoring(reader, kind, counts)
        self._count(one, total)
        if served:
            one.seconds = None
            self._note("rank: an endpoint computes the scores, and its speed is not known")
            return
        soft = sum(tuned.values()) if one.encoded else 0  # the summary encoder is opened too
        more = reader.shape.weights if soft and reader.shape else 0.0
        room = _scoring_room(config, reader.shape)
        self._take(one, works, reader, room, len(tuned) + soft, more)

    def _measure_scoring(self, reader: Reader, kinds: set[bool]) -> dict[bool, str]:
        """Measures the ranking model, without and with an adapter; their identities."""
        found: dict[bool, str] = {}
        if not self._measurable(reader):
            return found
        config, catalog = self.config, self.dataset.catalog
        cases = self.dataset.cases(config.rank.split)
        some = cases.with_frame(cases.frame.head(64))
        writer = ranking_writer(config, reader)  # type: ignore[arg-type]
        queries = proposed(some, catalog, config.rank.retrieve_k, config.run.seed).queries()
        shown = [one for one in map(self._summarized, queries) if self._prompts(writer, one)]
        if not shown:
            return found
        for tuned in sorted(kinds):
            self.progress.advance(0, "measuring the ranking model")
            adapter = self.folder / "adapter" if tuned else None
            if tuned and config.prompts.item_vectors:  # torch alone reads vectors
                own = {"model": config.model.model_copy(update={"scorer": "torch"})}
                config = config.model_copy(update=own)
            found[tuned] = bench_scoring(config, catalog, reader, shown, adapter, self.speeds)
        return found

    def _evaluate(self, one: StagePlan) -> None:
        """Evaluates lists in random order, of some of the queries."""
        config, dataset = self.config, self.dataset
        cases = dataset.cases(config.rank.split)
        some = cases.with_frame(cases.frame.head(2000))
        names = [name for name in config.evaluate.metrics if parse_metric(name).family.accuracy]
        if not len(some) or not names or self.rough:
            one.seconds = 0.0
            return
        ranker = make_ranker("random", Resources(dataset.catalog, config.rank))
        lists = rank_batches(
            ranker,
            case_batches(some, dataset.catalog, {}),
            lambda query, error: None,
            depth=config.rank.depth if some.full else None,
        )
        frames = [batch.frame() for batch in lists]
        started = time.perf_counter()
        key = AnswerKey(some.frame, dataset.catalog.ids)
        frame = pl.concat(frames)
        compute(key, dict.fromkeys(config.rank.rankers, frame), names, sampled=not some.full)
        one.seconds = (time.perf_counter() - started) * len(cases) / len(some)

    def _pay(self, one: StagePlan) -> None:
        if self.price is not None and one.seconds is not None:
            one.dollars = (one.dollars or 0.0) + one.seconds / 3600 * self.price

    def _explain(self) -> None:
        speeds = self.speeds
        if speeds.gpu is not None:
            shares = ", ".join(f"{kind} {share:.0%}" for kind, share in UTILISATION.items())
            self._note(
                f"{speeds.name}: {speeds.gpu.peak / 1e12:.0f} TFLOP/s and "
                f"{speeds.gpu.bandwidth / 1e12:.2f} TB/s ({speeds.gpu.source}). Assumed to be "
                f"reached: {shares}; of the bandwidth 60 %. One GPU; cheap rankers, prepare and "
                "evaluate as measured on this machine"
            )
        rates = {name: f"{rate:,.0f}" for name, rate in speeds.tokens.items()}
        if rates:
            every = ", ".join(f"{name} {rate}" for name, rate in rates.items())
            self._note(f"tokens a second, {speeds.name}: {every}")
        if self.measuring and speeds.operations:
            self.found.bench = speeds.to_json()


def _training_room(config: Config, shape: Shape | None, tokens: int) -> float | None:
    """Bytes of weights and activations."""
    if shape is None:
        return None
    kept = 2 * shape.hidden * shape.layers * tokens  # what enters each layer
    own = kept if config.train.gradient_checkpointing else shape.activations(tokens)
    return shape.weights + own


def _scoring_room(config: Config, shape: Shape | None) -> float | None:
    """Bytes of weights, of one layer's activations, and of the keys and values of a pass."""
    if shape is None:
        return None
    tokens = config.model.batch_tokens
    return shape.weights + shape.cache(tokens) + 34 * shape.hidden * tokens
