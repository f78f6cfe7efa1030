"""Draws summaries of histories, and remembers what the model wrote on the way to each."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import polars as pl

from trsr.data import Cases
from trsr.llm.base import Around, Feed, LanguageModel, Sampling
from trsr.progress import Progress
from trsr.prompts import PromptWriter
from trsr.prompts.finish import ends_whole
from trsr.prompts.text import fold
from trsr.settings import derive_seed
from trsr.store.outputs import output_key
from trsr.summarize import SummarizeSettings, summarize
from trsr.train.examples import Written
from trsr.types import Case, Prompt, Summary, UserHistory


@dataclass(frozen=True, slots=True)
class Sample:
    """One summary of a history.

    Attributes:
        summary: The summary.
        written: What the model wrote on the way, a text a prompt, empty ones left out.
    """

    summary: Summary
    written: tuple[Written, ...]


def draw_users(cases: Cases, users: int, seed: int) -> list[Case]:
    """One case of each of some users, drawn by lot."""
    return _in_order(
        cases, _lots(cases, seed).unique("user", keep="first", maintain_order=True), users
    )


def draw_cases(cases: Cases, most: int, seed: int) -> list[Case]:
    """Some cases, drawn by lot; 0: all."""
    return _in_order(cases, _lots(cases, seed), most)


def _lots(cases: Cases, seed: int) -> pl.DataFrame:
    """Queries and users in the order of their lots, which no other query changes."""
    rows = cases.frame.select("query", "user")
    lots = [derive_seed(seed, "tune_summarizer", query) for query in rows["query"]]
    return rows.with_columns(lot=pl.Series(lots, dtype=pl.Int64)).sort("lot", "query")


def _in_order(cases: Cases, chosen: pl.DataFrame, most: int) -> list[Case]:
    names = chosen["query"].head(most) if most else chosen["query"]
    return list(cases.only(pl.col("query").is_in(names.to_list())))


def samplings(greedy: Sampling, seed: int, round_: int, n: int, **drawn: float) -> list[Sampling]:
    """How each of a round's samples is drawn.

    A sample has its own seed, and each prompt's own follows from it, so that neither the order of
    the users nor who else is there changes a text.

    Args:
        greedy: The settings that all summaries are made with.
        seed: The run's.
        round_: Which round, from 1.
        n: How many samples.
        drawn: Temperature and top_p.
    """
    seeds = (
        derive_seed(seed, "tune_summarizer", f"round {round_}", f"sample {place}")
        for place in range(n)
    )
    return [greedy.model_copy(update={**drawn, "seed": one}) for one in seeds]


def draw_summaries(
    histories: Iterable[tuple[str, UserHistory]],
    *,
    model: LanguageModel,
    writer: PromptWriter,
    settings: SummarizeSettings,
    progress: Progress,
) -> dict[str, Sample]:
    """Summarizes histories as the stage `summarize` does, by the key given with each.

    Raises:
        ModelError: If the model fails.
        PromptError: If a prompt cannot be made to fit; names the history.
    """
    recorder = _Recorder(model)
    told = summarize(histories, model=recorder, writer=writer, settings=settings, progress=progress)
    return {key: Sample(one, tuple(_written(key, one, recorder, writer))) for key, one in told}


class _Recorder(Around):
    """A model in front of another one that remembers each prompt with its text, by output key."""

    def __init__(self, inner: LanguageModel) -> None:
        super().__init__(inner)
        self.said: dict[str, tuple[Prompt, str]] = {}

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
            self.said[output_key(self.identity, prompt, kind)] = (prompt, text)
            yield position, text


def _written(
    query: str, summary: Summary, recorder: _Recorder, writer: PromptWriter
) -> Iterator[Written]:
    """What became of each text, as it followed its begun answer."""
    for source in summary.sources:
        prompt, text = recorder.said[source]
        told = writer.finish(prompt, text)
        # What the method keeps is what is to be learned: the rest that the model wrote is cut
        # off each time, and cost time.
        rest = told[len(fold(prompt.begun)) :]
        if rest.strip():
            yield Written(query, prompt, rest, ends_whole(told))


def without_history(samples: Sequence[Sample]) -> int:
    """How many of these have read nothing: their histories hold no block."""
    return sum(not one.summary.sources for one in samples)
