"""The items that a service knows: the run's own, and those that came since, read as they come."""

from __future__ import annotations

import itertools
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence

from trsr.data import Catalog
from trsr.data.text import clean_text
from trsr.errors import DataError
from trsr.serve.store import Store
from trsr.types import Item

FRESH_SECONDS = 5.0
"""How long an item's text that another service has changed may still be the old one."""
FEW = 64
"""New items that are read at one time; a request waits for so many, and not for more."""
_LONGEST_PAUSE = 30.0

_log = logging.getLogger("trsr.serve")


class UnknownNameError(DataError):
    """There is no such user or item."""


class LiveItems:
    """The catalog with what the store has of items since, safe for threads.

    A ranker makes something of each new text, such as an embedding. A thread has that made, some
    items at a time; the retriever proposes an item once it is done. All are known to `find` at
    once. After a start, all items that came after the run are read again.

    Args:
        store: Where items are kept.
        catalog: The run's items.
        read: Lets the rankers read some items, each of another id.
    """

    def __init__(
        self, store: Store, catalog: Catalog, read: Callable[[Sequence[Item]], None]
    ) -> None:
        self._store = store
        self._catalog = catalog
        self._read = read
        self._refreshing = threading.Lock()
        self._refreshed = 0.0
        self._version = 0
        self._known: dict[str, Item] = {}
        self._changed = threading.Condition()
        self._waiting: deque[Item] = deque()
        self._ready: dict[str, Item] = {}
        self._done = 0
        self._failing = self._stopped = False
        self.refresh()
        self._thread = threading.Thread(target=self._work, name="trsr-items", daemon=True)
        self._thread.start()

    def refresh(self) -> None:
        """Looks for what has changed in the store."""
        with self._refreshing:
            self._version, changed = self._store.items_changed_since(self._version)
            found = {
                name: self._made(name, text)
                for name, text in changed
                if name in self._known or not self._is_own(name, text)
            }
            self._known |= found
            with self._changed:
                self._waiting.extend(found.values())
                self._changed.notify_all()
            self._refreshed = time.monotonic()

    def _is_own(self, name: str, text: Mapping[str, str]) -> bool:
        """Whether the run has the item with this text: it came in before the run was made."""
        return name in self._catalog and dict(self._catalog[name].fields) == text

    def _made(self, name: str, text: Mapping[str, str]) -> Item:
        image = self._catalog[name].image if name in self._catalog else ""
        return Item(name, self.in_order(text), image)

    def in_order(self, fields: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
        """Texts as the run's items have them, without HTML; empty ones are left out.

        The first one is the title, in whatever order the JSON names them.
        """
        columns = [one for one in self._catalog.columns if one in fields]
        texts = ((one, clean_text(fields[one])) for one in dict.fromkeys([*columns, *fields]))
        return tuple((one, text) for one, text in texts if text)

    def at_hand(self, name: str) -> bool:
        """Whether the item is known, and its text not too old."""
        known = name in self._known or name in self._catalog
        return known and time.monotonic() - self._refreshed <= FRESH_SECONDS

    def find(self, name: str) -> Item:
        """An item by its id.

        Raises:
            UnknownNameError: If there is none.
        """
        if not self.at_hand(name):
            self.refresh()  # another service on the same database may have brought it in
        if name in self._known:
            return self._known[name]
        if name in self._catalog:
            return self._catalog[name]
        # an earlier run had it: it stands in histories, and is proposed no more
        text = self._store.item(name)
        if text is None:
            raise UnknownNameError(f"there is no item {name!r}; PUT /v1/items/… brings it in")
        return self._made(name, text)

    @property
    def waiting(self) -> int:
        """How many new items are not read yet."""
        return len(self._waiting)

    def ready(self, seconds: float) -> tuple[list[Item], int]:
        """What may be proposed beside the catalog, or in its items' places, and how many wait.

        Few that have just come are waited for, so many seconds at most.
        """
        with self._changed:
            wanted = self._done + len(self._waiting)
            self._changed.wait_for(
                lambda: (
                    self._done >= wanted
                    or len(self._waiting) > FEW
                    or self._failing
                    or self._stopped
                ),
                seconds,
            )
            return list(self._ready.values()), len(self._waiting)

    def close(self) -> None:
        """Ends the reading behind the items under way."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
        self._thread.join()

    def _work(self) -> None:
        pause = 0.0
        while some := self._next(pause):
            try:
                self._read(list({item.id: item for item in some}.values()))
            except Exception as error:  # they wait, and are tried again
                pause = min(2 * pause + 1, _LONGEST_PAUSE)
                kind = type(error).__name__  # its text may hold an item's
                _log.warning("new items cannot be read (%s); tried again in %.0f s", kind, pause)
                self._finish([], failing=True)
            else:
                pause = 0.0
                self._finish(some, failing=False)

    def _next(self, pause: float) -> list[Item]:
        """The next items behind a pause; none at the end."""
        with self._changed:
            self._changed.wait_for(lambda: self._stopped, pause)
            self._changed.wait_for(lambda: self._waiting or self._stopped)
            return [] if self._stopped else list(itertools.islice(self._waiting, FEW))

    def _finish(self, some: Sequence[Item], *, failing: bool) -> None:
        with self._changed:
            for _ in some:
                self._waiting.popleft()
            self._ready |= {item.id: item for item in some}
            self._done += len(some)
            self._failing = failing
            self._changed.notify_all()
