"""The work of the stage `rank`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any

from trsr.config import Config
from trsr.data import Dataset
from trsr.errors import PromptError
from trsr.machine import give_back_memory
from trsr.models import ScoringModel
from trsr.pipeline.artifacts import needed_adapter, run_summaries
from trsr.pipeline.costs import CostBook
from trsr.pipeline.fitted_rankers import FittedRankers
from trsr.pipeline.keys import ranked_splits
from trsr.pipeline.preflight import check_prepared
from trsr.pipeline.prompt_summaries import prompt_cases, prompt_summaries
from trsr.pipeline.retrieval import RETRIEVED, Retriever
from trsr.pipeline.runner import Job
from trsr.progress import Progress
from trsr.prompts import PromptCounts, PromptWriter
from trsr.rankers import RankedBatch, case_batches, rank_batches, write_rankings
from trsr.recommender import open_ranking_model
from trsr.storage.run_directory import RunDirectory
from trsr.types import Query, Summary


class RankingModelCounts:
    """Opens the language model for rankers, and counts what was asked.

    Of models and writers the counts alone are kept: a model must go when its ranker is done.

    Args:
        config: All settings.
        run: Where the adapter is.
        book: Told of each model.
    """

    def __init__(self, config: Config, run: RunDirectory, book: CostBook) -> None:
        self._config = config
        self._run = run
        self._book = book
        self._written: dict[str, tuple[str, list[PromptCounts]]] = {}

    def __call__(self, trained: bool) -> tuple[ScoringModel, PromptWriter]:
        """Opens the model, trained or as it came."""
        model, writer = open_ranking_model(
            self._config, needed_adapter(self._run) if trained else None
        )
        counts = self._written.setdefault(model.identity, (writer.digest, []))[1]
        counts.append(writer.counts)
        self._book.watch(model.counts)
        return model, writer

    def to_json(self) -> dict[str, Any]:
        """Plain values by model."""
        return {
            name: {
                "prompts": prompts,
                "shortened": sum(one.shortened for one in counts),
                "written": sum(one.written for one in counts),
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
        lambda: prompt_cases(config, dataset, "valid", summaries),
        progress,
    )
    return rankers, opened


def rank_candidates(job: Job) -> dict[str, Any]:
    """Ranks the candidates of `rank.split`'s cases with every ranker.

    Writes `rankings.parquet`, and each fitted ranker into `rankers/NAME/`.
    """
    config, progress = job.config, job.progress
    dataset = Dataset.load(job.run.folder)
    needed = config.reads_summary(config.rank.used)
    summaries, fit = run_summaries(dataset, ranked_splits(config), needed=needed)
    check_prepared(config, dataset)
    split = config.rank.split
    told = prompt_summaries(config, dataset, split, summaries)
    cases = dataset.cases(split)
    book = CostBook()
    rankers, opened = fitted_rankers(config, job.run, dataset, summaries, book, progress)
    names, rank = config.rank.rankers, config.rank
    chosen: dict[str, Any] = {}
    unfit: dict[str, str] = {}

    def skipped(query: Query, error: PromptError) -> None:
        unfit[query.id] = str(error)

    first = Retriever(
        config, cases, dataset.catalog, rankers.get, lambda note: progress.advance(0, note)
    )

    def lists(name: str) -> Iterator[RankedBatch]:
        with book.preparing(name):
            ranker = rankers.get(name)
            chosen.update({name: dict(ranker.chosen)} if ranker.chosen else {})
            progress.begin(len(cases), "queries")
            dear = bool(rank.those("uses_llm", rank.with_members(name)))
            retrieve_k = first.retrieve_k() if cases.full and dear else None
        size = ranker.batch_size if dear else 0
        batches = case_batches(cases, dataset.catalog, told, size, retrieve_k)
        depth = rank.depth if cases.full else None
        made = rank_batches(ranker, batches, skipped, depth=depth, seed=config.run.seed)
        for batch in book.ranking(name, made):
            yield batch
            progress.advance(len(batch), name)
        del ranker, made  # its model goes before the next one comes
        give_back_memory()

    write_rankings(job.out / "rankings.parquet", {name: lists(name) for name in names})
    if first.used:
        first.write(job.out / RETRIEVED)
    rankers.write(job.out, tuple(dict.fromkeys((*rank.used, *rank.with_members(rank.retriever)))))
    rankers.forget()
    if unfit and len(unfit) == len(cases):
        raise PromptError(f"no query fits the context; the first: {next(iter(unfit.values()))}")
    info = {"queries": len(cases), "unfit": len(unfit), "rankers": list(names)}
    info |= {"models": opened.to_json(), "chosen": chosen, "costs": book.to_json()}
    info |= fit.to_json()
    return info | ({"unfit_queries": dict(islice(unfit.items(), 20))} if unfit else {})
