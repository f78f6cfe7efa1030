"""Does shards in processes of this machine; several calls may share the same ones."""

from __future__ import annotations

import contextlib
import dataclasses
import multiprocessing
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any, Generic

from trsr.engine.base import (
    POLL,
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
from trsr.machine import cores
from trsr.progress import Progress, Silent

ATTEMPTS = 2
"""Times that a shard is begun whose process is killed; one that takes too much memory always is."""

EVERY = 0.2
"""Seconds between two notes of a worker."""

THREADS = ("OMP_NUM_THREADS", "POLARS_MAX_THREADS", "RAYON_NUM_THREADS")
"""Set the number of threads of numerical libraries."""

DEVICES = "CUDA_VISIBLE_DEVICES"


class LocalEngine:
    """Does shards in this process, or in several that it starts.

    Args:
        folder: Holds locks and notes of failures. Calls with one folder share their shards, on
            machines that share the folder too.
        progress: Its notes say what each worker does; steps are the caller's.
    """

    def __init__(self, folder: Path, progress: Progress | None = None) -> None:
        self._folder = folder
        self._progress = progress or Silent()
        self.waited = 0.0

    def map(
        self, work: Work[S], shards: Sequence[S], resources: Resources | None = None
    ) -> Generator[Done[S]]:
        """As `Engine.map`; what another call is doing is waited for."""
        resources = resources or Resources()
        before = failures(self._folder, shards)
        workers = min(resources.workers, len(shards))
        if workers <= 1:
            yield from self._here(work, shards, before)
            return
        machine = shares(workers, resources.devices)
        with contextlib.closing(_Pool(self._folder, work, before, self._progress, machine)) as pool:
            yield from dispatch(pool, shards, ATTEMPTS)

    def gang(
        self,
        work: Work[S],
        make: Callable[[int], Sequence[S]],
        most: int,
        resources: Resources,
        look: Callable[[], None],
    ) -> list[Done[S]]:
        """As `Engine.gang`."""
        shards = make(min(max(resources.workers, 1), most))
        before = failures(self._folder, shards)
        machine = shares(len(shards), resources.devices)
        with contextlib.closing(_Pool(self._folder, work, before, self._progress, machine)) as pool:
            return together(pool, shards, look)

    def _here(
        self, work: Work[S], shards: Sequence[S], before: Mapping[str, int | None]
    ) -> Iterator[Done[S]]:
        todo, passed_over = deque(shards), 0
        while todo:
            shard = todo.popleft()
            done = attempt(self._folder, work, shard, before[shard.key], self._progress)
            if done is not None:
                passed_over = 0
                yield done
                continue
            todo.append(shard)
            passed_over += 1
            if passed_over == len(todo):
                self._progress.advance(0, f"waits for another process: {shard.name}")
                time.sleep(POLL)
                passed_over = 0


@dataclass(frozen=True)
class Share:
    """A worker's part of the machine.

    Attributes:
        cores: The cores that it may use; empty where the system cannot keep it to some.
        environment: Variables for libraries. Threads that the user has set stay as they are.
    """

    cores: tuple[int, ...]
    environment: Mapping[str, str]

    @property
    def kind(self) -> tuple[Any, ...]:
        """Workers of equal parts are alike."""
        return self.cores, *sorted(self.environment.items())


def shares(workers: int, devices: Sequence[str]) -> list[Share]:
    """Each worker's part; where there are more workers than cores or GPUs, some share."""
    each = max(1, cores() // workers)
    threads = {name: str(each) for name in THREADS if name not in os.environ}
    found = []
    for place in range(workers):
        own: tuple[int, ...] = ()
        if hasattr(os, "sched_getaffinity"):
            mine = sorted(os.sched_getaffinity(0))
            own = tuple(mine[(place * each + one) % len(mine)] for one in range(each))
        device = {DEVICES: devices[place % len(devices)]} if devices else {}
        found.append(Share(own, threads | device))
    return found


class _Pool(Generic[S]):
    """Processes as a `Fleet`."""

    def __init__(
        self,
        folder: Path,
        work: Work[S],
        before: Mapping[str, int | None],
        progress: Progress,
        machine: Sequence[Share],
    ) -> None:
        self._folder, self._before, self._progress = folder, before, progress
        self._workers: list[_Worker[S]] = [_Worker(folder, work, share) for share in machine]
        self._ready = list(range(len(machine)))

    def begin(self, worker: int, shard: S) -> None:
        self._workers[worker].begin(shard, self._before[shard.key])

    def wait(self, seconds: float | None) -> Iterator[Event[S]]:
        yield from (Event(number) for number in self._ready)
        self._ready.clear()
        busy = [number for number, one in enumerate(self._workers) if one.shard is not None]
        connections = [self._workers[number].connection for number in busy]
        ready = wait(connections, seconds) if busy else []
        if not busy and seconds:  # other processes do all that is left
            time.sleep(seconds)
        for number in busy:
            if self._workers[number].connection in ready:
                yield from self._receive(number)

    def _receive(self, number: int) -> Iterator[Event[S]]:
        """Reads a worker's message."""
        worker, shard = self._workers[number], self._workers[number].shard
        try:
            message = worker.connection.recv()
        except (EOFError, OSError):
            how = worker.stop()
            advice = "if memory is short, use fewer processes"
            if "code" in how:  # it never came to the work
                advice = "a script that starts workers does so under `if __name__ == '__main__':`"
            yield Event(number, lost=f"its process {how}; {advice}")
            yield Event(number)  # its next shard starts a new process
            return
        if isinstance(message, str):
            worker.note = message
            notes = (one.note for one in self._workers if one.note)
            self._progress.advance(0, " · ".join(notes))
            return
        worker.shard, worker.note = None, ""
        done = None if message is None else dataclasses.replace(message, shard=shard)
        yield Event(number, done)

    def give_up(self, shard: S, cause: str) -> Done[S]:
        note_failure(self._folder, shard.key, cause)
        return Done(shard, error=cause)

    def close(self) -> None:
        for worker in self._workers:
            worker.keep()


class _Worker(Generic[S]):
    """A process that does one shard after the other; there when the first one is given."""

    connection: Connection[Any, Any]

    def __init__(self, folder: Path, work: Work[S], share: Share) -> None:
        self._folder, self._work, self._share = folder, work, share
        self._process: SpawnProcess | None = None
        self.shard: S | None = None
        self.note = ""

    def begin(self, shard: S, before: int | None) -> None:
        while self._process is None:
            kept = _idle.take(self._share.kind)
            if kept is None or kept[0].is_alive():
                self._process, self.connection = kept or self._started()
        self.shard = shard
        with contextlib.suppress(OSError):  # it died meanwhile, as the next look will show
            self.connection.send((self._folder, self._work, shard, before))

    def _started(self) -> tuple[SpawnProcess, Connection[Any, Any]]:
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        process = context.Process(target=_work_on, args=(theirs, self._share.cores))
        with _environment(self._share.environment):
            process.start()
        theirs.close()  # so that the worker's death ends the connection
        return process, ours

    def keep(self) -> None:
        """Keeps an idle process for the next call; ends one that is at work."""
        if self._process is None or self.shard is not None:
            self.stop()
            return
        process, self._process = self._process, None
        if _idle.give(self._share.kind, (process, self.connection)):
            with contextlib.suppress(OSError):
                self.connection.send(None)

    def stop(self) -> str:
        """Ends the process, and says how it ended; what its shard has done stays."""
        process, self._process, self.shard, self.note = self._process, None, None, ""
        if process is None:
            return ""
        _end((process, self.connection))
        code = process.exitcode or 0
        return f"was killed by signal {-code}" if code < 0 else f"ended with code {code}"


def _end(worker: tuple[SpawnProcess, Connection[Any, Any]]) -> None:
    process, connection = worker
    connection.close()
    process.join(POLL)
    process.terminate()
    process.join()


_idle = Kept(_end)


@contextlib.contextmanager
def _environment(changes: Mapping[str, str]) -> Iterator[None]:
    """Changes this process's environment, which one that starts now inherits."""
    before = {name: os.environ.get(name) for name in changes}
    os.environ.update(changes)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _work_on(connection: Connection[Any, Any], own: Sequence[int]) -> None:
    """Runs in a worker: shards in, what became of them out."""
    if own:
        os.sched_setaffinity(0, own)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent hears it, and ends its workers
    threading.Thread(target=_end_with_parent, daemon=True).start()
    os.dup2(2, 1)  # what libraries print is no output of the command
    with contextlib.suppress(EOFError, OSError):
        while True:
            if (given := connection.recv()) is None:
                let_go()
                continue
            folder, work, shard, before = given
            connection.send(attempt(folder, work, shard, before, _Notes(connection)))


def _end_with_parent() -> None:
    """Ends this process when the parent was killed: work must not go on unseen."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


class _Notes:
    """A worker's progress, sent to the parent now and then."""

    def __init__(self, connection: Connection[Any, Any]) -> None:
        self._connection = connection
        self._sent = 0.0

    def begin(self, total: int | None, unit: str) -> None:
        """The parent counts shards, not steps."""

    def advance(self, steps: int = 1, note: str = "") -> None:
        now = time.monotonic()
        if note and now - self._sent >= EVERY:
            self._sent = now
            self._connection.send(note)
