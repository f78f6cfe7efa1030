"""Draws the settings of a search's trials with Optuna, none of them twice."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from trsr.errors import ConfigError
from trsr.settings import derive_seed, digest
from trsr.sweep.space import Range, combinations, size

if TYPE_CHECKING:
    from optuna import Study, Trial

ASKS = 20
"""Settings that Optuna may draw in turn that were tried before, until one of the rest is taken."""


@dataclass(frozen=True)
class Drawn:
    """What a trial is to try.

    Attributes:
        trial: Optuna's.
        settings: `section.key` → value.
    """

    trial: Trial
    settings: Mapping[str, Any]


class Draws:
    """Settings to try, one after the other; they follow from the seed and the values told.

    Args:
        space: What is chosen from.
        seed: Of the draws.

    Raises:
        ConfigError: If Optuna is not installed.
    """

    def __init__(self, space: Mapping[str, Sequence[Any] | Range], seed: int) -> None:
        self._space = space
        self._study = _study(seed)
        self._lots = random.Random(derive_seed(seed, "untried settings"))  # noqa: S311 - no secret
        self._drawn: set[str] = set()

    def next(self) -> Drawn | None:
        """Settings that were not drawn before; None where there are no others."""
        for _ in range(ASKS):
            drawn = self._ask()
            if self._is_new(drawn.settings):
                return drawn
            # Its value is told already: told twice, it would count twice.
            self.tell(drawn, None)
        untried = self._untried()
        if untried is None:
            return None
        self._study.enqueue_trial(untried)
        drawn = self._ask()
        return drawn if self._is_new(drawn.settings) else None

    def tell(self, drawn: Drawn, value: float | None) -> None:
        """Tells what settings came to; None where they failed."""
        if value is not None:
            self._study.tell(drawn.trial, value)
            return
        from optuna.trial import TrialState

        self._study.tell(drawn.trial, state=TrialState.FAIL)

    def _ask(self) -> Drawn:
        trial = self._study.ask()
        return Drawn(trial, {key: _suggested(trial, key, one) for key, one in self._space.items()})

    def _is_new(self, settings: Mapping[str, Any]) -> bool:
        key = self._key(settings)
        if key in self._drawn:
            return False
        self._drawn.add(key)
        return True

    def _key(self, settings: Mapping[str, Any]) -> str:
        """The same of the same settings: 0.1 + 0.2 is 0.3 in a range by steps of 0.1."""
        return digest(
            {
                key: one.place(settings[key]) if isinstance(one, Range) else settings[key]
                for key, one in self._space.items()
            }
        )

    def _untried(self) -> dict[str, Any] | None:
        """Some settings that were not drawn, as Optuna names them; None where there are none.

        Between numbers without end nothing is counted up.
        """
        count = combinations(self._space)
        if count is None:
            return None
        start = self._lots.randrange(count)
        for step in range(count):  # at most as many are passed over as were drawn
            named, settings, rest = {}, {}, (start + step) % count
            for key, one in self._space.items():
                rest, place = divmod(rest, size(one) or 1)
                settings[key] = one.number(place) if isinstance(one, Range) else one[place]
                named[key] = settings[key] if isinstance(one, Range) else place
            if self._key(settings) not in self._drawn:
                return named
        return None


def _study(seed: int) -> Study:
    try:
        import optuna
    except ImportError as error:
        raise ConfigError("a [search] needs Optuna: pip install 'trsr[sweep]'") from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=seed))


def _suggested(trial: Trial, key: str, space: Sequence[Any] | Range) -> Any:
    if not isinstance(space, Range):
        # Optuna takes plain values; a list among them is chosen by its place.
        return space[trial.suggest_categorical(key, list(range(len(space))))]
    # the last one that there is: Optuna would find it too, and warn
    high = space.high if space.count is None else space.number(space.count - 1)
    if space.whole:
        step = 1 if space.step is None else int(space.step)
        return trial.suggest_int(key, int(space.low), int(high), step=step, log=space.log)
    return trial.suggest_float(key, space.low, high, step=space.step, log=space.log)
