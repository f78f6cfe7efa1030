"""Runs of a sweep side by side: each in a process of its own, with its share of the machine."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from trsr.errors import StoreError
from trsr.machine import cores
from trsr.progress import Progress
from trsr.sweep.claims import Claims, failed
from trsr.sweep.plan import Plan, Planned
from trsr.sweep.table import Outcome

THREADS = ("OMP_NUM_THREADS", "POLARS_MAX_THREADS", "RAYON_NUM_THREADS")
"""What tells the libraries that compute how many threads to use."""

DEVICES = "CUDA_VISIBLE_DEVICES"

Heard = tuple[int, str | tuple[Planned, Outcome | None]]
"""A worker's place, and a note of what it is at or what became of a run."""

_COMMAND = (sys.executable, "-P", "-m", "trsr.sweep.worker")


def make_side_by_side(
    plan: Plan, runs: Sequence[Planned], claims: Claims, jobs: int, progress: Progress
) -> Generator[tuple[Planned, Outcome | None]]:
    """Makes runs in processes of their own.

    Args:
        plan: The sweep.
        runs: Which to make.
        claims: Keeps off those that other processes are making.
        jobs: How many at a time, each with its share of the cores and one of the GPUs.
        progress: Its note says what each is at.

    Yields:
        What became of each, as it ends; of a process that was killed, that it was. None where
        another process is making it.
    """
    todo: queue.SimpleQueue[Planned] = queue.SimpleQueue()
    for run in runs:
        todo.put(run)
    workers = [_Worker(plan, todo, claims, own) for own in shares(min(jobs, len(runs)), _devices())]
    heard: queue.SimpleQueue[Heard] = queue.SimpleQueue()
    for place, worker in enumerate(workers):
        threading.Thread(target=worker.work, args=(heard, place), daemon=True).start()
    notes = [""] * len(workers)
    left = len(runs)
    try:
        while left:
            place, said = heard.get()
            if isinstance(said, str):
                notes[place] = said
                progress.advance(0, " · ".join(filter(None, notes)))
                continue
            notes[place], left = "", left - 1
            yield said
    finally:
        for worker in workers:
            worker.stop()


@dataclass(frozen=True)
class Share:
    """A process's part of the machine.

    Attributes:
        cores: The cores that it may use; empty where the system cannot keep it to some.
        environment: What tells libraries of it. Threads that the user has set stay as they are.
    """

    cores: tuple[int, ...]
    environment: Mapping[str, str]


def shares(jobs: int, devices: Sequence[str]) -> list[Share]:
    """The parts of several processes; where there are more of them than cores or GPUs, some share.

    Args:
        jobs: How many processes.
        devices: The GPUs, by the names that CUDA knows them by.
    """
    each = max(1, cores() // jobs)
    threads = {name: str(each) for name in THREADS if name not in os.environ}
    found = []
    for place in range(jobs):
        own: tuple[int, ...] = ()
        if hasattr(os, "sched_getaffinity"):
            mine = sorted(os.sched_getaffinity(0))
            own = tuple(mine[(place * each + one) % len(mine)] for one in range(each))
        device = {DEVICES: devices[place % len(devices)]} if devices else {}
        found.append(Share(own, threads | device))
    return found


def _devices() -> list[str]:
    """The GPUs by the names that CUDA knows them by; none where there are none."""
    if DEVICES in os.environ:
        return [one for one in os.environ[DEVICES].split(",") if one]
    try:
        from trsr.llm.load import cuda_devices
    except ImportError:  # without torch, nothing uses them
        return []
    return cuda_devices()


@dataclass
class _Worker:
    """One process at a time, run after run."""

    plan: Plan
    todo: queue.SimpleQueue[Planned]
    claims: Claims
    share: Share
    process: subprocess.Popen[str] | None = None
    stopped: bool = False

    def work(self, heard: queue.SimpleQueue[Heard], place: int) -> None:
        while not self.stopped:
            try:
                run = self.todo.get_nowait()
            except queue.Empty:
                return
            try:
                make = functools.partial(self._make, run, lambda note: heard.put((place, note)))
                heard.put((place, (run, self.claims.make(run, make))))
            except (OSError, ValueError) as error:  # of starting it, or of what it said
                heard.put((place, (run, _failed(run, f"its process failed: {error}"))))
            except StoreError as error:
                heard.put((place, (run, _failed(run, str(error)))))

    def _make(self, run: Planned, tell: Callable[[str], None]) -> Outcome:
        with subprocess.Popen(  # noqa: S603 - our own module
            [*_COMMAND, str(self.plan.folder), run.name, *map(str, self.share.cores)],
            env={**os.environ, **self.share.environment},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            encoding="utf-8",
        ) as self.process:
            if self.process.stdin is not None:
                with contextlib.suppress(BrokenPipeError), self.process.stdin as settings:
                    json.dump(run.config.model_dump(mode="json"), settings)
            said: dict[str, Any] = {}
            for line in self.process.stdout or ():
                said = json.loads(line)
                if "note" in said:
                    tell(said["note"])
        if "error" in said:
            return Outcome(
                run.name,
                run.settings,
                run.seed,
                error=said["error"],
                taken=tuple(said["taken"]),
                again=tuple(said["again"]),
            )
        code = self.process.returncode
        how = f"was killed by signal {-code}" if code < 0 else f"ended with code {code}"
        return _failed(run, f"its process {how}; if memory is short, try fewer --jobs")

    def stop(self) -> None:
        """Ends its process; what the run has made stays."""
        self.stopped = True
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
            self.process.wait()


def _failed(run: Planned, why: str) -> Outcome:
    return failed(Outcome(run.name, run.settings, run.seed, error=why), run.config.run.folder)
