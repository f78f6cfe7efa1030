"""What `evaluate` writes: the report in JSON, HTML, Markdown and LaTeX, and TREC files."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from types import MappingProxyType
from typing import Any

from trsr.config import Config
from trsr.data import Dataset
from trsr.errors import StoreError
from trsr.explanation import SummaryTrace, page_writer, summary_text, summary_trace
from trsr.metrics import Report
from trsr.metrics.trec import file_name, write_qrels, write_trec_run
from trsr.pipeline.artifacts import planned_stages
from trsr.pipeline.ranking import RETRIEVED, read_retrieved
from trsr.pipeline.runner import Job
from trsr.progress import Progress
from trsr.prompts import PromptWriter
from trsr.rankers import Rankings, p_yes
from trsr.rankers.settings import RankSettings
from trsr.report import Page, ShownBlock, ShownCandidate, ShownUser, StageTime, write_html
from trsr.report.costs import UNRECORDED, RankerCost, read_costs
from trsr.report.markdown_report import latex, markdown
from trsr.report.page import P_YES
from trsr.storage import files
from trsr.storage.run_directory import StageRecord
from trsr.training.settings import SELECTED_ON
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
        summary = summaries.get(query)
        trace = summary_trace(config, view.writer, case.query.history, summary)
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

    What the retriever proposed to the ranker is known by query; it is empty where it ranked all.
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
            summary_text(self.config, summary) if summary else "",
            [*self._shown(case, ranked), *self._unlisted(case, ranked)],
            self.ranker,
            in_prompt=self.in_prompt,
            steps=trace.steps,
            steps_name="Merges" if merges else "Written on the way",
            counted=self._counted(case, ranked),
            probability_label=probability_label(self.ranker) or P_YES,
        )

    def _blocks(self, trace: SummaryTrace) -> Iterator[ShownBlock]:
        for number, (items, text) in enumerate(trace.blocks, 1):
            name = f"Block {number}" if trace.cut else "Summarized"
            yield ShownBlock(self._lines(items), text, name)
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


def write_pages(
    job: Job,
    report: Report,
    dataset: Dataset,
    summaries: Mapping[str, Summary],
    rankings: Mapping[str, Rankings],
    stages: Sequence[str],
    retriever: Mapping[str, Any] | None = None,
) -> None:
    """Writes the report in all its forms, and the files for other tools."""
    config = job.config
    header, rows, notes = report.rows()
    values = report.to_json() | {"table": {"header": header, "rows": rows, "notes": notes}}
    costs = _costs(job, rankings)
    values["costs"] = {one.ranker: one.to_json() for one in costs}
    if retriever is not None:
        values["retriever"] = dict(retriever)
    files.write_json(job.out / "report.json", values)
    files.write_parquet(report.per_query, job.out / "per_query.parquet")
    files.write_text(job.out / "table.tex", latex(report))
    if config.evaluate.trec:
        _write_trec(job, dataset, rankings)
    records = job.run.records()
    losses, validations = _curves(job)
    shown = examples(job, dataset, summaries, report.main, rankings[report.main])
    page = Page(
        title=job.run.folder.name,
        subtitle=_subtitle(config, rankings, bool(summaries)),
        settings=config.model_dump(mode="json"),
        changed=config.model_dump(mode="json", exclude_defaults=True, exclude_none=True),
        made=made_with(records, stages),
        stages=stage_times(records, stages, planned_stages(config)),
        curve=losses,
        validation=validations,
        validated=_validated(config),
        trec=config.evaluate.trec,
        costs=costs,
        costs_note="" if costs else UNRECORDED,
        examples=shown.users,
        examples_notes=shown.notes,
    )
    write_html(report, job.out / "report.html", page)
    files.write_text(job.out / "report.md", markdown(report, page))


def _subtitle(config: Config, rankings: Iterable[str], written: bool) -> str:
    """The models that were used, and what they read of the users.

    Args:
        config: All settings.
        rankings: The rankers that have lists.
        written: Whether the queries have summaries.
    """
    strategy, used = config.summarize.strategy, {*config.rank.used, *rankings}
    asking = {*config.rank.those("uses_llm", used)}
    reading = {*config.rank.those("reads_summary", used)}
    model_names = [config.model.name] if asking else []
    if asking & reading and (config.summarized or strategy == "none"):
        kind = f"{strategy} summaries" if config.summarized else "no summaries"
        return ", ".join([*model_names, kind, _recent_items(config)])
    shown = (
        [_recent_items(config)]
        if asking & reading
        else [f"shown the last {config.prompts.recent} titles"]
        if config.rank.those("writes_titles", used)
        else ["shown nothing of the user"]
        if model_names
        else []
    )
    # where no ranker reads summaries, none are written; a run may hold those of others all the same
    if not written or not config.summarized:
        return ", ".join([*model_names, *shown]) or "no language model was used"
    wrote = f" by {config.summarizer.name}" if config.summarize.uses_llm else ""
    unread = "" if reading - asking else ", which no ranker reads"
    return ", ".join([*model_names, *shown, f"{strategy} summaries{wrote}{unread}"])


def _recent_items(config: Config) -> str:
    return f"{config.prompts.recent} recent item{'' if config.prompts.recent == 1 else 's'}"


def _watched(lists: Rankings, progress: Progress, note: str) -> Iterator[RankedList]:
    """A ranker's lists; `progress` advances once each has been used."""
    for ranked in lists:
        yield ranked
        progress.advance(1, note)


def _write_trec(job: Job, dataset: Dataset, rankings: Mapping[str, Rankings]) -> None:
    write_qrels(job.out / "qrels.trec", dataset.cases(job.config.rank.split))
    for name, lists in rankings.items():
        found = _watched(lists, job.progress, f"{name}, TREC run")
        write_trec_run(job.out / file_name(name), name, found)


TRAINED = {
    "needs_training": "train",
    "writes_titles": "train_title",
    "needs_compression": "compress",
}
"""Traits of rankers whose model is trained in a stage of its own."""


def _costs(job: Job, rankings: Mapping[str, Rankings]) -> list[RankerCost]:
    """What the rankers took, as the stages recorded it; empty for lists made elsewhere."""
    records, name = job.run.records(), "rankings.parquet"
    record = records.get("rank")
    if record is None or job.run.hashes([name]).get(name) != record.files.get(name):
        return []
    found = {one.ranker: one for one in read_costs(record.info.get("costs"))}
    rank = job.config.rank
    whole: list[RankerCost] = []
    for name, own in found.items():
        asked = rank.with_members(name) if name in rank.used else (name,)
        members = [found[one] for one in asked if one in found and one != name]
        trained = [stage for trait, stage in TRAINED.items() if rank.those(trait, asked)]
        seconds = (float(records[one].info.get("seconds", 0)) for one in trained if one in records)
        whole.append(own.with_parts(members, sum(seconds)))
    return [one for one in whole if one.ranker in rankings]


def _validated(config: Config) -> str:
    """What the validation curve is of."""
    names = SELECTED_ON
    return f"Validation: {'sum of ' if len(names) > 1 else ''}{', '.join(names)}"


def _curves(job: Job) -> tuple[list[tuple[int, float]], list[tuple[int, float]]]:
    """The training loss, and the sum that the best adapter is chosen by, at each step."""
    path = job.run / "adapter" / "curves.jsonl"
    if not files.is_file(path):
        return [], []
    try:
        rows = [json.loads(line) for line in files.read_text(path).splitlines()]
        losses = [(int(row["step"]), float(row["loss"])) for row in rows if "loss" in row]
        found = [
            (int(row["step"]), sum(float(row["validation"].get(name, 0.0)) for name in SELECTED_ON))
            for row in rows
            if "validation" in row
        ]
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise StoreError(
            f"{path}: is not as trsr writes it ({error}); it only draws the curves of the training "
            "in the report, so it may be removed"
        ) from error
    return losses, found


_SHOWN_APART = ("seconds", "earlier_seconds", "seed")


def stage_times(
    records: Mapping[str, StageRecord],
    order: Sequence[str],
    planned: Mapping[str, Mapping[str, float]] = MappingProxyType({}),
) -> list[StageTime]:
    """What each stage took and did."""
    return [
        StageTime(
            name,
            records[name].info.get("seconds"),
            dict(_counts(records[name].info)),
            planned.get(name, {}),
        )
        for name in order
        if name in records
    ]


def _counts(info: Mapping[str, Any]) -> Iterator[tuple[str, object]]:
    for key, value in info.items():
        if key not in _SHOWN_APART and isinstance(value, int | float):
            yield key, value
    yield from info.get("usage", {}).items()
    costs, models = read_costs(info.get("costs")), info.get("models", {}).values()
    if models and all("asked" in one for one in models):
        # with what fitting asked, such as a blend's
        yield "prompts", sum(one["asked"] + one["from_store"] for one in models)
        for key in ("from_store", "tokens"):
            yield key, sum(one[key] for one in models)
    elif any(one.prompts for one in costs):
        for key in ("prompts", "from_store", "tokens"):
            yield key, sum(getattr(one, key) for one in costs)
    if "taken_from" in info:
        yield "copied_from", info["taken_from"]


def made_with(records: Mapping[str, StageRecord], order: Sequence[str]) -> list[tuple[str, str]]:
    """(what, which) of the machine and the packages; with the stages where these differ in it."""
    found: dict[str, dict[str, list[str]]] = {}
    for name in order:
        info = records[name].info if name in records else {}
        made = info.get("made", {})
        machine = ", ".join(one for one in (made.get("on"), made.get("gpu")) if one)
        models = ", ".join(info.get("models", {}))
        for what, which in {
            "machine": machine,
            "models": models,
            **info.get("versions", {}),
        }.items():
            if which:
                found.setdefault(what, {}).setdefault(str(which), []).append(name)
    return [(what, _which(stages)) for what, stages in found.items()]


def _which(stages: Mapping[str, Sequence[str]]) -> str:
    if len(stages) == 1:
        return next(iter(stages))
    return "; ".join(f"{which} ({', '.join(names)})" for which, names in stages.items())
