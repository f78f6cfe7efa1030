"""The workers of a data-parallel training: each computes its share of a step's gradient."""

from __future__ import annotations

import contextlib
import datetime
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from trsr.errors import ModelError

T = TypeVar("T")

LOST = "another worker of this training was lost"
"""The message of what the others meet then."""


class Group:
    """Workers that make each step together; alone, the one that does all of it.

    Every worker has the whole model, or its part of the layers' weights (`ShardedLayers`). It adds
    its part of the gradient to the others' and makes the same step. So the state is that of a
    training by any number of workers, which may go on by another number.

    Attributes:
        rank: This worker's number; 0 leads: it validates, and writes all files.
        size: How many there are.
    """

    rank = 0
    size = 1

    def share(self, cases: Sequence[T]) -> Sequence[T]:
        """This worker's part of a step's cases; may be empty."""
        return cases[self.rank :: self.size]

    def add(
        self, parameters: Iterable[nn.Parameter], numbers: Sequence[float]
    ) -> tuple[float, ...]:
        """Adds all workers' gradients, in place, and their numbers."""
        return tuple(numbers)

    def wait(self) -> None:
        """Returns when all workers have come here."""

    def any(self, own: bool) -> bool:
        """Whether this holds for some worker; all ask at one time."""
        return own

    def led(self, make: Callable[[], T]) -> T:
        """What the leading worker makes, for all; JSON-able."""
        return make()


class Workers(Group):
    """Several workers, by torch.distributed: gloo on CPUs, NCCL on GPUs."""

    def __init__(self, rank: int, size: int) -> None:
        self.rank, self.size = rank, size

    def add(
        self, parameters: Iterable[nn.Parameter], numbers: Sequence[float]
    ) -> tuple[float, ...]:
        """Adds all workers' gradients, in place, and their numbers; in one message.

        Raises:
            ModelError: If another worker was lost.
        """
        own = list(parameters)
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in own]
        device = own[0].device
        # in fp64, since two of the numbers count tokens
        totals = torch.tensor(numbers, dtype=torch.float64, device=device)
        flat = torch.cat([one.reshape(-1).float() for one in gradients])
        with _explained():
            dist.all_reduce(flat)
            dist.all_reduce(totals)
        parts = torch.split(flat, [one.numel() for one in own])
        for parameter, part in zip(own, parts, strict=True):
            parameter.grad = part.view_as(parameter).to(parameter.dtype)
        return tuple(totals.tolist())

    def wait(self) -> None:
        """Returns when all workers have come here."""
        with _explained():
            dist.barrier()

    def any(self, own: bool) -> bool:
        """Whether this holds for some worker; all ask at one time."""
        found = torch.tensor([int(own)], device=_device())
        with _explained():
            dist.all_reduce(found, dist.ReduceOp.MAX)
        return bool(found)

    def led(self, make: Callable[[], T]) -> T:
        """What the leading worker makes, for all; JSON-able."""
        text = json.dumps(make()).encode() if self.rank == 0 else b""
        device = _device()
        size = torch.tensor([len(text)], device=device)
        with _explained():
            dist.broadcast(size, 0)
            content = _bytes(text, int(size), device)
            dist.broadcast(content, 0)
        made: T = json.loads(bytes(content.cpu().tolist()))
        return made


def _device() -> str:
    return "cuda" if dist.get_backend() == "nccl" else "cpu"


def _bytes(text: bytes, size: int, device: str) -> Tensor:
    return torch.tensor(list(text) or [0] * size, dtype=torch.uint8, device=device)


@contextlib.contextmanager
def joined(rank: int, size: int, meeting: Path) -> Iterator[Workers]:
    """Joins the other workers of a training.

    They find each other by `meeting`, a new file that all of them see.
    """
    backend = "nccl" if torch.cuda.is_available() else "gloo"
    # a validation of the leading worker may take hours; a lost worker is noticed at once
    patience = datetime.timedelta(days=2)
    with _explained():
        dist.init_process_group(
            backend, init_method=f"file://{meeting}", rank=rank, world_size=size, timeout=patience
        )
    try:
        yield Workers(rank, size)
    finally:
        dist.destroy_process_group()


@contextlib.contextmanager
def _explained() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:  # torch's DistBackendError among them
        raise ModelError(f"{LOST}: {error}") from error
