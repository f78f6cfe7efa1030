"""The work of the stage `rank`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any

from trsr.data import Cases, Dataset
from trsr.errors import PromptError
from trsr.llm import ScoringModel
from trsr.machine import give_back_memory
from trsr.pipeline.artifacts import needed_adapter, run_summaries, summarized
from trsr.pipeline.beforehand import check_prepared
from trsr.pipeline.costs import CostBook
from trsr.pipeline.depends import ranked_splits
from trsr.pipeline.full import PROPOSALS, FirstStage
from trsr.pipeline.stair import Job
from trsr.pipeline.told import told_cases, told_summaries
from trsr.prompts import PromptTally, PromptWriter
from trsr.rank import Ranker, make_ranker, rank_what_fits, top, write_rankings
from trsr.recommender import judge, rank_context
from trsr.types import Query, Summary


def rank_candidates(job: Job) -> dict[str, Any]:
    """Ranks the candidates of `rank.split`'s cases with every ranker; writes `rankings.parquet`."""
    config = job.config
    dataset = Dataset.load(job.run.folder)
    needed = config.reads_summary(config.rank.used)
    summaries, fit = run_summaries(dataset, ranked_splits(config), needed=needed)
    check_prepared(config, dataset)
    split = config.rank.split
    told = told_summaries(config, dataset, split, summaries)
    cases = dataset.cases(split)
    # of models and writers the counts alone: a model must go when its ranker is done
    written: dict[str, tuple[str, list[PromptTally]]] = {}
    book = CostBook()

    def open_judge(tuned: bool) -> tuple[ScoringModel, PromptWriter]:
        model, writer = judge(config, needed_adapter(job.run) if tuned else None)
        tallies = written.setdefault(model.identity, (writer.digest, []))[1]
        tallies.append(writer.tally)
        context.opened()
        book.watch(model.tally)
        return model, writer

    context = rank_context(
        config,
        dataset,
        open_judge,
        validation=lambda: told_cases(config, dataset, "valid", summaries),
        progress=job.progress,
    )
    names = config.rank.rankers
    chosen: dict[str, Any] = {}
    unfit: dict[str, str] = {}

    def skipped(query: Query, error: PromptError) -> None:
        unfit[query.id] = str(error)

    def made(name: str) -> tuple[Ranker, bool]:
        """The ranker, and whether it asks a language model."""
        return make_ranker(name, context), name in context.dear

    progress = job.progress
    first = FirstStage(config, cases, dataset.catalog, made, lambda note: progress.advance(0, note))

    def lists(name: str) -> Iterator[Any]:
        with book.preparing(name):
            ranker, dear = made(name)
            chosen.update({name: dict(ranker.chosen)} if hasattr(ranker, "chosen") else {})
            job.progress.begin(len(cases), "queries")
            proposed = cases.full and dear
            queries = first.queries(told) if proposed else _told(cases, told)
        made_lists = rank_what_fits(ranker, queries, skipped, name)
        for ranked in book.ranking(name, made_lists):
            yield top(ranked, config.rank.depth, config.run.seed) if cases.full else ranked
            job.progress.advance(1, name)
        del ranker, made_lists  # its model goes before the next one comes
        give_back_memory()

    write_rankings(job.out / "rankings.parquet", {name: lists(name) for name in names})
    # the context and what opens models for it know each other: what it keeps would stay with both
    context.kept.clear()
    if first.used:
        first.write(job.out / PROPOSALS)
    models = {
        name: {
            "prompts": prompts,
            "shortened": sum(one.shortened for one in tallies),
            "written": sum(one.written for one in tallies),
        }
        for name, (prompts, tallies) in written.items()
    }
    if unfit and len(unfit) == len(cases):
        raise PromptError(f"no query fits the context; the first: {next(iter(unfit.values()))}")
    info = {"queries": len(cases), "unfit": len(unfit), "rankers": list(names), "models": models}
    info |= {"chosen": chosen, "costs": book.to_json(), **fit.to_json()}
    return info | ({"unfit_queries": dict(islice(unfit.items(), 20))} if unfit else {})


def _told(cases: Cases, summaries: Mapping[str, Summary]) -> Iterator[Query]:
    """The queries with their summaries, where they have one."""
    for query in cases.queries():
        yield summarized(query, summaries[query.id]) if query.id in summaries else query
