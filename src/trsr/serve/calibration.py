"""Scores as probabilities: a curve fitted on the lists that the run itself ranked."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from trsr.data import Cases
from trsr.metrics.significance import Floats
from trsr.rankers import read_rankings
from trsr.rankers.llm import p_yes
from trsr.storage import files

LEAST = 30
"""Right candidates, and wrong ones, without which nothing is fitted."""
_STEPS = 50


@dataclass(frozen=True)
class Calibration:
    """p(yes) = sigmoid(slope · score + shift), after Platt (1999).

    It is the probability that a candidate is taken among candidates as the run's: of 20 sampled
    ones, one in 20 is.
    """

    slope: float
    shift: float

    def __call__(self, score: float) -> float:
        """The probability of a score."""
        return p_yes(self.slope * score + self.shift)


def calibration(run: Path, cases: Cases, ranker: str) -> Calibration | None:
    """Fits the curve of a ranker on the cases that the run ranked.

    Returns:
        None where the run has too few lists of this ranker, leaves out candidates in them, or
        ranks no better than chance, so that no score means a probability.
    """
    path = run / "rankings.parquet"
    if cases.full or not files.is_file(path):
        return None
    lists = read_rankings(path).get(ranker)
    if lists is None:
        return None
    rows = lists.frame.join(cases.frame.select("query", "relevant"), on="query")
    if not rows.height:
        return None
    rows = rows.explode("items", "scores").filter(pl.col("scores").is_finite())
    right = rows.select(pl.col("relevant").list.contains(pl.col("items"))).to_series().to_numpy()
    return fit(rows["scores"].to_numpy(), right.astype(np.float64))


def fit(scores: Floats, right: Floats) -> Calibration | None:
    """Fits the curve by Newton's method.

    Scores are finite; a candidate is right by 1, else 0.
    """
    positive, spread = right.sum(), scores.std()
    if min(positive, len(right) - positive) < LEAST or not spread:
        return None
    # Platt's targets: not quite 0 and 1, so that few examples do not make certain
    high, low = (positive + 1) / (positive + 2), 1 / (len(right) - positive + 2)
    targets = np.where(right > 0, high, low)
    centre = scores.mean()
    columns = np.stack([(scores - centre) / spread, np.ones(len(scores))], axis=1)
    found = np.zeros(2)
    for _ in range(_STEPS):
        chance = 1 / (1 + np.exp(-np.clip(columns @ found, -500, 500)))
        gradient = columns.T @ (chance - targets)
        weights = chance * (1 - chance)
        step = np.linalg.solve((columns.T * weights) @ columns + 1e-9 * np.eye(2), gradient)
        found -= step
        if np.abs(step).max() < 1e-10:
            break
    slope = float(found[0] / spread)
    if not (np.isfinite(found).all() and slope > 0):
        return None
    return Calibration(slope, float(found[1] - slope * centre))
