"""Room: data. From files as they come to cases that every model ranks the same.

The parts are imported when first asked for: settings must be readable without polars.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trsr.data.dataset import Cases, Catalog, Dataset
    from trsr.data.inference.guess import Guess, guess
    from trsr.data.preparation import inspect, prepare
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
    "prepare",
]

_HOMES = {
    "READERS": "settings",
    "Cases": "dataset",
    "Catalog": "dataset",
    "Columns": "settings",
    "DataReport": "report",
    "DataSettings": "settings",
    "Dataset": "dataset",
    "Guess": "inference.guess",
    "Reader": "readers.base",
    "Source": "readers.base",
    "guess": "inference.guess",
    "inspect": "preparation",
    "prepare": "preparation",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'trsr.data' has no attribute {name!r}")
    return getattr(importlib.import_module(f"trsr.data.{_HOMES[name]}"), name)
