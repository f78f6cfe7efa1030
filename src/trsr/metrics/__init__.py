"""Metrics as values, and what they say about rankings.

Names are imported when asked for, so that reading settings loads no data library.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from trsr.metrics.answers import AnswerKey, Ranks
    from trsr.metrics.beyond_accuracy import ItemFacts
    from trsr.metrics.compute import evaluate, tuning_quality
    from trsr.metrics.metrics import METRICS, EvaluateSettings, Family, Metric, parse_metric
    from trsr.metrics.report import Estimate, Report, Scores

__all__ = [
    "METRICS",
    "AnswerKey",
    "Estimate",
    "EvaluateSettings",
    "Family",
    "ItemFacts",
    "Metric",
    "Ranks",
    "Report",
    "Scores",
    "evaluate",
    "parse_metric",
    "tuning_quality",
]

_HOMES = {
    "answers": ("AnswerKey", "Ranks"),
    "beyond_accuracy": ("ItemFacts",),
    "compute": ("evaluate", "tuning_quality"),
    "metrics": ("METRICS", "Family", "Metric", "parse_metric"),
    "report": ("Estimate", "Report", "Scores"),
    "settings": ("EvaluateSettings",),
}


def __getattr__(name: str) -> object:
    for module, names in _HOMES.items():
        if name in names:
            return getattr(importlib.import_module(f"{__name__}.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
