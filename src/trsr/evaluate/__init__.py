"""Metrics as values, what they say about rankings, and the report for people.

Names are imported when asked for, so that reading settings loads no data library.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from trsr.evaluate.answers import AnswerKey
    from trsr.evaluate.beyond import ItemFacts
    from trsr.evaluate.compute import evaluate
    from trsr.evaluate.html import write_html
    from trsr.evaluate.metrics import METRICS, Metric, parse_metric
    from trsr.evaluate.page import Page, ShownBlock, ShownCandidate, ShownUser, StageTime
    from trsr.evaluate.report import Estimate, Report, Scores
    from trsr.evaluate.settings import EvaluateSettings
    from trsr.evaluate.table import Table

__all__ = [
    "METRICS",
    "AnswerKey",
    "Estimate",
    "EvaluateSettings",
    "ItemFacts",
    "Metric",
    "Page",
    "Report",
    "Scores",
    "ShownBlock",
    "ShownCandidate",
    "ShownUser",
    "StageTime",
    "Table",
    "evaluate",
    "parse_metric",
    "write_html",
]

_HOMES = {
    "answers": ("AnswerKey",),
    "beyond": ("ItemFacts",),
    "compute": ("evaluate",),
    "html": ("write_html",),
    "metrics": ("METRICS", "Metric", "parse_metric"),
    "page": ("Page", "ShownBlock", "ShownCandidate", "ShownUser", "StageTime"),
    "report": ("Estimate", "Report", "Scores"),
    "settings": ("EvaluateSettings",),
    "table": ("Table",),
}


def __getattr__(name: str) -> object:
    for module, names in _HOMES.items():
        if name in names:
            return getattr(importlib.import_module(f"{__name__}.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
