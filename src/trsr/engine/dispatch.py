"""The loop that hands shards to workers, whatever these are: processes, actors, or simulated."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol

from trsr.engine.base import POLL, Done, S


@dataclass(frozen=True)
class Event(Generic[S]):
    """Something happened to a worker.

    Attributes:
        worker: Its number.
        done: What became of its shard; None: it is ready for its first one, or another process
            does the shard that it was given.
        lost: How the worker was lost; empty where it was not. It says when it is ready again.
    """

    worker: int
    done: Done[S] | None = None
    lost: str = ""


class Fleet(Protocol[S]):
    """Workers, each of which does one shard at a time, and which may be lost at any moment."""

    def begin(self, worker: int, shard: S) -> None:
        """Gives a ready worker a shard."""

    def wait(self, seconds: float | None) -> Iterable[Event[S]]:
        """What has happened; waits for it, but no longer than this. None: as long as it takes."""

    def give_up(self, shard: S, cause: str) -> Done[S]:
        """A shard lost its worker too often; notes that it failed."""


def dispatch(fleet: Fleet[S], shards: Sequence[S], attempts: int) -> Iterator[Done[S]]:
    """Does each shard once; one that lost its worker comes again, behind all others.

    It may lose so many: one that takes too much memory loses them all.

    Yields:
        What became of each, as it finishes.
    """
    todo, idle = deque(shards), deque[int]()
    elsewhere: list[S] = []
    under_way: dict[int, S] = {}
    lost: Counter[str] = Counter()
    while todo or elsewhere or under_way:
        while todo and idle:
            worker = idle.popleft()
            under_way[worker] = todo.popleft()
            fleet.begin(worker, under_way[worker])
        for event in fleet.wait(POLL if elsewhere else None):
            shard = under_way.pop(event.worker, None)
            if not event.lost:
                idle.append(event.worker)
                if event.done is not None:
                    yield event.done
                elif shard is not None:
                    elsewhere.append(shard)
            elif shard is not None:
                lost[shard.key] += 1
                if lost[shard.key] < attempts:
                    todo.append(shard)
                else:
                    yield fleet.give_up(shard, event.lost)
        if not todo:
            todo.extend(elsewhere)
            elsewhere.clear()


LOOK = 1.0
"""Seconds between two looks at workers that do one thing together."""


def together(
    fleet: Fleet[S],
    shards: Sequence[S],
    look: Callable[[], None],
    stays: Callable[[], bool] = lambda: True,
) -> list[Done[S]]:
    """Does shards that need each other, all at one time, each by a worker of its own.

    `look` is called now and then; `stays` tells whether there is room for those that are not there
    yet.

    Returns:
        What became of each. Where one failed or lost its worker: what was known until then, this
        one last. Empty where there is no room.
    """
    ready: list[int] = []
    under_way: dict[int, S] = {}
    found: list[Done[S]] = []
    while len(found) < len(shards):
        for event in fleet.wait(LOOK):
            if event.lost and event.worker in under_way:
                return [*found, fleet.give_up(under_way[event.worker], event.lost)]
            if event.done is not None:
                found.append(event.done)
                if event.done.error:
                    return found
            elif not event.lost:
                ready.append(event.worker)
        if not under_way and len(ready) == len(shards):
            under_way = dict(zip(ready, shards, strict=True))
            for worker, shard in under_way.items():
                fleet.begin(worker, shard)
        look()
        if not under_way and not stays():
            return []
    return found
