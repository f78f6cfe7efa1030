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

ASKS = 200
"""How often in a row Optuna may propose tried settings before a search ends."""


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

    def distribution(self) -> BaseDistribution:
        """Optuna's.

        Raises:
            ValueError: If it is no range.
        """
        from optuna.distributions import FloatDistribution, IntDistribution

        if self.low >= self.high or not math.isfinite(self.high - self.low):
            raise ValueError("low must be below high")
        # The last number that there is: Optuna would find it too, and warn.
        high = max(self.values() or [self.high])
        if not self.integer:
            return FloatDistribution(self.low, high, log=self.log, step=self.step)
        step = self.step or 1
        if step != int(step):
            raise ValueError("between whole numbers the step is whole; for others write 1.0 for 1")
        return IntDistribution(int(self.low), int(high), log=self.log, step=int(step))


Space = Mapping[str, Sequence[Any] | Range]
"""`section.key` → what there is to choose from."""


@dataclass
class Draw:
    """Settings to try.

    Attributes:
        settings: `section.key` → value.
        value: What they came to, to be set before the next are drawn; None where they failed.
    """

    settings: Mapping[str, Any]
    value: float | None = None


def combinations(space: Space) -> int | None:
    """How many settings a space holds; None where there is no end of them."""
    listed = [_listed(one) for one in space.values()]
    known = [one for one in listed if one is not None]
    return math.prod(map(len, known)) if len(known) == len(listed) else None


def trials(space: Space, seed: int, most: int) -> Iterator[Draw]:
    """Settings to try, none of them twice; the next go by the values set on those before.

    Args:
        space: What is chosen from; where it holds no more than `most` settings, all are given.
        seed: Of the draws.
        most: How many, at most.

    Raises:
        ConfigError: If Optuna is not installed.
    """
    every = combinations(space)
    if every is not None and every <= most:
        listed = [_listed(one) or () for one in space.values()]
        yield from (Draw(dict(zip(space, one, strict=True))) for one in itertools.product(*listed))
        return
    optuna = _optuna()
    sampler = optuna.samplers.TPESampler(seed=seed)
    study = optuna.create_study(direction="maximize", sampler=sampler)
    # Optuna takes plain values; a list among them is chosen by its place.
    distributions = {
        key: one.distribution()
        if isinstance(one, Range)
        else optuna.distributions.CategoricalDistribution(range(len(one)))
        for key, one in space.items()
    }
    known: set[str] = set()
    asks = 0
    while len(known) < most and asks < ASKS:
        trial = study.ask(distributions)
        drawn = Draw({key: _value(one, trial.params[key]) for key, one in space.items()})
        again = digest(drawn.settings) in known
        asks = asks + 1 if again else 0
        if not again:
            known.add(digest(drawn.settings))
            yield drawn
        # the value of tried settings is known already: reported twice, it would count twice
        failed = again or drawn.value is None
        study.tell(trial, drawn.value, state=optuna.trial.TrialState.FAIL if failed else None)


def _optuna() -> Any:
    try:
        import optuna
    except ImportError as error:
        raise ConfigError("a [search] needs Optuna: pip install 'trsr[sweep]'") from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


def _listed(choice: Sequence[Any] | Range) -> Sequence[Any] | None:
    return choice.values() if isinstance(choice, Range) else choice


def _value(choice: Sequence[Any] | Range, drawn: Any) -> Any:
    if not isinstance(choice, Range):
        return choice[drawn]
    return round(drawn, 12) if choice.step is not None and not choice.integer else drawn


def read_choice(where: str, value: Any) -> list[Any] | Range:
    """What stands at a setting of `search.space`.

    Args:
        where: Names the setting in a message.
        value: As the file gives it.

    Raises:
        ConfigError: If it is no list of values, and no range, or Optuna is not installed.
    """
    if isinstance(value, list) and value:
        return list({digest(one): one for one in value}.values())  # each once
    keys = set(value) if isinstance(value, Mapping) else set()
    if not {"low", "high"} <= keys <= {"low", "high", "step", "log"}:
        raise ConfigError(f"{where}: write a list of values, [a, b], or {{low = …, high = …}}")
    _optuna()
    try:
        return _range(value)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{where}: {dict(value)} is no range: {error}") from error


def _range(value: Mapping[str, Any]) -> Range:
    numbers = [value["low"], value["high"], value.get("step", 1)]
    if any(isinstance(one, bool) or not isinstance(one, int | float) for one in numbers):
        raise TypeError("low, high and step are numbers")
    if not isinstance(value.get("log", False), bool):
        raise TypeError("log is true or false")
    found = Range(**value)
    if found.step is not None and not 0 < found.step <= found.high - found.low:
        raise ValueError("step is above 0, and no more than from low to high")
    found.distribution()
    return found
