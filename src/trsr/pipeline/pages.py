"""What `evaluate` writes: the report in JSON, HTML, Markdown and LaTeX, and TREC files."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import polars as pl
from scipy import special

from trsr.config import Config
from trsr.data import Dataset
from trsr.metrics import Report
from trsr.metrics.calibration import Calibration, calibrate
from trsr.metrics.groups import history_groups
from trsr.metrics.trec import file_name, write_qrels, write_trec_run
from trsr.pipeline.examples import examples
from trsr.pipeline.probability_labels import probability_labels, probability_notes
from trsr.pipeline.records import made_with, stage_times
from trsr.pipeline.runner import Job
from trsr.progress import Progress
from trsr.rankers import Rankings
from trsr.report import Page, write_html
from trsr.report.costs import UNRECORDED, RankerCost, read_costs
from trsr.report.markdown_report import latex, markdown
from trsr.storage import files
from trsr.summarize.settings import SILENT
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
    groups = history_groups(report, config.evaluate.history_bins)
    cases = dataset.cases(config.rank.split).frame
    calibrations = [
        calibrated(name, cases, rankings[name].frame, called)
        for name in rankings
        if (called := probability_labels(name))
    ]
    costs = _costs(job, rankings)
    values |= {
        "history_groups": [group.to_json() for group in groups],
        "calibration": {one.ranker: one.to_json() for one in calibrations},
        "costs": {one.ranker: one.to_json() for one in costs},
    }
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
        groups=groups,
        calibrations=calibrations,
        calibration_notes=probability_notes(config, [one.ranker for one in calibrations]),
        trec=config.evaluate.trec,
        costs=costs,
        costs_note="" if costs else UNRECORDED,
        examples=shown.users,
        examples_notes=shown.notes,
    )
    write_html(report, job.out / "report.html", page)
    files.write_text(job.out / "report.md", markdown(report, page))


def _subtitle(config: Config, rankings: Iterable[str]) -> str:
    """What ranked, summarized and was told; no model that nothing asked."""
    strategy, used = config.summarize.strategy, {*config.rank.used, *rankings}
    asking = {*config.rank.those("uses_llm", used)}
    reading = {*config.rank.those("reads_summary", used)}
    model_names = [config.model.name] if asking else []
    if asking & reading and (config.summarized or strategy == "none"):
        whose = " of other users" if config.prompts.summary_of == "another" else ""
        kind = f"{strategy} summaries{whose}" if config.summarized else "no summaries"
        return ", ".join([*model_names, kind, _told(config)])
    told = (
        [_told(config)] if asking & reading else ["told nothing of the user"] if model_names else []
    )
    if strategy == "none":
        return ", ".join([*model_names, *told]) or "no language model was asked"
    wrote = "" if strategy in SILENT else f" by {config.summarizer.name}"
    untold = "" if reading - asking else ", which no ranker is told"
    return ", ".join([*model_names, *told, f"{strategy} summaries{wrote}{untold}"])


def _told(config: Config) -> str:
    return f"{config.prompts.recent} recent item{'' if config.prompts.recent == 1 else 's'}"


def calibrated(name: str, cases: pl.DataFrame, lists: pl.DataFrame, called: str) -> Calibration:
    """The calibration of a ranker whose scores are log-odds of yes against no."""
    rows = lists.join(cases.select("query", "relevant"), on="query").explode("items", "scores")
    rows = rows.drop_nulls("items")  # an empty list gives a row without one
    right = rows.select(pl.col("items").is_in(pl.col("relevant"))).to_series()
    probability_label = special.expit(rows["scores"].to_numpy())
    return calibrate(name, probability_label, right.cast(pl.Float64).to_numpy(), called)


def watched(lists: Rankings, progress: Progress, note: str) -> Iterator[RankedList]:
    """A ranker's lists, each told to `progress` once it has been used."""
    for ranked in lists:
        yield ranked
        progress.advance(1, note)


def _write_trec(job: Job, dataset: Dataset, rankings: Mapping[str, Rankings]) -> None:
    write_qrels(job.out / "qrels.trec", dataset.cases(job.config.rank.split))
    for name, lists in rankings.items():
        found = watched(lists, job.progress, f"{name}, TREC run")
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
    names = config.train.select_on
    return f"Validation: {'sum of ' if len(names) > 1 else ''}{', '.join(names)}"


def _curves(job: Job) -> tuple[list[tuple[int, float]], list[tuple[int, float]]]:
    """The training loss, and the sum that the best adapter is chosen by, at each step."""
    path = job.run / "adapter" / "curves.jsonl"
    if not files.is_file(path):
        return [], []
    rows = [json.loads(line) for line in files.read_text(path).splitlines()]
    chosen = job.config.train.select_on
    losses = [(row["step"], row["loss"]) for row in rows if "loss" in row]
    found = [
        (row["step"], sum(row["validation"].get(name, 0.0) for name in chosen))
        for row in rows
        if "validation" in row
    ]
    return losses, found
