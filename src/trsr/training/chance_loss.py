"""The chance loss (that of an uninformed model), and whether a training got below it."""

from __future__ import annotations

import math
from collections.abc import Sequence

LATE = 5
"""The late steps are the last of this many equal parts."""

FEWEST = 5
"""With fewer late steps than this we don't judge."""

NEAR = 0.95
"""A late loss above this share of the chance loss means that training hardly converged.

Of the single trainings in benchmarks/recipes/ablations_ml100k.toml those that rank with an AUC of
.69 and more ended at .80 to .91 of it, and those that stayed at .65 at .93 to .98.
"""


def chance_loss(loss: str, cases: Sequence[tuple[int, int]]) -> float | None:
    """The lowest mean loss of a model that answers the same for every candidate.

    Args:
        loss: As `train.loss` names it.
        cases: (candidates, relevant candidates) of each case.

    Returns:
        Nats; None without cases, or where it depends on the words (the loss over the text).
    """
    if not cases:
        return None
    if loss == "listwise":
        return math.fsum(math.log(candidates) for candidates, _ in cases) / len(cases)
    if loss == "answer":  # every case weighs the same, however many candidates it has
        yes = math.fsum(relevant / candidates for candidates, relevant in cases) / len(cases)
        return -math.fsum(part * math.log(part) for part in (yes, 1 - yes) if part > 0)
    return None


def late_loss(losses: Sequence[float]) -> float | None:
    """The mean loss of the last fifth of the steps; None where these are fewer than five."""
    late = losses[-(len(losses) // LATE) :] if len(losses) >= LATE * FEWEST else ()
    return math.fsum(late) / len(late) if late else None


def hardly_converged(late: float | None, chance: float | None) -> bool:
    """Whether a training is known to have ended near the chance loss."""
    return late is not None and chance is not None and late > NEAR * chance
