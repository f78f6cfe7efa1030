"""What a search chooses from: listed values and ranges of numbers, drawn with Optuna."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from trsr.errors import ConfigError
from trsr.settings import digest

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.trial import Trial

ASKS = 20
"""How often Optuna may propose tried settings before one of the rest is taken."""


@dataclass(frozen=True)
class Range:
    """A range of numbers to search; integers where both ends are."""

    low: float
    high: float
    step: float | None = None
    log: bool = False

    @property
    def integer(self) -> bool:
        """Whether its numbers are integers."""
        return isinstance(self.low, int) and isinstance(self.high, int)

    def values(self) -> list[float] | None:
        """Its numbers; None where there is no end of them."""
        if self.step is None and not self.integer:
            return None
        step = self.step or 1
        count = math.floor((self.high - self.low) / step + 1e-9) + 1
        return [
            int(self.low) + n * int(step) if self.integer else round(self.low + n * step, 12)
            for n in range(count)
        ]


Space = Mapping[str, Sequence[Any] | Range]
"""`section.key` → what there is to choose from."""


def combinations(space: Space) -> int | None:
    """How many settings a space holds; None where there is no end of them."""
    listed = [_listed(one) for one in space.values()]
    known = [one for one in listed if one is not None]
    return math.prod(map(len, known)) if len(known) == len(listed) else None


def trials(space: Space, seed: int, most: int) -> Iterator[Draw]:
    """Settings to try, none of them twice; the next go by the values set on those before.

    Args:
        space: What is chosen from.
        seed: Of the draws.
        most: How many, at most.

    Raises:
        ConfigError: If Optuna is not installed.
    """
    try:
        import optuna
    except ImportError as error:
        raise ConfigError("a [search] needs Optuna: pip install 'trsr[sweep]'") from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    sampler = optuna.samplers.TPESampler(seed=seed)
    study = optuna.create_study(direction="maximize", sampler=sampler)
    distributions = {key: _distribution(one) for key, one in space.items()}
    known: set[str] = set()
    while len(known) < most:
        for _ in range(ASKS):
            trial = study.ask(distributions)
            settings = {key: _value(space[key], trial.params[key]) for key in space}
            if digest(settings) not in known:
                break
            # its value is known already: reported twice, it would count twice
            study.tell(trial, state=optuna.trial.TrialState.FAIL)
        else:
            untried = _untried(space, known)
            if untried is None:
                return
            study.enqueue_trial(untried)
            trial = study.ask(distributions)
            settings = {key: _value(space[key], trial.params[key]) for key in space}
        known.add(digest(settings))
        drawn = Draw(trial, settings)
        yield drawn
        if drawn.value is None:
            study.tell(trial, state=optuna.trial.TrialState.FAIL)
        else:
            study.tell(trial, drawn.value)


@dataclass
class Draw:
    """Settings to try.

    Attributes:
        trial: Optuna's.
        settings: `section.key` → value.
        value: What they came to, to be set before the next are drawn; None where they failed.
    """

    trial: Trial
    settings: Mapping[str, Any]
    value: float | None = None


def _listed(choice: Sequence[Any] | Range) -> Sequence[Any] | None:
    return choice.values() if isinstance(choice, Range) else choice


def _distribution(choice: Sequence[Any] | Range) -> BaseDistribution:
    from optuna.distributions import (
        CategoricalDistribution,
        FloatDistribution,
        IntDistribution,
    )

    if not isinstance(choice, Range):
        # Optuna takes plain values; a list among them is chosen by its place.
        return CategoricalDistribution(range(len(choice)))
    # The last number that there is: Optuna would find it too, and warn.
    high = max(choice.values() or [choice.high])
    if choice.integer:
        step = int(choice.step or 1)
        return IntDistribution(int(choice.low), int(high), log=choice.log, step=step)
    return FloatDistribution(choice.low, high, log=choice.log, step=choice.step)


def _value(choice: Sequence[Any] | Range, drawn: Any) -> Any:
    if not isinstance(choice, Range):
        return choice[drawn]
    return round(drawn, 12) if choice.step is not None and not choice.integer else drawn


def _untried(space: Space, known: set[str]) -> dict[str, Any] | None:
    """The first settings that were not drawn, as Optuna names them; None where there are none."""
    if combinations(space) is None:
        return None
    listed = [list(enumerate(_listed(one) or ())) for one in space.values()]
    for chosen in itertools.product(*listed):
        if digest({key: value for key, (_, value) in zip(space, chosen, strict=True)}) not in known:
            return {
                key: value if isinstance(space[key], Range) else place
                for key, (place, value) in zip(space, chosen, strict=True)
            }
    return None


def read_choice(where: str, value: Any) -> list[Any] | Range:
    """What stands at a setting of `search.space`.

    Args:
        where: Names the setting in a message.
        value: As the file gives it.

    Raises:
        ConfigError: If it is no list of values, and no range.
    """
    if isinstance(value, list) and value:
        return list({digest(one): one for one in value}.values())  # each once
    keys = set(value) if isinstance(value, Mapping) else set()
    if not {"low", "high"} <= keys <= {"low", "high", "step", "log"}:
        raise ConfigError(f"{where}: write a list of values, [a, b], or {{low = …, high = …}}")
    why = _fault(value)
    if why:
        raise ConfigError(f"{where}: {dict(value)} is no range: {why}")
    return Range(**value)


def _fault(value: Mapping[str, Any]) -> str:
    """Why a table is no range; empty where it is one."""
    low, high, log = value["low"], value["high"], value.get("log", False)
    numbers = [low, high, value.get("step", 1)]
    if not all(map(_is_number, numbers)) or not isinstance(log, bool):
        return "low, high and step are numbers, log is true or false"
    integer = isinstance(low, int) and isinstance(high, int)
    step = value.get("step")
    rules = (
        (low >= high, "low must be below high"),
        (
            log and (low <= 0 or step is not None),
            "with log, low is above 0 and there is no step",
        ),
        (
            step is not None and not 0 < step <= high - low,
            "step is above 0, and no more than from low to high",
        ),
        (
            integer and step is not None and not isinstance(step, int),
            "between whole numbers the step is whole; for others write 1.0 in place of 1",
        ),
    )
    return next((why for wrong, why in rules if wrong), "")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
