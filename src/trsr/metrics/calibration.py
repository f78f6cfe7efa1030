"""Whether candidates that a ranker gives a probability of p are right p of the time."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from trsr.metrics.resampling import Floats

BINS = 10
"""Bins of equal width between 0 and 1."""

P_YES = "p(yes)"
"""What a ranker's probabilities are called where they are the language model's own."""


@dataclass(frozen=True, slots=True)
class Bin:
    """The candidates whose probability lies between two bounds.

    Attributes:
        low: The lower bound, included.
        high: The upper bound; included in the last bin only.
        candidates: How many there are.
        predicted: Their mean probability.
        right: Their share that is right.
    """

    low: float
    high: float
    candidates: int
    predicted: float
    right: float


@dataclass(frozen=True, slots=True)
class Calibration:
    """How far one ranker's probabilities can be read as such.

    Attributes:
        ranker: Its name.
        candidates: How many were looked at.
        base_rate: The share that is right: what a ranker that knows nothing should say.
        mean: The mean probability.
        ece: Expected calibration error: mean of |predicted − right| over bins, by their
            candidates (Naeini, Cooper and Hauskrecht, "Obtaining well calibrated probabilities
            using Bayesian binning", AAAI 2015); None without candidates, as the other numbers.
        brier: Mean squared error of the probabilities (Brier, 1950).
        bins: Those with a candidate, lowest first.
        called: What its probabilities are called.
    """

    ranker: str
    candidates: int
    base_rate: float | None
    mean: float | None
    ece: float | None
    brier: float | None
    bins: tuple[Bin, ...]
    called: str = P_YES

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        values = asdict(self)
        values.pop("ranker")
        return values


def calibrate(
    ranker: str, probabilities: Floats, right: Floats, called: str = P_YES
) -> Calibration:
    """Bins probabilities.

    Args:
        ranker: Whose they are.
        probabilities: [candidates] between 0 and 1.
        right: [candidates] 1 for a right answer, else 0.
        called: What they are called.
    """
    n = len(probabilities)
    if not n:
        return Calibration(ranker, 0, None, None, None, None, (), called)
    place = np.minimum((probabilities * BINS).astype(np.int64), BINS - 1)
    counts = np.bincount(place, minlength=BINS)
    predicted = np.bincount(place, probabilities, BINS)
    correct = np.bincount(place, right, BINS)
    bins = tuple(
        Bin(k / BINS, (k + 1) / BINS, int(c), float(predicted[k] / c), float(correct[k] / c))
        for k, c in enumerate(counts)
        if c
    )
    return Calibration(
        ranker,
        n,
        base_rate=float(right.mean()),
        mean=float(probabilities.mean()),
        ece=float(np.abs(predicted - correct).sum() / n),
        brier=float(((probabilities - right) ** 2).mean()),
        bins=bins,
        called=called,
    )
