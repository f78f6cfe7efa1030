"""What the service does, behind HTTP and the page: functions over a run and its state."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future
from pathlib import Path

from trsr.errors import DataError
from trsr.progress import Silent
from trsr.recommender import Recommender
from trsr.serve.schemas import (
    AddedEvents,
    BlockView,
    Deleted,
    Event,
    Explanation,
    InlineItem,
    ItemTitle,
    ItemView,
    RankedItem,
    Recommendation,
    RecommendRequest,
    RevisionView,
    ScoreRequest,
    ScoreResponse,
    SummaryUsed,
    Timings,
    UserEvent,
    UserView,
)
from trsr.serve.settings import ServeSettings
from trsr.serve.store import Store, StoredEvent
from trsr.types import Interaction, Item, Query, UserHistory


class UnknownNameError(DataError):
    """There is no such user or item."""


class OverloadedError(DataError):
    """Too many requests wait; `retry_after` says when to come again, in seconds."""

    def __init__(self, message: str, retry_after: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class Service:
    """A run put to work.

    Args:
        run: The run directory, its stages done.
        store: The state.
        settings: Limits.
    """

    def __init__(self, run: Path, store: Store, settings: ServeSettings) -> None:
        self.run = run
        self.store = store
        self.settings = settings
        self.recommender = Recommender.load(run, settings.ranker)
        self._lock = threading.Lock()
        self._fresh: dict[str, Item] = {}
        self._version = 0
        store.import_run(self.recommender.dataset)
        self._refresh()

    # Items

    def _refresh(self) -> None:
        with self._lock:
            self._version, changed = self.store.items_changed_since(self._version)
            self._fresh |= {name: Item(name, tuple(text.items())) for name, text in changed}

    def _find(self, name: str) -> Item:
        if name in self._fresh:
            return self._fresh[name]
        if name not in self.recommender.catalog:
            raise UnknownNameError(f"there is no item {name!r}; PUT /v1/items/… brings it in")
        return self.recommender.catalog[name]

    def _item(self, given: str | InlineItem) -> Item:
        if isinstance(given, InlineItem) and given.fields:
            return Item(
                given.id, tuple((name, text) for name, text in given.fields.items() if text)
            )
        return self._find(given if isinstance(given, str) else given.id)

    def item(self, name: str) -> ItemView:
        """An item's text.

        Raises:
            UnknownNameError: If there is none.
        """
        return ItemView(id=name, fields=dict(self._find(name).fields))

    def put_item(self, name: str, fields: dict[str, str]) -> bool:
        """Brings an item in, or changes its text; whether it is new."""
        created = self.store.put_item(name, {key: text for key, text in fields.items() if text})
        self._refresh()
        return created

    # Users

    def submit_events(self, events: Sequence[Event]) -> Future[AddedEvents]:
        """As `add_events`, without waiting for the disk."""
        for event in events:
            self._find(event.item)
        return self.store.submit_events(events)

    def add_events(self, events: Sequence[Event]) -> AddedEvents:
        """Keeps events durably, all or none.

        Raises:
            UnknownNameError: If an item is unknown.
            EventConflictError: If an id is known with another content.
        """
        return self.submit_events(events).result()

    def delete_user(self, user: str) -> Deleted:
        """Removes all of a user.

        Raises:
            UnknownNameError: If there is none.
        """
        if not self.store.has_user(user):
            raise UnknownNameError(f"there is no user {user!r}")
        removed = self.store.delete_user(user)
        return Deleted(events=removed.events, revisions=removed.revisions, outputs=0)

    def user(self, user: str) -> UserView:
        """All that is kept of a user.

        Raises:
            UnknownNameError: If there is none.
        """
        stored = self._stored(user)
        revisions = self.store.revisions(user)
        views = [
            RevisionView(**revision.model_dump(exclude={"user", "sources"}))
            for revision in revisions
        ]
        covers = revisions[-1].covers if revisions else 0
        return UserView(
            user=user,
            events=[
                UserEvent(
                    id=event.id,
                    item=event.item,
                    title=_title(self._find(event.item)),
                    time=event.time,
                    weight=event.weight,
                )
                for _, event in stored
            ],
            blocks=[],
            revisions=views,
            behind=max(0, len(stored) - covers),
        )

    def _stored(self, user: str) -> list[StoredEvent]:
        stored = self.store.stored_history(user)
        if not stored:
            raise UnknownNameError(f"there is no user {user!r}")
        return stored

    # Rankings

    def recommend(
        self, request: RecommendRequest, cancelled: threading.Event | None = None
    ) -> Recommendation:
        """Ranks candidates for a user or a history.

        Args:
            request: Who and what.
            cancelled: Set by the caller who no longer waits.

        Raises:
            UnknownNameError: If the user or an item is unknown.
            OverloadedError: If too many requests wait.
        """
        return self._recommend(request)[0]

    def _recommend(self, request: RecommendRequest) -> tuple[Recommendation, Query]:
        began = time.perf_counter()
        history = self._history(request)
        if request.candidates is None:
            candidates = self.recommender.propose(history, request.n)
        else:
            found = {item.id: item for item in map(self._item, request.candidates)}
            candidates = tuple(found.values())
        proposed = time.perf_counter()
        query = Query(f"serve/{history.user}", history, candidates)
        (query,) = self.recommender.summarized([query], Silent())
        (ranked,) = self.recommender.rank([query])
        ended = time.perf_counter()
        items = {item.id: item for item in candidates}
        summary = query.summary
        return Recommendation(
            user=request.user,
            ranker=self.recommender.name,
            items=[
                RankedItem(
                    item=entry.item, title=_title(items[entry.item]), rank=rank, score=entry.score
                )
                for rank, entry in enumerate(ranked.entries[: request.k], 1)
            ],
            summary=SummaryUsed(text=summary.text, covers=summary.covers) if summary else None,
            recent=[
                ItemTitle(item=item.id, title=_title(item))
                for item in history.recent(self.recommender.config.prompts.recent)
            ],
            timings=Timings(
                retriever=1000 * (proposed - began),
                model=1000 * (ended - proposed),
                total=1000 * (ended - began),
            ),
        ), query

    def _history(self, request: RecommendRequest) -> UserHistory:
        excluded = set(request.exclude)
        if request.history is not None:
            pairs = [(self._item(given), float(n)) for n, given in enumerate(request.history)]
        elif request.user is not None:
            stored = self._stored(request.user)
            pairs = [(self._find(event.item), event.time) for _, event in stored]
        else:
            pairs = []
        kept = (Interaction(item, at) for item, at in pairs if item.id not in excluded)
        return UserHistory(request.user or "", tuple(kept))

    def explain(
        self, request: RecommendRequest, cancelled: threading.Event | None = None
    ) -> Explanation:
        """As `recommend`, with the blocks and the prompt behind it."""
        found, _ = self._recommend(request)
        return Explanation(**found.model_dump(), blocks=list[BlockView](), prompt=[])

    def score(
        self, request: ScoreRequest, cancelled: threading.Event | None = None
    ) -> ScoreResponse:
        """Scores item texts for a described user."""
        raise UnknownNameError("this ranker scores no texts")

    # Working

    def ready(self) -> bool:
        """Whether the model can answer."""
        return True

    def load(self) -> dict[str, float]:
        """Numbers of what goes on, for /metrics and the page, each with a name of its own."""
        return {}

    def close(self) -> None:
        """Ends what works in the background."""


def _title(item: Item, characters: int = 200) -> str:
    return item.fields[0][1][:characters] if item.fields else item.id
