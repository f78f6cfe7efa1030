"""What people read of a run: tables, figures, HTML and Markdown."""

from trsr.metrics.report import Table
from trsr.report.html import write_html
from trsr.report.page import Page, ShownBlock, ShownCandidate, ShownUser, StageTime

__all__ = [
    "Page",
    "ShownBlock",
    "ShownCandidate",
    "ShownUser",
    "StageTime",
    "Table",
    "write_html",
]
