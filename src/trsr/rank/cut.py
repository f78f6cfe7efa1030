"""Keeps the first places of a ranked list without deciding ties by the catalogue's order."""

from __future__ import annotations

from trsr.settings import derive_seed
from trsr.types import RankedList


def top(ranked: RankedList, n: int, seed: int) -> RankedList:
    """The first `n` places of a list.

    Where the cut falls among equal scores, lots decide which of them are kept, drawn by the seed,
    the query and the item: the expected value of a metric with a cut-off of at most `n` is then
    that of the whole list.

    Args:
        ranked: Best first.
        n: Places kept, at least 1.
        seed: The run's.
    """
    entries = ranked.entries
    if len(entries) <= n:
        return ranked
    last = entries[n - 1].score
    if entries[n].score != last:
        return RankedList(ranked.query, entries[:n])
    better = tuple(entry for entry in entries[:n] if entry.score > last)
    tied = [place for place in range(len(better), len(entries)) if entries[place].score == last]
    lots = sorted(tied, key=lambda at: derive_seed(seed, "cut", ranked.query, entries[at].item))
    kept = sorted(lots[: n - len(better)])
    return RankedList(ranked.query, better + tuple(entries[place] for place in kept))
