"""Several texts drawn for each prompt, and the one that is kept: self-consistency.

After Wang et al. (ICLR 2023) for answers in one word, and minimum Bayes risk decoding (Kumar and
Byrne, NAACL 2004) for whole texts: what a model says again and again in other words is less likely
to be a slip than what it says once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from trsr.prompts.stems import stems
from trsr.types import Prompt


@dataclass(frozen=True)
class Samples:
    """How many texts are drawn for each prompt, and which of them is kept.

    Attributes:
        number: At least one.
    """

    number: int

    def draws(self, prompt: Prompt) -> list[Prompt]:
        """The prompt as often as it is asked."""
        return [replace(prompt, draw=draw) for draw in range(self.number)]

    def best(self, texts: Sequence[str]) -> int:
        """Which of the texts drawn after a prompt agrees most with the others: of equals the first.

        An empty one is kept only where all are.
        """
        if len(texts) == 1:
            return 0
        values = [(bool(text), agreement(text, texts)) for text in texts]
        return values.index(max(values))


def agreement(text: str, texts: Sequence[str]) -> float:
    """How much a text has in common with the texts: the mean F1 of their words, from 0 to 1.

    Words are compared by their beginnings and counted as often as they stand. The text's agreement
    with itself is the same for all, so it may be among the texts.
    """
    own = Counter(stems(text))
    return sum(_f1(own, Counter(stems(other))) for other in texts) / max(len(texts), 1)


def _f1(one: Counter[str], other: Counter[str]) -> float:
    both = one.total() + other.total()
    return 2 * (one & other).total() / both if both else 0.0
