"""What a loss is where nothing was learned, and whether a training got away from there."""

from __future__ import annotations

import math
from collections.abc import Sequence

LATE = 5
"""The last of so many parts of the steps are the late ones."""

FEWEST = 5
"""Late steps below which nothing is said."""

NEAR = 0.95
"""From this share of the guess's loss on a training has hardly learned.

Of the single trainings in benchmarks/recipes/ablations_ml100k.toml those that rank with an AUC of
.69 and more ended at .80 to .91 of it, and those that stayed at .65 at .93 to .98.
"""


def chance_loss(loss: str, cases: Sequence[tuple[int, int]]) -> float | None:
    """The mean loss of a model that says the same of every candidate, at its best.

    Args:
        loss: As `train.loss` names it.
        cases: Of each case how many candidates it has, and how many of them are relevant.

    Returns:
        Nats; None without cases, or where it depends on the words (the loss over the text).
    """
    if not cases:
        return None
    if loss == "listwise":
        return math.fsum(math.log(whole) for whole, _ in cases) / len(cases)
    if loss == "answer":  # every case weighs the same, however many candidates it has
        yes = math.fsum(right / whole for whole, right in cases) / len(cases)
        return -math.fsum(part * math.log(part) for part in (yes, 1 - yes) if part > 0)
    return None


def late_loss(losses: Sequence[float]) -> float | None:
    """The mean loss of the last fifth of the steps; None where these are fewer than five."""
    late = losses[-(len(losses) // LATE) :] if len(losses) >= LATE * FEWEST else ()
    return math.fsum(late) / len(late) if late else None


def hardly_converged(late: float | None, guess: float | None) -> bool:
    """Whether a training is known to have ended near where guessing is."""
    return late is not None and guess is not None and late > NEAR * guess
