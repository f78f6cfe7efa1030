"""What `evaluate` writes: `report.json`, `report.html` and `per_query.parquet`."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any

from trsr.data import Dataset
from trsr.errors import StoreError
from trsr.evaluate import Page, Report, ShownBlock, ShownCandidate, ShownUser, StageTime, write_html
from trsr.pipeline.stair import Job
from trsr.rank import Rankings, p_yes
from trsr.store.outputs import OutputStore
from trsr.store.rundir import StageRecord
from trsr.types import Item, Query, RankedList, Summary

EXAMPLES = 10
SHOWN = 50
"""Candidates shown of each example: full-catalogue lists are long."""
JUDGES = ("llm", "untuned")
"""Rankers whose scores are log p(yes) − log p(no)."""


def write_pages(
    job: Job,
    report: Report,
    dataset: Dataset,
    summaries: Mapping[str, Summary],
    rankings: Mapping[str, Rankings],
    first_stage: Mapping[str, Any] | None = None,
) -> None:
    """Writes the report in its three forms."""
    header, rows, notes = report.rows()
    values = report.to_json() | {"table": {"header": header, "rows": rows, "notes": notes}}
    if first_stage is not None:
        values["first_stage"] = dict(first_stage)
    (job.out / "report.json").write_text(json.dumps(values, indent=1, ensure_ascii=False), "utf-8")
    report.per_query.write_parquet(job.out / "per_query.parquet")
    config = job.config
    records = job.run.records()
    losses, validations = _curves(job)
    page = Page(
        title=job.run.folder.name,
        subtitle=f"{config.model.name}, {config.summarize.strategy} summaries, "
        f"{config.prompts.recent} recent items",
        settings=config.model_dump(mode="json", exclude_defaults=True),
        stages=[_stage(name, record) for name, record in records.items()],
        curve=losses,
        validation=validations,
        examples=list(_examples(job, dataset, summaries, rankings)),
    )
    write_html(report, job.out / "report.html", page)


def _stage(name: str, record: StageRecord) -> StageTime:
    hidden = ("seconds", "seed")
    counts = {
        k: v for k, v in record.info.items() if k not in hidden and isinstance(v, int | float)
    }
    return StageTime(name, record.info.get("seconds"), counts)


def _curves(job: Job) -> tuple[list[tuple[int, float]], list[tuple[int, float]]]:
    """The training loss, and the sum that the best adapter is chosen by, at each step."""
    path = job.run / "adapter" / "curves.jsonl"
    if not path.is_file():
        return [], []
    rows = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    chosen = job.config.train.select_on
    losses = [(row["step"], row["loss"]) for row in rows if "loss" in row]
    found = [
        (row["step"], sum(row["validation"].get(name, 0.0) for name in chosen))
        for row in rows
        if "validation" in row
    ]
    return losses, found


def _examples(
    job: Job,
    dataset: Dataset,
    summaries: Mapping[str, Summary],
    rankings: Mapping[str, Rankings],
) -> Iterator[ShownUser]:
    """The first test users as they came, with the main judge's ranking."""
    judge = next((name for name in JUDGES if name in rankings), None)
    name = judge or next(iter(rankings))
    lists = {ranked.query: ranked for ranked in islice(rankings[name], EXAMPLES)}
    for case in islice(dataset.cases("test"), EXAMPLES):
        summary = summaries.get(case.query.id)
        ranked = lists.get(case.query.id)
        if ranked is None:
            continue
        yield ShownUser(
            case.query.history.user,
            list(_blocks(job, case.query, summary)),
            summary.text if summary else "",
            list(_candidates(case.query, ranked, case.relevant, judge is not None)),
            name,
        )


def _blocks(job: Job, query: Query, summary: Summary | None) -> Iterator[ShownBlock]:
    settings = job.config.summarize
    texts = _texts(job, summary)
    for number, block in enumerate(query.history.blocks(settings.block_items)):
        written = texts[number] if number < len(texts) else ""
        yield ShownBlock([_line(item) for item in block.items], written)


def _texts(job: Job, summary: Summary | None) -> list[str]:
    """What the model wrote at each step, where the store still has it."""
    if summary is None or not summary.sources:
        return []
    try:
        with OutputStore(job.config.run.outputs) as store:
            known = store.get(summary.sources)
    except StoreError:
        return []
    return [" ".join(str(known.get(key, "")).split()) for key in summary.sources]


def _candidates(
    query: Query, ranked: RankedList, relevant: frozenset[str], judged: bool
) -> Iterator[ShownCandidate]:
    items = {item.id: item for item in query.candidates}
    for entry in ranked.entries[:SHOWN]:
        likely = p_yes(entry.score) if judged else None
        yield ShownCandidate(_line(items[entry.item]), likely, entry.item in relevant)


def _line(item: Item, characters: int = 160) -> str:
    text = " · ".join(" ".join(value.split()) for _, value in item.fields) or "(no text)"
    return text if len(text) <= characters else text[: characters - 1] + "…"
