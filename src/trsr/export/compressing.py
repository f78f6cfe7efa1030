"""`trsr compress`: smaller forms of a run's ranking model, and what they cost and are worth."""

from __future__ import annotations

import functools
import json
import os
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from trsr.config import Config, load_config
from trsr.data import Catalog, Dataset
from trsr.errors import ConfigError, PromptError
from trsr.export.exporting import refuse_vectors
from trsr.machine import cores, peak_resident, processor
from trsr.metrics import evaluate
from trsr.metrics.report import NOTHING, Report, decimals, interval_text, signed, span
from trsr.metrics.significance import Difference, rank_correlation
from trsr.models import ModelSettings, open_model
from trsr.pipeline.artifacts import adapter_of, run_summaries, with_summaries
from trsr.pipeline.compression import base_folder, compress_ranker
from trsr.pipeline.runner import is_made, refuse_stale, versions
from trsr.pipeline.stages import STAGES
from trsr.progress import Progress, Silent
from trsr.prompts import PromptWriter
from trsr.rankers import PointwiseLLMRanker, QueryBatch, batched, ranked, scored
from trsr.rankers.batch import ASKED
from trsr.recommender import COMPRESSED, ranking_writer
from trsr.report.charts import Axis
from trsr.report.markdown_report import template, without_paths
from trsr.settings import digest
from trsr.storage import files
from trsr.storage.addresses import shown
from trsr.storage.remote_run import is_copy
from trsr.storage.run_directory import RunDirectory, StageRecord, need_run
from trsr.types import Case, Prompt, RankedList

COMMAND = "compress"
WHOLE = "llm"
"""The whole model, in the table; by this name the report is about it."""


@dataclass(frozen=True)
class Form:
    """A form of the ranking model.

    An adapter is given where it stays beside the weights.
    """

    name: str
    model: ModelSettings
    adapter: Path | None = None

    @functools.cached_property
    def opened(self) -> Any:
        """The model."""
        return open_model(self.model, self.adapter)


@dataclass(frozen=True)
class Cost:
    """What a form of the model costs.

    Attributes:
        size: Bytes of its numbers as they are multiplied.
        peak: Bytes of a process that opens it and ranks one query; None where nobody can say.
        seconds: What ranking all queries took.
    """

    size: int
    peak: int | None
    seconds: float


@dataclass(frozen=True)
class Curve:
    """Forms of one ranking model on the same queries, the whole one first.

    Attributes:
        report: Their quality, compared with the whole model's.
        costs: What each costs, by name.
        agreement: Of each the rank correlation (Spearman) with the whole model's lists, mean over
            queries.
        engine: What multiplied: scorer, number format, machine.
    """

    report: Report
    costs: Mapping[str, Cost]
    agreement: Mapping[str, float]
    engine: str

    def table(self) -> tuple[list[str], list[list[str]]]:
        """A header, and a row for each form."""
        metrics = ("auc", "ndcg@10")
        header = ["model", "MB", "peak MB", "queries/s", "×", "Spearman"]
        header += [text for name in metrics for text in (name, f"− {WHOLE} [95 %]")]
        rows = []
        first = self.costs[WHOLE].seconds
        for name, cost in self.costs.items():
            peak = NOTHING if cost.peak is None else f"{cost.peak / 1e6:,.0f}"
            row = [name, f"{cost.size / 1e6:,.0f}", peak]
            row += [f"{self.report.queries / cost.seconds:,.2f}", f"{first / cost.seconds:.2f}"]
            row.append(f"{self.agreement[name]:.3f}")
            means = self.report.means(name)
            for metric in metrics:
                found = self.report.comparison(name, metric)
                row.append(decimals(means[metric]))
                row.append(NOTHING if found is None else _difference(found.difference))
            rows.append(row)
        return header, rows


def _difference(found: Difference) -> str:
    return f"{signed(found.mean)} {span(found.low, found.high)}"


def compress_run(
    run: Path | str,
    out: Path | str | None = None,
    *,
    ratios: Sequence[float] = (),
    settings: Sequence[str] = (),
    progress: Progress | None = None,
) -> tuple[list[Path], Curve | None]:
    """Writes compressed forms of a run's ranking model, and ranks the run's queries by each.

    A stopped call goes on. Each folder is a model that `model.name` can name.

    Args:
        run: A run directory that is trained, or ranks with the model as it came.
        out: A folder for the model; of several ratios one in it for each. None: beside the run.
        ratios: The shares of the layers' numbers that are kept; none: the setting's.
        settings: `KEY=VALUE` in place of the run's settings, such as `compress.align=inputs`.
        progress: Shows how far the work is.

    Returns:
        The models' folders; and their quality and cost beside the whole model's, and beside 8 and 4
        bits where OpenVINO scores. None where the run's queries have a whole catalog.

    Raises:
        ConfigError: If a setting is wrong, or the model has no weights here.
        ModelError: If the model cannot be compressed.
        StaleRunError: If the run lacks a stage, or a folder was made with other settings.
        StoreError: If a folder holds something else, or cannot be written.
    """
    run, progress = Path(run), progress or Silent()
    if out is None and is_copy(run):
        raise ConfigError(f"{shown(run)}: name a folder of this machine with --out DIR")
    need_run(run)
    # a copy without its manifest would be read as the run that its settings name
    place = {"run": {"folder": os.path.abspath(run)}}
    config = load_config(run / "config.toml", settings, changes=place)
    ratios = ratios or (config.compress.ratio,)
    base_folder(config.model)
    directory = RunDirectory(config.run.folder)
    need_run(directory.folder)
    refuse_vectors(directory.folder)
    adapter = adapter_of(directory)
    needed = {"prepare", "summarize"} & directory.records().keys()
    if adapter or config.trained:  # without it a stopped run's model would pass for the tuned one
        needed.add("train")
    made = [one for one in STAGES if one.name in needed]
    refuse_stale(made, config, directory, COMMAND)
    dataset = Dataset.load(directory.folder)
    target = Path(os.path.abspath(out or f"{directory.folder}-{COMPRESSED}"))
    forms = [Form(WHOLE, config.model, adapter)]
    if len(ratios) > 1 and forms[0].opened.scorer == "openvino":
        for bits in ("8bit", "4bit"):
            fewer = config.model.model_copy(update={"quantize": bits, "scorer": "openvino"})
            forms.append(Form(f"{WHOLE} {bits}", fewer, adapter))
    folders = []
    for ratio in sorted(set(ratios), reverse=True):
        one = [*settings, f"compress.ratio={ratio}"]
        own = load_config(run / "config.toml", one, changes=place)
        folder = target / f"{ratio}" if len(ratios) > 1 else target
        _write(own, directory, dataset, adapter, folder, progress)
        named = config.model.model_copy(update={"name": str(folder), "revision": None})
        forms.append(Form(f"ratio {ratio}", named))
        folders.append(folder)
    cases = _cases(config, dataset)
    curve = measure(config, cases, dataset.catalog, forms, progress) if cases else None
    if curve:
        header, rows = curve.table()
        page = template("trsr.export", "compress.md.jinja").render(
            run=directory.folder.name, curve=curve, header=header, rows=rows, settings=own.compress
        )
        files.write_text(target / "compress.md", without_paths(page))
        if len(ratios) > 1:
            files.write_text(target / "compress.svg", picture(curve))
    return folders, curve


def _write(
    config: Config,
    run: RunDirectory,
    dataset: Dataset,
    adapter: Path | None,
    folder: Path,
    progress: Progress,
) -> None:
    """Makes one model, unless the folder holds it."""
    read = ["items.parquet", "cases.train.parquet", "summaries.train.parquet"]
    meaning = {
        "compress": config.compress.model_dump(mode="json"),
        "model": config.model.meaning(),
        "prompts": config.prompts.model_dump(mode="json"),
        "seed": config.run.seed,
        "read": run.hashes([*read, *(["adapter"] if adapter else [])]),
    }
    meaning = json.loads(json.dumps(meaning))
    output = RunDirectory(folder)
    with output.locked("--out DIR"):
        if is_made(output, COMMAND, meaning):
            return
        state = output.workspace(f"{COMMAND}/{digest(meaning)}")
        with output.writing(COMMAND) as made:
            compress_ranker(config, dataset, adapter, made, state, progress)
            record = StageRecord(meaning, {}, {}, {"versions": versions()})
            output.publish(COMMAND, made, record, writes=("*",))


def _cases(config: Config, dataset: Dataset) -> list[Case]:
    """The run's ranked cases with their summaries; none where a whole catalog is ranked."""
    split = config.rank.split
    if dataset.cases(split).full:
        return []
    summaries, _ = run_summaries(dataset, (split,), needed=config.summarized)
    return list(with_summaries(dataset.cases(split), summaries))


def measure(
    config: Config,
    cases: Sequence[Case],
    catalog: Catalog,
    forms: Sequence[Form],
    progress: Progress,
) -> Curve:
    """Ranks the same queries by each form of a model, in turns, so that all share the machine.

    The whole model is the first form, named `WHOLE`.

    Raises:
        PromptError: If no query's prompts fit.
    """
    rankers = [PointwiseLLMRanker(one.opened, ranking_writer(config, one.opened)) for one in forms]
    cases = [case for case in cases if _fits(forms[0], rankers[0].writer, case)]
    if not cases:
        raise PromptError(
            "compress: no query's prompts fit the context; raise model.context_tokens"
        )
    lists: dict[str, list[RankedList]] = {form.name: [] for form in forms}
    seconds = dict.fromkeys(lists, 0.0)
    for form, ranker in zip(
        forms, rankers, strict=True
    ):  # what is made once, such as a compiled graph, is not timed
        ranker.score(QueryBatch.of([cases[0].query], catalog))
        form.opened.forget()
    progress.begin(len(cases) * len(forms), "queries")
    for turn, batch in enumerate(batched((case.query for case in cases), catalog, ASKED)):
        for step in range(len(forms)):
            place = (turn + step) % len(forms)  # none is always the first
            started = time.perf_counter()
            scores = scored(rankers[place], batch, WHOLE)
            name = forms[place].name
            seconds[name] += time.perf_counter() - started
            lists[name] += ranked(batch, scores).lists()
            progress.advance(len(batch), name)
    metrics = list(dict.fromkeys(["auc", "ndcg@10", *config.evaluate.metrics]))
    report = evaluate(cases, lists, [name for name in metrics if name in ("auc", "ndcg@10")])
    writer = rankers[0].writer
    asked = writer.rank(cases[0].query), writer.answers
    costs = {
        one.name: Cost(one.opened.size, _peak_alone(one, *asked), seconds[one.name])
        for one in forms
    }
    agreement = {name: _agreement(lists[WHOLE], own) for name, own in lists.items()}
    return Curve(
        report, costs, agreement, f"{forms[0].opened.engine}; {processor()}, {cores()} cores"
    )


def _fits(form: Form, writer: PromptWriter, case: Case) -> bool:
    try:
        for prompt in writer.rank(case.query):
            form.opened.encode_answers(prompt, writer.answers)
    except PromptError:
        return False
    return True


def _agreement(lists: Sequence[RankedList], others: Sequence[RankedList]) -> float:
    found = []
    for one, other in zip(lists, others, strict=True):
        scores = {entry.item: entry.score for entry in other}
        own = [entry.score for entry in one]
        found.append(rank_correlation(own, [scores[entry.item] for entry in one]))
    return float(np.mean(found))


def _peak_alone(form: Form, prompts: Sequence[Prompt], answers: Sequence[str]) -> int | None:
    """Most memory of a process of its own that opens the model and scores some prompts."""
    with ProcessPoolExecutor(1, get_context("spawn")) as alone:
        return alone.submit(_peak, form.model, form.adapter, prompts, answers).result()


def _peak(
    model: ModelSettings, adapter: Path | None, prompts: Sequence[Prompt], answers: Sequence[str]
) -> int | None:
    open_model(model, adapter).score(prompts, answers)
    return peak_resident()


def picture(curve: Curve) -> str:
    """AUC over size as an SVG drawing, a dot for each form."""
    estimates = {name: curve.report[name].metrics["auc"] for name in curve.costs}
    shown = {name: (one.mean or 0.0, *(one.interval or ())) for name, one in estimates.items()}
    width, left, base = 640.0, 52.0, 300.0
    sizes = [cost.size / 1e6 for cost in curve.costs.values()]
    along = Axis(sizes, left + 10, width - 110)
    up = Axis([value for values in shown.values() for value in values], base, 16, unit=True)
    first = curve.costs[WHOLE].seconds
    dots = [
        {
            "name": name,
            "x": along(cost.size / 1e6),
            "y": up(shown[name][0]),
            "low": up(min(shown[name])),
            "high": up(max(shown[name])),
            "speed": f"{first / cost.seconds:.2f} ×",
            "words": f"{name}: {cost.size / 1e6:,.0f} MB, AUC {interval_text(estimates[name])}",
        }
        for name, cost in curve.costs.items()
    ]
    return template("trsr.export", "compress.svg.jinja").render(
        dots=dots, up=up.ticks, along=along.ticks, width=width, left=left, base=base
    )
