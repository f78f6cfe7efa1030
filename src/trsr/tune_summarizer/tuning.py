"""The rounds of tuning: draw summaries, judge them, keep the best, train on them, measure."""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from trsr.config import Config
from trsr.data import Dataset
from trsr.errors import ConfigError, DataError
from trsr.llm.base import Sampling
from trsr.llm.settings import ModelSettings
from trsr.pipeline.artifacts import adapter_of
from trsr.pipeline.stages import STAGES
from trsr.pipeline.stair import refuse_stale, versions
from trsr.progress import Progress, Silent
from trsr.prompts import load_domain
from trsr.rank import YesNoRanker
from trsr.recommender import judge, open_stored, summary_writer
from trsr.settings import derive_seed
from trsr.store.rundir import RunDirectory
from trsr.summarize import SILENT
from trsr.tune_summarizer.judging import judge_summaries, log_likelihood
from trsr.tune_summarizer.keeping import Kept, best_of, keep
from trsr.tune_summarizer.page import page
from trsr.tune_summarizer.result import Round, Tuned, decide, measure
from trsr.tune_summarizer.samples import (
    Sample,
    draw_cases,
    draw_summaries,
    draw_users,
    samplings,
    without_history,
)
from trsr.tune_summarizer.work import Work, locked
from trsr.types import Case, RankedList

COMMAND = "tune-summarizer"
READ = ("items.parquet", "cases.train.parquet", "cases.valid.parquet")
"""The files of the run that are read, with the adapter where it judges: no test case is."""

TRAINED = frozenset({"transformers", "openvino"})
"""Backends that read weights which can be trained."""


def tune_summarizer(config: Config, out: Path | str, progress: Progress | None = None) -> Tuned:
    """Fine-tunes the summarizing model on those of its own summaries that tell what comes next.

    Each round draws several summaries of training users' histories, with the strategy and the
    prompts of `summarize`; takes as a summary's worth the log-likelihood of the user's next item
    among its negatives, as the ranking model sees it when told that summary; and trains a LoRA
    adapter, from the untuned model on, on what led to each user's best one, where that is better
    enough. This is expert iteration (Anthony et al. 2017; for language models: STaR, Zelikman et
    al. 2022, and ReST-EM, Singh et al. 2024) with the ranker's likelihood as the reward. After
    each round the greedy summaries of validation users are compared with the untuned model's.

    A call that was stopped goes on where it was.

    Args:
        config: All settings; the run directory holds the prepared data.
        out: The folder of the result. Where a round is kept, any backend opens it as a model, and
            `adapter/` holds the same in PEFT's format. `summarizer.json` and `summarizer.md` say
            what was found; `kept.jsonl` holds the texts that were learned.
        progress: Told how far the work is.

    Raises:
        ConfigError: If the settings leave nothing to tune.
        DataError: If there are no training or validation cases.
        ModelError: If a model cannot be loaded or fails.
        StaleRunError: If the run lacks a stage, or `out` was begun with other settings.
        StoreError: If a folder cannot be read or written, or another process is at it.
    """
    _refuse(config)
    run = RunDirectory(config.run.folder)
    adapter = _judging_adapter(config, run)
    cases = _cases(config, Dataset.load(run.folder))
    folder = Path(out).absolute()
    with locked(folder):
        work = Work(folder, _meaning(config, run, adapter))
        done = work.done()
        if done is not None:
            return Tuned.from_json(folder, done)
        tuner = _Tuner(config, cases, adapter, work, progress or Silent())
        began = time.perf_counter()
        found = tuner.run()
        rounds = [round_ for round_, _ in found]
        tuned = decide(folder, rounds, significant=config.tune_summarizer.significant)
        value = {
            **tuned.to_json(),
            "judge": "untuned" if adapter is None else "llm",
            "seconds": round(time.perf_counter() - began, 1),
            "seed": config.run.seed,
            "versions": versions(),
        }
        _, kept = found[tuned.kept - 1]  # where none is kept, the last round's are shown
        work.finish(tuned.kept, value, page(tuned, kept, config))
    return tuned


def _refuse(config: Config) -> None:
    """Raises ConfigError with every setting that leaves nothing to tune."""
    mistakes = []
    if config.summarize.strategy in SILENT:
        mistakes.append(
            f"summarize.strategy: {config.summarize.strategy} asks no model; choose another one"
        )
    if not config.prompts.use_summary:
        mistakes.append("prompts.use_summary: the judge must be told the summary; set it to true")
    if config.prompts.summary_of != "own":
        mistakes.append("prompts.summary_of: a text is judged by its own user; set it to own")
    if config.summarize.samples > 1:
        mistakes.append("summarize.samples: the texts are drawn here; set it to 1")
    if config.summarizer.backend not in TRAINED:
        mistakes.append(
            f"summarize.model.backend: {config.summarizer.backend} has no weights here that could "
            f"be trained; use {' or '.join(sorted(TRAINED))}"
        )
    if mistakes:
        told = "".join(f"\n  {one}" for one in mistakes)
        raise ConfigError(f"{COMMAND}: there is nothing to tune{told}")


def _judging_adapter(config: Config, run: RunDirectory) -> Path | None:
    """The adapter of the judge; None for the model as it came."""
    wanted = config.tune_summarizer.judge
    found = None if wanted == "untuned" else adapter_of(run)
    if wanted == "llm" and found is None:
        raise ConfigError(
            f"tune_summarizer.judge: {run.folder} has no trained adapter; give `trsr train` first, "
            "or set it to untuned"
        )
    names = ("prepare",) if found is None else ("prepare", "train")
    stages = [stage for stage in STAGES if stage.name in names]
    refuse_stale(stages, config, run, COMMAND)
    return found


def _cases(config: Config, dataset: Dataset) -> tuple[list[Case], list[Case]]:
    """The training and validation cases, drawn."""
    told, seed = config.tune_summarizer, config.run.seed
    train = draw_users(dataset.cases("train"), told.users, seed)
    valid = draw_cases(dataset.cases("valid"), told.valid_cases, seed)
    for kind, cases in (("training", train), ("validation", valid)):
        if not cases:
            raise DataError(
                f"{COMMAND}: the run has no {kind} cases; lower data.min_history, or choose a "
                "data.split that makes some"
            )
    return train, valid


def _meaning(config: Config, run: RunDirectory, adapter: Path | None) -> dict[str, Any]:
    """What the result depends on, as plain values."""
    return {
        "tune_summarizer": config.tune_summarizer.model_dump(
            mode="json", exclude={"checkpoint_steps"}
        ),
        "summarize": config.summarize.model_dump(mode="json", exclude={"model"}),
        "summarizer": config.summarizer.meaning(),
        "prompts": config.prompts.model_dump(mode="json", exclude={"summary_of"}),
        "words": load_domain(config.prompts.domain).digest(config.prompts.style),
        "judge": config.model.meaning() | {"scorer": config.model.scorer},
        "read": run.hashes([*READ, *(["adapter"] if adapter else [])]),
        "run": {"seed": config.run.seed},
    }


class _Tuner:
    """Makes the rounds.

    Models are opened for one step of a round and let go after it, so that a device need not hold
    two at once.
    """

    def __init__(
        self,
        config: Config,
        cases: tuple[list[Case], list[Case]],
        adapter: Path | None,
        work: Work,
        progress: Progress,
    ) -> None:
        self.config = config
        self.settings = config.tune_summarizer
        self.adapter = adapter
        self.work = work
        self.progress = progress
        self.greedy = config.summarize.sampling.model_copy(update={"temperature": 0.0})
        self.train, self.valid = cases

    def run(self) -> list[tuple[Round, dict[str, Kept]]]:
        """All rounds with the samples kept so far; a round that finds none better is the last."""
        rounds: list[tuple[Round, dict[str, Kept]]] = []
        for number in range(1, self.settings.rounds + 1):
            found = self.work.round(number)
            if found is None:
                found = self._round(number, rounds[-1][1] if rounds else {})
                self.work.finish_round(*found)
            rounds.append(found)
            if not found[0].measured:
                break
        return rounds

    def _round(self, number: int, earlier: Mapping[str, Kept]) -> tuple[Round, dict[str, Kept]]:
        began = time.perf_counter()
        facts, now = self._keep(number)
        kept = best_of(earlier, now)
        gains = [one.log_likelihood - one.reference for one in kept.values()]
        facts |= {"kept": len(kept), "gain": float(np.mean(gains)) if gains else None}
        # without anything new, training would give the last round's model once more
        if kept == dict(earlier):
            return Round(number, seconds=_since(began), **facts), kept
        facts |= self._train(number, kept)
        facts |= self._measure(number)
        return Round(number, seconds=_since(began), **facts), kept

    def _keep(self, number: int) -> tuple[dict[str, Any], dict[str, Kept]]:
        """Draws and judges a round's samples: figures, and the best samples by query."""
        told, title = self.settings, f"round {number}"
        (greedy,) = self._summaries(0, self.train, [self.greedy], f"{title} greedy summaries")
        cases = [case for case in self.train if greedy[case.query.id].summary.sources]
        if without_history(list(greedy.values())) == len(self.train):
            raise DataError(
                f"{COMMAND}: no history holds a block to summarize; lower summarize.block_items, "
                "or set summarize.last_block to true"
            )
        drawn = samplings(
            self.greedy,
            self.config.run.seed,
            number,
            told.samples,
            temperature=told.temperature,
            top_p=told.top_p,
        )
        samples = self._summaries(number - 1, cases, drawn, f"{title} samples")
        judged = self._judged(cases, [greedy, *samples], f"{title} judgements")
        found, spreads = {}, []
        for case in cases:
            query = case.query.id
            if query not in judged[0]:
                continue  # a prompt too long for the judge, whatever the summary
            before, *own = (log_likelihood(one[query], case.relevant) for one in judged)
            spreads.append(float(np.std(own)))
            best = keep(
                query,
                [one[query] for one in samples],
                own,
                reference=before if told.against == "greedy" else float(np.mean(own)),
                margin=told.margin,
                greedy=greedy[query].summary.text,
            )
            if best is not None:
                found[query] = best
        spread = float(np.mean(spreads)) if spreads else 0.0
        return {"users": len(spreads), "spread": spread}, found

    def _train(self, number: int, kept: Mapping[str, Kept]) -> dict[str, Any]:
        from trsr.llm.merge import write_merged
        from trsr.train.written import train_written

        place, model = self.work.place(number), self.work.model(number)
        texts = [text for one in kept.values() for text in one.written]
        base = self.config.summarizer.model_copy(update={"backend": "transformers"})
        result = train_written(
            texts,
            model=base,
            settings=self.settings,
            seed=derive_seed(self.config.run.seed, "tune_summarizer", f"round {number}"),
            out=place / "adapter",
            state=place / "state",
            progress=self.progress,
        )
        if not model.is_dir():
            fresh = place / "merging"
            shutil.rmtree(fresh, ignore_errors=True)
            write_merged(base, place / "adapter", fresh)
            model.parent.mkdir(exist_ok=True)
            fresh.rename(model)
        losses = [result.losses[0], result.losses[-1]]
        return {"texts": len(texts), "steps": result.steps, "losses": losses}

    def _measure(self, number: int) -> dict[str, Any]:
        """Compares the validation users' greedy summaries, and picks some to show."""
        title = f"round {number} validation"
        (before,) = self._summaries(0, self.valid, [self.greedy], f"{title} summaries, untuned")
        (after,) = self._summaries(number, self.valid, [self.greedy], f"{title} summaries")
        untuned, tuned = self._judged(self.valid, [before, after], f"{title} judgements")
        shown: list[dict[str, Any]] = []
        for case in draw_order(self.valid, self.config.run.seed):
            query = case.query.id
            if query in untuned and query in tuned and len(shown) < self.settings.shown:
                likelihoods = [
                    log_likelihood(one[query], case.relevant) for one in (untuned, tuned)
                ]
                shown.append(
                    {
                        "query": query,
                        "untuned": before[query].summary.text,
                        "tuned": after[query].summary.text,
                        "difference": likelihoods[1] - likelihoods[0],
                    }
                )
        return {"measured": measure(self.valid, untuned, tuned), "shown": shown}

    def _summaries(
        self, tuned: int, cases: Sequence[Case], drawn: Sequence[Sampling], unit: str
    ) -> list[dict[str, Sample]]:
        """Summaries by the model of a round (0: the untuned one), once with each sampling."""
        config = self.config
        model = open_stored(config, self._model(tuned))
        writer = summary_writer(config, model)
        self.progress.begin(len(cases) * len(drawn), unit)
        return [
            draw_summaries(
                ((case.query.id, case.query.history) for case in cases),
                model=model,
                writer=writer,
                settings=config.summarize.model_copy(update={"sampling": sampling}),
                progress=self.progress,
            )
            for sampling in drawn
        ]

    def _model(self, tuned: int) -> ModelSettings:
        if not tuned:
            return self.config.summarizer
        changed = {"name": str(self.work.model(tuned)), "revision": None}
        return self.config.summarizer.model_copy(update=changed)

    def _judged(
        self, cases: Sequence[Case], samples: Sequence[Mapping[str, Sample]], unit: str
    ) -> list[dict[str, RankedList]]:
        """The judge's lists, for each table of samples by query."""
        model, writer = judge(self.config, self.adapter)
        ranker = YesNoRanker(model, writer, self.config.rank.queries_per_batch)
        self.progress.begin(len(cases) * len(samples), unit)
        summaries = [{query: one.summary for query, one in table.items()} for table in samples]
        return judge_summaries(ranker, cases, summaries, self.progress)


def draw_order(cases: Sequence[Case], seed: int) -> list[Case]:
    """The cases in an order by lot: what is shown is not chosen."""
    return sorted(
        cases, key=lambda case: derive_seed(seed, "tune_summarizer", "shown", case.query.id)
    )


def _since(began: float) -> float:
    return round(time.perf_counter() - began, 1)
