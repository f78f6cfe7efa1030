"""From histories to summaries: strategies that yield prompts, and the scheduler for all users."""

from trsr.summarize.scheduler import summarize
from trsr.summarize.settings import STRATEGIES, SummarizeSettings
from trsr.summarize.strategies import (
    Flow,
    Hierarchical,
    KeywordSummary,
    NoSummary,
    Recurrent,
    Resumable,
    SoftSummary,
    Strategy,
    Writer,
)

__all__ = [
    "STRATEGIES",
    "Flow",
    "Hierarchical",
    "KeywordSummary",
    "NoSummary",
    "Recurrent",
    "Resumable",
    "SoftSummary",
    "Strategy",
    "SummarizeSettings",
    "Writer",
    "summarize",
]
