"""What the scores of rankers with a language model say as probabilities, and in which words."""

from __future__ import annotations

from collections.abc import Collection

from trsr.config import Config
from trsr.evaluate.calibration import P_YES
from trsr.rank.settings import BESIDE_PRIOR, JUDGES, TRAINED

WITH_PRIOR = f"{P_YES} with its prior"
"""What a probability is called that a cheap ranker has a say in."""


def likely_called(config: Config, ranker: str) -> str:
    """What a ranker's probabilities are called; empty where its score is no log-odds of yes.

    Without a prior a score is log p(yes) − log p(no) of the language model. With one, weight · the
    prior's score is added to that: no probability of the model any more, but the one that the
    answer loss was made small for (`train.losses.answer_loss`).
    """
    if ranker not in JUDGES:
        return ""
    return WITH_PRIOR if config.train.prior and ranker in BESIDE_PRIOR else P_YES


def likely_notes(config: Config, rankers: Collection[str]) -> list[str]:
    """What a reader of these rankers' probabilities must know of them."""
    trained = [name for name in rankers if name in TRAINED]
    notes = prior_notes(config, rankers)
    if trained and config.train.loss == "listwise":
        notes.append(
            f"{' and '.join(trained)}: the loss that was trained (listwise) compares a user's "
            "candidates with each other and does not ask how likely each is, so nothing has held "
            "these probabilities to the shares of right answers."
        )
    return notes


def prior_notes(config: Config, rankers: Collection[str]) -> list[str]:
    """What is meant by a probability with a prior, where one of the rankers has such."""
    return [
        f"{name}: {WITH_PRIOR} is not what the language model alone says of its prompt. The score "
        "that ranks is the model's log p(yes) − log p(no) plus the weighted, standardized score "
        f"of {config.train.prior} (train.prior), in training as here; this is the probability of "
        "yes that the sum stands for."
        for name in rankers
        if likely_called(config, name) == WITH_PRIOR
    ]
