"""Shards whose work writes a file and counts how often it was done; for workers to import."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

from trsr.errors import StoreError
from trsr.progress import Progress


@dataclass(frozen=True)
class FileShard:
    """A file of its own, named by its key."""

    name: str
    folder: Path

    @property
    def key(self) -> str:
        return f"key-{self.name}"

    @property
    def path(self) -> Path:
        return self.folder / self.key

    def is_done(self) -> bool:
        return self.path.exists()


def done_by(folder: Path) -> list[str]:
    """The names in the order in which work on them began, one for each time."""
    path = folder / "begun.txt"
    return path.read_text().split() if path.exists() else []


def write(shard: FileShard, progress: Progress) -> str:
    with (shard.folder / "begun.txt").open("a") as file:
        file.write(f"{shard.name}\n")
    progress.advance(1, f"at {shard.name}")
    if shard.name.startswith("bad"):
        raise StoreError("no such luck")
    if shard.name.startswith("deadly"):
        os.kill(os.getpid(), signal.SIGKILL)
    if shard.name.startswith("once") and done_by(shard.folder).count(shard.name) == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(0.05)
    new = shard.path.with_suffix(".new")
    new.write_text(f"{shard.name} {os.environ.get('OMP_NUM_THREADS')}")
    new.replace(shard.path)
    return f"{os.getpid()}"
