"""From histories to summaries: strategies that say what to ask, and the driver that asks it."""

from trsr.summarize.scheduler import summarize
from trsr.summarize.settings import SILENT, STRATEGIES, SummarizeSettings
from trsr.summarize.strategies import (
    Flow,
    Hierarchical,
    KeywordSummary,
    NoSummary,
    Recurrent,
    Strategy,
    Writer,
)

__all__ = [
    "SILENT",
    "STRATEGIES",
    "Flow",
    "Hierarchical",
    "KeywordSummary",
    "NoSummary",
    "Recurrent",
    "Strategy",
    "SummarizeSettings",
    "Writer",
    "summarize",
]
