"""Tunes the summarizer: samples summaries, scores them by the ranker, trains on the best."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from trsr.config import Config
from trsr.data import Cases, Dataset
from trsr.errors import ConfigError, DataError, PromptError
from trsr.metrics.significance import LEVEL, compare_columns, difference_json
from trsr.models.base import Feed, LanguageModel, ModelWrapper, Sampling
from trsr.models.settings import ModelSettings
from trsr.pipeline.artifacts import adapter_of
from trsr.pipeline.runner import is_made, refuse_stale, versions
from trsr.pipeline.stages import STAGES
from trsr.progress import Progress, Silent
from trsr.prompts import PromptWriter, load_domain
from trsr.prompts.text import ends_complete, fold
from trsr.rankers import PointwiseLLMRanker, rank_what_fits
from trsr.recommender import open_cached, open_ranking_model, summary_writer
from trsr.settings import derive_seed, digest
from trsr.storage import files
from trsr.storage.remote_run import to_read
from trsr.storage.response_cache import response_key
from trsr.storage.run_directory import RunDirectory, StageRecord
from trsr.summarize import SummarizeSettings, summarize
from trsr.training.encode import TextExample
from trsr.types import Case, Prompt, Query, RankedList, Summary


@dataclass(frozen=True, slots=True)
class Sample:
    """A summary, and what the model wrote on the way: one text a prompt, none of them empty."""

    summary: Summary
    texts: tuple[TextExample, ...]


def sample_cases(cases: Cases, most: int, seed: int) -> list[Case]:
    """Samples one case each of `most` users; each case has its own seed."""
    rows = cases.frame.select("query", "user")
    seeds = [derive_seed(seed, "tune_summarizer", query) for query in rows["query"]]
    rows = rows.with_columns(seed=pl.Series(seeds, dtype=pl.Int64)).sort("seed", "query")
    names = rows.unique("user", keep="first", maintain_order=True)["query"].head(most)
    return list(cases.only(pl.col("query").is_in(names.to_list())))


def sample_summaries(
    cases: Sequence[Case],
    model: LanguageModel,
    writer: PromptWriter,
    settings: SummarizeSettings,
    sampling: Sampling,
    progress: Progress,
) -> dict[str, Sample]:
    """Summarizes the cases' histories as the stage `summarize` does, by query id."""
    recorder = _Recorder(model)
    histories = [(case.query.id, case.query.history) for case in cases]
    found = summarize(
        histories,
        model=recorder,
        writer=writer,
        settings=settings,
        sampling=sampling,
        progress=progress,
    )
    return {key: Sample(one, tuple(_texts(key, one, recorder, writer))) for key, one in found}


class _Recorder(ModelWrapper):
    """Records each prompt with its text, by response key."""

    def __init__(self, inner: LanguageModel) -> None:
        super().__init__(inner)
        self.answers: dict[str, tuple[Prompt, str]] = {}

    def generate(self, prompts: Feed, sampling: Sampling) -> Iterator[tuple[int, str]]:
        kind = {"generate": sampling.model_dump()}
        asked: list[Prompt] = []

        def feed() -> Iterator[Prompt | None]:
            for prompt in prompts:
                if prompt is not None:
                    asked.append(prompt)
                yield prompt

        for position, text in self.inner.generate(feed(), sampling):
            prompt = asked[position]
            self.answers[response_key(self.identity, prompt, kind)] = (prompt, text)
            yield position, text


def _texts(
    query: str, summary: Summary, recorder: _Recorder, writer: PromptWriter
) -> Iterator[TextExample]:
    """The kept part of each prompt's text, behind its begun answer."""
    for source in summary.sources:
        prompt, text = recorder.answers[source]
        finished = writer.finish(prompt, text)
        # only what the method keeps of a text is trained on
        rest = finished[len(fold(prompt.begun)) :]
        if rest.strip():
            yield TextExample(query, prompt, rest, ends_complete(finished))


TEMPERATURE = 0.8
"""Of the samples."""
MARGIN = 0.05
"""By how much a user's best sample must beat the greedy summary to be learned from, in nats."""
COMMAND = "tune-summarizer"
RESULT = "summarizer.json"
READ = ("items.parquet", "descriptions.parquet", "cases.train.parquet", "cases.valid.parquet")
"""The files of the run that are read, beside the adapter; no test cases."""

GREEDY, TOP_P = {"temperature": 0.0}, 0.95
EXAMPLES = 5
"""Validation users whose summaries before and after are in the result."""


@dataclass(frozen=True)
class TunedSummarizer:
    """What tuning found.

    Attributes:
        folder: The output folder; it holds a model where `found["better"]`.
        found: What `summarizer.json` holds. `better`: whether the tuned model is significantly
            better; `users` whose samples could be ranked with, `selected` of them learned from;
            `spread`: the standard deviation of a user's rewards, mean over users. Where something
            was selected: `texts`, `steps`, first and last of the `losses`; `measured`: the mean
            rewards of validation users, `llm_zero_shot` and `tuned`, with their paired difference
            as `difference_json`; `examples` of their summaries.
        made: Whether work was done, or all was there.
    """

    folder: Path
    found: Mapping[str, Any]
    made: bool = True

    @property
    def verdict(self) -> str:
        """In one sentence, whether the model is kept, and why."""
        if "measured" not in self.found:
            return "no sample beat its user's greedy summary: nothing was trained"
        gain, p = (self.found["measured"][name] for name in ("difference", "p"))
        kept = "better" if self.found["better"] else "not significantly better, none is kept"
        sure = "" if p is None else f", p = {p:.2g}"
        return (
            f"the tuned summarizer is {kept}: log-likelihood of validation users' next items "
            f"{gain or 0.0:+.3f} nats{sure}"
        )


def tune_summarizer(
    config: Config, out: Path | str, progress: Progress | None = None
) -> TunedSummarizer:
    """Fine-tunes the summarizing model on those of its own summaries that predict the next item.

    It samples several summaries of training users' histories, with the strategy and the prompts
    of `summarize`. A summary's reward is the log-likelihood of the user's next item among its
    negatives, as the ranking model scores them with that summary in the prompt. A LoRA adapter
    learns what led to each user's best sample, where that beats the greedy summary by `margin`.
    This is one step of expert iteration (Anthony et al. 2017; for language models STaR, Zelikman
    et al. 2022, and ReST-EM, Singh et al. 2024). Greedy summaries of validation users are then
    compared with the untuned model's. A stopped call resumes.

    Args:
        config: All settings; the run directory holds the prepared data. Where it holds a trained
            adapter, that one ranks; else the ranking model as it came.
        out: The folder of the result. Where the tuned model is better, any backend opens it as a
            model, and `adapter/` holds the same in PEFT's format. `summarizer.json` has the
            figures and some summaries before and after.
        progress: Shows how far the work is.

    Raises:
        ConfigError: If the settings leave nothing to tune.
        DataError: If there are no training or validation cases, or no history to summarize.
        ModelError: If a model cannot be loaded or fails.
        StaleRunError: If the run lacks a stage, or `out` was begun with other settings.
        StoreError: If a folder cannot be read or written, or another process writes it.
    """
    _refuse(config)
    run, output = RunDirectory(to_read(config.run.folder)), RunDirectory(Path(out).absolute())
    adapter = adapter_of(run)
    names = ("prepare", "train") if adapter else ("prepare",)
    refuse_stale([stage for stage in STAGES if stage.name in names], config, run, COMMAND)
    dataset, settings, seed = Dataset.load(run.folder), config.tune_summarizer, config.run.seed
    train = sample_cases(dataset.cases("train"), settings.users, seed)
    valid = list(dataset.cases("valid"))
    if not train or not valid:
        raise DataError(
            f"{COMMAND}: the run has no {'validation' if train else 'training'} cases; lower "
            "data.min_history, or choose a data.split that makes some"
        )
    meaning = _meaning(config, run, adapter)
    with output.locked("--out FOLDER"):
        if not is_made(output, COMMAND, meaning):
            tuner = _Tuner(config, train, valid, adapter, output, progress or Silent())
            return TunedSummarizer(output.folder, tuner.run(meaning))
    return TunedSummarizer(output.folder, files.read_json(output / RESULT), False)


def _refuse(config: Config) -> None:
    """Raises ConfigError with every setting that leaves nothing to tune."""
    strategy, backend = config.summarize.strategy, config.summarizer.backend
    rules = (
        (
            not config.summarize.uses_llm,
            f"summarize.strategy: {strategy} asks no model; choose another one",
        ),
        (
            backend not in ("transformers", "openvino"),
            f"summarize.model.backend: {backend} has no weights here; use transformers",
        ),
    )
    problems = [f"\n  {text}" for wrong, text in rules if wrong]
    if problems:
        raise ConfigError(f"{COMMAND}: there is nothing to tune{''.join(problems)}")


def _meaning(config: Config, run: RunDirectory, adapter: Path | None) -> dict[str, Any]:
    """What the result depends on, as plain values."""
    value = {
        "tune_summarizer": config.tune_summarizer.model_dump(mode="json"),
        "training": config.tune_summarizer.training(config.train).meaning(),
        "summarize": config.summarize.model_dump(mode="json", exclude={"model"}),
        "summarizer": config.summarizer.meaning(),
        "prompts": config.prompts.model_dump(mode="json"),
        "words": load_domain(config.prompts.domain).digest(config.prompts.style),
        "ranker": config.model.meaning() | {"scorer": config.model.scorer},
        "read": run.hashes([*READ, *(["adapter"] if adapter else [])]),
        "seed": config.run.seed,
    }
    return dict(json.loads(json.dumps(value)))


@dataclass
class _Tuner:
    """Opens one model at a time, so that a device need not hold two.

    A later call finds texts and scores in the response cache, the rest in the workspace.
    """

    config: Config
    train: list[Case]
    valid: list[Case]
    adapter: Path | None
    output: RunDirectory
    progress: Progress

    def run(self, meaning: Mapping[str, Any]) -> dict[str, Any]:
        work = self.output.workspace(f"{COMMAND}/{digest(dict(meaning))}")
        # a model's identity has its folder's name: with the output folder's, the result is the
        # very model that was measured
        model = work / "model" / self.output.folder.name
        selected, found = self._select()
        if selected:
            found |= self._fit([text for one in selected for text in one.texts], work, model)
            found |= self._measure(model)
        with self.output.writing(COMMAND) as folder:
            if found["better"]:
                files.copy(model, folder)
                files.copy(work / "adapter", folder / "adapter")
            files.write_json(folder / RESULT, found)
            info = {"versions": versions()}
            record = StageRecord(meaning, {}, {}, info)
            self.output.publish(COMMAND, folder, record, writes=("*",))
        return found

    def _select(self) -> tuple[list[Sample], dict[str, Any]]:
        """The best sample of each user whose one is better enough, and figures."""
        settings, seed = self.config.tune_summarizer, self.config.run.seed
        (greedy,) = self._summaries(self.train, [GREEDY], "greedy summaries")
        cases = [case for case in self.train if greedy[case.query.id].summary.sources]
        if not cases:
            raise DataError(
                f"{COMMAND}: no history holds a block to summarize; lower summarize.block_items, "
                "or set summarize.last_block to true"
            )
        drawn = {"temperature": TEMPERATURE, "top_p": TOP_P}
        seeds = [derive_seed(seed, COMMAND, f"sample {n}") for n in range(settings.samples)]
        samplings = [drawn | {"seed": one} for one in seeds]
        samples = self._summaries(cases, samplings, "samples")
        rewards = self._rewards(cases, [greedy, *samples], "rewards of samples")
        selected = []
        for query, (greedy_reward, *own) in rewards.items():
            best = samples[int(np.argmax(own))][query]
            if max(own) - greedy_reward > MARGIN and best.summary.text and best.texts:
                selected.append(best)
        spread = float(np.mean([np.std(own[1:]) for own in rewards.values()])) if rewards else 0.0
        counts = {"users": len(rewards), "selected": len(selected), "spread": spread}
        return selected, {"better": False, **counts}

    def _fit(self, texts: list[TextExample], work: Path, model: Path) -> dict[str, Any]:
        """Trains the adapter, and writes the model that it makes."""
        from trsr.models.hf.load import write_merged
        from trsr.training.start import train_on_texts

        base = self.config.summarizer.model_copy(update={"backend": "transformers"})
        result = train_on_texts(
            lambda opened: texts,
            model=base,
            settings=self.config.tune_summarizer.training(self.config.train),
            seed=derive_seed(self.config.run.seed, "tune_summarizer"),
            out=work / "adapter",
            state=work / "state",
            progress=self.progress,
        )
        if not files.is_folder(model):
            fresh = work / "merging"
            files.remove(fresh)
            write_merged(base, work / "adapter", fresh)
            files.make_folder(model.parent)
            files.move(fresh, model)
        losses = [result.losses[0], result.losses[-1]]
        return {"texts": len(texts), "steps": result.steps, "losses": losses}

    def _measure(self, model: Path) -> dict[str, Any]:
        """Compares greedy summaries of the validation users, and takes some to be read."""
        changed = {"name": str(model), "revision": None}
        tuned = self.config.summarizer.model_copy(update=changed)
        (old,) = self._summaries(self.valid, [GREEDY], "validation summaries, untuned")
        (new,) = self._summaries(self.valid, [GREEDY], "validation summaries, tuned", tuned)
        rewards = self._rewards(self.valid, [old, new], "rewards of validation summaries")
        users = [case.query.history.user for case in self.valid if case.query.id in rewards]
        table = np.array(list(rewards.values())).reshape(-1, 2)
        (found,) = compare_columns(table[:, 1:] - table[:, :1], users)
        means = dict(zip(("llm_zero_shot", "tuned"), table.mean(axis=0).tolist(), strict=True))
        examples = [
            {
                "query": query,
                "llm_zero_shot": old[query].summary.text,
                "tuned": new[query].summary.text,
            }
            for query in sorted(old, key=lambda query: derive_seed(0, "examples", query))[:EXAMPLES]
        ]
        return {
            "better": found.p is not None and found.p < LEVEL and (found.mean or 0.0) > 0,
            "measured": means | difference_json(found),
            "examples": examples,
        }

    def _summaries(
        self,
        cases: Sequence[Case],
        samplings: Sequence[Mapping[str, Any]],
        unit: str,
        model: ModelSettings | None = None,
    ) -> list[dict[str, Sample]]:
        """Summaries by the summarizing model or another one, once with each sampling."""
        opened = open_cached(self.config, model or self.config.summarizer)
        writer, settings = summary_writer(self.config, opened), self.config.summarize
        self.progress.begin(len(cases) * len(samplings), unit)
        found = []
        for own in samplings:
            sampling = Sampling.model_validate(settings.sampling.model_dump() | dict(own))
            found.append(sample_summaries(cases, opened, writer, settings, sampling, self.progress))
        return found

    def _rewards(
        self, cases: Sequence[Case], samples: Sequence[Mapping[str, Sample]], unit: str
    ) -> dict[str, list[float]]:
        """By query the reward of each of its samples; what does not fit a prompt is left out."""
        ranker = PointwiseLLMRanker(*open_ranking_model(self.config, self.adapter))
        self.progress.begin(len(cases) * len(samples), unit)
        asked: dict[str, Case] = {}

        def queries() -> Iterator[Query]:
            # one user's together: their prompts share a prefix up to the summary
            for case in cases:
                for place, table in enumerate(samples):
                    name = f"{case.query.id} with summary {place}"
                    asked[name] = case
                    summary = table[case.query.id].summary
                    yield dataclasses.replace(case.query, id=name, summary=summary)

        def skipped(query: Query, error: PromptError) -> None:
            self.progress.advance(1, "a prompt does not fit")

        found: dict[str, list[float]] = {}
        for ranked in rank_what_fits(ranker, queries(), skipped):
            case = asked[ranked.query]
            found.setdefault(case.query.id, []).append(log_likelihood(ranked, case.relevant))
            self.progress.advance()
        return {query: own for query, own in found.items() if len(own) == len(samples)}


def log_likelihood(ranked: RankedList, relevant: frozenset[str]) -> float:
    """The log-probability (nats) of the relevant item in a softmax over all candidates' scores.

    At most 0; −log(candidates) where all score the same. Several relevant ones count their mean.
    """
    scores = np.array([entry.score for entry in ranked])
    highest = float(scores.max())
    total = highest + float(np.log(np.exp(scores - highest).sum()))
    return float(np.mean([entry.score - total for entry in ranked if entry.item in relevant]))
