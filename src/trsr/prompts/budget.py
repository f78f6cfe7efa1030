"""Fits prompts to the token budget, with as few token counts as possible."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from trsr.prompts.templates import PromptTemplate
from trsr.prompts.text import Line
from trsr.types import Prompt

_EDGE = 4
"""Tokens that a filled placeholder's two edges may add, by breaking tokens that spanned it."""


class Budget:
    """How many tokens a prompt may have, and whether it has more.

    We count tokens only where a bound does not decide. No tokenizer of today's language models
    (byte-level BPE, or SentencePiece with byte fallback) makes more tokens of a text than it has
    UTF-8 bytes. So the template's own tokens plus the bytes of its values bound the prompt.

    Args:
        count: The tokens of a prompt, as the model reads it.
        tokens: The most there may be.
    """

    def __init__(self, count: Callable[[Prompt], int], tokens: int) -> None:
        self.count = count
        self.tokens = tokens
        self._own: dict[int, tuple[PromptTemplate, int]] = {}

    def bound(self, template: PromptTemplate, values: Mapping[str, str]) -> int:
        """Never fewer than the tokens of `template.fill(values)`."""
        key = id(template)
        if key not in self._own:
            self._own[key] = (template, self.count(template.fill(dict.fromkeys(values, ""))))
        return self._own[key][1] + sum(_bytes(text) + _EDGE for text in values.values())

    def fits(self, template: PromptTemplate, values: Mapping[str, str]) -> bool:
        """Whether the filled template has at most the budget's tokens."""
        return (
            self.bound(template, values) <= self.tokens
            or self.count(template.fill(values)) <= self.tokens
        )

    def longest(
        self, template: PromptTemplate, values: Mapping[str, str], slot: str, texts: Sequence[str]
    ) -> tuple[str, bool]:
        """The text that makes the longest prompt in this slot, and whether all texts fit.

        One exact count is enough as long as the budget leaves room for one more text.
        """
        most = max(texts, key=_bytes)
        if self.bound(template, {**values, slot: most}) <= self.tokens:
            return most, True
        if self.count(template.fill({**values, slot: most})) + _bytes(most) + _EDGE <= self.tokens:
            return most, True
        counts = {text: self.count(template.fill({**values, slot: text})) for text in set(texts)}
        most = max(texts, key=counts.__getitem__)
        return most, counts[most] <= self.tokens


def first_fit(steps: int, fits: Callable[[int], bool]) -> int | None:
    """The first of `steps` ever shorter steps that fits, None where none does.

    A binary search; the returned step was itself tested, so it does fit.
    """
    found = bisect_left(range(steps), True, key=fits)
    return found if found < steps else None


class Truncation(NamedTuple):
    """How much of a ranking prompt's shared part stays: recent items, their words, summary words.

    `words` None: as the settings say.
    """

    recent: int
    words: int | None
    summary: int


def truncations(recent: Sequence[Line], summary: int) -> list[Truncation]:
    """Ever shorter truncations of recent items (oldest first) and a summary of so many words.

    Older items go first, then words of the latest one, then it, then words of the summary.
    """
    steps = [Truncation(count, None, summary) for count in range(len(recent), 0, -1)]
    if recent:
        steps += [Truncation(1, most, summary) for most in range(recent[-1].longest - 1, 0, -1)]
    return steps + [Truncation(0, None, words) for words in range(summary, -1, -1)]


def _bytes(text: str) -> int:
    return len(text.encode())
