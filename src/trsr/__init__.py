"""trsr: text-rich sequential recommendation with large language models.

The stages are `prepare`, `summarize`, `train`, `rank` and `evaluate`, each a function of a
`Config`; `Recommender.load(run)` ranks for anybody with what a run learnt. Names are loaded when
they are first used, so that `import trsr` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trsr.config import Config, load_config
    from trsr.errors import TrsrError
    from trsr.pipeline import evaluate, prepare, rank, summarize, train
    from trsr.recommender import Recommender
    from trsr.types import Case, Item, Query, RankedList, Summary, UserHistory

__version__ = "0.1.0"

__all__ = [
    "Case",
    "Config",
    "Item",
    "Query",
    "RankedList",
    "Recommender",
    "Summary",
    "TrsrError",
    "UserHistory",
    "evaluate",
    "load_config",
    "prepare",
    "rank",
    "summarize",
    "train",
]

_HOMES = {
    "Config": "config",
    "load_config": "config",
    "TrsrError": "errors",
    "Recommender": "recommender",
    "evaluate": "pipeline",
    "prepare": "pipeline",
    "rank": "pipeline",
    "summarize": "pipeline",
    "train": "pipeline",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'trsr' has no attribute {name!r}")
    value = getattr(import_module(f"trsr.{_HOMES.get(name, 'types')}"), name)
    globals()[name] = value
    return value
