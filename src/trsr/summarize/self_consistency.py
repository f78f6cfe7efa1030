"""Self-consistency: of several texts sampled for a prompt, the one that agrees most stays.

After Wang et al. (ICLR 2023) for short answers, and minimum Bayes risk decoding (Kumar and Byrne,
NAACL 2004) for texts: what a model writes again and again is less likely to be a slip.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from trsr.prompts.keywords import stems
from trsr.types import Prompt


def draws(prompt: Prompt, samples: int) -> list[Prompt]:
    """The prompt once for each sample."""
    return [replace(prompt, draw=draw) for draw in range(samples)]


def most_agreed(texts: Sequence[str]) -> int:
    """The place of the text that agrees most with the others; an empty one only if all are."""
    if len(texts) == 1:
        return 0
    values = [(bool(text), agreement(text, texts)) for text in texts]
    return values.index(max(values))


def agreement(text: str, texts: Sequence[str]) -> float:
    """The mean F1 (0 to 1) of a text's word stems, with repetitions, against those of the texts.

    A text's agreement with itself is the same for all, so it may be among the texts.
    """
    own = Counter(stems(text))
    return sum(_f1(own, Counter(stems(other))) for other in texts) / max(len(texts), 1)


def _f1(one: Counter[str], other: Counter[str]) -> float:
    both = one.total() + other.total()
    return 2 * (one & other).total() / both if both else 0.0
