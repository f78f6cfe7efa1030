"""The work of each stage: reads earlier stages' files, calls one room, writes its own files."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import polars as pl

from trsr.config import Config
from trsr.data import Cases, Dataset, prepare
from trsr.data.settings import DataSettings
from trsr.errors import PromptError, StoreError
from trsr.evaluate import evaluate as compute
from trsr.fetch import get
from trsr.llm import LanguageModel, ScoringModel
from trsr.pipeline.pages import write_pages
from trsr.pipeline.stair import Job, Stage, fingerprint
from trsr.prompts import PromptWriter, load_domain
from trsr.rank import (
    YesNoRanker,
    make_ranker,
    rank_what_fits,
    read_rankings,
    write_rankings,
)
from trsr.recommender import (
    judge,
    judge_writer,
    open_stored,
    rank_context,
    summary_writer,
)
from trsr.store.rundir import RunDirectory
from trsr.summarize import summarize
from trsr.train import train
from trsr.types import Case, Query, Summary

SUMMARIES = pl.Schema(
    {
        "query": pl.String(),
        "user": pl.String(),
        "text": pl.String(),
        "covers": pl.Int64(),
        "sources": pl.List(pl.String()),
    }
)
"""The columns of `summaries.parquet`; a file made elsewhere has the same."""

CURVES = frozenset({"losses", "validations", "adapter"})
"""What the manifest leaves to `adapter/curves.jsonl`: it is to be read by people."""

CASES = tuple(f"cases.{split}.parquet" for split in ("train", "valid", "test"))


def located(settings: DataSettings) -> DataSettings:
    """Data settings with a named data set fetched and its folder filled in."""
    if not settings.dataset:
        return settings
    return settings.model_copy(update={"interactions": get(settings.dataset)})


def read_summaries(path: Path) -> dict[str, Summary]:
    """The summaries of a run by query id; empty where there are none."""
    if not path.exists():
        return {}
    rows = pl.read_parquet(path).iter_rows()
    return {q: Summary(user, text, covers, tuple(of)) for q, user, text, covers, of in rows}


def with_summary(case: Case, summaries: Mapping[str, Summary]) -> Case:
    """The case with its query's summary, where there is one."""
    summary = summaries.get(case.query.id)
    return case if summary is None else Case(summarized(case.query, summary), case.relevant)


def summarized(query: Query, summary: Summary) -> Query:
    """The query with this summary."""
    return dataclasses.replace(query, summary=summary)


def adapter_of(run: RunDirectory) -> Path | None:
    """The trained adapter, where there is one."""
    return run / "adapter" if (run / "adapter").is_dir() else None


def _prepare(job: Job) -> dict[str, Any]:
    settings = located(job.config.data)
    report = prepare(settings, job.out, seed=job.config.run.seed, progress=job.progress)
    (job.out / "prepare.json").write_text(
        json.dumps({"counts": report.counts, "lines": report.lines()}, indent=1), "utf-8"
    )
    shown = ("users", "items", "interactions", "cases_train", "cases_valid", "cases_test")
    return {key: report.counts.get(key, 0) for key in shown} | {"counts": report.counts}


def _splits(config: Config) -> list[str]:
    """The splits whose summaries some later stage reads."""
    train = ["train"] if config.train.epochs and "llm" in config.rank.used else []
    blended = {"llm", "untuned"} & set(config.rank.blended)
    valid = ["valid"] if blended or (train and config.train.validate_steps) else []
    return [*train, *valid, "test"]


def _summarize(job: Job) -> dict[str, Any]:
    config = job.config
    dataset = Dataset.load(job.run.folder)
    tables = [dataset.cases(split) for split in _splits(config)]
    job.progress.begin(sum(len(table) for table in tables), "histories")
    found: dict[str, Summary] = {}
    info: dict[str, Any] = {}
    if config.summarize.strategy != "none":
        model = open_stored(config, config.summarizer)
        writer = summary_writer(config, model)
        histories = ((q.id, q.history) for table in tables for q in table.queries())
        found = dict(
            summarize(
                histories,
                model=model,
                writer=writer,
                settings=config.summarize,
                progress=job.progress,
            )
        )
        info = {
            "model": model.identity,
            "asked": model.asked,
            "from_store": model.hits,
            "shortened": writer.shortened,
            "prompts": writer.digest,
            "empty": sum(not one.text for one in found.values()),
        } | _usage(model)
    order = [query for table in tables for query in table.frame["query"] if query in found]
    rows = [
        (query, one.user, one.text, one.covers, list(one.sources))
        for query, one in ((query, found[query]) for query in order)
    ]
    frame = pl.DataFrame(rows, schema=SUMMARIES, orient="row")
    frame.write_parquet(job.out / "summaries.parquet")
    words = frame["text"].str.split(" ").list.len().mean() if rows else 0
    return info | {"summaries": len(rows), "words_mean": words}


def _usage(model: Any) -> dict[str, Any]:
    usage = getattr(getattr(model, "inner", model), "usage", None)
    return {"usage": dict(usage)} if isinstance(usage, Mapping) else {}


def _train(job: Job) -> dict[str, Any]:
    config = job.config
    if not config.train.epochs or "llm" not in config.rank.used:
        return {"steps": 0, "why": "nothing to train: train.epochs is 0, or no ranker is llm"}
    dataset = Dataset.load(job.run.folder)
    summaries = read_summaries(job.run / "summaries.parquet")
    valid = [with_summary(case, summaries) for case in _used_valid(config, dataset)]
    writers: list[PromptWriter] = []

    def words(model: LanguageModel) -> PromptWriter:
        writers.append(judge_writer(config, model))
        return writers[-1]

    def validate(model: ScoringModel) -> dict[str, float]:
        ranker = YesNoRanker(model, judge_writer(config, model))
        queries = (case.query for case in valid)
        ranked = list(rank_what_fits(ranker, queries, lambda query, error: None))
        report = compute(valid, {"llm": ranked}, config.train.select_on)
        return report.means("llm")

    result = train(
        [with_summary(case, summaries) for case in dataset.cases("train")],
        model=config.model,
        words=words,
        settings=config.train,
        seed=config.run.seed,
        out=job.out / "adapter",
        state=job.work,
        validate=validate if valid else None,
        progress=job.progress,
    )
    info = dataclasses.asdict(result) | {"prompts": writers[0].digest}
    return {key: one for key, one in info.items() if key not in CURVES}


def _used_valid(config: Config, dataset: Dataset) -> Cases | list[Case]:
    return dataset.cases("valid") if config.train.validate_steps else []


def _rank(job: Job) -> dict[str, Any]:
    config = job.config
    dataset = Dataset.load(job.run.folder)
    summaries = read_summaries(job.run / "summaries.parquet")
    cases = dataset.cases("test")
    writers: dict[str, PromptWriter] = {}

    def open_judge(tuned: bool) -> tuple[ScoringModel, PromptWriter]:
        adapter = adapter_of(job.run) if tuned else None
        if tuned and adapter is None:
            raise StoreError(f"{job.run.folder}: there is no adapter; give `trsr train` first")
        model, writer = judge(config, adapter)
        writers[model.identity] = writer
        return model, writer

    context = rank_context(
        config,
        dataset,
        open_judge,
        validation=lambda: (with_summary(case, summaries) for case in dataset.cases("valid")),
        progress=job.progress,
    )
    names = config.rank.rankers
    chosen: dict[str, Any] = {}
    unfit: dict[str, str] = {}

    def skipped(query: Query, error: PromptError) -> None:
        unfit[query.id] = str(error)

    def lists(name: str) -> Iterator[Any]:
        queries = (
            summarized(query, summaries[query.id]) if query.id in summaries else query
            for query in cases.queries()
        )
        ranker = make_ranker(name, context)
        chosen.update({name: dict(ranker.chosen)} if hasattr(ranker, "chosen") else {})
        job.progress.begin(len(cases), "queries")
        for ranked in rank_what_fits(ranker, queries, skipped):
            yield ranked
            job.progress.advance(1, name)

    write_rankings(job.out / "rankings.parquet", {name: lists(name) for name in names})
    models = {
        name: {"prompts": writer.digest, "shortened": writer.shortened, "written": writer.written}
        for name, writer in writers.items()
    }
    if unfit and len(unfit) == len(cases):
        raise PromptError(f"no query fits the context; the first: {next(iter(unfit.values()))}")
    info = {"queries": len(cases), "unfit": len(unfit), "rankers": list(names), "models": models}
    info |= {"chosen": chosen}
    return info | ({"unfit_queries": dict(islice(unfit.items(), 20))} if unfit else {})


def _evaluate(job: Job) -> dict[str, Any]:
    config = job.config
    dataset = Dataset.load(job.run.folder)
    rankings = read_rankings(job.run / "rankings.parquet")
    job.progress.begin(len(rankings), "rankers")
    sampled = config.data.candidates != "given"
    report = compute(dataset.cases("test"), rankings, config.evaluate.metrics, sampled=sampled)
    summaries = read_summaries(job.run / "summaries.parquet")
    write_pages(job, report, dataset, summaries, rankings)
    job.progress.advance(len(rankings))
    return {"queries": report.queries}


def _data_settings(config: Config) -> dict[str, Any]:
    data = config.data.model_dump(mode="json", exclude={"interactions", "items"})
    files = fingerprint([config.data.interactions, config.data.items])
    return {"data": data, "source files": files, "run": {"seed": config.run.seed}}


def _summarize_settings(config: Config) -> dict[str, Any]:
    own = config.summarize.model_dump(mode="json", exclude={"model"})
    if config.summarize.strategy == "none":
        return {"summarize": {"strategy": "none"}, "splits": _splits(config)}
    told = {"domain", "style", "fields", "summary_item_words", "summary_numbers", "summary_words"}
    told |= {"field_words"}
    return {
        "words": load_domain(config.prompts.domain).digest,
        "summarize": own,
        "prompts": config.prompts.model_dump(mode="json", include=told),
        "model": config.summarizer.meaning(),
        "splits": _splits(config),
    }


def _judge_settings(config: Config) -> dict[str, Any]:
    excluded = {"summary_item_words", "summary_numbers", "summary_words"}
    return {
        "words": load_domain(config.prompts.domain).digest,
        "prompts": config.prompts.model_dump(mode="json", exclude=excluded),
        "model": config.model.meaning(),
        "run": {"seed": config.run.seed},
    }


def _train_settings(config: Config) -> dict[str, Any]:
    if not config.train.epochs or "llm" not in config.rank.used:
        return {"train": {"epochs": 0}}
    own = config.train.model_dump(mode="json", exclude={"checkpoint_steps"})
    return {"train": own} | _judge_settings(config)


def _rank_settings(config: Config) -> dict[str, Any]:
    own = config.rank.meaning()
    if not {"llm", "untuned"} & set(config.rank.used):
        return {"rank": own, "run": {"seed": config.run.seed}}
    return {"rank": own} | _judge_settings(config)


def _evaluate_settings(config: Config) -> dict[str, Any]:
    return {"evaluate": config.evaluate.model_dump(mode="json")}


STAGES = (
    Stage(
        "prepare",
        (),
        ("items.parquet", "interactions.parquet", *CASES),
        _data_settings,
        _prepare,
    ),
    Stage(
        "summarize",
        ("items.parquet", *CASES),
        ("summaries.parquet",),
        _summarize_settings,
        _summarize,
    ),
    Stage(
        "train",
        ("items.parquet", *CASES[:2], "summaries.parquet"),
        ("adapter",),
        _train_settings,
        _train,
    ),
    Stage(
        "rank",
        ("items.parquet", "interactions.parquet", *CASES, "summaries.parquet", "adapter"),
        ("rankings.parquet",),
        _rank_settings,
        _rank,
    ),
    Stage(
        "evaluate",
        ("items.parquet", CASES[2], "summaries.parquet", "rankings.parquet"),
        ("report.json",),
        _evaluate_settings,
        _evaluate,
    ),
)
