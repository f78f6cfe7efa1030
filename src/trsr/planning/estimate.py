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
from typing import Any

import polars as pl

from trsr.config import Config
from trsr.data import Cases, Dataset
from trsr.data.preparation import prepare
from trsr.errors import DataError, PromptError, TrsrError
from trsr.machine import cores, gpu, memory, processor
from trsr.metrics import AnswerKey, parse_metric
from trsr.metrics import evaluate as compute
from trsr.models import ModelSettings
from trsr.pipeline import stage_names
from trsr.pipeline.artifacts import plan_digest, used_splits
from trsr.pipeline.runner import reason
from trsr.pipeline.stages import PREPARE, located
from trsr.planning.bench import (
    bench_rankers,
    bench_scoring,
    bench_training,
    bench_writing,
    computing,
    training_work,
)
from trsr.planning.counting import (
    BYTES_A_TOKEN,
    USERS,
    Counts,
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
from trsr.training.encode import EncodedCase, encode_cases
from trsr.types import Case, Prompt, Query, Summary, UserHistory

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


class _Planning:
    """One plan on its way.

    Args:
        config: The run's settings.
        dataset: Its data, prepared.
        speeds: Of the machine that is planned for; None: this one, to be measured.
        price: Dollars an hour.
        progress: Shows how far it is.
    """

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
                self._pay(one)
                self.found.stages.append(one)
                self.progress.advance(1)
        self._explain()
        return self.found

    def _note(self, text: str) -> None:
        if text not in self.found.notes:
            self.found.notes.append(text)

    def _reader(self, settings: ModelSettings) -> Reader:
        known = next((one for one in self.readers if one.settings == settings), None)
        if known is not None:
            return known
        reader = Reader(settings)
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
            sampling = config.summarize.sampling
            identity, texts = bench_writing(reader, prompts, sampling, self.speeds)
            stand_in = StandIn(reader, texts, self.store, identity)
        elif not self.measuring or not reader.exact:
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

    def _take(
        self,
        one: StagePlan,
        works: Sequence[Work],
        reader: Reader,
        room: float | None,
        opened: int = 1,
    ) -> None:
        """Fills in operations, seconds, memory, and an endpoint's price.

        A model is opened so many times.
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
        one.memory = self.speeds.memory.get(one.stage) or room
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
        reader = self._reader(config.model)
        cases = self.dataset.cases("train")
        if config.prompts.item_vectors:
            self._note(
                "train, rank: counted as if items were texts; with prompts.item_vectors training "
                "takes about three times as long, and ranking less"
                + (", and without the steps of soft summaries" if config.summarize.soft else "")
            )
        users, counted = sample(cases, config.run.seed, self.users)
        started = time.perf_counter()
        encoded: list[EncodedCase] = []
        writer = ranking_writer(config, reader)  # type: ignore[arg-type]
        for some in users:
            own = encode_cases(
                self._cases(some), writer, reader, compared=config.train.loss == "listwise"
            )
            prompts = sum(len(case.rests) for case in own)
            tokens = sum(case.tokens for case in own)
            counted.found.append(Counts(prompts, 0, tokens, tokens, 0, len(own)))
            encoded += own
        writing = (time.perf_counter() - started) * counted.cases / max(len(encoded), 1)
        if not encoded:
            raise DataError("train: there are no training cases; set train.epochs to 0")
        counts, error = counted.total()
        if self._measurable(reader):
            self.progress.advance(0, "measuring training")
            bench_training(config, reader, encoded, self.folder, self.speeds)
        epochs = config.train.epochs
        counts.distinct = counts.tokens * self._shared(encoded)
        every = counts.times(epochs)
        self._count(one, every)
        one.error = round(error * epochs)
        args = (counts.tokens, counts.distinct, counts.prompts, config)
        first = training_work(reader.shape, *args)
        later = replace(first.times(epochs - 1), kind="training_cached")
        one.seconds = writing
        works = [first, later, *self._validations(reader, every.cases)]
        self._take(one, works, reader, _training_room(config, reader.shape, self._pass_tokens()))

    def _pass_tokens(self) -> int:
        """About how many tokens one pass of training holds on the machine that is planned for."""
        from trsr.models.hf.load import pick_device
        from trsr.training.start import pass_tokens

        model = self.config.model
        return model.batch_tokens if self.speeds.gpu else pass_tokens(model, pick_device(model))

    def _shared(self, encoded: Sequence[EncodedCase]) -> float:
        """Which share of the tokens is computed in training's steps."""
        from trsr.training.step import Schedule, batches

        config = self.config
        schedule = Schedule(len(encoded), config.train, config.train_seed)
        alone, most = config.train.gradient_checkpointing, self._pass_tokens()
        tokens = computed = 0
        for number in range(1, schedule.steps // config.train.epochs + 1):
            cases = [encoded[place] for place in schedule.cases(number)]
            tokens += sum(case.tokens for case in cases)
            computed += sum(batch.tokens for batch in batches(cases, most, alone=alone))
        return computed / max(tokens, 1)

    def _validations(self, reader: Reader, cases: float) -> list[Work]:
        """The work of validations in the midst of training."""
        train = self.config.train
        if not train.validate_steps:
            return []
        steps = train.epochs * -(-cases // train.epochs // train.cases_per_step)
        many = -(-steps // train.validate_steps)
        counts, _ = self._ranked(StandIn(reader), "valid").total()
        self._note(f"train: validations: {many:.0f}, of {counts.prompts:,.0f} prompts each")
        # a pass forward is what a step has beside its backward pass, at the same speed
        work = computing(reader.shape, "scoring", counts, reader.settings)
        return [replace(work, kind="training").times(many)]

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
        tuned = {
            name: config.trained and config.rank.traits(name).needs_training for name, _ in asks
        }
        served = config.model.scorer == "endpoint" and reader.shape is not None
        identities = {} if served else self._measure_scoring(reader, set(tuned.values()))
        stand_ins = {
            kind: StandIn(reader, (), self.store, identities.get(kind, ""))
            for kind in (False, True)
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
                counts, error = counts.times(more), error * more
            seen[name, split] = counts.prompts
            total, one.error = total + counts, one.error + round(error)
            kind = "scoring_tuned" if tuned[name] else "scoring"
            works.append(computing(reader.shape, kind, counts, config.model))
        self._count(one, total)
        if served:
            one.seconds = None
            self._note("rank: an endpoint computes the scores, and its speed is not known")
            return
        self._take(one, works, reader, _scoring_room(config, reader.shape), len(tuned))

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
    """Bytes of weights and activations: 34 a number and layer (Korthikanti et al. 2022, eq. 1)."""
    if shape is None:
        return None
    each = 2 if config.train.gradient_checkpointing else 34
    return shape.weights + each * shape.hidden * shape.layers * tokens


def _scoring_room(config: Config, shape: Shape | None) -> float | None:
    """Bytes of weights, of one layer's activations, and of the keys and values of a pass."""
    if shape is None:
        return None
    tokens = config.model.batch_tokens
    return shape.weights + shape.cache(tokens) + 34 * shape.hidden * tokens
