"""Searches settings with Optuna by a metric on validation cases; only the best see test cases."""

from __future__ import annotations

import dataclasses
import statistics
import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from trsr.errors import ConfigError
from trsr.experiments.sweep.plan import Plan, flat, run_name
from trsr.experiments.sweep.running import failed, made
from trsr.experiments.sweep.table import Outcome, Swept
from trsr.progress import Progress
from trsr.settings import digest

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

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
