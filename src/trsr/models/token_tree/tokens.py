"""Token sequences, without any model: what they begin with in common, as numbers and as a tree."""

from __future__ import annotations

import itertools
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

Tokens = tuple[int, ...]
T = TypeVar("T")

MIN_SAVED = 32
"""A split that saves fewer tokens than this costs more (one more pass) than it brings."""
MIN_RUN = 8
"""A shared run shorter than this is not split off, whatever it saves: trees stay flat."""


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


def added(ordered: list[Tokens], tokens: Tokens) -> int:
    """Inserts a sequence into sorted ones; how many of its tokens are new after those before them.

    Sorted, a sequence shares most with a neighbour.
    """
    place = bisect_left(ordered, tokens)
    near = ordered[max(place - 1, 0) : place + 1]
    ordered.insert(place, tokens)
    return len(tokens) - max((common(tokens, other) for other in near), default=0)


@dataclass
class Node:
    """A run of tokens below a shared prefix.

    Attributes:
        tokens: The run.
        ends: (offset in the run, sequence) of the sequences whose last token stands here.
        children: The runs that follow this whole one.
    """

    tokens: Tokens
    ends: list[tuple[int, int]] = field(default_factory=list)
    children: list[Node] = field(default_factory=list)


def grow(ordered: Sequence[Tokens], min_saved: float = MIN_SAVED) -> list[Node]:
    """Builds the tree of distinct, sorted, non-empty sequences.

    Positions in `ordered` name the sequences in `Node.ends`. A split saves `min_saved` tokens at
    least.

    Returns:
        The tree's topmost runs.
    """
    top: list[Node] = []
    # (where new runs go, first and last sequence, tokens of the runs above, ends seen since)
    todo = [(top, 0, len(ordered), 0, list[tuple[int, int]]())] if ordered else []
    while todo:
        into, low, high, start, ends = todo.pop()
        stop = common(ordered[low], ordered[high - 1])
        # a sequence that others extend ends inside their run: it costs nothing
        while low < high and len(ordered[low]) == stop:
            ends.append((stop - start - 1, low))
            low += 1
            if low < high:
                stop = common(ordered[low], ordered[high - 1])
        if low == high:
            into.append(Node(ordered[high - 1][start:], ends))
            continue
        groups = _branches(ordered, low, high, stop)
        if stop - start >= MIN_RUN and (stop - start) * (len(groups) - 1) >= min_saved:
            node = Node(ordered[low][start:stop], ends)
            into.append(node)
            into, start, ends = node.children, stop, []
        todo += [(into, first, last, start, ends if first == low else []) for first, last in groups]
    return top


def spread(top: Sequence[Node]) -> tuple[list[Node], list[list[int]]]:
    """The same tree with an end at every token.

    Returns:
        The tree, whose ends are numbered through; and for each sequence the numbers of its
        tokens, first to last.
    """
    paths: dict[int, list[int]] = {}
    count = 0

    def copied(nodes: Iterable[Node], above: list[int]) -> list[Node]:
        nonlocal count
        found = []
        for node in nodes:
            own = list(range(count, count + len(node.tokens)))
            count += len(own)
            here = above + own
            for offset, sequence in node.ends:
                paths[sequence] = here[: len(above) + offset + 1]
            found.append(Node(node.tokens, list(enumerate(own)), copied(node.children, here)))
        return found

    tree = copied(top, [])
    return tree, [paths[sequence] for sequence in range(len(paths))]


def filled(members: Iterable[T], budget: int, size: Callable[[T], int]) -> Iterator[list[T]]:
    """Members in their order, as many together as a budget of tokens holds, at least one."""
    batch: list[T] = []
    tokens = 0
    for member in members:
        if batch and tokens + size(member) > budget:
            yield batch
            batch, tokens = [], 0
        batch.append(member)
        tokens += size(member)
    if batch:
        yield batch


def _branches(ordered: Sequence[Tokens], low: int, high: int, at: int) -> list[tuple[int, int]]:
    """The ranges of sorted sequences that go on with the same token."""
    cuts = [i for i in range(low + 1, high) if ordered[i][at] != ordered[i - 1][at]]
    return list(zip([low, *cuts], [*cuts, high], strict=True))
