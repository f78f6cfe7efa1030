"""Fitting to the token budget: counts as little as it can, and never guesses."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from trsr.prompts.templates import PromptTemplate
from trsr.prompts.text import Line
from trsr.types import Prompt

_EDGE = 4
"""Tokens that a placeholder's two edges may add: text put between two words of the form can
break tokens that spanned its place."""


class Budget:
    """How many tokens a prompt may have, and whether it has more.

    Counting is exact where it decides. Where it need not, a bound is enough: no tokenizer used by
    language models today (byte-level BPE, or SentencePiece with byte fallback) makes more tokens
    of a text than it has UTF-8 bytes, so a form's own tokens, counted once, and the bytes of what
    is put into it are never fewer than the prompt's.

    Args:
        count: The tokens of a prompt, as the model reads it.
        tokens: The most there may be.
    """

    def __init__(self, count: Callable[[Prompt], int], tokens: int) -> None:
        self.count = count
        self.tokens = tokens
        self._own: dict[int, tuple[PromptTemplate, int]] = {}

    def bound(self, form: PromptTemplate, values: Mapping[str, str]) -> int:
        """Never fewer than the tokens of `form.fill(values)`."""
        key = id(form)
        if key not in self._own:
            self._own[key] = (form, self.count(form.fill(dict.fromkeys(values, ""))))
        return self._own[key][1] + sum(_bytes(text) + _EDGE for text in values.values())

    def fits(self, form: PromptTemplate, values: Mapping[str, str]) -> bool:
        """Whether the filled form has at most the budget's tokens."""
        return (
            self.bound(form, values) <= self.tokens or self.count(form.fill(values)) <= self.tokens
        )

    def longest(
        self, form: PromptTemplate, values: Mapping[str, str], slot: str, texts: Sequence[str]
    ) -> tuple[str, bool]:
        """Which of these texts makes the longest prompt in this place, and whether all fit.

        One exact count is enough as long as the budget leaves room for one more text.
        """
        most = max(texts, key=_bytes)
        if self.bound(form, {**values, slot: most}) <= self.tokens:
            return most, True
        if self.count(form.fill({**values, slot: most})) + _bytes(most) + _EDGE <= self.tokens:
            return most, True
        counts = {text: self.count(form.fill({**values, slot: text})) for text in set(texts)}
        most = max(texts, key=counts.__getitem__)
        return most, counts[most] <= self.tokens


def first_fit(steps: int, fits: Callable[[int], bool]) -> int | None:
    """The first of `steps` ever shorter steps that fits, None where none does.

    A binary search: the step returned was itself asked, so it fits even where a step before it
    has, oddly, fewer tokens.
    """
    found = bisect_left(range(steps), True, key=fits)
    return found if found < steps else None


class Told(NamedTuple):
    """How much of a judge prompt's shared part is told: latest items, their words, the summary's.

    `words` None: as the settings say.
    """

    recent: int
    words: int | None
    summary: int


def ladder(recent: Sequence[Line], summary: int) -> list[Told]:
    """Older items go first, then words of the latest one, then it, then words of the summary.

    Args:
        recent: The items, oldest first.
        summary: The summary's length in words.
    """
    rungs = [Told(count, None, summary) for count in range(len(recent), 0, -1)]
    if recent:
        rungs += [Told(1, most, summary) for most in range(recent[-1].longest - 1, 0, -1)]
    return rungs + [Told(0, None, words) for words in range(summary, -1, -1)]


def _bytes(text: str) -> int:
    return len(text.encode())
