"""Data: from files as they come to cases that are the same for every ranker.

Names are imported on first use: settings must be readable without polars.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trsr.data.dataset import Cases, Catalog, Dataset
    from trsr.data.guesses import Guess, guess
    from trsr.data.preparation import inspect, located, prepare
    from trsr.data.readers.base import Reader, Source
    from trsr.data.report import DataReport
    from trsr.data.settings import READERS, Columns, DataSettings

__all__ = [
    "READERS",
    "Cases",
    "Catalog",
    "Columns",
    "DataReport",
    "DataSettings",
    "Dataset",
    "Guess",
    "Reader",
    "Source",
    "guess",
    "inspect",
    "located",
    "prepare",
]

_MODULES = {
    "dataset": ("Cases", "Catalog", "Dataset"),
    "guesses": ("Guess", "guess"),
    "preparation": ("inspect", "located", "prepare"),
    "readers.base": ("Reader", "Source"),
    "report": ("DataReport",),
    "settings": ("READERS", "Columns", "DataSettings"),
}


def __getattr__(name: str) -> Any:
    for module, names in _MODULES.items():
        if name in names:
            return getattr(importlib.import_module(f"trsr.data.{module}"), name)
    raise AttributeError(f"module 'trsr.data' has no attribute {name!r}")
