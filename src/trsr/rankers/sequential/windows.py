"""Cuts users' sequences into windows, and windows into padded batches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]

PAD = -1
"""Fills a shorter sequence up; also a target that is not learned."""
MASK = -2
"""Stands where an item is to be filled in."""

_POOL = 20  # batches whose windows are sorted by length together


def windows(sequence: Ints, size: int, draw: np.random.Generator) -> Iterator[Ints]:
    """Cuts a sequence so that each item but the first follows another in exactly one window.

    Neighbours share one item. The first cut of a long sequence is drawn, so that from one pass to
    the next an item stands at other places, after more or fewer others.

    Args:
        sequence: [n] item numbers, oldest first.
        size: Most inputs of a window: it holds one item more.
        draw: Draws the first cut.

    Yields:
        Windows of 2 to `size + 1` items.
    """
    if len(sequence) < 2:
        return
    if len(sequence) <= size + 1:
        yield sequence
        return
    first = int(draw.integers(1, size + 1))
    for start in (0, *range(first, len(sequence) - 1, size)):
        yield sequence[start : (start or first - size) + size + 1]


def batches(found: Sequence[Ints], size: int, draw: np.random.Generator) -> Iterator[list[Ints]]:
    """All windows in drawn order, those of like length side by side, so that little is padded."""
    order = draw.permutation(len(found))
    groups: list[Ints] = []
    for start in range(0, len(order), size * _POOL):
        pool = order[start : start + size * _POOL]
        pool = pool[np.argsort([len(found[n]) for n in pool], kind="stable")]
        groups += [pool[at : at + size] for at in range(0, len(pool), size)]
    for group in draw.permutation(len(groups)):
        yield [found[n] for n in groups[group]]


def padded(sequences: Sequence[Ints]) -> Ints:
    """[sequences, longest] filled up with `PAD` at the end."""
    result = np.full((len(sequences), max(map(len, sequences))), PAD, dtype=np.int64)
    for row, sequence in zip(result, sequences, strict=True):
        row[: len(sequence)] = sequence
    return result
