"""Beam search among given texts: what is written follows the tree of their tokens."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from trsr.models.token_tree.tokens import Tokens

Floats = npt.NDArray[np.float64]
LogProbabilities = Callable[[Sequence[Tokens], Sequence[int]], Floats]
"""Sequences, tokens → log-probabilities of each token after each sequence, [sequences, tokens]."""


@dataclass(frozen=True, slots=True)
class Begun:
    """Texts `low` to `high` of the sorted ones, which begin with the same `length` tokens."""

    low: int
    high: int
    length: int
    score: float


class Search:
    """The search after one prompt.

    The texts' tokens have their ends, and are sorted and distinct: none begins another.
    """

    def __init__(self, stem: Tokens, texts: Sequence[Tokens], beams: int) -> None:
        self.stem, self.texts, self.beams = stem, texts, beams
        self.found: dict[int, float] = {}
        self._begun = [Begun(0, len(texts), 0, 0.0)] if texts else []

    def wanted(self) -> Iterator[tuple[Tokens, int]]:
        """The (sequence, next token) pairs whose log-probabilities the next step needs."""
        for one in self._begun:
            for _, pairs in self._ways(one):
                yield from pairs

    @property
    def going(self) -> bool:
        """Whether a begun text may still be among the best."""
        return bool(self._begun)

    def step(self, known: Callable[[Tokens, int], float]) -> None:
        """Goes on by a token."""
        begun = []
        for one in self._begun:
            for way, pairs in self._ways(one):
                score = one.score + sum(known(*pair) for pair in pairs)
                if way.length == len(self.texts[way.low]):
                    self.found[way.low] = score
                else:
                    begun.append(Begun(way.low, way.high, way.length, score))
        self._keep(begun)

    def _ways(self, one: Begun) -> Iterator[tuple[Begun, list[tuple[Tokens, int]]]]:
        """How a begun text may go on; where one text alone is left, to its end at once."""
        if one.high - one.low == 1:
            text = self.texts[one.low]
            pairs = [self._pair(text, at) for at in range(one.length, len(text))]
            yield Begun(one.low, one.high, len(text), one.score), pairs
            return
        at = one.length
        cuts = [
            place
            for place in range(one.low + 1, one.high)
            if self.texts[place][at] != self.texts[place - 1][at]
        ]
        for low, high in itertools.pairwise([one.low, *cuts, one.high]):
            yield Begun(low, high, at + 1, one.score), [self._pair(self.texts[low], at)]

    def _pair(self, text: Tokens, at: int) -> tuple[Tokens, int]:
        return self.stem + text[:at], text[at]

    def _keep(self, begun: Sequence[Begun]) -> None:
        """The best begun and finished texts; a begun one can only become less likely."""
        best = heapq.nlargest(self.beams, self.found.items(), key=lambda one: one[1])
        self.found = dict(best)
        least = best[-1][1] if len(best) == self.beams else -np.inf
        open_ones = [one for one in begun if one.score >= least]
        self._begun = heapq.nlargest(self.beams, open_ones, key=lambda one: one.score)


def search(searches: Sequence[Search], log_probabilities: LogProbabilities) -> None:
    """Runs searches to their ends, a token of all of them together."""
    while active := [one for one in searches if one.going]:
        pairs = [pair for one in active for pair in one.wanted()]
        rows = {sequence: at for at, sequence in enumerate(dict.fromkeys(s for s, _ in pairs))}
        columns = {token: at for at, token in enumerate(dict.fromkeys(t for _, t in pairs))}
        table = log_probabilities(list(rows), list(columns))

        def known(sequence: Tokens, token: int, table: Floats = table) -> float:
            return float(table[rows[sequence], columns[token]])  # noqa: B023 - used at once

        for one in active:
            one.step(known)
