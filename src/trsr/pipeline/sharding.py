"""The work of a stage in shards of users or queries, by local processes or on a cluster.

A shard's file is named by a digest of all that it depends on, and is there whole or not at all. So
a stage that was stopped goes on behind the shards that are done, on however many workers.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
from pydantic import SecretStr

from trsr.config import Config
from trsr.engine import Engine, LocalEngine, RayEngine, Resources
from trsr.engine.base import Work
from trsr.errors import ModelError
from trsr.pipeline.runner import WAITED, Job, versions
from trsr.settings import digest
from trsr.storage import files
from trsr.storage.run_directory import RunDirectory, explained
from trsr.storage.shared_cache import open_cache, without_password

FORMAT = 1
"""Counted up when a shard's file becomes another."""

_FACTS = "trsr.facts"  # file metadata: what a shard's work counted


@dataclass(frozen=True)
class StageShard:
    """Some of a stage's users or queries.

    Attributes:
        stage: The stage.
        number: The shard's number, from 0.
        config: All settings.
        stage_key: A digest of all that the stage's output depends on.
        key: A digest of all that its file depends on.
        whole: A digest of what workers keep open from one shard to the next.
        folder: Where the shards' files are.
        names: What is asked of its users or queries, such as rankers.
        start: The first of its users or queries.
        stop: The one after its last.
        host: The machine that the stage was begun on.
    """

    stage: str
    number: int
    config: Config
    stage_key: str
    key: str
    whole: str
    folder: Path
    names: tuple[str, ...]
    start: int
    stop: int
    host: str

    @property
    def name(self) -> str:
        """For people."""
        return f"{self.stage}, shard {self.number + 1}"

    @property
    def path(self) -> Path:
        """Its file."""
        return self.folder / f"{self.key}.parquet"

    def is_done(self) -> bool:
        """Whether its file is there."""
        return files.exists(self.path)

    def write(self, frame: pl.DataFrame, facts: Mapping[str, Any]) -> None:
        """Writes its file: a table, and what was counted while it was made."""
        with explained(self.folder):
            files.write_parquet(frame, self.path, metadata={_FACTS: json.dumps(facts)})

    def read(self) -> tuple[pl.DataFrame, dict[str, Any]]:
        """Its file's table, and what was counted."""
        facts: dict[str, Any] = json.loads(files.parquet_metadata(self.path)[_FACTS])
        return files.read_parquet(self.path), facts

    def own_config(self) -> Config:
        """The settings for this machine.

        Several machines cannot write one SQLite file at one time, so each but the first has a
        response cache of its own beside it.
        """
        here, cache = socket.gethostname(), self.config.run.cache
        if here == self.host or isinstance(cache, SecretStr):  # a database is every machine's
            return self.config
        cache = cache.with_name(f"{cache.stem}.{here}{cache.suffix}")
        run = self.config.run.model_copy(update={"cache": cache})
        return self.config.model_copy(update={"run": run})


def is_sharded(config: Config) -> bool:
    """Whether stages are done in shards: there may be several workers."""
    return config.run.engine == "ray" or config.run.workers > 1


def cut(job: Job, total: int, names: tuple[str, ...] = ()) -> list[StageShard]:
    """The shards of a stage."""
    folder, host = job.work / "shards", socket.gethostname()
    size = job.config.run.shard_size
    whole = digest([job.key, FORMAT, names])
    return [
        StageShard(
            job.stage,
            number,
            job.config,
            job.key,
            digest([whole, start, stop := min(start + size, total)]),
            whole,
            folder,
            names,
            start,
            stop,
            host,
        )
        for number, start in enumerate(range(0, total, size))
    ]


def engine_of(job: Job) -> tuple[Engine, Resources]:
    """What does a stage's shards, and what it may use."""
    run, locks, resources = job.config.run, job.work / "locks", resources_of(job.config)
    if run.engine == "ray":
        return RayEngine(locks, run.address, versions(), job.progress), resources
    own = dataclasses.replace(resources, devices=devices())
    return LocalEngine(locks, job.progress), own


def check_reach(config: Config) -> Iterator[str]:
    """Looks, before any work, at what only later stages reach: shared cache and cluster.

    Yields:
        What was found, for people.

    Raises:
        ConfigError: If an address is wrong, or the cluster cannot be used.
        StoreError: If the shared cache cannot be used.
    """
    run = config.run
    if isinstance(run.cache, SecretStr):
        with open_cache(run.cache) as cache:
            shown = without_password(run.cache.get_secret_value())
            yield f"run.cache: {shown} answers, and holds {len(cache):,} responses"
    if run.engine == "ray":
        engine = RayEngine(RunDirectory(run.folder).workspace("nodes"), run.address, versions())
        nodes = engine.check(resources_of(config))
        many = "one machine" if nodes == 1 else f"{nodes} machines"
        page = run.folder / "progress.html"
        yield f"run.engine: a Ray cluster of {many}; {page} tells how far the run is"


def resources_of(config: Config) -> Resources:
    """What a stage's work may use."""
    run = config.run
    return Resources(run.workers, cpus=run.worker_cpus, gpus=run.worker_gpus)


def do_shards(job: Job, work: Work[StageShard], shards: Sequence[StageShard]) -> dict[str, float]:
    """Does the shards that are not done; the bar, which the caller begins, counts all.

    Returns what `waited` gives. Their keys differ; the work returns the tokens that a model
    computed for a shard.

    Raises:
        ConfigError: If the cluster cannot be used.
        ModelError: If a shard fails; those that are done stay.
    """
    engine, resources = engine_of(job)
    began, tokens = time.perf_counter(), 0
    with explained(job.run.folder):
        files.make_folder(job.work / "shards")
    with contextlib.closing(engine.map(work, shards, resources)) as results:
        for count, done in enumerate(results, 1):
            if done.error:
                raise ModelError(f"{done.shard.name}: {done.error}")
            tokens += done.value or 0
            pace = tokens / (time.perf_counter() - began)
            note = f"{count:,} of {len(shards):,} shards" + (f", {pace:,.0f} tokens/s" * (pace > 0))
            job.progress.advance(done.shard.stop - done.shard.start, note)
    return waited(engine)


def waited(engine: Engine) -> dict[str, float]:
    """For a stage's record, the seconds of it until a worker was there to begin."""
    return {WAITED: round(engine.waited, 2)} if engine.waited >= 0.01 else {}


def plus(one: Any, other: Any, sign: int = 1) -> Any:
    """Counts added, table by table; what is no number is as in `one`.

    What the other lacks counts as nothing; with the sign −1 it is subtracted.
    """
    if isinstance(one, Mapping):
        other = other or {}
        more = {} if sign < 0 else {key: other[key] for key in other if key not in one}
        return {key: plus(own, other.get(key), sign) for key, own in one.items()} | more
    if isinstance(one, int | float) and not isinstance(one, bool):
        return one + sign * (other or 0)
    return one


def devices() -> list[str]:
    """The GPUs by the names that CUDA knows them by; none where there are none."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [one for one in visible.split(",") if one]
    try:
        from trsr.models.hf.load import cuda_devices
    except ImportError:  # without torch, nothing uses them
        return []
    return cuda_devices()
