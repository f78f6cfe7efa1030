"""The page of results, written from finished runs.

Names are imported when asked for, so that the command line starts quickly.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trsr.results.file import Plan, read_plan
    from trsr.results.keep import keep_runs
    from trsr.results.page import Written, write_results

__all__ = ["Plan", "Written", "keep_runs", "read_plan", "write_results"]

_HOMES = {
    "Plan": "file",
    "read_plan": "file",
    "keep_runs": "keep",
    "Written": "page",
    "write_results": "page",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'trsr.results' has no attribute {name!r}")
    return getattr(importlib.import_module(f"trsr.results.{_HOMES[name]}"), name)
