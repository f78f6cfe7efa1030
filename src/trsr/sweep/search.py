"""Searches settings with Optuna: by a metric on validation cases, test cases for the best alone."""

from __future__ import annotations

import dataclasses
import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from trsr.config import load_config
from trsr.data import Dataset
from trsr.errors import ConfigError
from trsr.evaluate import evaluate
from trsr.evaluate.report import Estimate
from trsr.pipeline import STAGE_NAMES
from trsr.pipeline.artifacts import adapter_of, read_summaries, with_summary
from trsr.pipeline.costs import CostBook
from trsr.pipeline.ranking import fitted_rankers
from trsr.progress import Progress, Silent
from trsr.rank import rank_what_fits
from trsr.recommender import Recommender
from trsr.settings import digest
from trsr.store.rundir import RunDirectory, write_atomic
from trsr.sweep.claims import failed
from trsr.sweep.draws import Draws
from trsr.sweep.plan import Plan, Planned, run_name
from trsr.sweep.running import TRAINED, make_run, tested
from trsr.sweep.same_cases import SameCases
from trsr.sweep.space import combinations
from trsr.sweep.table import Outcome, Swept

VALUE = "validation.json"
"""In a run's folder: its metric on the validation cases, and of what it was measured."""


def search(plan: Plan, progress: Progress) -> Swept:
    """Tries settings, the next chosen by what was found, then tests the best ones.

    No trial repeats another's settings: where there are fewer than trials, all are tried. Trials
    follow from the search's seed and the values before them, so that a search that was
    killed asks for the same trials again and finds them done.

    Raises:
        ConfigError: If Optuna is not installed, there are no validation cases, or settings change
            them.
    """
    options = plan.file.search
    if options is None:
        raise ConfigError(f"{plan.path}: there is no [search]")
    draws = Draws(plan.space(), options.seed)
    trials = min(options.trials, combinations(plan.space()) or options.trials)
    progress.begin(trials + 1, "trials")
    cases = SameCases(plan, progress)
    cases.look_ahead()
    outcomes: dict[str, Outcome] = {}
    tried: list[tuple[float, dict[str, Any]]] = []
    for _ in range(trials):
        drawn = draws.next()
        if drawn is None:
            break
        settings = dict(drawn.settings)
        found = _tried(plan, settings, progress, cases)
        outcomes |= {one.name: one for one in found}
        value = _objective(found)
        draws.tell(drawn, value)
        if value is not None:
            tried.append((value, settings))
        best = max(tried, key=lambda one: one[0], default=None)
        Swept(plan, tuple(outcomes.values()), best and best[1]).write()
        progress.advance(1, f"best {best[0]:.4f}" if best else "")
    swept = _tested(plan, outcomes, tried, progress)
    swept.write()
    progress.advance(1)
    return swept


def _tried(
    plan: Plan, settings: Mapping[str, Any], progress: Progress, cases: SameCases
) -> list[Outcome]:
    try:
        runs = plan.trial(settings)
    except ConfigError as error:  # values that contradict each other; other trials may do
        name = run_name(settings)
        return [failed(Outcome(name, settings, None, error=str(error)), plan.folder / name)]
    prepared = [cases.prepared(run) for run in runs]  # of all seeds, before anything dear
    for run, one in zip(runs, prepared, strict=True):
        if not one.error and not len(Dataset.load(run.config.run.folder).cases("valid")):
            raise ConfigError(
                f"{plan.path}: a search goes by validation cases, and the trial {run.name} has "
                "none: make some (data.split, data.valid_share, data.valid_cases), or list values "
                "in a [grid]"
            )
    return [
        one if one.error else _validated(run, plan, progress)
        for run, one in zip(runs, prepared, strict=True)
    ]


def _validated(run: Planned, plan: Plan, progress: Progress) -> Outcome:
    def finish(run: Planned, outcome: Outcome) -> Outcome:
        return dataclasses.replace(outcome, validation=validation(run, plan))

    return make_run(run, plan.folder, TRAINED, progress, finish)


def _objective(found: Sequence[Outcome]) -> float | None:
    """The mean over seeds; None where a run failed or there is nothing to measure."""
    means = [one.validation.mean for one in found if one.validation is not None]
    known = [mean for mean in means if mean is not None]
    return statistics.fmean(known) if known and len(known) == len(found) else None


def validation(run: Planned, plan: Plan) -> Estimate:
    """The search's metric on a run's validation cases; kept in the run's folder.

    Raises:
        ConfigError: If there are no validation cases.
    """
    options = plan.file.search
    if options is None:
        raise ConfigError(f"{plan.path}: there is no [search]")
    folder = run.config.run.folder
    records = RunDirectory(folder).records()
    made = {name: dict(records[name].files) for name in TRAINED}
    settings = run.config.model_dump(mode="json", include={"rank", "prompts", "model"})
    # what a ranker draws to be fitted is not in its settings
    seeds = [run.config.run.seed, run.config.train_seed]
    asked = digest([made, settings, seeds, options.metric, options.ranker])
    path = folder / VALUE
    known = _known(path, asked)
    if known is not None:
        return known
    found = _measured(folder, options.ranker, options.metric)
    value = {"asked": asked, "metric": options.metric, "ranker": options.ranker}
    write_atomic(path, json.dumps(value | {"mean": found.mean, "se": found.se}))
    return found


def _known(path: Path, asked: str) -> Estimate | None:
    """What was measured before; None where it was not, of something else, or cannot be read."""
    try:
        value = json.loads(path.read_text("utf-8"))
        return Estimate(value["mean"], value["se"]) if value["asked"] == asked else None
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
    told = {one.id: one.summary for one in queries if one.summary is not None}
    # fitted here, a ranker is found by the stage `rank` of the best settings' run
    rankers, _ = fitted_rankers(config, run, dataset, told, CostBook(), Silent())
    found = rankers.get(ranker)
    lists = list(rank_what_fits(found, queries, lambda query, error: None, ranker))
    rankers.forget()
    return evaluate(cases, {"x": lists}, [metric])["x"].metrics[metric]


def _tested(
    plan: Plan,
    outcomes: Mapping[str, Outcome],
    tried: Sequence[tuple[float, dict[str, Any]]],
    progress: Progress,
) -> Swept:
    """The best settings' runs ranked and evaluated on test cases."""
    if not tried:
        return Swept(plan, tuple(outcomes.values()))
    best = max(tried, key=lambda one: one[0])[1]
    found = dict(outcomes)

    def finish(run: Planned, outcome: Outcome) -> Outcome:
        known = outcomes[run.name].validation
        return dataclasses.replace(tested(run, outcome), validation=known)

    for run in plan.runs(best):
        found[run.name] = make_run(run, plan.folder, STAGE_NAMES, progress, finish)
    return Swept(plan, tuple(found.values()), best)
