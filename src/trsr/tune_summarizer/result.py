"""What tuning came to: its rounds, which one is kept, and why."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from trsr.evaluate import evaluate
from trsr.evaluate.comparison import difference_json
from trsr.evaluate.statistics import LEVEL, compare_columns, holm
from trsr.evaluate.table import decimals
from trsr.tune_summarizer.judging import log_likelihood
from trsr.types import Case, RankedList

LIKELIHOOD = "log_likelihood"
METRICS = ("auc", "ndcg@10")

Measured = Mapping[str, Mapping[str, Any]]
"""metric → the means `untuned` and `tuned`, and their paired difference as `difference_json`."""


@dataclass(frozen=True)
class Round:
    """One round.

    Attributes:
        number: Which, from 1.
        users: Training users whose samples could be judged.
        spread: The standard deviation of a user's samples' log-likelihoods, mean over users: what
            there is to choose from.
        gain: By how much the kept samples beat what they had to, mean over them; None where none
            was kept.
        kept: Users whose best sample so far is learned from.
        texts: Texts learned from.
        steps: Optimizer steps.
        losses: The first and the last step's loss.
        seconds: What the round took, its last sitting only.
        measured: On the validation cases; empty where nothing was trained.
        shown: Validation users for the page: `query`, `untuned`, `tuned`, `difference`.
    """

    number: int
    users: int
    spread: float
    gain: float | None = None
    kept: int = 0
    texts: int = 0
    steps: int = 0
    losses: Sequence[float] = ()
    seconds: float = 0.0
    measured: Measured = field(default_factory=dict)
    shown: Sequence[Mapping[str, Any]] = ()

    @property
    def difference(self) -> float | None:
        """How much higher the validation cases' log-likelihood is than before."""
        found: float | None = self.measured[LIKELIHOOD]["difference"] if self.measured else None
        return found


@dataclass(frozen=True)
class Tuned:
    """What tuning came to.

    Attributes:
        folder: The output folder.
        rounds: The rounds.
        kept: The number of the round that was kept; 0: none.
        why: Why, in a sentence.
        p_values: Of each round's log-likelihood, corrected for their number.
        made: Whether work was done, or all was there.
    """

    folder: Path
    rounds: Sequence[Round]
    kept: int
    why: str
    p_values: Sequence[float | None] = ()
    made: bool = True

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        rounds = [
            asdict(one) | {"p_holm": p} for one, p in zip(self.rounds, self.p_values, strict=True)
        ]
        return {"kept": self.kept, "why": self.why, "rounds": rounds}

    @classmethod
    def from_json(cls, folder: Path, value: Mapping[str, Any]) -> Tuned:
        """What `to_json` gave, from an earlier call."""
        p_values = [one["p_holm"] for one in value["rounds"]]
        rounds = [
            Round(**{name: told for name, told in one.items() if name != "p_holm"})
            for one in value["rounds"]
        ]
        return cls(folder, rounds, value["kept"], value["why"], p_values, made=False)

    def table(self) -> tuple[list[str], list[list[str]]]:
        """A header, and a row for each round."""
        names = [LIKELIHOOD, *METRICS]
        header = ["round", "kept", "texts", "steps", *(f"Δ {name}" for name in names), "p"]
        rows = []
        for one, p in zip(self.rounds, self.p_values, strict=True):
            cells = [_change(one.measured.get(name)) for name in names]
            counts = [str(one.number), f"{one.kept} of {one.users}", str(one.texts), str(one.steps)]
            rows.append([*counts, *cells, "–" if p is None else _p(p).removeprefix("p = ")])
        return header, rows


def _change(measured: Mapping[str, Any] | None) -> str:
    """A difference with its interval."""
    if measured is None or measured["difference"] is None:
        return "–"
    told = f"{measured['difference']:+.3f}"
    if measured["low"] is None:
        return told
    return f"{told} [{measured['low']:+.3f}, {measured['high']:+.3f}]"


def _p(value: float) -> str:
    return "p < .001" if value < 0.001 else f"p = {decimals(value)}"


def measure(
    cases: Sequence[Case], untuned: Mapping[str, RankedList], tuned: Mapping[str, RankedList]
) -> Measured:
    """Sets the summaries of the tuned model against those of the untuned one, paired by user.

    Args:
        cases: The validation cases; those without both lists are left out.
        untuned: The judge's list of each query, told the untuned model's summary.
        tuned: The same, told the tuned model's.

    Returns:
        The mean log-likelihood of the next item, AUC and NDCG@10 of both, and the differences.
    """
    both = [case for case in cases if case.query.id in untuned and case.query.id in tuned]
    sides = {"untuned": untuned, "tuned": tuned}
    lists = {name: [side[case.query.id] for case in both] for name, side in sides.items()}
    frame = evaluate(both, lists, METRICS).per_query
    values = {}
    for name, ranked in lists.items():
        own = frame.filter(ranker=name).select(METRICS).to_numpy()
        pairs = zip(ranked, both, strict=True)
        found = np.array([[log_likelihood(one, case.relevant)] for one, case in pairs])
        values[name] = np.hstack([found.reshape(len(both), 1), own])
    users = [case.query.history.user for case in both]
    differences = compare_columns(values["tuned"] - values["untuned"], users)
    means = {name: table.mean(axis=0).tolist() if both else [] for name, table in values.items()}
    return {
        metric: {
            "untuned": means["untuned"][place] if both else None,
            "tuned": means["tuned"][place] if both else None,
            **difference_json(differences[place]),
        }
        for place, metric in enumerate((LIKELIHOOD, *METRICS))
    }


def decide(folder: Path, rounds: Sequence[Round], *, significant: bool) -> Tuned:
    """Chooses the round with the highest gain on the validation cases, if it is a gain.

    Args:
        folder: The output folder.
        rounds: All rounds.
        significant: Whether the gain must be significant, with the p-values corrected for the
            number of rounds.
    """
    found = [one.measured.get(LIKELIHOOD, {}).get("p") for one in rounds]
    p_values = holm(found)
    best = max(
        (place for place, one in enumerate(rounds) if one.difference is not None),
        key=lambda place: rounds[place].difference or 0.0,
        default=None,
    )
    if best is None:
        why = "no sample of any training user beat what it had to: nothing was trained"
        return Tuned(folder, rounds, 0, why, p_values)
    gain, p = rounds[best].difference or 0.0, p_values[best]
    told = f"the log-likelihood of the validation cases' next items changed by {gain:+.3f} nats"
    told += f" in round {best + 1}, the best of {len(rounds)}" if len(rounds) > 1 else ""
    told += "" if p is None else f" ({_p(p)})"
    if gain <= 0:
        return Tuned(folder, rounds, 0, f"the tuned summarizer is no better: {told}", p_values)
    if significant and (p is None or p >= LEVEL):
        why = f"no significant gain, so nothing is kept (tune_summarizer.significant): {told}"
        return Tuned(folder, rounds, 0, why, p_values)
    return Tuned(folder, rounds, best + 1, f"the tuned summarizer is better: {told}", p_values)
