"""Cuts a step's cases into micro-batches, counting what they compute together once."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence

from trsr.models.token_tree.tokens import Tokens, common
from trsr.training.encode import EncodedCase


class Batch:
    """Cases that go through one forward and backward pass.

    Args:
        alone: Whether each prompt is computed alone, and shares nothing.

    Attributes:
        cases: The cases.
        tokens: The tokens computed for them: those that prompts begin alike are counted once,
            within a case and across cases.
    """

    def __init__(self, alone: bool) -> None:
        self.cases: list[EncodedCase] = []
        self.tokens = 0
        self._alone = alone
        self._texts: list[Tokens] = []  # sorted, so that a text shares most with a neighbour

    def grown(self, cases: Iterable[EncodedCase]) -> Batch:
        """A batch of these cases and more; this one stays as it is."""
        batch = Batch(self._alone)
        batch.cases, batch.tokens = [*self.cases], self.tokens
        batch._texts = [*self._texts]
        for case in cases:
            batch.cases.append(case)
            batch.tokens += case.tokens if self._alone else sum(map(batch._fresh, case.texts))
        return batch

    def _fresh(self, text: Tokens) -> int:
        """Takes one text in; how many of its tokens no other has."""
        place = bisect_left(self._texts, text)
        near = self._texts[max(place - 1, 0) : place + 1]
        known = max((common(text, other) for other in near), default=0)
        self._texts.insert(place, text)
        return len(text) - known


def batches(cases: Sequence[EncodedCase], most: int, *, alone: bool) -> Iterator[Batch]:
    """Neighbouring cases that fit one pass together; a larger case is a pass of its own.

    Args:
        cases: A step's cases.
        most: About how many tokens one pass may hold.
        alone: Whether each prompt is computed alone, and shares nothing.
    """
    batch = Batch(alone)
    for case in cases:
        more = batch.grown([case])
        if batch.cases and more.tokens > most:
            yield batch
            more = Batch(alone).grown([case])
        batch = more
    yield batch
