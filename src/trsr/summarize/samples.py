"""Several texts drawn for each prompt, and the one that is kept: self-consistency.

After Wang et al. (ICLR 2023) for answers in one word, and minimum Bayes risk decoding (Kumar and
Byrne, NAACL 2004) for whole texts: what a model says again and again in other words is less likely
to be a slip than what it says once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from trsr.prompts.stems import stems
from trsr.types import Prompt

Keep = Literal["agreeing", "grounded"]


@dataclass(frozen=True)
class Samples:
    """How many texts are drawn for each prompt, and which of them is kept.

    Attributes:
        number: At least one.
        keep: See `SummarizeSettings.keep`; of one sample nothing depends on it.
    """

    number: int
    keep: Keep

    def draws(self, prompt: Prompt) -> list[Prompt]:
        """The prompt as often as it is asked."""
        return [replace(prompt, draw=draw) for draw in range(self.number)]

    def best(self, prompt: Prompt, texts: Sequence[str]) -> int:
        """Which of the texts drawn after a prompt is kept: of equals the first.

        An empty one is kept only where all are.
        """
        if len(texts) == 1:
            return 0
        value = _VALUES[self.keep]
        values = [(bool(text), *value(text, texts, prompt)) for text in texts]
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


def groundedness(text: str, prompt: Prompt) -> float:
    """The share of a text's different words that stand in what the prompt last asked about."""
    asked = [message.content for message in prompt.messages if message.role == "user"][-1:]
    read, said = {stem for words in asked for stem in stems(words)}, set(stems(text))
    return len(said & read) / len(said) if said else 0.0


def _agreeing(text: str, texts: Sequence[str], prompt: Prompt) -> tuple[float, ...]:
    return (agreement(text, texts),)


def _grounded(text: str, texts: Sequence[str], prompt: Prompt) -> tuple[float, ...]:
    return (groundedness(text, prompt), agreement(text, texts))


_VALUES: Mapping[Keep, Callable[[str, Sequence[str], Prompt], tuple[float, ...]]] = {
    "agreeing": _agreeing,
    "grounded": _grounded,
}
