"""What `evaluate` writes: the report in JSON, HTML, Markdown and LaTeX, and TREC files."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from trsr.config import Config
from trsr.data import Dataset
from trsr.metrics import Report
from trsr.metrics.trec import file_name, write_qrels, write_trec_run
from trsr.pipeline.examples import examples
from trsr.pipeline.runner import Job
from trsr.progress import Progress
from trsr.rankers import Rankings
from trsr.report import Page, StageTime, write_html
from trsr.report.costs import UNRECORDED, RankerCost, read_costs
from trsr.report.markdown_report import latex, markdown
from trsr.storage import files
from trsr.storage.run_directory import StageRecord
from trsr.training.settings import SELECTED_ON
from trsr.types import RankedList, Summary


def write_pages(
    job: Job,
    report: Report,
    dataset: Dataset,
    summaries: Mapping[str, Summary],
    rankings: Mapping[str, Rankings],
    stages: Sequence[str],
    retriever: Mapping[str, Any] | None = None,
) -> None:
    """Writes the report in all its forms, and the files for other tools.

    Args:
        job: The stage's.
        report: Of the rankings.
        dataset: The run's.
        summaries: By query.
        rankings: By ranker.
        stages: The names of the stages that are done, in order.
        retriever: Its figures, where there is one.
    """
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
        subtitle=_subtitle(config, rankings),
        settings=config.model_dump(mode="json"),
        changed=config.model_dump(mode="json", exclude_defaults=True),
        made=made_with(records, stages),
        stages=stage_times(records, stages),
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


def _subtitle(config: Config, rankings: Iterable[str]) -> str:
    """The models that were used, and what they read of the users."""
    strategy, used = config.summarize.strategy, {*config.rank.used, *rankings}
    asking = {*config.rank.those("uses_llm", used)}
    reading = {*config.rank.those("reads_summary", used)}
    model_names = [config.model.name] if asking else []
    if asking & reading and (config.summarized or strategy == "none"):
        whose = " of other users" if config.prompts.summary_of == "another" else ""
        kind = f"{strategy} summaries{whose}" if config.summarized else "no summaries"
        return ", ".join([*model_names, kind, _recent_items(config)])
    shown = (
        [_recent_items(config)]
        if asking & reading
        else ["shown nothing of the user"]
        if model_names
        else []
    )
    if strategy == "none":
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


def _costs(job: Job, rankings: Mapping[str, Rankings]) -> list[RankerCost]:
    """What the rankers took, as the rank stage recorded it; empty for lists made elsewhere."""
    record = job.run.records().get("rank")
    name = "rankings.parquet"
    if record is None or job.run.hashes([name]).get(name) != record.files.get(name):
        return []
    return [one for one in read_costs(record.info.get("costs")) if one.ranker in rankings]


def _validated(config: Config) -> str:
    """What the validation curve is of."""
    names = SELECTED_ON
    return f"Validation: {'sum of ' if len(names) > 1 else ''}{', '.join(names)}"


def _curves(job: Job) -> tuple[list[tuple[int, float]], list[tuple[int, float]]]:
    """The training loss, and the sum that the best adapter is chosen by, at each step."""
    path = job.run / "adapter" / "curves.jsonl"
    if not files.is_file(path):
        return [], []
    rows = [json.loads(line) for line in files.read_text(path).splitlines()]
    chosen = SELECTED_ON
    losses = [(row["step"], row["loss"]) for row in rows if "loss" in row]
    found = [
        (row["step"], sum(row["validation"].get(name, 0.0) for name in chosen))
        for row in rows
        if "validation" in row
    ]
    return losses, found


_SHOWN_APART = ("seconds", "earlier_seconds", "seed")


def stage_times(records: Mapping[str, StageRecord], order: Sequence[str]) -> list[StageTime]:
    """What each stage took and did.

    Args:
        records: By name.
        order: The names of the stages that are wanted, in order.
    """
    return [
        StageTime(name, records[name].info.get("seconds"), dict(_counts(records[name].info)))
        for name in order
        if name in records
    ]


def _counts(info: Mapping[str, Any]) -> Iterator[tuple[str, object]]:
    for key, value in info.items():
        if key not in _SHOWN_APART and isinstance(value, int | float):
            yield key, value
    yield from info.get("usage", {}).items()
    costs = info.get("costs", {}).values()
    if any(one["prompts"] for one in costs):
        for key in ("prompts", "from_store", "tokens"):
            yield key, sum(one[key] for one in costs)
    if "taken_from" in info:
        yield "copied_from", info["taken_from"]


def made_with(records: Mapping[str, StageRecord], order: Sequence[str]) -> list[tuple[str, str]]:
    """(what, which) of the machine and the packages; with the stages where these differ in it.

    Args:
        records: By name.
        order: The names of the stages that are wanted, in order.
    """
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
