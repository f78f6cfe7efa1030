"""What a judge prompt tells of the user, from all of it to nothing: rung by rung, until it fits."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from trsr.prompts.text import Line

DROP = 4
"""Items that the chain layout leaves out at a time, counted from its oldest one. The next targets
of a user then leave out the same ones, until these no longer suffice."""


class Told(NamedTuple):
    """How much of a judge prompt's shared part is told: latest items, their words, the summary's.

    `words` None: as the settings say.
    """

    recent: int
    words: int | None
    summary: int


def recent_ladder(recent: Sequence[Line], summary: int) -> list[Told]:
    """Older items go first, then words of the latest one, then it, then words of the summary.

    Args:
        recent: The items, oldest first.
        summary: The summary's length in words.
    """
    ladder = [Told(count, None, summary) for count in range(len(recent), 0, -1)]
    if recent:
        ladder += [Told(1, most, summary) for most in range(recent[-1].longest - 1, 0, -1)]
    return ladder + [Told(0, None, words) for words in range(summary, -1, -1)]


def chain_ladder(items: Sequence[Line], summary: int) -> list[Told]:
    """The same order in few and coarse rungs, the same for successive targets.

    The oldest items go first, `DROP` at a time; then words of all that are left, to a power of
    two for each value; then these items; then words of the summary, to a power of two. A target
    and the next one mostly stand on the same rung, and then still begin alike.

    Args:
        items: The items, oldest first.
        summary: The summary's length in words.
    """
    ladder = [Told(count, None, summary) for count in range(len(items), 0, -DROP)]
    if items:
        left = ladder[-1].recent
        longest = max(line.longest for line in items[-left:])
        ladder += [Told(left, most, summary) for most in _halves(longest)]
    return ladder + [Told(0, None, words) for words in (summary, *_halves(summary), 0)]


def _halves(words: int) -> Iterator[int]:
    """The powers of two below a number, falling to 1."""
    exponent = max(words - 1, 0).bit_length() - 1
    return (1 << power for power in range(exponent, -1, -1))
