"""Times variants in turn, so that a machine that drifts hits all alike; watches their memory."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from trsr.machine import forget_peak, peak_resident
from trsr.progress import Progress


def _nothing() -> None:
    pass


@dataclass(frozen=True)
class Variant:
    """One way to do the work.

    Attributes:
        name: Its name.
        run: Does the work once.
        ready: Done before each repeat, untimed.
        warm: Done once before the first repeat; None: `run`.
    """

    name: str
    run: Callable[[], Any]
    ready: Callable[[], None] = _nothing
    warm: Callable[[], Any] | None = None


@dataclass
class Timing:
    """One variant's repeats.

    Attributes:
        seconds: Of each repeat.
        peak_memory: The largest of the repeats, in bytes; None where it cannot be said.
        result: What the last repeat gave.
    """

    seconds: list[float] = field(default_factory=list)
    peak_memory: int | None = None
    result: Any = None

    @property
    def median(self) -> float:
        """Seconds, in the middle."""
        return statistics.median(self.seconds)

    @property
    def spread(self) -> float:
        """(slowest − fastest) / median."""
        return (max(self.seconds) - min(self.seconds)) / self.median


def interleave(
    variants: Sequence[Variant], repeats: int, device: str, progress: Progress
) -> dict[str, Timing]:
    """Times all variants: each warmed up once, then A B A B … .

    Args:
        variants: What is compared.
        repeats: Timed runs of each.
        device: cuda waits for the device before the clock is read.
        progress: Shows each run.

    Raises:
        ValueError: If `repeats` is below 1.
    """
    if repeats < 1:
        raise ValueError(f"a bench needs at least one repeat, not {repeats}")
    progress.begin((repeats + 1) * len(variants), "runs")
    for variant in variants:
        variant.ready()
        (variant.warm or variant.run)()
        progress.advance(1, f"warm-up {variant.name}")
    timings = {variant.name: Timing() for variant in variants}
    for _ in range(repeats):
        for variant in variants:
            variant.ready()
            _time(variant, timings[variant.name], device)
            progress.advance(1, variant.name)
    return timings


def _time(variant: Variant, timing: Timing, device: str) -> None:
    timing.result = None
    gc.collect()
    memory = MemoryWatch(device)
    started = time.perf_counter()
    timing.result = variant.run()
    wait_for(device)
    timing.seconds.append(time.perf_counter() - started)
    peak = memory.peak()
    if peak is not None:
        timing.peak_memory = max(peak, timing.peak_memory or 0)


def wait_for(device: str) -> None:
    """Waits until a device has done what it was given."""
    if device == "cuda":
        import torch

        torch.cuda.synchronize()
    elif device == "mps":
        import torch

        torch.mps.synchronize()


class MemoryWatch:
    """The most memory in use since it was made.

    Linux can forget a process's earlier peak; where it cannot be forgotten, the peak is that of
    the process's whole life.

    Args:
        device: cuda watches the device's memory, all else the process's resident size.
    """

    def __init__(self, device: str) -> None:
        self.device = device
        if device == "cuda":
            import torch

            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
        else:
            forget_peak()

    def peak(self) -> int | None:
        """Bytes; None where the system does not say."""
        if self.device == "cuda":
            import torch

            return int(torch.cuda.max_memory_allocated())
        return peak_resident()
