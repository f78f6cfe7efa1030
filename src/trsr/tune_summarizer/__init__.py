"""Fine-tunes the summarizing model for what its summaries are for: to tell what comes next.

Names are imported when asked for, so that the command line starts quickly.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trsr.tune_summarizer.result import Round, Tuned
    from trsr.tune_summarizer.tuning import tune_summarizer

__all__ = ["Round", "Tuned", "tune_summarizer"]

_HOMES = {"Round": "result", "Tuned": "result", "tune_summarizer": "tuning"}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'trsr.tune_summarizer' has no attribute {name!r}")
    return getattr(importlib.import_module(f"trsr.tune_summarizer.{_HOMES[name]}"), name)
