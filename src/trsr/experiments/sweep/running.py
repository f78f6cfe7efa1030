"""Runs a sweep: each run is a shard of the engine, and what others have made is copied.

A search asks Optuna for settings, by a metric on validation cases; only the best see test cases.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import statistics
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trsr.config import Config
from trsr.engine import Done, LocalEngine, Resources, exclusive
from trsr.errors import ConfigError, DataError, StoreError, TrsrError
from trsr.experiments.sweep.plan import Plan, Planned, flat, run_name
from trsr.experiments.sweep.table import PLACE, Outcome, Swept
from trsr.metrics.report import Estimate
from trsr.pipeline import is_finished, run_stage, stage_key, stage_names
from trsr.pipeline.finished_run import REPORT, FinishedRun, notes_about
from trsr.pipeline.pages import TRAINED
from trsr.pipeline.sharding import devices
from trsr.progress import Pace, Progress, Silent
from trsr.rankers.settings import OWN_ENCODER
from trsr.report.costs import read_costs
from trsr.settings import digest
from trsr.storage import files
from trsr.storage.run_directory import RunDirectory, StageRecord

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution


ERROR = "error.txt"
"""In a failed run's folder: why, and where there is one the whole trace."""

ENGINE = ".engine"
"""In the sweep's folder: the engine's locks, of runs and of stages that are being made."""

WAIT = 30.0
"""Seconds to wait for another process that writes the table."""


@dataclass(frozen=True)
class RunShard:
    """One run of a sweep.

    Attributes:
        name: Its folder's name.
        config: All its settings; they cross to the worker, so that a file which is edited while
            the sweep goes on changes no later run.
        folder: The sweep's, in which other runs may have made the same stages.
    """

    name: str
    config: Config
    folder: Path

    @property
    def key(self) -> str:
        """Of its name and settings."""
        return digest([self.name, self.config.model_dump(mode="json")])

    def is_done(self) -> bool:
        """Whether all stages are made, and still hold."""
        try:
            return is_finished(self.config)
        except TrsrError:  # reported when it is made
            return False


def sweep(
    plan: Plan, progress: Progress | None = None, processes: int = 1, only: Sequence[str] = ()
) -> Swept:
    """Makes all runs of a sweep; those that are done already stay as they are.

    Stages with the same settings and inputs are made once and copied; runs share a response cache.
    After each run `sweep.json` and `sweep.md` are written. A run that fails is reported, and the
    others go on; after a kill the same call resumes. Several calls, also of machines that share
    the folder, share a grid's runs among them, and each reports all.

    Args:
        plan: What to run.
        progress: Shows each run and its stage.
        processes: How many runs are made at a time, each in a process of its own.
        only: Names of the variants or runs to make now; empty: all. Runs that are done stand in
            the table too.

    Raises:
        ConfigError: If the settings of any run are wrong, or a name is none of them, before the
            first one begins; or if a search is to try several settings at a time, or only some.
        StoreError: If another process is at a search in this folder; or if the folder cannot be
            written.
    """
    progress = progress or Silent()
    if processes < 1 or (processes > 1 and plan.file.search is not None):
        raise ConfigError(
            f"{plan.path}: processes: {processes} cannot be; a search tries one run at a time, as "
            "it goes by what it has found, and a grid one or more"
        )
    chosen = plan.only(only)
    if plan.file.search is None:
        return _grid(plan, chosen, progress, processes)

    space = space_of(plan)
    with RunDirectory(plan.folder).locked(PLACE):
        return search(plan, space, progress)


def _grid(plan: Plan, chosen: Sequence[Planned], progress: Progress, processes: int) -> Swept:
    runs = {run.name: run for run in plan.grid()}
    found: dict[str, Outcome] = {}
    swept = _written(plan, runs, found, chosen)
    left = [run for run in chosen if run.name not in found]
    # Runs that were there already say nothing of how long one takes.
    progress.begin(len(left), "runs")
    for outcome, new in made(plan, left, progress, processes):
        found[outcome.name] = outcome
        swept = _written(plan, runs, found, chosen)
        progress.advance(int(new), outcome.name)
    return swept


def made(
    plan: Plan, runs: Sequence[Planned], progress: Progress, processes: int = 1
) -> Iterator[tuple[Outcome, bool]]:
    """Makes runs; each outcome as it ends, and whether this call has made it."""
    planned = {run.name: run for run in runs}
    engine = LocalEngine(plan.folder / ENGINE, progress)
    resources = Resources(processes, devices() if processes > 1 else ())
    shards = [shard_of(plan, run) for run in runs]
    with contextlib.closing(engine.map(make_run, shards, resources)) as results:
        for done in results:
            yield outcome_of(planned[done.shard.name], done), done.made


def _written(
    plan: Plan, runs: dict[str, Planned], found: dict[str, Outcome], chosen: Sequence[Planned]
) -> Swept:
    """Takes in what is there by now, no matter who made it, and writes the table."""
    with RunDirectory(plan.folder).locked(PLACE, wait=WAIT):  # nobody's row is written over
        for name, run in runs.items():
            if name not in found and shard_of(plan, run).is_done():
                found[name] = _tested(run)
        names = {run.name for run in chosen}
        swept = Swept(
            plan,
            tuple(found[name] for name in runs if name in found),
            left=tuple(name for name in runs if name not in names and name not in found),
        )
        if found:
            swept.write()
    return swept


def shard_of(plan: Plan, run: Planned) -> RunShard:
    """A run as a shard."""
    return RunShard(run.name, run.config, plan.folder)


def make_run(shard: RunShard, progress: Progress) -> None:
    """Does the stages of one run; those that other runs have made are copied."""
    for stage in stage_names(shard.config):
        inner = _Inner(progress, f"{shard.name}: {stage}")
        waits = functools.partial(
            progress.advance, 0, f"{shard.name}: waits for a run that makes the same {stage}"
        )
        with exclusive(shard.folder / ENGINE, stage_key(shard.config, stage), waits):
            run_stage(shard.config, stage, inner, _donors(shard))


def outcome_of(run: Planned, done: Done[RunShard]) -> Outcome:
    """What became of a run; where it failed, its folder says why."""
    if done.error:
        outcome = Outcome(run.name, run.settings, run.seed, error=done.error)
        return failed(outcome, run.config.run.folder, done.trace)
    files.remove(run.config.run.folder / ERROR)
    return _tested(run)


def failed(outcome: Outcome, folder: Path, trace: str = "") -> Outcome:
    """The outcome of a failed run, whose folder says why."""
    with contextlib.suppress(OSError):  # it is reported in any case
        files.make_folder(folder)
        parts = [outcome.error, *([trace] if trace else [])]
        files.write_text(folder / ERROR, "\n\n".join(parts) + "\n")
    return outcome


def _tested(run: Planned) -> Outcome:
    """What a run came to on its cases; failed where that cannot be read."""
    folder, outcome = run.config.run.folder, Outcome(run.name, run.settings, run.seed)
    finished = FinishedRun(folder)
    try:
        records = RunDirectory(folder).records()
        costs = read_costs(finished.report.get("costs"))
        return dataclasses.replace(
            outcome,
            taken=tuple(one for one in records if "taken_from" in records[one].info),
            rankers=_estimates(finished),
            bounds=finished.bounds,
            notes=notes_about(finished, finished.rankers),
            cases=finished.cases_digest,
            answers={name: finished.answers(name) for name in finished.values["ranker"].unique()},
            stages={one.ranker: _before(run.config, records, one.ranker) for one in costs},
            costs=costs,
        )
    except (StoreError, DataError) as error:
        return failed(dataclasses.replace(outcome, error=str(error)), folder)


def _before(config: Config, records: Mapping[str, StageRecord], ranker: str) -> float:
    """Seconds of the stages that a ranker reads, but for trainings: these are in its `preparing`.

    A stage of another package counts for every ranker, as nobody knows who reads it.
    """
    rank = config.rank
    asked = rank.with_members(ranker)
    if config.data.candidates == "full" and rank.orders(ranker):
        asked = rank.with_members(ranker, rank.retriever)
    trained = bool(rank.those("needs_training", asked))
    unread = {
        "summarize": not (config.reads_summary(asked) or (trained and config.summarized)),
        "describe": not (trained or rank.those("uses_llm", asked)),
        "encode": not (rank.text_model == OWN_ENCODER and rank.those("embeds_text", asked)),
    }
    none = {"prepare", "rank", "evaluate", *TRAINED.values()}
    none |= {name for name, left in unread.items() if left}
    return sum(
        float(one.info.get("seconds", 0.0)) for name, one in records.items() if name not in none
    )


def _estimates(run: FinishedRun) -> dict[str, dict[str, Estimate]]:
    """Each ranker → metric → estimate of a run's report."""
    try:
        return {
            ranker: {m: Estimate(one["mean"], one["se"]) for m, one in scores["metrics"].items()}
            for ranker, scores in run.report["rankers"].items()
        }
    except (KeyError, TypeError, AttributeError) as error:
        raise StoreError(
            f"{run.folder / REPORT}: not a report that trsr wrote; delete it, and give "
            "`trsr sweep` again"
        ) from error


def _donors(shard: RunShard) -> list[RunDirectory]:
    """The other runs in the folder whose manifest can be read."""
    found = []
    for path in files.listed(shard.folder):
        donor = RunDirectory(path)
        with contextlib.suppress(StoreError):
            if path != shard.config.run.folder and files.is_folder(path) and donor.records():
                found.append(donor)
    return found


class _Inner:
    """A stage's progress as a note beside the bar of runs."""

    def __init__(self, outer: Progress, name: str) -> None:
        self._outer = outer
        self._name = name
        self._pace = Pace()

    def begin(self, total: int | None, unit: str) -> None:
        self._pace.begin(total)
        self._outer.advance(0, self._name)

    def advance(self, steps: int = 1, note: str = "") -> None:
        self._pace.advance(steps)
        total = f"/{self._pace.total}, {self._pace.left()}" if self._pace.total else ""
        self._outer.advance(0, f"{self._name} {self._pace.done}{total}")


ASKS = 200
"""How often in a row Optuna may propose tried settings before a search ends."""


Choice = tuple["BaseDistribution", list[Any] | None]
"""Optuna's, and the values where they are listed: Optuna then chooses a place."""


def search(plan: Plan, space: Mapping[str, Choice], progress: Progress) -> Swept:
    """Tries settings, the next chosen by what was found, then tests the best ones.

    A trial is a run whose `rank.split` is `valid`. No trial repeats another's settings. Trials
    follow from the search's seed and the values before them, so that a search that was killed asks
    for the same trials again and finds them done.

    """
    optuna = _optuna()
    study = optuna.create_study(
        direction="maximize", sampler=optuna.samplers.TPESampler(seed=plan.search.seed)
    )
    progress.begin(plan.search.trials + 1, "trials")
    outcomes: dict[str, Outcome] = {}
    known: dict[str, float | None] = {}
    best: tuple[float, Mapping[str, Any]] | None = None
    asks = 0
    while len(known) < plan.search.trials and asks < ASKS:
        trial = study.ask({key: distribution for key, (distribution, _) in space.items()})
        settings = {
            key: listed[trial.params[key]] if listed else _rounded(trial.params[key])
            for key, (_, listed) in space.items()
        }
        key = digest(settings)
        asks = asks + 1 if key in known else 0
        # the value of tried settings is known already: given twice, it would count twice
        value = None if key in known else _tried(plan, settings, outcomes, progress)
        study.tell(trial, value, state=optuna.trial.TrialState.FAIL if value is None else None)
        if key in known:
            continue
        known[key] = value
        if value is not None and (best is None or value > best[0]):
            best = value, settings
        Swept(plan, tuple(outcomes.values()), best and best[1]).write()
        progress.advance(1, f"best {best[0]:.4f}" if best else "")
    if best is not None:
        outcomes |= {one.name: one for one, _ in made(plan, plan.tests(best[1]), progress)}
    swept = Swept(plan, tuple(outcomes.values()), best and best[1])
    swept.write()
    progress.advance(1)
    return swept


def _tried(
    plan: Plan, settings: Mapping[str, Any], outcomes: dict[str, Outcome], progress: Progress
) -> float | None:
    """The mean over seeds; None where a run failed or there is nothing to measure."""
    try:
        planned = plan.trial(settings)
    except ConfigError as error:  # values that contradict each other; other trials may do
        name = run_name(settings)
        wrong = Outcome(name, settings, None, error=str(error), trial=True)
        outcomes[name] = failed(wrong, plan.folder / name)
        return None
    ranker, metric = plan.search.ranker, plan.search.metric
    found = [dataclasses.replace(one, trial=True) for one, _ in made(plan, planned, progress)]
    outcomes |= {one.name: one for one in found}
    means = [None if one.error else one.rankers[ranker][metric].mean for one in found]
    known = [mean for mean in means if mean is not None]
    return statistics.fmean(known) if len(known) == len(means) else None


def space_of(plan: Plan) -> dict[str, Choice]:
    """What a search chooses from, by setting.

    Raises:
        ConfigError: If a list is empty, a range is none, or Optuna is not installed.
    """
    _optuna()
    return {
        key: _choice(f"{plan.path}: search.space.{key}", value)
        for key, value in flat(plan.search.space).items()
    }


def _choice(where: str, value: Any) -> Choice:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if isinstance(value, list) and value:
        listed = list({digest(one): one for one in value}.values())  # each once
        return CategoricalDistribution(range(len(listed))), listed
    keys = set(value) if isinstance(value, Mapping) else set()
    if not {"low", "high"} <= keys <= {"low", "high", "step", "log"}:
        raise ConfigError(f"{where}: write a list of values, [a, b], or {{low = …, high = …}}")
    if not isinstance(value.get("log", False), bool):
        raise ConfigError(f"{where}: log is true or false")
    whole = all(isinstance(value[key], int) for key in keys - {"log"})
    try:
        with warnings.catch_warnings():  # the last number that a step reaches is taken
            warnings.simplefilter("ignore")
            return (IntDistribution if whole else FloatDistribution)(**value), None
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{where}: {dict(value)} is no range: {error}") from error


def _rounded(number: float) -> float:
    """Without the last digits, in which steps of .1 add up to .30000000000000004."""
    return float(f"{number:.12g}") if isinstance(number, float) else number


def _optuna() -> Any:
    try:
        import optuna
    except ImportError as error:
        raise ConfigError("a [search] needs Optuna: pip install 'trsr[sweep]'") from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna
