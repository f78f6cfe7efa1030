"""From histories to summaries: strategies that say what to ask, and the driver that asks it."""

from trsr.summarize.driver import summarize
from trsr.summarize.settings import SILENT, STRATEGIES, SummarizeSettings
from trsr.summarize.strategies import (
    Flow,
    Hierarchical,
    NoSummary,
    Recurrent,
    StandingOut,
    Strategy,
    Writer,
)

__all__ = [
    "SILENT",
    "STRATEGIES",
    "Flow",
    "Hierarchical",
    "NoSummary",
    "Recurrent",
    "StandingOut",
    "Strategy",
    "SummarizeSettings",
    "Writer",
    "summarize",
]
