"""What summaries hold of what they summarize, counted in words: no model is asked.

Counting words does not say whether a summary is good, nor whether it helps a ranker. It finds
summaries that invent, loop, or say the same of everybody.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np

from trsr.evaluate.compute import estimate
from trsr.evaluate.report import Estimate
from trsr.evaluate.table import number, share
from trsr.prompts.stems import stems

FRAME = 0.5
"""A word that more than this share of the summaries have belongs to their form."""
FEWEST = 8
"""Summaries from which on their form can be told from what they say."""

SUMMARY_TEXTS = (
    "Words of three letters and more, compared by their first five, without those that more than "
    "half of the summaries have. They show summaries that invent, loop or say the same of "
    "everybody; whether summaries help, only a comparison of rankings shows."
)


@dataclass(frozen=True, slots=True)
class ToldOf:
    """A summary and what it was written about.

    Attributes:
        user: Whose it is.
        text: What it says.
        items: The texts of the items that it covers.
    """

    user: str
    text: str
    items: Sequence[str]


@dataclass(frozen=True, slots=True)
class SummaryTexts:
    """What summaries hold, as means over them. All but `words` are shares.

    Attributes:
        summaries: How many there are.
        words: Their length.
        grounded: Of a summary's different words, those that stand in the items it covers.
        elsewhere: Those that stand in the items of another user's summary: what a text that fits
            anybody would reach.
        covered: Of the items that a summary covers, those of which it says a word.
        repeated: Of a summary's words, those that it has said before.
        shared: Summaries that some other user has too, word for word; None where there is none.
    """

    summaries: int
    words: Estimate
    grounded: Estimate
    elsewhere: Estimate
    covered: Estimate
    repeated: Estimate
    shared: float | None

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        told = {
            "words": self.words,
            "grounded": self.grounded,
            "elsewhere": self.elsewhere,
            "covered": self.covered,
            "repeated": self.repeated,
        }
        means = {name: {"mean": one.mean, "se": one.se} for name, one in told.items()}
        return {"summaries": self.summaries, **means, "shared": self.shared}


def summary_rows(found: SummaryTexts) -> list[tuple[str, str]]:
    """What was counted, in words, with its mean and standard error."""
    means = (
        ("its words that stand in the items it covers", found.grounded),
        ("its words that stand in another user's items", found.elsewhere),
        ("items it covers of which it says a word", found.covered),
        ("its words that it has said before", found.repeated),
    )
    length = "" if found.words.mean is None else f"{found.words.mean:.1f}"
    return [
        ("summaries", f"{found.summaries:,}"),
        ("length in words", length),
        *((what, number(one)) for what, one in means),
        ("summaries that another user has word for word", share(found.shared)),
    ]


def summary_texts(told: Sequence[ToldOf]) -> SummaryTexts:
    """Counts the words of summaries.

    Words that stand in more than half of the summaries are not counted, but for the length: they
    are the form that all have (`the user likes`). A summary of which no word is left, or that
    covers no item, counts in no share that it has no value of.

    Args:
        told: Summaries of different users, in an order that has to do with nothing.
    """
    said = [stems(one.text) for one in told]
    often = Counter(word for words in said for word in set(words))
    frame = {word for word, n in often.items() if n > FRAME * len(told) and len(told) >= FEWEST}
    said = [[word for word in words if word not in frame] for words in said]
    known = [[set(stems(item)) for item in one.items] for one in told]
    every = [set().union(*items) for items in known]
    other = list(_others(told, every))
    texts = Counter(text for _, text in {(one.user, _plain(one.text)) for one in told})
    return SummaryTexts(
        len(told),
        _mean([len(one.text.split()) for one in told]),
        _mean(_share(set(words), own) for words, own in zip(said, every, strict=True)),
        _mean(_share(set(words), own) for words, own in zip(said, other, strict=True)),
        _mean(_covered(words, items) for words, items in zip(said, known, strict=True)),
        _mean(1 - len(set(words)) / len(words) if words else None for words in said),
        sum(texts[_plain(one.text)] > 1 for one in told) / len(told) if told else None,
    )


def _others(told: Sequence[ToldOf], every: Sequence[set[str]]) -> Iterator[set[str]]:
    """The words of the next other user's items."""
    for place, one in enumerate(told):
        following = chain(range(place + 1, len(told)), range(place))
        yield next((every[n] for n in following if told[n].user != one.user), set())


def _share(words: set[str], own: set[str]) -> float | None:
    return len(words & own) / len(words) if words and own else None


def _covered(words: Sequence[str], items: Sequence[set[str]]) -> float | None:
    return sum(not item.isdisjoint(words) for item in items) / len(items) if items else None


def _mean(values: Any) -> Estimate:
    return estimate(np.array([one for one in values if one is not None], np.float64))


def _plain(text: str) -> str:
    return " ".join(text.casefold().split())
