"""What the scores of rankers with a language model say as probabilities, and in which words."""

from __future__ import annotations

from collections.abc import Collection

from trsr.config import Config
from trsr.metrics.calibration import P_YES
from trsr.rankers.settings import RankSettings


def probability_labels(ranker: str) -> str:
    """What a ranker's probabilities are called; empty where its score is no log-odds of yes."""
    return P_YES if RankSettings().traits(ranker).log_odds else ""


def probability_notes(config: Config, rankers: Collection[str]) -> list[str]:
    """What a reader of these rankers' probabilities must know of them."""
    trained = config.rank.those("needs_training", rankers)
    notes = []
    if trained and config.train.loss == "listwise":
        notes.append(
            f"{' and '.join(trained)}: the loss that was trained (listwise) compares a user's "
            "candidates with each other and does not ask how likely each is, so nothing has held "
            "these probabilities to the shares of right answers."
        )
    return notes
