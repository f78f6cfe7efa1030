"""From histories to summaries: strategies that say what to ask, and the driver that asks it."""

from trsr.summarize.driver import summarize
from trsr.summarize.settings import STRATEGIES, SummarizeSettings
from trsr.summarize.strategies import Flow, Hierarchical, NoSummary, Recurrent, Strategy, Writer

__all__ = [
    "STRATEGIES",
    "Flow",
    "Hierarchical",
    "NoSummary",
    "Recurrent",
    "Strategy",
    "SummarizeSettings",
    "Writer",
    "summarize",
]
