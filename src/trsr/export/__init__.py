"""Writes the ranking model of a run in the formats of other libraries, and asks them back."""

from trsr.export.exporting import FORMATS, Exported, export, push

__all__ = ["FORMATS", "Exported", "export", "push"]
