"""Searches settings with Optuna by a metric on validation cases; only the best see test cases."""

from __future__ import annotations

import dataclasses
import functools
import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from trsr.config import load_config
from trsr.data import Dataset
from trsr.engine import LocalEngine
from trsr.errors import ConfigError
from trsr.experiments.sweep.plan import Plan, SearchOptions, run_name
from trsr.experiments.sweep.running import (
    ENGINE,
    RunShard,
    failed,
    make_run,
    outcome_of,
    shard_of,
    tested,
)
from trsr.experiments.sweep.space import combinations, trials
from trsr.experiments.sweep.table import Outcome, Swept
from trsr.metrics import evaluate
from trsr.metrics.report import Estimate
from trsr.pipeline import STAGE_NAMES
from trsr.pipeline.artifacts import adapter_of, read_summaries, with_summary
from trsr.pipeline.ranking import CostBook, fitted_rankers
from trsr.progress import Progress, Silent
from trsr.rankers import rank_what_fits
from trsr.recommender import Recommender
from trsr.settings import digest
from trsr.storage import files
from trsr.storage.run_directory import RunDirectory

VALUE = "validation.json"
"""In a run's folder: its metric on the validation cases, and a hash of what it depends on."""

TRAINED = STAGE_NAMES[: STAGE_NAMES.index("train") + 1]
"""The stages before any test case is ranked."""


def search(plan: Plan, progress: Progress) -> Swept:
    """Tries settings, the next chosen by what was found, then tests the best ones.

    No trial repeats another's settings: where there are fewer than trials, all are tried. Trials
    follow from the search's seed and the values before them, so that a search that was
    killed asks for the same trials again and finds them done.

    Raises:
        ConfigError: If Optuna is not installed.
    """
    options = plan.file.search
    if options is None:
        raise ConfigError(f"{plan.path}: there is no [search]")
    most = min(options.trials, combinations(plan.space()) or options.trials)
    progress.begin(most + 1, "trials")
    engine = LocalEngine(plan.folder / ENGINE, progress)
    outcomes: dict[str, Outcome] = {}
    best: tuple[float, Mapping[str, Any]] | None = None
    for drawn in trials(plan.space(), options.seed, most):
        found = _tried(plan, drawn.settings, options, engine)
        outcomes |= {one.name: one for one in found}
        drawn.value = _objective(found)
        if drawn.value is not None and (best is None or drawn.value > best[0]):
            best = drawn.value, drawn.settings
        Swept(plan, tuple(outcomes.values()), best and best[1]).write()
        progress.advance(1, f"best {best[0]:.4f}" if best else "")
    if best is not None:
        runs = {run.name: run for run in plan.runs(best[1])}
        for done in engine.map(make_run, [shard_of(plan, run) for run in runs.values()]):
            run = runs[done.shard.name]
            outcome = tested(run, outcome_of(run, done))
            validation = outcomes[run.name].validation
            outcomes[run.name] = dataclasses.replace(outcome, validation=validation)
    swept = Swept(plan, tuple(outcomes.values()), best and best[1])
    swept.write()
    progress.advance(1)
    return swept


def _tried(
    plan: Plan, settings: Mapping[str, Any], options: SearchOptions, engine: LocalEngine
) -> list[Outcome]:
    """What a trial's runs came to, one a seed."""
    try:
        runs = {run.name: run for run in plan.trial(settings)}
    except ConfigError as error:  # values that contradict each other; other trials may do
        name = run_name(settings)
        return [failed(Outcome(name, settings, None, error=str(error)), plan.folder / name)]
    work = functools.partial(validated, options=options)
    shards = [shard_of(plan, run, TRAINED) for run in runs.values()]
    found = []
    for done in engine.map(work, shards):
        outcome = outcome_of(runs[done.shard.name], done)
        if not outcome.error:
            estimate = Estimate(*done.value["estimate"])
            taken = tuple(done.value["taken"])
            outcome = dataclasses.replace(outcome, validation=estimate, taken=taken)
        found.append(outcome)
    return found


def _objective(found: Sequence[Outcome]) -> float | None:
    """The mean over seeds; None where a run failed or there is nothing to measure."""
    means = [one.validation.mean for one in found if one.validation is not None]
    known = [mean for mean in means if mean is not None]
    return statistics.fmean(known) if known and len(known) == len(found) else None


def validated(shard: RunShard, progress: Progress, options: SearchOptions) -> dict[str, Any]:
    """Makes a trial's run up to its training: the metric on its validation cases.

    It is kept in the run's folder.

    Raises:
        ConfigError: If there are no validation cases.
    """
    config = shard.config
    taken = make_run(dataclasses.replace(shard, stages=TRAINED[:1]), progress)
    if not len(Dataset.load(config.run.folder).cases("valid")):  # before anything costly
        raise ConfigError(
            "a search goes by validation cases, and there are none: make some (data.split, "
            "data.valid_share, data.valid_cases), or list values in a [grid]"
        )
    taken += make_run(dataclasses.replace(shard, stages=TRAINED[1:]), progress)
    records = RunDirectory(config.run.folder).records()
    made = {name: dict(records[name].files) for name in TRAINED}
    settings = config.model_dump(mode="json", include={"rank", "prompts", "model"})
    # the seeds of fitting are not in the rankers' settings
    seeds = [config.run.seed, config.train_seed]
    key = digest([made, settings, seeds, options.metric, options.ranker])
    path = config.run.folder / VALUE
    known = _known(path, key)
    if known is None:
        known = _measured(config.run.folder, options.ranker, options.metric)
        value = {"key": key, "metric": options.metric, "ranker": options.ranker}
        files.write_text(path, json.dumps(value | {"mean": known.mean, "se": known.se}))
    return {"estimate": [known.mean, known.se], "taken": taken}


def _known(path: Path, key: str) -> Estimate | None:
    """What was measured before; None where it was not, of something else, or cannot be read."""
    try:
        value = files.read_json(path)
        return Estimate(value["mean"], value["se"]) if value["key"] == key else None
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None


def _measured(folder: Path, ranker: str, metric: str) -> Estimate:
    config, dataset = load_config(folder / "config.toml"), Dataset.load(folder)
    summaries = read_summaries(folder, ("valid",))
    cases = [with_summary(case, summaries) for case in dataset.cases("valid")]
    if not cases:
        raise ConfigError(f"{folder}: a search needs validation cases, and there are none")
    run = RunDirectory(folder)
    adapter = adapter_of(run)
    # What the strategy has not summarized yet is summarized here: only test cases always are.
    writer = Recommender(config, dataset, adapter, ranker)
    queries = writer.summarized([case.query for case in cases], Silent())
    summaries = {one.id: one.summary for one in queries if one.summary is not None}
    # fitted here, a ranker is found by the stage `rank` of the best settings' run
    rankers, _ = fitted_rankers(config, run, dataset, summaries, CostBook(), Silent())
    found = rankers.get(ranker)
    lists = list(rank_what_fits(found, queries, lambda query, error: None, ranker))
    rankers.forget()
    return evaluate(cases, {"x": lists}, [metric])["x"].metrics[metric]
