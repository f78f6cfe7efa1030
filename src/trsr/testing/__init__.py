"""Checks that any part of a kind must pass: a new one is tested by naming it.

Each raises `AssertionError` with what the part did wrong. They need no test framework.
"""

from trsr.testing.models import check_language_model, check_scoring_model
from trsr.testing.strategies import PlainWriter, check_strategy, drive

__all__ = ["PlainWriter", "check_language_model", "check_scoring_model", "check_strategy", "drive"]
