"""The protocol: shards in, what became of each out, in the order in which they finish."""

from __future__ import annotations

import contextlib
import gc
import sys
import time
import traceback
from collections.abc import Callable, Generator, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Generic, Protocol, TypeVar

import filelock

from trsr.errors import TrsrError
from trsr.machine import give_back_memory
from trsr.progress import Progress
from trsr.storage import files
from trsr.storage.run_directory import explained


class Shard(Protocol):
    """One part of a job. Its files appear whole or not at all, by an atomic rename."""

    @property
    def name(self) -> str:
        """For people."""

    @property
    def key(self) -> str:
        """A digest of all that its files depend on; a valid file name."""

    def is_done(self) -> bool:
        """Whether its files are there."""


S = TypeVar("S", bound=Shard)
T = TypeVar("T")

Work = Callable[[S, Progress], Any]
"""Does a shard: a function of a module, which another process can import. Returns plain values."""


@dataclass(frozen=True, slots=True)
class Resources:
    """What the work may use.

    Attributes:
        workers: Processes at one time; 1: this one. On a cluster 0: as many as it has room for.
        devices: GPUs, by the names that CUDA knows them by; each worker gets one of them.
        cpus: Of each worker on a cluster; may be a fraction.
        gpus: Likewise.
    """

    workers: int = 1
    devices: Sequence[str] = ()
    cpus: float = 1.0
    gpus: float = 0.0


@dataclass(frozen=True, slots=True)
class Done(Generic[S]):
    """What became of a shard.

    Attributes:
        shard: The shard.
        value: What the work returned; None where another process did it, or it failed.
        error: Why it failed; empty where it did not.
        trace: The traceback, where there is one.
        made: Whether the work was done by this call.
    """

    shard: S
    value: Any = None
    error: str = ""
    trace: str = ""
    made: bool = True


class Engine(Protocol):
    """Does shards, wherever.

    Attributes:
        waited: Seconds of its calls until a worker was there to begin.
    """

    waited: float

    def map(self, work: Work[S], shards: Sequence[S], resources: Resources) -> Generator[Done[S]]:
        """Does each shard exactly once, no matter who else asks for the same ones.

        A shard that fails is reported, and the others go on. One whose process was killed is done
        again. The shards' keys differ.

        Yields:
            What became of each, as it finishes; also of those that other processes do meanwhile.
        """

    def gang(
        self,
        work: Work[S],
        make: Callable[[int], Sequence[S]],
        most: int,
        resources: Resources,
        look: Callable[[], None],
    ) -> list[Done[S]]:
        """Does shards that need each other, all at one time, each by a worker of its own.

        `make` gives the shards for so many workers, of which `most` are of use; `look` is called
        now and then.

        Returns:
            What became of each. Where one failed or lost its worker, the others are stopped, and
            it is the last. Empty where the cluster has lost the room for them.
        """


class Kept:
    """Idle workers that the next call of this process goes on with: starting one takes seconds."""

    _every: ClassVar[list[Kept]] = []
    _uses: ClassVar[int] = 0

    def __init__(self, end: Callable[[Any], object]) -> None:
        self._end = end
        self._idle: dict[Hashable, list[Any]] = {}
        self._every.append(self)

    def take(self, kind: Hashable) -> Any:
        """A worker of a kind; None where there is none."""
        idle = self._idle.get(kind)
        return idle.pop() if idle else None

    def give(self, kind: Hashable, worker: Any) -> bool:
        """Keeps an idle worker; outside `workers_kept` it is ended, and this is False."""
        if Kept._uses:
            self._idle.setdefault(kind, []).append(worker)
        else:
            self._end(worker)
        return Kept._uses > 0

    @classmethod
    @contextlib.contextmanager
    def using(cls) -> Iterator[None]:
        """See `workers_kept`."""
        cls._uses += 1
        try:
            yield
        finally:
            cls._uses -= 1
            for kept in cls._every if not cls._uses else ():
                for worker in (one for idle in kept._idle.values() for one in idle):
                    kept._end(worker)
                kept._idle.clear()


workers_kept = Kept.using
"""Within it, one call's workers are the next one's: those of all stages of a run."""

_held: list[tuple[str, Any]] = []


def held(key: str, make: Callable[[], T]) -> T:
    """What a worker keeps open from one shard to the next, such as a model: one thing at a time."""
    if not _held or _held[0][0] != key:
        let_go()
        _held.append((key, make()))
    found: T = _held[0][1]
    return found


def let_go() -> None:
    """Lets go of what is held: the next work of this machine needs the memory."""
    if _held:
        _held.clear()
        gc.collect()  # models and what opens them may know each other
    give_back_memory()
    torch: Any = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.empty_cache()


POLL = 0.5
"""Seconds between two looks at a lock that another process holds."""


@contextlib.contextmanager
def exclusive(
    folder: Path, key: str, waits: Callable[[], None] | None = None
) -> Iterator[filelock.BaseFileLock]:
    """Lets one process at a time do what has this key; the others wait for it.

    The system releases a killed process's lock. All processes share the folder, and its disk must
    keep file locks. `waits` is called once where another process holds the key.
    """
    lock = _lock(folder, key)
    if not _acquired(lock):
        if waits is not None:
            waits()
        while not _acquired(lock):
            time.sleep(POLL)
    try:
        yield lock
    finally:
        lock.release()


def attempt(
    folder: Path, work: Work[S], shard: S, before: int | None, progress: Progress
) -> Done[S] | None:
    """Does a shard, unless it is done; None while another process does it.

    `before` is `failed_at` when the call began: a failure since is another process's, and final.
    """
    lock = _lock(folder, shard.key)
    if not _acquired(lock):
        return None
    try:
        if shard.is_done():
            return Done(shard, made=False)
        if failed_at(folder, shard.key) not in (None, before):
            return Done(shard, error=files.read_text(_note(folder, shard.key)), made=False)
        value = work(shard, progress)
        files.remove(_note(folder, shard.key))
        return Done(shard, value)
    except Exception as error:  # the other shards go on, whatever is wrong with this one
        cause = str(error) if isinstance(error, TrsrError) else f"{type(error).__name__}: {error}"
        note_failure(folder, shard.key, cause)
        return Done(shard, error=cause, trace=traceback.format_exc())
    finally:
        lock.release()


def failed_at(folder: Path, key: str) -> int | None:
    """When a failure of this shard was last noted; None where none is."""
    try:
        return files.stamp(_note(folder, key))[1]
    except OSError:
        return None


def failures(folder: Path, shards: Iterable[Shard]) -> dict[str, int | None]:
    """`failed_at` of each shard, by its key, before a call begins."""
    return {shard.key: failed_at(folder, shard.key) for shard in shards}


def note_failure(folder: Path, key: str, cause: str) -> None:
    """Notes for other processes that a shard failed, so that they do not try it too."""
    with contextlib.suppress(OSError):  # this process reports it in any case
        files.write_text(_note(folder, key), cause)


def _note(folder: Path, key: str) -> Path:
    return folder / f"{key}.failed"


def _lock(folder: Path, key: str) -> filelock.BaseFileLock:
    with explained(folder):
        files.make_folder(folder)
    # Lock files stay: removing one that another process is about to lock would lock nothing.
    return filelock.FileLock(folder / f"{key}.lock", timeout=0)


def _acquired(lock: filelock.BaseFileLock) -> bool:
    try:
        lock.acquire()
    except filelock.Timeout:
        return False
    return True
