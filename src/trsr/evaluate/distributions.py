"""Student's t for whole degrees of freedom, so that a t test needs no further library."""

from __future__ import annotations

import math

import numpy as np


def t_two_sided(t: float, df: int) -> float:
    """The chance of a value at least as far from 0 as `t`, under Student's t.

    The finite sums for whole degrees of freedom of Abramowitz and Stegun, *Handbook of
    Mathematical Functions* (1964), 26.7.3 and 26.7.4. Below about 1e-15 the result is 0.

    Args:
        t: Any number; infinite gives 0.
        df: Degrees of freedom, at least 1.

    Raises:
        ValueError: If `df` is below 1.
    """
    if df < 1:
        raise ValueError(f"Student's t has at least one degree of freedom, not {df}")
    angle = math.atan2(abs(t), math.sqrt(df))
    cos2 = math.cos(angle) ** 2
    # Factors (j-1)/j cos² lead from one term of the sum to the next: j = 2, 4, … where df is
    # even, 3, 5, … where it is odd.
    steps = np.arange(2 + df % 2, df - 1 + df % 2, 2)
    terms = float(np.cumprod((steps - 1) / steps * cos2).sum())
    if df % 2 == 0:
        inside = math.sin(angle) * (1 + terms)
    else:
        first = math.sin(angle) * math.cos(angle) * (1 + terms) if df > 1 else 0.0
        inside = 2 / math.pi * (angle + first)
    return min(1.0, max(0.0, 1.0 - inside))


def t_quantile(confidence: float, df: int) -> float:
    """How far from 0 Student's t stays with this chance, such as 12.7 for .95 and one degree.

    Raises:
        ValueError: If `confidence` is not between 0 and 1, or `df` is below 1.
    """
    if not 0 < confidence < 1:
        raise ValueError(f"a confidence lies between 0 and 1; {confidence} does not")
    low, high = 0.0, 1.0
    while t_two_sided(high, df) > 1 - confidence:
        high *= 2
    for _ in range(100):
        middle = (low + high) / 2
        outside = t_two_sided(middle, df) > 1 - confidence
        low, high = (middle, high) if outside else (low, middle)
    return (low + high) / 2
