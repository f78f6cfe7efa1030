"""Says of a run whose training ended near guessing that it did: its ranking tells little."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from trsr.rankers.settings import RankSettings
from trsr.storage.run_directory import StageRecord
from trsr.training import hardly_converged, late_loss

FLAG = "hardly_learned"
"""In the record of a training: whether it did not get far from guessing; left out where it did."""


def convergence(losses: Sequence[float], guess: float | None) -> dict[str, Any]:
    """What the record of a training says of its loss.

    Args:
        losses: Of each step.
        guess: Of a model that says the same of every candidate; None where that is not known.
    """
    late = late_loss(losses)
    if late is None or guess is None:
        return {}
    found: dict[str, Any] = {"late_loss": round(late, 4), "guess_loss": round(guess, 4)}
    return found | ({FLAG: True} if hardly_converged(late, guess) else {})


def convergence_notes(records: Mapping[str, StageRecord], rankers: Iterable[str]) -> list[str]:
    """What a reader of the table must know of the training; empty where it learned.

    Args:
        records: The run's stages.
        rankers: Which rankers it asks.
    """
    info = records["train"].info if "train" in records else {}
    asking = RankSettings().those("needs_training", rankers)
    if not info.get(FLAG) or not asking:
        return []
    return [
        f"{', '.join(asking)}: the training hardly learned: its loss ended at "
        f"{info['late_loss']:.2f}, and saying the same of every candidate has "
        f"{info['guess_loss']:.2f}. What the trained model ranks says little of these settings: "
        "another draw (train.seed), more cases or another learning rate may do better."
    ]
