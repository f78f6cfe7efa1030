"""The protocol: shards in, what became of each out, in the order in which they finish."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from trsr.progress import Progress


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

Work = Callable[[S, Progress], Any]
"""Does a shard: a function of a module, which another process can import. Returns plain values."""


@dataclass(frozen=True, slots=True)
class Resources:
    """What the work may use.

    Attributes:
        workers: Processes at one time; 1: this one.
        devices: GPUs, by the names that CUDA knows them by; each worker gets one of them.
    """

    workers: int = 1
    devices: Sequence[str] = ()


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
    """Does shards, wherever."""

    def map(self, work: Work[S], shards: Sequence[S], resources: Resources) -> Iterator[Done[S]]:
        """Does each shard exactly once, whoever else asks for the same ones.

        A shard that fails is reported, and the others go on. One whose process was killed is done
        again.

        Args:
            work: What to do.
            shards: Of what; their keys differ.
            resources: What it may use.

        Yields:
            What became of each, as it finishes; also of those that other processes do meanwhile.
        """
