"""Keeps the best sample of each user, where it is better enough."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from trsr.errors import StoreError
from trsr.store.rundir import write_atomic
from trsr.train.examples import Written
from trsr.tune_summarizer.samples import Sample
from trsr.types import Message, Prompt


@dataclass(frozen=True, slots=True)
class Kept:
    """A sample that is learned from.

    Attributes:
        query: Whose history it summarizes.
        text: The summary.
        log_likelihood: Of the next item, told this summary.
        reference: What it had to beat.
        greedy: The greedy summary of the model as it came.
        written: What the model wrote on the way, the summary's own text among it.
    """

    query: str
    text: str
    log_likelihood: float
    reference: float
    greedy: str
    written: tuple[Written, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Kept:
        """What `to_json` gave."""
        texts = [Written(**{**one, "prompt": _prompt(one["prompt"])}) for one in value["written"]]
        return cls(**{**value, "written": tuple(texts)})


def _prompt(value: Mapping[str, Any]) -> Prompt:
    return Prompt(tuple(Message(**one) for one in value["messages"]), value.get("draw", 0))


def keep(
    query: str,
    samples: Sequence[Sample],
    likelihoods: Sequence[float],
    *,
    reference: float,
    margin: float,
    greedy: str = "",
) -> Kept | None:
    """The sample with the highest log-likelihood, where it beats the reference by the margin.

    Args:
        query: Whose history the samples summarize.
        samples: The samples, at least one.
        likelihoods: One a sample.
        reference: What is to be beaten.
        margin: By more than how much, in nats.
        greedy: For the reader: what the model as it came says.

    Returns:
        None where no sample is better enough, or the best one says nothing. Of equal ones the
        first.
    """
    best = max(range(len(samples)), key=lambda place: (likelihoods[place], -place))
    sample, likelihood = samples[best], likelihoods[best]
    if likelihood - reference <= margin or not sample.summary.text or not sample.written:
        return None
    return Kept(query, sample.summary.text, likelihood, reference, greedy, sample.written)


def best_of(earlier: Mapping[str, Kept], now: Mapping[str, Kept]) -> dict[str, Kept]:
    """The better one of each user's, from all rounds so far; in the order of the queries' ids."""
    found = dict(earlier)
    for query, one in now.items():
        if query not in found or one.log_likelihood > found[query].log_likelihood:
            found[query] = one
    return dict(sorted(found.items()))


def write_kept(path: Path, kept: Mapping[str, Kept]) -> None:
    """Writes them as JSON lines, whole or not at all."""
    lines = (json.dumps(one.to_json(), ensure_ascii=False) for one in kept.values())
    write_atomic(path, "".join(f"{line}\n" for line in lines))


def read_kept(path: Path) -> dict[str, Kept]:
    """Reads what `write_kept` wrote.

    Raises:
        StoreError: If the file cannot be read.
    """
    try:
        # not splitlines: a text may hold other characters that end a line
        lines = [line for line in path.read_text("utf-8").split("\n") if line]
        found = [Kept.from_json(json.loads(line)) for line in lines]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StoreError(f"{path} cannot be read ({error}); remove its folder to go on") from error
    return {one.query: one for one in found}
