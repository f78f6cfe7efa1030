"""`python -m benchmarks cluster`: the engine's own dispatching over simulated workers that fail."""

from __future__ import annotations

import heapq
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from benchmarks.options import ClusterOptions
from benchmarks.records import Record, Result
from trsr.engine.base import Done
from trsr.engine.cluster import ATTEMPTS
from trsr.engine.dispatch import Event, dispatch
from trsr.progress import Progress


@dataclass(frozen=True, slots=True)
class SimulatedShard:
    """A shard that takes so many seconds."""

    number: int
    seconds: float

    @property
    def name(self) -> str:
        """For people."""
        return f"shard {self.number}"

    @property
    def key(self) -> str:
        """Its number."""
        return str(self.number)

    def is_done(self) -> bool:
        """Only this simulation does it."""
        return False


@dataclass
class SimulatedFleet:
    """Workers in simulated seconds, as a `Fleet`.

    Attributes:
        options: How many there are, how often they fail, and how long one takes to come.
        now: Simulated seconds since the beginning.
        begun: How often a shard was begun.
        lost: Workers that were lost.
        used: Seconds of shards that were done.
        given_up: Shards that lost too many workers.
    """

    options: ClusterOptions
    now: float = 0.0
    begun: int = 0
    lost: int = 0
    used: float = 0.0
    given_up: int = 0
    _coming: list[tuple[float, int, Event[SimulatedShard]]] = field(default_factory=list)
    _number: int = 0

    def __post_init__(self) -> None:
        self._rng = np.random.default_rng(self.options.seed)
        self._fails = np.zeros(self.options.workers)
        for worker in range(self.options.workers):
            self._start(worker)

    def _start(self, worker: int) -> None:
        ready = self.now + self.options.start_seconds
        self._add(ready, Event(worker))
        failing = self.options.failing / 100 / 60  # a second
        self._fails[worker] = ready + (self._rng.exponential(1 / failing) if failing else np.inf)

    def _add(self, at: float, event: Event[SimulatedShard]) -> None:
        self._number += 1  # events of one moment come in the order in which they were caused
        heapq.heappush(self._coming, (at, self._number, event))

    def begin(self, worker: int, shard: SimulatedShard) -> None:
        """Ends with the shard, or before with the worker."""
        self.begun += 1
        end, fails = self.now + shard.seconds, max(self.now, float(self._fails[worker]))
        done = Event(worker, Done(shard, shard.seconds))
        self._add(*((fails, Event(worker, lost="failed")) if fails < end else (end, done)))

    def wait(self, seconds: float | None) -> Iterator[Event[SimulatedShard]]:
        """Goes to the next moment at which something happens."""
        self.now, _, event = heapq.heappop(self._coming)
        if event.lost:
            self.lost += 1
            self._start(event.worker)
        yield event

    def give_up(self, shard: SimulatedShard, cause: str) -> Done[SimulatedShard]:
        """Counts it."""
        self.given_up += 1
        return Done(shard, error=cause)


def simulate(options: ClusterOptions, progress: Progress) -> tuple[SimulatedFleet, int]:
    """Does all shards; also gives how many different ones were done.

    Args:
        options: Workers, shards, and how often workers fail.
        progress: Counts shards.
    """
    rng = np.random.default_rng(options.seed)
    # as of shards of users: the longest take some times as long as the median
    sigma = 0.5
    seconds = options.shard_seconds * rng.lognormal(-(sigma**2) / 2, sigma, options.shards)
    shards = [SimulatedShard(number, float(one)) for number, one in enumerate(seconds)]
    fleet, done = SimulatedFleet(options), set()
    for one in dispatch(fleet, shards, ATTEMPTS):
        if not one.error:
            fleet.used += one.shard.seconds
            done.add(one.shard.number)
        progress.advance(1)
    return fleet, len(done)


def bench_cluster(options: ClusterOptions, progress: Progress) -> Result:
    """Simulates a cluster whose workers never fail, and one whose workers do.

    Args:
        options: Workers, shards, and how often workers fail.
        progress: Counts shards.
    """
    records, notes = [], []
    first = 0.0
    progress.begin(2 * options.shards, "shards")
    for failing in (0.0, options.failing):
        began = time.perf_counter()
        fleet, done = simulate(options.with_failing(failing), progress)
        real = time.perf_counter() - began
        first = first or fleet.now
        share = fleet.used / (fleet.now * options.workers)
        name = f"{failing:g} % of the workers fail each minute"
        records.append(_record(name, fleet.now, first / fleet.now))
        notes.append(
            f"{name}: {share:.1%} of the workers' time was used; {done:,} of {options.shards:,} "
            f"shards done, {fleet.begun - done:,} begun in vain by {fleet.lost:,} workers that "
            f"were lost, {fleet.given_up:,} given up; dispatching took {real:.0f} real seconds"
        )
    title = (
        f"{options.workers:,} simulated workers, {options.shards:,} shards of about "
        f"{options.shard_seconds:g} s; a worker takes {options.start_seconds:g} s to come"
    )
    return Result(title, tuple(records), tuple(notes))


def _record(variant: str, seconds: float, ratio: float) -> Record:
    none = (None,) * 4
    place = ("simulated", "none")
    return Record("cluster", variant, *place, *none, seconds, None, ratio, 0.0, None, None)
