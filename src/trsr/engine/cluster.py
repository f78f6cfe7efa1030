"""Does shards on the machines of a Ray cluster: plain actors that are given one after the other.

Not by `ray.data`: in an earlier trial its pipelines stood still where actors hold fractions of
CPUs and leave less than one for the tasks that read. And actors are not restarted by Ray, which
cannot do it once the owner of their constructor's arguments is lost (Ray's issue 53727): a lost
one is replaced by a new one, which knows nothing. All that must last are the shards' files.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import platform
import socket
import time
import uuid
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Generic

from trsr.engine.base import (
    Done,
    Kept,
    Resources,
    S,
    Work,
    attempt,
    failures,
    let_go,
    note_failure,
)
from trsr.engine.dispatch import Event, dispatch, together
from trsr.errors import ConfigError
from trsr.progress import Progress, Silent
from trsr.registry import optional
from trsr.storage import files
from trsr.storage.run_directory import explained

ATTEMPTS = 5
"""Workers that a shard may lose. Where 1 % of the workers fail each minute, of a million shards of
half a minute some dozens lose two in a row, and none loses five."""

STARTS = 3
"""Workers that may be lost in a row before one of them has come to work at all."""

LOOK = 2.0
"""Seconds between two looks at the cluster while nothing happens."""

PATIENCE = 120.0
"""Seconds within which a node must have started a process, to be looked at before any work."""

REACH = 5.0
"""Seconds within which the cluster's head must answer."""


class RayEngine:
    """Does shards by actors of a Ray cluster.

    All nodes must see `folder` in the same place, and have the same packages.

    Args:
        folder: Holds locks and notes of failures.
        address: Of the cluster's head, HOST:PORT; empty: the cluster that this machine is part of
            (or `RAY_ADDRESS` names), and where there is none a new one on this machine.
        versions: Package → version, which each node must have.
        progress: Its notes say what the engine waits for; steps are the caller's.
    """

    def __init__(
        self,
        folder: Path,
        address: str = "",
        versions: Mapping[str, str] | None = None,
        progress: Progress | None = None,
    ) -> None:
        self._folder = folder
        self._address = address
        self._versions = {"python": platform.python_version(), **(versions or {})}
        self._progress = progress or Silent()
        self.waited = 0.0

    def map(
        self, work: Work[S], shards: Sequence[S], resources: Resources | None = None
    ) -> Generator[Done[S]]:
        """As `Engine.map`; shards that are done are not sent anywhere.

        Raises:
            ConfigError: If Ray is missing, the cluster cannot be reached, or a node does not see
                the folder, has other packages, or starts no worker.
        """
        todo = []
        for shard in shards:
            if shard.is_done():
                yield Done(shard, made=False)
            else:
                todo.append(shard)
        if not todo:
            return
        began = time.perf_counter()
        ray = connect(self._address)
        resources = resources or Resources()
        workers = min(resources.workers or _room(ray, resources), len(todo))
        with contextlib.closing(self._actors(ray, work, todo, resources)) as fleet:
            fleet.hire(workers)
            try:
                yield from dispatch(fleet, todo, ATTEMPTS)
            finally:
                self.waited += (fleet.ready_at or time.perf_counter()) - began

    def gang(
        self,
        work: Work[S],
        make: Callable[[int], Sequence[S]],
        most: int,
        resources: Resources,
        look: Callable[[], None],
    ) -> list[Done[S]]:
        """As `Engine.gang`; raises as `map`. With `resources.workers` they must all find room."""
        began = time.perf_counter()
        ray = connect(self._address)
        workers = min(resources.workers or _room(ray, resources), most)
        shards = make(workers)

        def stays() -> bool:
            return bool(resources.workers) or _room(ray, resources) >= workers

        with contextlib.closing(self._actors(ray, work, shards, resources)) as fleet:
            fleet.hire(workers)
            try:
                return together(fleet, shards, look, stays)
            finally:
                self.waited += (fleet.ready_at or time.perf_counter()) - began

    def check(self, resources: Resources) -> int:
        """Looks at each node that may have such a worker; how many there are. Raises as `map`."""
        ray = connect(self._address)
        _room(ray, resources)
        nodes = [
            one["NodeID"]
            for one in ray.nodes()
            if one["Alive"] and one["Resources"].get("CPU", 0) >= resources.cpus
        ]
        at = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy
        ask, plain = ray.remote(_wrong), {"num_cpus": 0, "max_retries": 0}
        with _marked(self._folder) as mark:
            calls = [
                ask.options(scheduling_strategy=at(node, soft=False), **plain).remote(
                    mark, self._versions
                )
                for node in nodes
            ]
            for call in calls:
                try:
                    wrong = ray.get(call, timeout=PATIENCE)
                except ray.exceptions.RayTaskError as error:
                    wrong = f"the cluster starts no worker: {str(error).strip()}"
                except ray.exceptions.RayError:  # lost meanwhile, or slow: an actor looks again
                    continue
                if wrong:
                    raise ConfigError(wrong)
        return len(nodes)

    def _actors(
        self, ray: Any, work: Work[S], shards: Sequence[S], resources: Resources
    ) -> _Actors[S]:
        before = failures(self._folder, shards)
        return _Actors(ray, self._folder, work, before, resources, self._versions, self._progress)


_QUIET: Mapping[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
"""What Ray prints is no output of the command."""


def connect(address: str) -> Any:
    """Ray, connected to a cluster.

    Raises:
        ConfigError: If Ray is not installed, or the cluster cannot be reached.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is sent to Ray's makers
    ray = optional("ray", "cluster", "run.engine = ray")
    if ray.is_initialized():
        return ray
    host, _, port = address.rpartition(":")
    if host in ("localhost", "127.0.0.1"):
        host = ray.util.get_node_ip_address()  # which Ray would take in its place
    if address and not _answers(host, port):
        raise ConfigError(
            f"run.address: no Ray cluster answers at {host}:{port}; start its head with `ray start "
            "--head --port=6379`, and name that machine as HOST:6379. This command itself must run "
            "on a machine of the cluster (`ray start --address=HOST:6379`)"
        )
    try:
        ray.init(address=address or None, **_QUIET)
    except (ray.exceptions.RayError, ConnectionError, RuntimeError, ValueError, OSError) as error:
        raise ConfigError(
            f"run.address: Ray cannot join the cluster {address or 'of this machine'}: {error}"
        ) from error
    return ray


def _answers(host: str, port: str) -> bool:
    """Asked first: Ray would wait for a minute, and end the process."""
    try:
        with socket.create_connection((host, int(port)), REACH):
            return True
    except (OSError, ValueError, OverflowError):
        return False


def _room(ray: Any, resources: Resources) -> int:
    """Workers that the cluster has room for, as it is now."""
    there = ray.cluster_resources()
    asked = {"CPU": resources.cpus, "GPU": resources.gpus}
    room = [int(there.get(kind, 0) / amount) for kind, amount in asked.items() if amount]
    if not (found := min(room, default=1)):
        raise ConfigError(
            f"run.worker_cpus, run.worker_gpus: a worker is to have {resources.cpus:g} CPUs and "
            f"{resources.gpus:g} GPUs, and the whole cluster has {there.get('CPU', 0):g} and "
            f"{there.get('GPU', 0):g}"
        )
    return found


class _Actors(Generic[S]):
    """Actors as a `Fleet`; a lost one is replaced as soon as the cluster has room."""

    def __init__(
        self,
        ray: Any,
        folder: Path,
        work: Work[S],
        before: Mapping[str, int | None],
        resources: Resources,
        versions: Mapping[str, str],
        progress: Progress,
    ) -> None:
        self._ray, self._folder, self._work, self._before = ray, folder, work, before
        self._resources = resources.cpus, resources.gpus
        self._progress = progress
        self._versions = versions
        self._open = contextlib.ExitStack()
        self._actors: dict[int, Any] = {}
        self._calls: dict[Any, int] = {}  # what is under way → worker
        self._given: dict[int, S] = {}
        self._starting: dict[int, bool] = {}  # worker → whether it is a new one
        self._failed_starts = 0
        self.ready_at = 0.0

    def hire(self, workers: int) -> None:
        """Asks the cluster for workers; they come as it has room."""
        self._mark = self._open.enter_context(_marked(self._folder))
        for worker in range(workers):
            self._start(worker)

    def _start(self, worker: int) -> None:
        if (known := _idle.take(self._resources)) is None:
            cpus, gpus = self._resources
            kind = self._ray.remote(_Actor).options(num_cpus=cpus, num_gpus=gpus, max_restarts=0)
            self._starting[worker], self._actors[worker] = True, kind.remote()
        else:
            self._starting[worker], self._actors[worker] = False, known
        check = self._actors[worker].check
        self._calls[check.remote(self._mark, self._versions)] = worker

    def begin(self, worker: int, shard: S) -> None:
        self.ready_at = self.ready_at or time.perf_counter()
        self._given[worker] = shard
        do = self._actors[worker].do
        call = do.remote(self._folder, self._work, shard, self._before[shard.key])
        self._calls[call] = worker

    def wait(self, seconds: float | None) -> Iterator[Event[S]]:
        calls = list(self._calls)
        first, _ = self._ray.wait(calls, timeout=seconds or LOOK, fetch_local=False)
        if not first:
            self._report()
            return
        ready, _ = self._ray.wait(calls, num_returns=len(calls), timeout=0)
        for call in ready:
            yield from self._receive(call, self._calls.pop(call))

    def _receive(self, call: Any, worker: int) -> Iterator[Event[S]]:
        try:
            value = self._ray.get(call)
        except self._ray.exceptions.RayError as error:
            cause = str(error).strip()
            raised = isinstance(error, self._ray.exceptions.RayTaskError)
            if worker in self._starting:
                self._failed_starts += self._starting[worker]
                if raised or self._failed_starts >= STARTS:
                    raise ConfigError(f"the cluster starts no worker: {cause}") from error
            elif raised:  # before it came to the work, such as for want of a module
                yield Event(worker, self.give_up(self._given[worker], cause))
                return
            self._start(worker)
            yield Event(worker, lost=f"its worker was lost {ATTEMPTS} times; the last: {cause}")
            return
        if worker in self._starting:
            if value:
                raise ConfigError(value)
            del self._starting[worker]
            self._failed_starts = 0
            yield Event(worker)
        else:
            yield Event(worker, value)

    def _report(self) -> None:
        """Says what nobody sees otherwise: workers that the cluster has no room for."""
        if self._starting:
            up = len(self._actors) - len(self._starting)
            self._progress.advance(0, f"{up} of {len(self._actors)} workers are up")

    def give_up(self, shard: S, cause: str) -> Done[S]:
        note_failure(self._folder, shard.key, cause)
        return Done(shard, error=cause)

    def close(self) -> None:
        # one that has not come yet may never find room, and must not be taken for one that has
        busy = {*self._calls.values(), *self._starting}
        for worker, actor in self._actors.items():
            if worker in busy:
                self._ray.kill(actor)
            elif _idle.give(self._resources, actor):
                actor.let_go.remote()
        self._open.close()


@contextlib.contextmanager
def _marked(folder: Path) -> Iterator[Path]:
    """A file by which a node shows that it sees the folder."""
    mark = folder / f"{uuid.uuid4().hex}.seen"
    with explained(folder):
        files.make_folder(folder)
        files.write_text(mark, "")
    try:
        yield mark
    finally:
        files.remove(mark)


def _end(actor: Any) -> None:
    import ray

    if ray.is_initialized():  # else its worker has ended with the connection
        ray.kill(actor)


_idle = Kept(_end)


class _Actor:
    """A worker on some node."""

    def let_go(self) -> None:
        """Until the next call."""
        let_go()

    def check(self, mark: Path, versions: Mapping[str, str]) -> str:
        """See `_wrong`."""
        return _wrong(mark, versions)

    def do(self, folder: Path, work: Work[S], shard: S, before: int | None) -> Done[S] | None:
        """Does a shard; None while another process does it."""
        return attempt(folder, work, shard, before, Silent())


def _wrong(mark: Path, versions: Mapping[str, str]) -> str:
    """What is wrong with this node; empty where nothing is."""
    here = socket.gethostname()
    if not files.exists(mark):
        return (
            f"the node {here} does not see {mark.parent}: all nodes must share the run's "
            "folder, in the same place; set run.folder to one on a shared file system"
        )
    other = [
        f"{name} {found or 'is missing'} in place of {wanted}"
        for name, wanted in versions.items()
        if (found := _installed(name)) != wanted
    ]
    if other:
        return f"the node {here} has other packages, which could change results: " + (
            f"{', '.join(other)}; install the same everywhere (constraints.txt)"
        )
    return ""


def _installed(package: str) -> str:
    if package == "python":
        return platform.python_version()
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""
