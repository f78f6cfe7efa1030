"""`python -m benchmarks cluster`: simulated workers that fail, or a run on Ray beside one here."""

from __future__ import annotations

import heapq
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from benchmarks.options import ClusterOptions
from benchmarks.records import Place, Record, Result, Work, record
from benchmarks.timing import Timing
from trsr.engine.base import Done
from trsr.engine.cluster import ATTEMPTS
from trsr.engine.dispatch import Event, dispatch
from trsr.errors import ModelError
from trsr.machine import cores
from trsr.pipeline.runner import WAITED
from trsr.progress import Progress
from trsr.storage.run_directory import RunDirectory


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


def bench_ray(config: Path, options: ClusterOptions, progress: Progress) -> Result:
    """Runs a configuration here, and by one Ray worker with all cores of this machine, in turn.

    Each run is a command of its own with nothing stored. A stage on Ray counts without the time
    until its worker was there, which stands apart.

    Args:
        config: A TOML file, a recipe's name or a run directory.
        options: Settings in place of the file's, and repeats.
        progress: Counts runs.

    Raises:
        ModelError: If a run fails, with its last words.
    """
    ray = ["run.engine=ray", "run.workers=1", f"run.worker_cpus={cores()}"]
    found: dict[str, list[dict[str, Mapping[str, float]]]] = {"local": [], "ray": []}
    progress.begin(2 * options.repeats, "runs")
    for _ in range(options.repeats):
        for engine, own in (("local", []), ("ray", ray)):
            progress.advance(0, engine)
            found[engine].append(_run([str(config), *options.settings, *own]))
            progress.advance(1)
    records = []
    totals = dict.fromkeys(found, 0.0)
    for stage in found["local"][0]:
        local = Timing()
        for engine, runs in found.items():
            infos = [one[stage] for one in runs]
            timing = Timing([one["seconds"] - one.get(WAITED, 0.0) for one in infos])
            local = timing if engine == "local" else local
            totals[engine] += timing.median
            ratio, work = timing.median / max(local.median, 0.01), Work(1)
            records.append(
                record("cluster", f"{stage}/{engine}", Place("cpu", ""), timing, work, ratio)
            )
    waited = [sum(one.get(WAITED, 0.0) for one in run.values()) for run in found["ray"]]
    notes = (
        f"all stages: {totals['local']:.1f} s here, {totals['ray']:.1f} s on Ray after start-up: "
        f"{totals['ray'] / totals['local'] - 1:+.1%}; start-up {np.median(waited):.1f} s more",
        "ratio: Ray's time over that of the run here",
    )
    return Result("a run on Ray beside one here", tuple(records), notes)


def _run(words: list[str]) -> dict[str, Mapping[str, float]]:
    """Makes a run; its stages' records."""
    with tempfile.TemporaryDirectory(prefix="benchmarks-") as folder:
        own = [f"run.folder={folder}/run", f"run.cache={folder}/responses.sqlite"]
        done = subprocess.run(  # noqa: S603
            [sys.executable, "-m", "trsr", "run", *words, *own],
            env={**os.environ, "RAY_worker_niceness": "0", "RAY_ADDRESS": "local"},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise ModelError(done.stderr.strip()[-2000:])
        records = RunDirectory(Path(folder, "run")).records()
        return {name: one.info for name, one in records.items()}
