"""Checks that every component of a kind must pass, for tests of new ones.

Each raises `AssertionError` with what the component did wrong. They need no test framework.
"""

from trsr.testing.models import check_language_model, check_scoring_model
from trsr.testing.strategies import PlainWriter, check_strategy, drive

__all__ = ["PlainWriter", "check_language_model", "check_scoring_model", "check_strategy", "drive"]
