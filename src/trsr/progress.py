"""How a long job tells that it goes on; the command line draws it."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """One long job's progress."""

    def begin(self, total: int | None, unit: str) -> None:
        """The job has `total` steps (None: not known) of this unit, such as `queries`."""

    def advance(self, steps: int = 1, note: str = "") -> None:
        """Some steps are done; `note` is a few words shown beside the bar."""


class Silent:
    """Progress that nobody watches."""

    def begin(self, total: int | None, unit: str) -> None:
        """Does nothing."""

    def advance(self, steps: int = 1, note: str = "") -> None:
        """Does nothing."""
