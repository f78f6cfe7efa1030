"""trsr: text-rich sequential recommendation with large language models.

The stages are `run_prepare`, `run_summarize`, `run_train`, `run_rank` and `run_evaluate`, each a
function of a `Config` (the plain words are the rooms that they call). `Recommender.load(run)` ranks
for anybody with what a run learnt. Names are loaded when they are first used, so that `import trsr`
costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trsr.config import Config, load_config
    from trsr.errors import TrsrError
    from trsr.fitting import fit
    from trsr.pipeline import run_evaluate, run_prepare, run_rank, run_summarize, run_train
    from trsr.recommender import Recommender, load
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
    "fit",
    "load",
    "load_config",
    "run_evaluate",
    "run_prepare",
    "run_rank",
    "run_summarize",
    "run_train",
]

_HOMES = {
    "Config": "config",
    "load_config": "config",
    "TrsrError": "errors",
    "fit": "fitting",
    "load": "recommender",
    "Recommender": "recommender",
    "run_evaluate": "pipeline",
    "run_prepare": "pipeline",
    "run_rank": "pipeline",
    "run_summarize": "pipeline",
    "run_train": "pipeline",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'trsr' has no attribute {name!r}")
    value = getattr(import_module(f"trsr.{_HOMES.get(name, 'types')}"), name)
    globals()[name] = value
    return value
