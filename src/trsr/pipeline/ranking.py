"""The work of the stage `rank`."""

from __future__ import annotations

import contextlib
import functools
import logging
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import polars as pl

from trsr.config import Config
from trsr.data import Cases, Catalog, Dataset
from trsr.engine import held
from trsr.errors import ConfigError, DataError, PromptError
from trsr.machine import give_back_memory
from trsr.metrics.report import Estimate, number
from trsr.models import LanguageModel, ScoringModel
from trsr.models.cached import CacheCounts
from trsr.pipeline.artifacts import (
    needed_adapter,
    ranked_splits,
    run_summaries,
    used_splits,
    with_summaries,
)
from trsr.pipeline.fitted_rankers import FittedRankers
from trsr.pipeline.runner import Job
from trsr.pipeline.sharding import StageShard, cut, do_shards, is_sharded, plus
from trsr.pipeline.training import refuse_learned
from trsr.progress import Progress, Silent
from trsr.prompts import PromptCounts, PromptWriter, TitleWriter
from trsr.rankers import (
    FitData,
    FitOptions,
    RankedBatch,
    Ranker,
    Resources,
    case_batches,
    make_ranker,
    rank_batches,
    ranked,
    scored,
    write_rankings,
)
from trsr.rankers.baselines.item_knn import EaseRanker, check_size
from trsr.rankers.blend import check_cases
from trsr.rankers.external import ExternalRanker
from trsr.rankers.rankings import SCHEMA, named
from trsr.recommender import (
    TITLE_ADAPTER,
    compressed_model,
    open_ranking_model,
    open_title_model,
)
from trsr.registry import like, near
from trsr.report.costs import RankerCost
from trsr.storage import files
from trsr.storage.run_directory import RunDirectory
from trsr.storage.tables import read_table
from trsr.types import Query, Summary

_log = logging.getLogger(__name__)

RETRIEVED = "retrieved.parquet"
"""Columns `query` and `items`, best first: what the first stage proposed."""


@dataclass
class Retriever:
    """Proposes candidates to the rankers that are too costly to rank the full catalog.

    The proposals are what the first stage's ranker puts first; the answer is never among them
    unless it is found. They are made once, when they are first needed.
    """

    config: Config
    cases: Cases
    catalog: Catalog
    make: Callable[[str], Ranker]
    report: Callable[[str], None]
    _made: dict[str, list[str]] | None = None

    @property
    def used(self) -> bool:
        """Whether any ranker needs proposals."""
        return self._made is not None

    def write(self, path: Path) -> None:
        """Writes what was proposed."""
        found = self.retrieve_k()
        schema = {"query": pl.String(), "items": pl.List(pl.String())}
        files.write_parquet(pl.DataFrame([list(found), list(found.values())], schema=schema), path)

    def retrieve_k(self) -> dict[str, list[str]]:
        """Item ids by query id, best first."""
        if self._made is None:
            most, seed = self.config.rank.retrieve_k, self.config.run.seed
            found: dict[str, list[str]] = {}
            name = self.config.rank.retriever
            ranker = self.make(name)
            asks = self.config.rank.those("uses_llm", self.config.rank.with_members(name))
            size = ranker.batch_size if asks else 0
            for batch in case_batches(self.cases, self.catalog, {}, size):
                for one in ranked(batch, scored(ranker, batch), most, seed).lists():
                    found[one.query] = [entry.item for entry in one]
                self.report(f"retriever {len(found)}/{len(self.cases)}")
            self._made = found
        return self._made


def read_retrieved(path: Path) -> dict[str, list[str]]:
    """What the first stage proposed, best first, by query id.

    Raises:
        StoreError: If the file is damaged.
    """
    columns = {"query": pl.String(), "items": pl.List(pl.String())}
    found = read_table(path, columns, again="give `trsr run` again")
    return dict(found.iter_rows())


def retriever_report(path: Path, cases: Cases, config: Config) -> dict[str, Any] | None:
    """The retriever's recall, None where no ranker needs proposals.

    Raises:
        DataError: If the file's queries are not the cases.
        StoreError: If the file is damaged.
    """
    if not files.exists(path) or not cases.full:
        return None
    proposed = read_retrieved(path)
    found = []
    for query, relevant in cases.frame.select("query", "relevant").iter_rows():
        if query not in proposed:
            raise DataError(f"{path}: there are no proposals for query {query}; rank again")
        found.append(len(set(relevant) & set(proposed[query])) / len(relevant))
    values = pl.Series(found, dtype=pl.Float64)
    spread = values.std() if len(values) > 1 else None
    return {
        "ranker": config.rank.retriever,
        "retrieve_k": config.rank.retrieve_k,
        "recall": values.mean(),
        "se": float(str(spread)) / math.sqrt(len(values)) if spread is not None else None,
        "queries": len(values),
    }


def full_notes(config: Config, first: Mapping[str, Any] | None) -> tuple[str, ...]:
    """What a reader of full-catalog figures must know."""
    notes = [
        "Candidates are the whole catalog except what the user had seen. A target that a ranker's "
        "list leaves out counts as not found, and as last in auc; lists keep "
        f"{config.rank.depth:,} places, so auc is a lower bound in larger catalogs. Training and "
        "validation cases have sampled negatives."
    ]
    if config.rank.those("learns_weights"):
        notes.append("blend: its weights are fitted on validation cases with sampled negatives.")
    if first is not None:
        recall = number(Estimate(first["recall"], first["se"]))
        notes.append(
            f"Rankers with a language model order {first['retrieve_k']:,} proposals of "
            f"{first['ranker']}, whose recall@{first['retrieve_k']} is {recall}: no such "
            "ranker can find more."
        )
    return tuple(notes)


class CostBook:
    """What each ranker took, as far as it is known until now.

    Lists are pulled one by one as they are written, so the clock runs only while the ranker
    is asked for the next one. Rankers come one after the other: what the language models were
    asked meanwhile is that ranker's.
    """

    def __init__(self) -> None:
        self._model_counts: list[CacheCounts] = []
        self._preparing: dict[str, float] = {}
        self._found: dict[str, RankerCost] = {}

    def watch(self, counts: CacheCounts) -> None:
        """Counts what a model is asked from now on.

        The model may go when its ranker is done.
        """
        self._model_counts.append(counts)

    @contextlib.contextmanager
    def preparing(self, name: str) -> Iterator[None]:
        """What is done within counts as this ranker's preparation."""
        started = time.perf_counter()
        yield
        self._preparing[name] = time.perf_counter() - started

    def prepared(self, name: str) -> float:
        """The seconds that a ranker's preparation took."""
        return round(self._preparing.get(name, 0.0), 3)

    def ranking(self, name: str, lists: Iterable[RankedBatch]) -> Iterator[RankedBatch]:
        """Yields the lists as they are; when all are there, their cost is in the book."""
        before = self._counts()
        for one in self._model_counts:  # what another ranker asked is from the store
            one.known.clear()
        seconds, queries, source = 0.0, 0, iter(lists)
        while True:
            started = time.perf_counter()
            ranked = next(source, None)
            seconds += time.perf_counter() - started
            if ranked is None:
                break
            queries += len(ranked)
            yield ranked
        found = {key: count - before[key] for key, count in self._counts().items()}
        self._found[name] = RankerCost(
            name,
            queries,
            self.prepared(name),
            # a cheap ranker's queries take microseconds
            round(seconds, 6),
            prompts=int(found["asked"] + found["hits"]),
            from_store=int(found["hits"] - found["repeated"]),
            tokens=int(found["tokens"] + found["repeated_tokens"]),
            cached_seconds=round(found["cached_seconds"], 6),
            cached_tokens=int(found["cached_tokens"]),
            cached_unknown=int(found["cached_unknown"]),
        )

    def to_json(self) -> dict[str, Any]:
        """Plain values by ranker."""
        return {name: one.to_json() for name, one in self._found.items()}

    def _counts(self) -> dict[str, float]:
        names = (
            *("asked", "hits", "tokens", "cached_seconds", "cached_tokens", "cached_unknown"),
            *("repeated", "repeated_tokens"),
        )
        return {name: sum(getattr(one, name) for one in self._model_counts) for name in names}


class RankingModelCounts:
    """Opens the language model for rankers, and counts what was asked.

    Of models and writers the counts alone are kept: a model must go when its ranker is done.
    """

    def __init__(self, config: Config, run: RunDirectory, book: CostBook) -> None:
        self._config = config
        self._run = run
        self._book = book
        self._written: dict[str, tuple[str, list[tuple[PromptCounts, CacheCounts]]]] = {}

    def __call__(
        self, trained: bool, compressed: bool = False
    ) -> tuple[ScoringModel, PromptWriter]:
        """Opens the model: trained or as it came; of the trained one the compressed form."""
        config, adapter = self._config, None
        if compressed:
            config = compressed_model(config, self._run.folder)
        elif trained:
            adapter = needed_adapter(self._run)
        model, writer = open_ranking_model(config, adapter)
        counts = self._written.setdefault(model.identity, (writer.digest, []))[1]
        counts.append((writer.counts, model.counts))
        self._book.watch(model.counts)
        return model, writer

    def titles(self) -> tuple[LanguageModel, TitleWriter]:
        """Opens the model that writes titles."""
        adapter = needed_adapter(self._run, TITLE_ADAPTER) if self._config.titled else None
        model, writer = open_title_model(self._config, adapter)
        counts = self._written.setdefault(model.identity, (writer.digest, []))[1]
        counts.append((writer.counts, model.counts))
        self._book.watch(model.counts)
        return model, writer

    def to_json(self) -> dict[str, Any]:
        """Plain values by model."""
        return {
            name: {
                "prompts": prompts,
                "shortened": sum(one.shortened for one, _ in counts),
                "written": sum(one.written for one, _ in counts),
                "asked": sum(one.asked for _, one in counts),
                "from_store": sum(one.hits for _, one in counts),
                "tokens": sum(one.tokens for _, one in counts),
            }
            for name, (prompts, counts) in self._written.items()
        }


def fitted_rankers(
    config: Config,
    run: RunDirectory,
    dataset: Dataset,
    summaries: Mapping[str, Summary],
    book: CostBook,
    progress: Progress,
) -> tuple[FittedRankers, RankingModelCounts]:
    """The rankers of a run, in the stage `rank` or for a search before it."""
    opened = RankingModelCounts(config, run, book)
    rankers = FittedRankers(
        config,
        run,
        dataset,
        run.workspace("rank") / "rankers",
        opened,
        opened.titles,
        lambda: with_summaries(dataset.cases("train"), training_summaries(config, dataset)),
        lambda: with_summaries(dataset.cases("valid"), summaries),
        progress,
    )
    return rankers, opened


def training_summaries(config: Config, dataset: Dataset) -> dict[str, Summary]:
    """The summaries of the training cases, which a ranker may be fitted on."""
    needed = config.summarized and "train" in used_splits(config)
    return run_summaries(dataset, ("train",), needed=needed)[0]


def _check_fields(config: Config, dataset: Dataset) -> None:
    fields, columns = config.prompts.fields, dataset.catalog.columns
    asks = config.rank.those("uses_llm") or (config.summarize.uses_llm and used_splits(config))
    if asks and fields and not set(fields) & set(columns):
        raise ConfigError(
            f"prompts.fields: the items have no column {', '.join(fields)}, so that a prompt would "
            f"show none of their texts{near(fields[0], list(columns))}"
        )
    if not asks:
        return
    others = [one for one in columns if one not in fields]
    for name in fields:  # a recipe may name columns that only some forms of its data have
        if name not in columns and (hint := like(name, others)):
            _mention(f"prompts.fields: the items have no column {name}{hint}")


@functools.cache  # each stage looks: it is said once
def _mention(text: str) -> None:
    _log.warning("%s", text)


def check_prepared(config: Config, dataset: Dataset) -> None:
    """Refuses settings that a later stage would refuse, once it is known what the data holds.

    Raises:
        ConfigError: If validation cases are needed and there are none, a ranker is given more
            items than it may be, or prompts would show no text of any item.
        DataError: If lists made elsewhere are not those of the cases' candidates.
    """
    _check_fields(config, dataset)
    made = set(config.rank.rankers)
    made.add(config.rank.retriever)
    used = config.rank.only(*sorted(made)).used  # with a blend's members
    learning = config.rank.those("learns_weights", used)
    if learning or config.rank.split == "valid":
        cases = len(dataset.cases("valid"))
        if not cases and config.rank.split == "valid":
            raise ConfigError(
                "rank.split is valid, but there are no validation cases; set data.valid_cases"
            )
        if learning:
            check_cases(cases)
    resources = Resources(dataset.catalog, config.rank)
    for name in config.rank.external_lists:
        splits = {config.rank.split} if name in config.rank.rankers else set()
        splits |= {config.rank.split, "valid"} if name in config.rank.asked else set()
        lists = ExternalRanker(config.rank.external[name], resources, name)
        lists.fit(FitData(dataset.catalog, dataset.interactions), FitOptions())
        for split in sorted(splits):
            # each list is looked at, so that none is refused after hours
            for batch in case_batches(dataset.cases(split), dataset.catalog, {}):
                lists.check(batch)
    for name in used:
        ranker = make_ranker(name, resources)
        if isinstance(ranker, EaseRanker):
            check_size(dataset.interactions["item"].n_unique())


class Ranking:
    """What ranks the queries of a run: its data, the rankers, and what is counted."""

    def __init__(
        self, config: Config, run: RunDirectory, proposals: Path, progress: Progress
    ) -> None:
        self._config, self._progress = config, progress
        self.dataset = Dataset.load(run.folder)
        needed = config.reads_summary(config.rank.used)
        self._summaries, self.fit = run_summaries(
            self.dataset, ranked_splits(config), needed=needed
        )
        self.cases = self.dataset.cases(config.rank.split)
        self.book = CostBook()
        self.rankers, self.opened = fitted_rankers(
            config, run, self.dataset, self._summaries, self.book, progress
        )
        made = read_retrieved(proposals) if files.exists(proposals) else None
        self.first = Retriever(
            config,
            self.cases,
            self.dataset.catalog,
            self.rankers.get,
            lambda note: progress.advance(0, note),
            made,
        )
        self.chosen: dict[str, Any] = {}
        self.notes: dict[str, Any] = {}
        self.unfit: dict[str, str] = {}

    def prepare(self, name: str) -> Ranker:
        """A fitted ranker, with proposals where it needs them."""
        with self.book.preparing(name):
            ranker = self.rankers.get(name)
            self.chosen.update({name: dict(ranker.chosen)} if ranker.chosen else {})
            if self.cases.full and self._config.rank.orders(name):
                self.first.retrieve_k()
        return ranker

    def lists(self, name: str, ranker: Ranker, cases: Cases) -> Iterator[RankedBatch]:
        """The ranked lists of some cases."""
        rank = self._config.rank
        asks = rank.those("uses_llm", rank.with_members(name))
        proposed = self.first.retrieve_k() if cases.full and rank.orders(name) else None
        size = ranker.batch_size if asks else 0
        batches = case_batches(cases, self.dataset.catalog, self._summaries, size, proposed)
        depth = rank.depth if cases.full else None
        made = rank_batches(ranker, batches, self._skipped, depth=depth, seed=self._config.run.seed)
        # the time that reading a file takes is none of the system that made it
        yield from made if name in rank.external else self.book.ranking(name, made)
        members = [one for one in rank.members(name) if one in rank.external]
        notes = {one: self.rankers.get(one).notes for one in members} | {name: ranker.notes}
        self.notes.update({one: dict(found) for one, found in notes.items() if found})

    def _skipped(self, query: Query, error: PromptError) -> None:
        self.unfit[query.id] = str(error)

    def whole(self, name: str) -> Iterator[RankedBatch]:
        """The ranked lists of all cases, by this process."""
        ranker = self.prepare(name)
        self._progress.begin(len(self.cases), "queries")
        for batch in self.lists(name, ranker, self.cases):
            yield batch
            self._progress.advance(len(batch), name)
        del ranker  # its model goes before the next one comes
        give_back_memory()


def rank_candidates(job: Job) -> dict[str, Any]:
    """Ranks the candidates of `rank.split`'s cases with every ranker.

    Writes `rankings.parquet`, and each fitted ranker into `rankers/NAME/`.
    """
    config, rank = job.config, job.config.rank
    proposals = job.work / f"{job.key}.{RETRIEVED}"
    ranking = Ranking(config, job.run, proposals, job.progress)
    check_prepared(config, ranking.dataset)
    refuse_learned(config, ranking.dataset)  # other test cases are no other training
    sharded, facts = _ranked_in_shards(job, ranking, proposals)
    lists = {name: sharded.get(name) or ranking.whole(name) for name in rank.rankers}
    write_rankings(job.out / "rankings.parquet", lists)
    if ranking.first.used:
        ranking.first.write(job.out / RETRIEVED)
    made = tuple(dict.fromkeys((*rank.used, *rank.with_members(rank.retriever))))
    ranking.rankers.write(job.out, made)
    ranking.rankers.forget()
    cases = len(ranking.cases)
    unfit = ranking.unfit | facts.get("unfit", {})
    if unfit and len(unfit) == cases:
        raise PromptError(f"no query fits the context; the first: {next(iter(unfit.values()))}")
    info = {"queries": cases, "unfit": len(unfit), "rankers": list(rank.rankers)}
    models = plus(ranking.opened.to_json(), facts.get("models"))
    costs = ranking.book.to_json() | facts.get("costs", {})
    info |= {"models": models, "chosen": ranking.chosen}
    info |= {"costs": {name: costs[name] for name in rank.rankers if name in costs}}
    info |= {"notes": ranking.notes} if ranking.notes else {}
    info |= ranking.fit.to_json() | facts.get("waited", {})
    return info | ({"unfit_queries": dict(islice(unfit.items(), 20))} if unfit else {})


def _ranked_in_shards(
    job: Job, ranking: Ranking, proposals: Path
) -> tuple[dict[str, list[pl.DataFrame]], dict[str, Any]]:
    """The lists of the rankers that ask a model, by ranker, and what they took.

    Each ranker is fitted once, here. Those that ask the same model go together: a blend then finds
    its members' scores in the worker's response cache.
    """
    rank = job.config.rank
    groups: dict[frozenset[tuple[bool, bool]], list[str]] = {}
    for name in rank.rankers if is_sharded(job.config) else ():
        asking = rank.those("uses_llm", rank.with_members(name))
        if asking and not rank.those("writes_titles", asking):  # these count over all their texts
            traits = map(rank.traits, asking)
            models = frozenset((one.needs_training, one.needs_compression) for one in traits)
            groups.setdefault(models, []).append(name)
    for names in groups.values():
        for name in names:
            ranking.prepare(name)
    if not groups:
        return {}, {}
    if ranking.first.used:
        ranking.first.write(proposals)
    ranking.rankers.forget()
    give_back_memory()
    shards = [
        shard for names in groups.values() for shard in cut(job, len(ranking.cases), tuple(names))
    ]
    job.progress.begin(len(groups) * len(ranking.cases), "queries")
    waited = do_shards(job, _rank_shard, shards)
    found: dict[str, list[pl.DataFrame]] = {}
    facts: dict[str, Any] = {}
    for shard in shards:
        frame, own = shard.read()
        facts = plus(facts, own)
        for name in shard.names:
            lists = frame.filter(pl.col("ranker") == name).drop("ranker")
            found.setdefault(name, []).append(lists)
    for name in found:
        facts["costs"][name]["preparing"] = ranking.book.prepared(name)
    return found, facts | {"waited": waited}


def _rank_shard(shard: StageShard, progress: Progress) -> int:
    config = shard.own_config()
    run = RunDirectory(config.run.folder)

    def opened() -> tuple[Ranking, dict[str, Ranker]]:
        made = Ranking(
            config, run, shard.folder.parent / f"{shard.stage_key}.{RETRIEVED}", Silent()
        )
        return made, {name: made.rankers.get(name) for name in shard.names}

    ranking, rankers = held(shard.whole, opened)
    ranking.unfit = {}
    before = ranking.opened.to_json()
    cases = ranking.cases.with_frame(ranking.cases.frame[shard.start : shard.stop])
    frames = [SCHEMA.to_frame()]
    for name, ranker in rankers.items():
        for batch in ranking.lists(name, ranker, cases):
            frames.append(named(name, batch.frame()))
            progress.advance(len(batch), name)
    costs = ranking.book.to_json()
    models = plus(ranking.opened.to_json(), before, -1)
    facts = {"costs": costs, "models": models, "unfit": ranking.unfit}
    shard.write(pl.concat(frames), facts)
    return sum(int(one["tokens"]) for one in costs.values())
