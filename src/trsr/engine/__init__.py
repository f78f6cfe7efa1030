"""Maps work over shards, each done exactly once, by local processes now and clusters later."""

from trsr.engine.base import Done, Engine, Resources, Shard, Work, exclusive
from trsr.engine.local import LocalEngine

__all__ = ["Done", "Engine", "LocalEngine", "Resources", "Shard", "Work", "exclusive"]
