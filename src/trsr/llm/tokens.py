"""Facts about token sequences, without any model: what they begin with in common."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

Tokens = tuple[int, ...]


@dataclass(frozen=True)
class TreeStats:
    """How much a set of sequences shares.

    Attributes:
        sequences: How many there are.
        tokens: Tokens of all of them, as pairwise computing would read them.
        distinct_tokens: Tokens that differ in themselves or in what stands before them.
    """

    sequences: int
    tokens: int
    distinct_tokens: int

    @property
    def ratio(self) -> float:
        """Tokens over distinct tokens: the most that sharing can bring."""
        return self.tokens / self.distinct_tokens if self.distinct_tokens else 1.0


def tree_stats(sequences: Sequence[Sequence[int]]) -> TreeStats:
    """Counts tokens and distinct tokens of some sequences."""
    tokens = sum(len(sequence) for sequence in sequences)
    return TreeStats(len(sequences), tokens, distinct_tokens(sequences))


def distinct_tokens(sequences: Sequence[Sequence[int]]) -> int:
    """Tokens that differ in themselves or in what stands before them: the tree's size."""
    ordered = sorted({tuple(sequence) for sequence in sequences})
    # sorted, a sequence's neighbour is the one that it shares most with
    shared = sum(common(*pair) for pair in itertools.pairwise(ordered))
    return sum(map(len, ordered)) - shared


def common(one: Tokens, other: Tokens) -> int:
    """How many tokens two sequences begin alike."""
    low, high = 0, min(len(one), len(other))
    while low < high:  # slices compare in C: halving beats a walk
        middle = (low + high + 1) // 2
        if one[low:middle] == other[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low
