"""Maps work over shards, each done exactly once, by local processes or a cluster."""

from trsr.engine.base import (
    Done,
    Engine,
    Resources,
    Shard,
    Work,
    exclusive,
    held,
    let_go,
    workers_kept,
)
from trsr.engine.cluster import RayEngine
from trsr.engine.local import LocalEngine

__all__ = [
    "Done",
    "Engine",
    "LocalEngine",
    "RayEngine",
    "Resources",
    "Shard",
    "Work",
    "exclusive",
    "held",
    "let_go",
    "workers_kept",
]
