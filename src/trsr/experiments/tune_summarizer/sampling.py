"""Samples summaries of histories, with the prompts and texts that led to each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import polars as pl

from trsr.data import Cases
from trsr.models.base import Feed, LanguageModel, ModelWrapper, Sampling
from trsr.progress import Progress
from trsr.prompts import PromptWriter
from trsr.prompts.finish import ends_complete
from trsr.prompts.text import fold
from trsr.settings import derive_seed
from trsr.storage.response_cache import response_key
from trsr.summarize import SummarizeSettings, summarize
from trsr.training.encode import TextExample
from trsr.types import Case, Prompt, Summary


@dataclass(frozen=True, slots=True)
class Sample:
    """A summary, and what the model wrote on the way: one text a prompt, none of them empty."""

    summary: Summary
    texts: tuple[TextExample, ...]


def sample_cases(cases: Cases, most: int, seed: int, *, one_per_user: bool = False) -> list[Case]:
    """Samples `most` cases (0: all), one per user if asked; each case has its own seed."""
    rows = cases.frame.select("query", "user")
    seeds = [derive_seed(seed, "tune_summarizer", query) for query in rows["query"]]
    rows = rows.with_columns(seed=pl.Series(seeds, dtype=pl.Int64)).sort("seed", "query")
    if one_per_user:
        rows = rows.unique("user", keep="first", maintain_order=True)
    names = rows["query"].head(most) if most else rows["query"]
    return list(cases.only(pl.col("query").is_in(names.to_list())))


def sample_summaries(
    cases: Sequence[Case],
    model: LanguageModel,
    writer: PromptWriter,
    settings: SummarizeSettings,
    progress: Progress,
) -> dict[str, Sample]:
    """Summarizes the cases' histories as the stage `summarize` does, by query id."""
    recorder = _Recorder(model)
    histories = [(case.query.id, case.query.history) for case in cases]
    found = summarize(
        histories, model=recorder, writer=writer, settings=settings, progress=progress
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
