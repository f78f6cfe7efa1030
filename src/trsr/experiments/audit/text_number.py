"""The number that stands in an item's text: the year of its making, or else the first one."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

ENOUGH = 0.9
"""The share of the items that must have a number in a column for it to be looked at."""

_YEAR = re.compile(r"(?<!\d)(?:1[89]|20)\d\d(?!\d)")
_NUMBER = re.compile(r"\d+(?:\.\d+)?")


def mostly_years(texts: Sequence[str]) -> bool:
    """Whether more than half of the texts hold a year, 1800 to 2099; an empty text holds none."""
    return sum(_YEAR.search(text) is not None for text in texts) > len(texts) / 2


def number_in(text: str, *, years: bool) -> float:
    """The number of a text; NaN where there is none.

    Args:
        text: Any text.
        years: Whether it is the last year of the text; else it is the first number.
    """
    # A title may hold a year of its own; that of its making stands behind it.
    found = _YEAR.findall(text)[-1:] if years else _NUMBER.findall(text)[:1]
    return float(found[0]) if found else math.nan
