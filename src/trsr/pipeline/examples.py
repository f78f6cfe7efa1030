"""Example users for the page: what the models read, wrote and decided."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

from trsr.config import Config
from trsr.data import Dataset
from trsr.explanation import SummaryTrace, page_writer, summary_trace
from trsr.pipeline.prompt_summaries import prompt_summaries
from trsr.pipeline.retrieval import RETRIEVED, read_retrieved
from trsr.pipeline.runner import Job
from trsr.prompts import PromptWriter
from trsr.rankers import Rankings, p_yes
from trsr.rankers.settings import RankSettings
from trsr.report import ShownBlock, ShownCandidate, ShownUser
from trsr.report.page import P_YES
from trsr.storage import files
from trsr.types import Case, Item, RankedList, Summary

EXAMPLES = 10
SHOWN = 50
"""Candidates shown of each example: full-catalog lists are long."""
GONE_NOTE = (
    "Texts that were written on the way are not in the response cache (run.cache) any more. They "
    "are shown again once they are written anew: remove report.json and the summaries "
    "(summaries.*.parquet) from the run's folder and give “trsr run”."
)


@dataclass(frozen=True, slots=True)
class Examples:
    """Example users, and what is to be said of them all."""

    users: Sequence[ShownUser]
    notes: Sequence[str]


def examples(
    job: Job,
    dataset: Dataset,
    summaries: Mapping[str, Summary],
    name: str,
    ranked_lists: Rankings,
) -> Examples:
    """The first ranked users as they came, with the lists of the ranker the report is about."""
    config, split = job.config, job.config.rank.split
    lists = {ranked.query: ranked for ranked in islice(ranked_lists, EXAMPLES)}
    shown = prompt_summaries(config, dataset, split, summaries)
    path = job.run / RETRIEVED
    cases = dataset.cases(split)
    # external lists have no retrieved candidates
    retrieved = cases.full and asks_model(config, name) and files.exists(path)
    proposed = read_retrieved(path) if retrieved else {}
    view = _View(config, page_writer(config), name, proposed)
    users, missing = [], 0
    for case in islice(cases, EXAMPLES):
        query = case.query.id
        if query not in lists:
            continue
        trace = summary_trace(config, view.writer, case.query.history, summaries.get(query))
        summary = (shown if view.in_prompt else summaries).get(query)
        users.append(view.user(case, lists[query], trace, summary))
        missing += trace.missing
    gone = [GONE_NOTE] if missing else []
    return Examples(users, [*_notes(config), *gone])


def probability_label(ranker: str) -> str:
    """What a ranker's probabilities are called; empty where its score is no log-odds of yes."""
    return P_YES if RankSettings().traits(ranker).log_odds else ""


def tells_summary(config: Config, ranker: str) -> bool:
    """Whether a ranker reads the user's summary."""
    return config.reads_summary(config.rank.with_members(ranker))


def asks_model(config: Config, ranker: str) -> bool:
    """Whether a ranker asks a language model, itself or by a member."""
    return bool(config.rank.those("uses_llm", config.rank.with_members(ranker)))


def _notes(config: Config) -> list[str]:
    """In which words the items are shown."""
    ranking = bool(config.rank.those("uses_llm"))
    if config.summarize.uses_llm:
        those = "those of" if ranking else "those that would stand in"
        return [
            "Items of the history are shown in the words of the summary prompts, candidates in "
            f"{those} the ranking prompts, before anything is left out to fit the context."
        ]
    if ranking:
        return [
            "Items are shown in the words of the ranking prompts, before anything is left out to "
            "fit the context."
        ]
    return [
        "No language model was asked. Items are shown in the words that its prompts would have."
    ]


@dataclass(frozen=True)
class _View:
    """How one ranker's example users are shown.

    Attributes:
        config: All settings.
        writer: The words of the prompts.
        ranker: Who ranked.
        proposed: What the retriever proposed to it, by query; empty where it ranked all.
    """

    config: Config
    writer: PromptWriter
    ranker: str
    proposed: Mapping[str, Sequence[str]]

    @property
    def in_prompt(self) -> bool:
        return tells_summary(self.config, self.ranker)

    def user(
        self, case: Case, ranked: RankedList, trace: SummaryTrace, summary: Summary | None
    ) -> ShownUser:
        merges = self.config.summarize.strategy == "hierarchical" and trace.cut
        return ShownUser(
            case.query.history.user,
            list(self._blocks(trace)),
            summary.text if summary else "",
            [*self._shown(case, ranked), *self._unlisted(case, ranked)],
            self.ranker,
            anothers=self.in_prompt and self.config.prompts.summary_of == "another",
            in_prompt=self.in_prompt,
            steps=trace.steps,
            steps_name="Merges" if merges else "Written on the way",
            counted=self._counted(case, ranked),
            probability_label=probability_label(self.ranker) or P_YES,
        )

    def _blocks(self, trace: SummaryTrace) -> Iterator[ShownBlock]:
        for number, (items, text) in enumerate(trace.blocks, 1):
            name = f"Block {number}" if trace.cut else "Read in blocks, whose ends were not kept"
            known = trace.cut or trace.steps
            yield ShownBlock(self._lines(items), text, name if known else "Summarized")
        if trace.rest:
            name = "Since then, not summarized" if trace.blocks else ""
            yield ShownBlock(self._lines(trace.rest), "", name)

    def _lines(self, items: Sequence[Item]) -> list[str]:
        """Items of the history, as the summary prompts show them where there are any."""
        settings = self.config.prompts
        if not self.config.summarize.uses_llm:
            return [self._line(item) for item in items]
        words, numbers = settings.summary_item_words, settings.summary_numbers
        return [self.writer.item_text(item, words, numbers=numbers) for item in items]

    def _line(self, item: Item) -> str:
        return self.writer.item_text(item, self.config.prompts.words)

    def _counted(self, case: Case, ranked: RankedList) -> str:
        every = len(case.query.candidates)
        proposed = self.proposed.get(case.query.id)
        size = every if proposed is None else len(proposed)
        shown = min(SHOWN, len(ranked.entries))
        counted = f"{'' if shown == size else f'first {shown:,} of '}{size:,} candidates"
        if proposed is None:
            return counted
        return f"{counted} that {self.config.rank.retriever} proposed out of {every:,}"

    def _shown(self, case: Case, ranked: RankedList) -> Iterator[ShownCandidate]:
        items = {item.id: item for item in case.query.candidates}
        for place, entry in enumerate(ranked.entries, 1):
            right = entry.item in case.relevant
            if place > SHOWN and not right:
                continue
            probability = p_yes(entry.score) if probability_label(self.ranker) else None
            yield ShownCandidate(self._line(items[entry.item]), probability, right, f"{place:,}")

    def _unlisted(self, case: Case, ranked: RankedList) -> Iterator[ShownCandidate]:
        """The right items that are not in the list."""
        listed = {entry.item for entry in ranked}
        proposed = self.proposed.get(case.query.id)
        for item in case.query.candidates:
            if item.id not in case.relevant or item.id in listed:
                continue
            if proposed is not None and item.id not in proposed:
                why = f"not proposed by {self.config.rank.retriever}"
            else:
                why = f"not among the first {len(ranked.entries):,}"
            yield ShownCandidate(self._line(item), None, True, "–", why)
