"""What people see of files that lie elsewhere: addresses, and bars of transfers.

It stands apart from what moves the files: `trsr --help` must open no library of tables.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

ADDRESSES: dict[str, str] = {}
"""Local copy → where it comes from."""


def shown(path: Path) -> str:
    """A path as people know it: of a copy, or a file in one, the address."""
    for folder in (path, *path.parents):
        if str(folder) in ADDRESSES:
            inner = path.relative_to(folder).as_posix()
            return ADDRESSES[str(folder)] + (f"/{inner}" if inner != "." else "")
    return str(path)


def in_addresses(text: str) -> str:
    """A text for people, with addresses in the place of this process's copies."""
    for folder, url in ADDRESSES.items():
        text = text.replace(folder, url)
    return text


class Watched(Protocol):
    """What shows a transfer; `trsr.bars.Bar` is one."""

    def begin(self, total: int | None, unit: str) -> None:
        """The transfer has `total` steps of this unit."""

    def advance(self, steps: int = 1, note: str = "") -> None:
        """Some are done."""


WATCHERS: list[Callable[[str], AbstractContextManager[Watched]]] = []


def watch_transfers(shown: Callable[[str], AbstractContextManager[Watched]]) -> None:
    """Shows the transfers of this process from now on: `shown` makes a bar by its name."""
    WATCHERS[:] = [shown]
