"""The work of the stage `rank`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any

from trsr.config import Config
from trsr.data import Dataset
from trsr.errors import PromptError
from trsr.llm import ScoringModel
from trsr.machine import give_back_memory
from trsr.pipeline.artifacts import needed_adapter, run_summaries
from trsr.pipeline.beforehand import check_prepared
from trsr.pipeline.costs import CostBook
from trsr.pipeline.depends import ranked_splits
from trsr.pipeline.fitted import FittedRankers
from trsr.pipeline.full import PROPOSALS, FirstStage
from trsr.pipeline.stair import Job
from trsr.pipeline.told import told_cases, told_summaries
from trsr.progress import Progress
from trsr.prompts import PromptTally, PromptWriter
from trsr.rank import RankedBatch, case_batches, rank_batches, write_rankings
from trsr.recommender import judge
from trsr.store.rundir import RunDirectory
from trsr.types import Query, Summary


class JudgeCounts:
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
        self._written: dict[str, tuple[str, list[PromptTally]]] = {}

    def __call__(self, trained: bool) -> tuple[ScoringModel, PromptWriter]:
        """Opens the model, trained or as it came."""
        model, writer = judge(self._config, needed_adapter(self._run) if trained else None)
        tallies = self._written.setdefault(model.identity, (writer.digest, []))[1]
        tallies.append(writer.tally)
        self._book.watch(model.tally)
        return model, writer

    def to_json(self) -> dict[str, Any]:
        """Plain values by model."""
        return {
            name: {
                "prompts": prompts,
                "shortened": sum(one.shortened for one in tallies),
                "written": sum(one.written for one in tallies),
            }
            for name, (prompts, tallies) in self._written.items()
        }


def fitted_rankers(
    config: Config,
    run: RunDirectory,
    dataset: Dataset,
    summaries: Mapping[str, Summary],
    book: CostBook,
    progress: Progress,
) -> tuple[FittedRankers, JudgeCounts]:
    """The rankers of a run, in the stage `rank` or for a search before it."""
    opened = JudgeCounts(config, run, book)
    rankers = FittedRankers(
        config,
        run,
        dataset,
        run.workspace("rank") / "rankers",
        opened,
        lambda: told_cases(config, dataset, "valid", summaries),
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
    told = told_summaries(config, dataset, split, summaries)
    cases = dataset.cases(split)
    book = CostBook()
    rankers, opened = fitted_rankers(config, job.run, dataset, summaries, book, progress)
    names, rank = config.rank.rankers, config.rank
    chosen: dict[str, Any] = {}
    unfit: dict[str, str] = {}

    def skipped(query: Query, error: PromptError) -> None:
        unfit[query.id] = str(error)

    first = FirstStage(
        config, cases, dataset.catalog, rankers.get, lambda note: progress.advance(0, note)
    )

    def lists(name: str) -> Iterator[RankedBatch]:
        with book.preparing(name):
            ranker = rankers.get(name)
            chosen.update({name: dict(ranker.chosen)} if ranker.chosen else {})
            progress.begin(len(cases), "queries")
            dear = bool(rank.those("uses_llm", rank.with_members(name)))
            proposals = first.proposals() if cases.full and dear else None
        size = ranker.batch_size if dear else 0
        batches = case_batches(cases, dataset.catalog, told, size, proposals)
        depth = rank.depth if cases.full else None
        made = rank_batches(ranker, batches, skipped, depth=depth, seed=config.run.seed)
        for batch in book.ranking(name, made):
            yield batch
            progress.advance(len(batch), name)
        del ranker, made  # its model goes before the next one comes
        give_back_memory()

    write_rankings(job.out / "rankings.parquet", {name: lists(name) for name in names})
    if first.used:
        first.write(job.out / PROPOSALS)
    rankers.write(job.out, tuple(dict.fromkeys((*rank.used, *rank.with_members(rank.first_stage)))))
    rankers.forget()
    if unfit and len(unfit) == len(cases):
        raise PromptError(f"no query fits the context; the first: {next(iter(unfit.values()))}")
    info = {"queries": len(cases), "unfit": len(unfit), "rankers": list(names)}
    info |= {"models": opened.to_json(), "chosen": chosen, "costs": book.to_json()}
    info |= fit.to_json()
    return info | ({"unfit_queries": dict(islice(unfit.items(), 20))} if unfit else {})
