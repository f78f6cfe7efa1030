"""Fresh summaries: a background worker brings them up to date as blocks of events fill.

Work is bounded: a strategy that goes on from its last summary (recurrent, soft) makes one step a
filled block; any other asks again, and the response cache answers what has not changed, so that the
new block and the merges above it are asked alone. An open block's items are shown as recent ones
until it is full.

Nothing is lost or repeated by a crash: a user stays due until the revision that reads the newest
full block is kept, and each text is in the response cache before it is used.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from trsr.errors import ModelError, PromptError, TrsrError
from trsr.models import LanguageModel
from trsr.models.base import Feed, ModelWrapper, Sampling
from trsr.models.cached import CachedModel
from trsr.progress import Silent
from trsr.prompts import PromptWriter
from trsr.serve.batching import Ticket
from trsr.serve.schemas import Revision
from trsr.serve.store import Store, StoredEvent
from trsr.storage.response_cache import MEMORY, ResponseCache, response_key
from trsr.summarize import STRATEGIES, SummarizeSettings, summarize
from trsr.summarize.scheduler import cut_blocks
from trsr.types import Block, Interaction, Item, Summary, UserHistory

USERS = 16
"""Users of one round: they share the model's batches, and a round takes seconds."""
SETTLE = 0.2
"""Seconds until a round begins, so that a burst of events makes one round."""
POLL = 5.0
"""Seconds between looks at what is due, where nobody calls: it may be due since a crash."""
_LONGEST_PAUSE = 30.0
_FORGET_SECONDS = 60.0
_SCRATCH = 10_000

_log = logging.getLogger("trsr.serve")

Opened = tuple[CachedModel, PromptWriter]


class SoftStates(Protocol):
    """What the worker needs of `trsr.models.hf.soft_summary.SoftSummaries`."""

    def keep(self, text: str) -> list[str]:
        """Makes and keeps a summary's state; gives its key in the response cache."""

    def keys(self, text: str) -> list[str]:
        """The keys of all states on the way to a summary."""


class _NotCached(Exception):  # noqa: N818 - an answer, not a mistake
    """A text is not in the response cache."""


class _CacheAlone(ModelWrapper):
    """A model that writes nothing: behind a cache, only what is cached is answered."""

    def generate(self, prompts: Feed, sampling: Sampling) -> Iterator[tuple[int, str]]:
        raise _NotCached
        yield  # a generator, as the protocol wants it


class _InTime(ModelWrapper):
    """A model that stops writing when a request is given up or its time is over."""

    def __init__(self, inner: LanguageModel, ticket: Ticket) -> None:
        super().__init__(inner)
        self._ticket = ticket

    def generate(self, prompts: Feed, sampling: Sampling) -> Iterator[tuple[int, str]]:
        for answer in self.inner.generate(prompts, sampling):
            self._ticket.check()
            yield answer


class _Scratch(ResponseCache):
    """Reads another cache, and keeps what is new in memory alone."""

    def __init__(self, behind: ResponseCache) -> None:
        super().__init__(Path(MEMORY))
        self._behind = behind
        self.found: set[str] = set()

    def get(self, keys: Sequence[str]) -> dict[str, object]:
        """As of both; notes what the other one holds."""
        known = self._behind.get(keys)
        self.found |= known.keys()
        return known | super().get([key for key in keys if key not in known])


@dataclass(frozen=True)
class Plan:
    """A user's next step.

    Attributes:
        history: What is to be read, to the end of a full block.
        begun: The summary that holds, where there is one.
        number: Of the new revision.
        covered: Interactions that the last revision covers.
        events: Ids of the history's events.
        known: The sources of the revisions that hold.
        last_seq: The newest event's place in the order of arrival.
        more: Whether further blocks are full behind it.
    """

    history: UserHistory
    begun: Summary | None
    number: int
    covered: int
    events: tuple[str, ...]
    known: frozenset[str]
    last_seq: int
    more: bool


@dataclass
class SummaryCounts:
    """What the worker did so far.

    Attributes:
        revisions: Summaries that were kept.
        dropped: Summaries that late events made wrong.
        calls: Prompts that the model was asked.
        hits: Prompts that the response cache answered.
        tokens: Tokens of the asked prompts.
        seconds: How long the rounds took.
        failed: Steps that failed.
    """

    revisions: int = 0
    dropped: int = 0
    calls: int = 0
    hits: int = 0
    tokens: int = 0
    seconds: float = 0.0
    failed: int = 0


class Summaries:
    """The users' summaries: what holds now, and the worker that brings them up to date.

    Attributes:
        counts: What was done so far.
        healthy: Whether the last round went well.
    """

    def __init__(
        self,
        store: Store,
        settings: SummarizeSettings,
        sampling: Sampling,
        opened: Callable[[], Opened],
        find: Callable[[str], Item],
        soft: Callable[[], SoftStates | None] = lambda: None,
    ) -> None:
        self._soft = soft
        self.counts = SummaryCounts()
        self.healthy = True
        self._store = store
        self._closed_blocks = settings.model_copy(update={"last_block": False})
        # a plan's history ends where a full block does
        self._settings = settings.model_copy(update={"last_block": True})
        self._sampling = sampling
        self._resumes = hasattr(STRATEGIES.load(settings.strategy), "resume")  # is `Resumable`
        self._open = functools.cache(opened)
        self._opening = threading.Lock()
        self._find = find
        self._scratch: _Scratch | None = None
        self._model_lock = threading.Lock()  # a summarizing model writes for one thread at a time
        self._changed = threading.Condition()
        self._called = False
        self._stopped = False
        self._waiting = 0
        self._busy: set[str] = set()
        self._gone: set[str] = set()
        self._thread: threading.Thread | None = None
        self._read_of_gone = 0.0  # since when the model may keep what it read of deleted users

    # What holds

    def holding(self, events: Sequence[StoredEvent], revisions: Sequence[Revision]) -> int:
        """How many of a user's revisions hold: until an event came in among those they cover."""
        for count in range(len(revisions), 0, -1):
            covers = revisions[count - 1].covers
            if (
                covers <= len(events)
                and events[covers - 1].event.id == revisions[count - 1].last_event
            ):
                return count
        return 0

    def blocks(self, history: UserHistory) -> Sequence[Block]:
        """The history's blocks, the open one too."""
        return cut_blocks(history, self._settings)

    def block_texts(self, history: UserHistory) -> list[str]:
        """What was written of each full block alone; empty where the strategy writes no such."""
        blocks = cut_blocks(history, self._closed_blocks)
        if self._resumes or not blocks or not self._settings.uses_llm:
            return []
        model, writer = self._opened()
        flow = STRATEGIES.load(self._settings.strategy)(writer, self._settings).flow(blocks)
        prompts = next(flow)
        kind = {"generate": self._sampling.model_dump()}
        keys = [response_key(model.identity, prompt, kind) for prompt in prompts]
        known = model.store.get(keys)
        return [
            writer.finish(prompt, str(known[key])) if key in known else ""
            for prompt, key in zip(prompts, keys, strict=True)
        ]

    def open_model(self) -> None:
        """Opens the summarizing model, where it is not open yet."""
        self._opened()

    def _opened(self) -> Opened:
        with self._opening:
            return self._open()

    # The worker

    def start(self) -> None:
        """Begins to work in the background."""
        self._thread = threading.Thread(target=self._work, name="trsr-summaries", daemon=True)
        self._thread.start()

    def call(self) -> None:
        """Says that something may be due."""
        with self._changed:
            self._called = True
            self._changed.notify_all()

    @property
    def idle(self) -> bool:
        """Whether nobody is due, and the last round is counted."""
        return not self._store.due(1) and not self._busy

    def close(self) -> None:
        """Ends the work behind the step under way."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join()

    def _work(self) -> None:
        with contextlib.suppress(TrsrError, OSError):  # a round says what is wrong
            self._opened()  # before the first user asks: it takes seconds
        pause = 0.0
        while not self._stopped:
            with self._changed:
                self._changed.wait_for(lambda: self._called or self._stopped, POLL + pause)
                self._called = False
            if not self._wait(SETTLE):
                return
            try:
                while not self._stopped and self.round():
                    self._forget(_FORGET_SECONDS)
                self._forget(0.0)
                self.healthy, pause = True, 0.0
            except Exception as error:  # it stays due, and is tried again
                self.healthy = False
                self.counts.failed += 1
                pause = min(2 * pause + 1, _LONGEST_PAUSE)
                _log.warning("summaries: %s; tried again in %.0f s", _said(error), pause)
                if not self._wait(pause):
                    return

    def _forget(self, after: float) -> None:
        """Lets the model forget its prompts' keys and values, so long after a user was deleted.

        It costs opening the model anew: not for each of many users, and best when nothing is due.
        """
        if self._read_of_gone and time.monotonic() - self._read_of_gone >= after:
            self._read_of_gone = 0.0
            with self._model_lock:
                getattr(self._opened()[0].inner, "forget", lambda: None)()

    def _wait(self, seconds: float) -> bool:
        with self._changed:
            return not self._changed.wait_for(lambda: self._stopped, seconds)

    def round(self) -> bool:
        """Makes the next step of users that are due, side by side; whether there was one."""
        users = self._store.due(USERS)
        with self._changed:
            self._changed.wait_for(lambda: not self._waiting, POLL)  # who waits for an answer first
            users = [user for user in users if user not in self._gone]
            self._busy |= set(users)
        try:
            self._advance(users)
        finally:
            with self._changed:
                self._busy.clear()
                self._changed.notify_all()
        return bool(users)

    def _advance(self, users: Sequence[str]) -> None:
        plans = {user: plan for user in users if (plan := self.plan(user)) is not None}
        if not plans:
            return
        model, writer = self._opened()
        began, before = time.perf_counter(), dataclasses.replace(model.counts)
        try:
            with self._model_lock:
                self._run(plans, model, writer)
        finally:
            self.counts.seconds += time.perf_counter() - began
            self.counts.calls += model.counts.asked - before.asked
            self.counts.hits += model.counts.hits - before.hits
            self.counts.tokens += model.counts.tokens - before.tokens

    def _run(self, plans: dict[str, Plan], model: CachedModel, writer: PromptWriter) -> None:
        try:
            for user, summary in self._texts(plans, model, writer):
                self._keep(plans[user], summary, model)
        except PromptError as error:
            if len(plans) > 1:
                for user, plan in plans.items():
                    self._run({user: plan}, model, writer)
                return
            # asked again it would fail again: until the next event the last summary stays
            ((user, plan),) = plans.items()
            self.counts.failed += 1
            _log.warning("summaries: %s", _said(error))
            self._store.summarized(user, plan.last_seq)

    def _texts(
        self, plans: dict[str, Plan], model: CachedModel, writer: PromptWriter
    ) -> Iterator[tuple[str, Summary]]:
        return summarize(
            [(user, plan.history) for user, plan in plans.items()],
            model=model,
            writer=writer,
            settings=self._settings,
            sampling=self._sampling,
            progress=Silent(),
            begun={user: plan.begun for user, plan in plans.items() if plan.begun is not None},
        )

    def plan(self, user: str) -> Plan | None:
        """A user's next step; None where no block has filled, and then the user is not due.

        Revisions that do not hold any more are dropped, with the texts that they came from.
        """
        events = self._store.stored_history(user)
        revisions = self._store.revisions(user)
        holding = self.holding(events, revisions)
        if holding < len(revisions):
            self._drop(revisions[:holding], revisions[holding:])
            revisions = revisions[:holding]
        last_seq = max((event.seq for event in events), default=0)
        history = self._history(user, events)
        covered = revisions[-1].covers if revisions else 0
        full = [one.end for one in cut_blocks(history, self._closed_blocks)]
        ends = [end for end in full if end > covered]
        if not ends:
            self._store.summarized(user, last_seq)
            return None
        end = ends[0] if self._resumes else ends[-1]
        return Plan(
            UserHistory(user, history.interactions[:end]),
            Summary(user, revisions[-1].text, covered) if revisions else None,
            revisions[-1].number + 1 if revisions else 1,
            covered,
            tuple(one.event.id for one in events),
            frozenset(source for one in revisions for source in one.sources),
            last_seq,
            end < ends[-1],
        )

    def _history(self, user: str, events: Sequence[StoredEvent]) -> UserHistory:
        seen = tuple(Interaction(self._find(one.event.item), one.event.time) for one in events)
        return UserHistory(user, seen)

    def _keep(self, plan: Plan, summary: Summary, model: CachedModel) -> None:
        user, end = plan.history.user, len(plan.history)
        found = (*summary.sources, *self._state(summary.text))
        sources = tuple(key for key in dict.fromkeys(found) if key not in plan.known)
        if user in self._gone:
            model.store.delete(sources)
            return
        costs = model.store.costs(sources)
        self._store.add_revision(
            Revision(
                user=user,
                number=plan.number,
                text=summary.text,
                covers=end,
                first_event=plan.events[plan.covered],
                last_event=plan.events[end - 1],
                sources=sources,
                tokens=sum(one.tokens for one in costs.values()),
                seconds=sum(one.seconds for one in costs.values()),
                created=time.time(),
            )
        )
        self.counts.revisions += 1
        if not plan.more:
            self._store.summarized(user, plan.last_seq)

    def _state(self, text: str) -> list[str]:
        """Makes a soft summary's state, one step behind the last one's; its key in the cache."""
        soft = self._soft() if self._settings.soft else None
        if soft is None:
            return []
        began = time.perf_counter()
        keys = soft.keep(text)
        self.counts.seconds += time.perf_counter() - began
        return keys

    def _drop(self, kept: Sequence[Revision], dropped: Sequence[Revision]) -> None:
        """Drops revisions; their texts first, which nothing else would ever remove."""
        still = {source for one in kept for source in one.sources}
        gone = {source for one in dropped for source in one.sources} - still
        model, _ = self._opened()
        model.store.delete(sorted(gone))
        self._store.drop_revisions(dropped[0].user, dropped[0].number)
        self.counts.dropped += len(dropped)

    # At once

    def from_cache(self, user: str) -> None:
        """Makes the revisions whose texts are cached already, as a run's own users' are."""
        model, writer = self._opened()
        alone = CachedModel(_CacheAlone(model.inner), model.store)
        try:
            while (plan := self.plan(user)) is not None:
                for _, summary in self._texts({user: plan}, alone, writer):
                    self._keep(plan, summary, alone)
        except (_NotCached, PromptError):
            self._store.set_due(user)
            self.call()

    def at_once(
        self, history: UserHistory, begun: Summary | None, ticket: Ticket
    ) -> Summary | None:
        """The summary of a history that is nobody's own; what is written for it is not kept.

        `begun` is the summary of its first blocks, where there is one.

        Raises:
            ModelError: If the model fails, or the request's time is over.
            PromptError: If a prompt cannot be made to fit.
        """
        full = cut_blocks(history, self._closed_blocks)
        if not full:
            return None
        model, writer = self._opened()
        plan = _plan_of(UserHistory(history.user, history.interactions[: full[-1].end]), begun)
        with self._changed:
            self._waiting += 1
        try:
            with self._model_in_time(ticket):
                scratch = self._scratch
                if scratch is None or len(scratch) > _SCRATCH:
                    scratch = self._scratch = _Scratch(model.store)
                asked = CachedModel(_InTime(model.inner, ticket), scratch)
                ((_, found),) = self._texts({history.user: plan}, asked, writer)
        finally:
            with self._changed:
                self._waiting -= 1
                self._changed.notify_all()
        return found if found.text else None

    @contextlib.contextmanager
    def _model_in_time(self, ticket: Ticket) -> Iterator[None]:
        """The summarizing model, unless the request's time is over before a round has ended."""
        while not self._model_lock.acquire(timeout=ticket.left):
            ticket.check()
        try:
            yield
        finally:
            self._model_lock.release()

    # Deleting

    def delete(self, user: str, more: Sequence[str] = ()) -> Any:
        """Removes all of a user from the store, and the texts behind the summaries.

        `more` are further keys of the response cache that are this user's.

        Returns:
            What the store removed, and how many texts.
        """
        with self._changed:
            self._gone.add(user)
            self._changed.wait_for(lambda: user not in self._busy)
        try:
            asked = self._settings.uses_llm or self._settings.soft
            keys = set(more) | (self._cached_keys(user) if asked else set())
            removed = self._store.delete_user(user)
            keys |= set(removed.sources)
            outputs = self._opened()[0].store.delete(sorted(keys)) if keys else 0
            # not behind the model's lock: rounds on end would never let go of it
            self._scratch = None
            if self._settings.uses_llm:
                self._read_of_gone = self._read_of_gone or time.monotonic()
        finally:
            with self._changed:
                self._gone.discard(user)
        self.call()
        return removed, outputs

    def _cached_keys(self, user: str) -> set[str]:
        """Keys of the texts of a user's history, also those that no revision names.

        A crash may have come before the revision.
        """
        history = self._history(user, self._store.stored_history(user))
        full = cut_blocks(history, self._closed_blocks)
        if not full:
            return set()
        model, writer = self._opened()
        noting = _Scratch(model.store)
        alone = CachedModel(_CacheAlone(model.inner), noting)
        plan = _plan_of(UserHistory(user, history.interactions[: full[-1].end]))
        with contextlib.suppress(_NotCached, PromptError), contextlib.closing(noting):
            for _, summary in self._texts({user: plan}, alone, writer):
                soft = self._soft() if self._settings.soft else None
                noting.found |= set(soft.keys(summary.text)) if soft else set()
        return noting.found


def _plan_of(history: UserHistory, begun: Summary | None = None) -> Plan:
    """Of a history of which nothing is kept."""
    return Plan(history, begun, 0, 0, (), frozenset(), 0, more=False)


def _said(error: BaseException) -> str:
    """An error for the log, which holds no text of users."""
    return type(error).__name__ if not isinstance(error, ModelError) else str(error)
