"""What a search chooses from: listed values, and ranges of numbers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from trsr.errors import ConfigError
from trsr.settings import digest


@dataclass(frozen=True)
class Range:
    """A range of numbers to search; whole ones where both ends are whole."""

    low: float
    high: float
    step: float | None = None
    log: bool = False

    @property
    def whole(self) -> bool:
        """Whether its numbers are whole."""
        return isinstance(self.low, int) and isinstance(self.high, int)

    @property
    def count(self) -> int | None:
        """How many numbers it has; None where there is no end of them."""
        if self.step is None and not self.whole:
            return None
        # decimal, as it is written: 0.3 / 0.1 is below 3
        low, high, step = (Decimal(str(one)) for one in (self.low, self.high, self.step or 1))
        return int((high - low) // step) + 1

    def number(self, place: int) -> float:
        """One of its numbers, where they are counted."""
        if self.whole:
            return int(self.low) + place * int(self.step or 1)
        return float(Decimal(str(self.low)) + place * Decimal(str(self.step)))

    def place(self, number: float) -> float:
        """Which of its numbers one is, where they are counted; else the number itself."""
        return number if self.count is None else round((number - self.low) / (self.step or 1))


def size(choice: Sequence[Any] | Range) -> int | None:
    """How many values there are to choose from; None where there is no end of them."""
    return choice.count if isinstance(choice, Range) else len(choice)


def combinations(space: Mapping[str, Sequence[Any] | Range]) -> int | None:
    """How many settings a space holds; None where there is no end of them."""
    counts = [size(one) for one in space.values()]
    known = [one for one in counts if one is not None]
    return math.prod(known) if len(known) == len(counts) else None


def read_choice(where: str, value: Any) -> list[Any] | Range:
    """What stands at a setting of `search.space`.

    Args:
        where: Of what a mistake is told.
        value: As the file gives it.

    Raises:
        ConfigError: If it is no list of values, and no range.
    """
    if isinstance(value, list) and value:
        return list({digest(one): one for one in value}.values())  # each once
    if not isinstance(value, Mapping) or not {"low", "high"} <= set(value) <= {
        *("low", "high", "step", "log")
    }:
        raise ConfigError(f"{where}: write a list of values, [a, b], or {{low = …, high = …}}")
    told = {key: one for key, one in value.items() if key != "log"}
    if not all(_is_number(one) for one in told.values()) or not isinstance(
        value.get("log", False), bool
    ):
        raise ConfigError(
            f"{where}: {dict(value)} is no range: low, high and step are numbers, log is true or "
            "false"
        )
    found = Range(**value)
    if not found.low < found.high:
        raise ConfigError(f"{where}: {dict(value)} is no range: low must be below high")
    if found.log and (found.low <= 0 or found.step is not None):
        raise ConfigError(
            f"{where}: {dict(value)} is no range: with log, low is above 0 and there is no step"
        )
    if found.step is not None and not 0 < found.step <= found.high - found.low:
        raise ConfigError(
            f"{where}: {dict(value)} is no range: step is above 0, and no more than from low to "
            "high"
        )
    if found.whole and found.step is not None and not isinstance(found.step, int):
        raise ConfigError(
            f"{where}: {dict(value)} is no range: between whole numbers the step is whole; for "
            "others write low and high with a point, such as 1.0"
        )
    return found


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
