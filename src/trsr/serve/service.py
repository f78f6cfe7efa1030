"""What the service does, behind HTTP and the page: thread-safe functions of a run and its state."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import logging
import math
import threading
import time
import uuid
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from trsr import machine
from trsr.config import Config
from trsr.data import Catalog
from trsr.data.matching import matching
from trsr.data.service_log import ServiceLog
from trsr.errors import ConfigError, DataError, ModelError, StoreError, TrsrError
from trsr.explanation import title_text, words_of
from trsr.models import LanguageModel, ScoringModel, open_model
from trsr.models.apart import ApartModel
from trsr.models.cached import keep_reference
from trsr.pipeline.artifacts import SPLITS, read_summaries
from trsr.pipeline.ranking import RETRIEVED, read_retrieved
from trsr.prompts import PromptWriter, TitleWriter
from trsr.rankers import QueryBatch, case_batches, p_yes, scored
from trsr.rankers.base import Part
from trsr.rankers.blend import BlendRanker, sum_of
from trsr.recommender import (
    Recommender,
    innermost,
    open_summarizer,
    ranking_writer,
    soft_summaries,
    summary_writer,
)
from trsr.registry import like
from trsr.serve.batching import BatchedModel, OverloadedError, Ticket, on_behalf_of
from trsr.serve.calibration import Calibration, calibration
from trsr.serve.items import LiveItems, UnknownNameError
from trsr.serve.noting import noting, noting_model
from trsr.serve.retriever import Retriever
from trsr.serve.schemas import (
    AddedEvents,
    BlockView,
    ChatMessage,
    Deleted,
    Event,
    ExplainedItem,
    Explanation,
    InlineItem,
    ItemTitle,
    ItemView,
    KeptItem,
    NamedFields,
    PutItem,
    RankedItem,
    RankerScore,
    Recommendation,
    RecommendRequest,
    Revision,
    RevisionView,
    Score,
    ScoreRequest,
    ScoreResponse,
    SummaryUsed,
    Timings,
    Usage,
    UserEvent,
    UserView,
    WordAdded,
)
from trsr.serve.settings import ServeSettings
from trsr.serve.store import Store, StoredEvent
from trsr.serve.summaries import Summaries
from trsr.settings import digest
from trsr.storage import files
from trsr.storage.run_directory import RunDirectory, StageRecord
from trsr.storage.shared_cache import open_cache
from trsr.types import Interaction, Item, Query, Summary, UserHistory

if TYPE_CHECKING:
    from trsr.models.hf.soft_summary import SoftSummaries

__all__ = ["OverloadedError", "Service", "UnknownNameError"]

_TRIED = 100_000
"""Most users remembered as those whose first summaries were looked for."""
_WARM = 20
"""Candidates of the first ranking, which nobody waits for."""
_OLDEST, _NEWEST = 1e8, 1e10  # of times in seconds since 1970
_SEEN = 4096  # users whose items in the run's data are held

_log = logging.getLogger("trsr.serve")


class ServedRecommender(Recommender):
    """A run's rankers, whose language models read for many threads at once.

    Nothing that is asked here is put into the response cache: histories change, and what a user's
    prompts give is the user's.
    """

    limits = ServeSettings()
    keeps = False

    def opened(self) -> list[BatchedModel]:
        """The models that are open."""
        return [model for model, _ in self._models.values() if isinstance(model, BatchedModel)]

    def model(self) -> tuple[ScoringModel, PromptWriter]:
        """The run's ranking model, trained where it was, and its prompts."""
        return self._rank(self._adapter is not None)

    @property
    def reads_summary(self) -> bool:
        """Whether the ranker, or one that it asks, reads the summary."""
        return self.config.reads_summary(self.config.rank.with_members(self.name))

    @functools.cached_property
    def summarizer(self) -> tuple[Any, PromptWriter]:
        """The summarizing model, with the response cache around it, and its prompts.

        A local one writes in a process of its own, so that requests need not wait for it.
        """
        local = self.config.summarizer.backend in ("transformers", "openvino")
        model = open_summarizer(self.config, ApartModel if local else open_model)
        return model, summary_writer(self.config, model, self.catalog)

    def _titles(self) -> tuple[LanguageModel, TitleWriter]:
        model, writer = super()._titles()
        return noting_model(model), writer

    def _open(self, config: Config, adapter: Path | None) -> tuple[ScoringModel, PromptWriter]:
        limits = self.limits
        model = open_model(config.model, adapter)
        if not isinstance(model, ScoringModel):
            raise ModelError(
                f"the backend {config.model.backend!r} gives no log-probabilities of answers, "
                "so it cannot rank"
            )
        if config.model.scorer == "endpoint":
            keep_reference(model, open_cache(self.config.run.cache))
        keep = getattr(model, "keep_prefixes", None)
        if keep is not None:
            keep(limits.cache_mb << 20)
        if summaries := soft_summaries(model):
            # a user's states are the user's: the worker keeps them beside the user's revisions
            summaries.keep_in(open_cache(self.config.run.cache), write=False)
        served = BatchedModel(model, limits.batch_tokens, limits.queue)
        return served, ranking_writer(config, served)


@dataclasses.dataclass
class _Asked:
    """A request that is understood."""

    history: UserHistory
    summary: Summary | None
    revision: int | None
    query: Query
    waiting: int
    ticket: Ticket
    times: dict[str, float]
    parts: dict[str, Part] | None = None
    """What the ranker's members add; None where nobody asks."""


class Service:
    """A run put to work.

    Raises:
        ConfigError: If there is no such ranker.
        StoreError: If the run is not ranked yet.
    """

    def __init__(self, run: Path, store: Store, settings: ServeSettings) -> None:
        self.run = run
        self.store = store
        self.settings = settings
        self.recommender = ServedRecommender.load(run, settings.ranker)
        self.recommender.limits = settings
        self._lock = threading.Lock()
        self._warming = threading.Lock()
        self._warm = False
        self._unready = ""
        self._tried: dict[str, None] = {}
        seen = self.recommender.dataset.seen
        self._seen = functools.lru_cache(_SEEN)(lambda user: seen([user]).get(user, frozenset()))
        records = RunDirectory(run).records()
        log = self._log() if store.is_new else None
        store.import_run(self.recommender.dataset, digest(records["prepare"].files), log)
        self.items = LiveItems(store, self.recommender.catalog, self._read)
        config = self.recommender.config
        self.retriever = Retriever(self.recommender)
        self.summaries = Summaries(
            store,
            config.summarize,
            config.summary_sampling,
            lambda: self.recommender.summarizer,
            self.items.find,
            self._soft,
        )
        self._summarizes = config.summarize.strategy != "none" and self.recommender.reads_summary
        if self._summarizes:
            store.write_summaries_of(_kind_of_summaries(records))
            self.summaries.start()
            self.summaries.call()  # what a stop left undone

    def _soft(self) -> SoftSummaries | None:
        """What makes soft summaries, where the run's ranker reads them."""
        model = self.recommender.model()[0]
        found = soft_summaries(model)
        if found is not None and found.full:
            innermost(model).forget()
        return found

    def _log(self) -> ServiceLog | None:
        """What the run was made with beside files.

        Raises:
            ConfigError: If it is gone: a new state would forget deletions.
        """
        folder = self.recommender.config.data.service_log
        try:
            return ServiceLog.read(folder) if folder is not None else None
        except DataError as error:
            raise ConfigError(
                f"{self.run} was made with a service's log, and a new state begins with it: "
                f"{error}. Or go on with the state that wrote it (--database)"
            ) from error

    # Items

    def _read(self, items: Sequence[Item]) -> None:
        """Has new items scored for nobody, as what rankers make of a text is kept.

        Those that ask a language model keep nothing, and lists made elsewhere know no such items.
        """
        rank = self.recommender.config.rank
        names = rank.with_members(self.recommender.name, rank.retriever)
        batch = QueryBatch.of([Query("new", UserHistory("", ()), tuple(items))], self._catalog)
        for name in {*names} - {*rank.those("uses_llm", names), *rank.external}:
            if not rank.members(name):
                scored(self.recommender.fitted(name), batch, name)

    @property
    def _catalog(self) -> Catalog:
        return self.recommender.catalog

    def _item(self, given: str | InlineItem) -> Item:
        if isinstance(given, InlineItem) and given.fields:
            return Item(given.id, self.items.in_order(given.fields))
        return self.items.find(given if isinstance(given, str) else given.id)

    def item(self, name: str) -> ItemView:
        """An item's text.

        Raises:
            UnknownNameError: If there is none.
        """
        fields = dict(self.items.find(name).fields)
        return ItemView(id=name, fields=fields, read=self._in_prompts(fields))

    def _in_prompts(self, fields: Iterable[str]) -> list[str]:
        """Those that prompts show."""
        shown = self.recommender.config.prompts.fields
        asked = self._prompted or self._summarizes
        return [one for one in fields if not shown or one in shown] if asked else []

    def put_items(self, items: Sequence[NamedFields]) -> list[KeptItem]:
        """Brings items in, or changes their texts, all or none; what became of each.

        Raises:
            DataError: If an id comes with two texts.
        """
        given: dict[str, dict[str, str]] = {}
        for item in items:
            fields = dict(self.items.in_order(item.fields))
            if given.setdefault(item.id, fields) != fields:
                raise DataError(f"the item {item.id!r} comes with two texts; leave one out")
        results = self.store.put_items(given)
        self.items.refresh()
        return [
            KeptItem(
                id=item.id,
                result=results[item.id],
                read=self._in_prompts(given[item.id]),
                warnings=self._doubts(given[item.id]),
            )
            for item in items
        ]

    def put_item(self, name: str, fields: dict[str, str]) -> PutItem:
        """As `put_items`, of one item."""
        (kept,) = self.put_items([NamedFields(id=name, fields=fields)])
        return PutItem(**kept.model_dump(), fields=dict(self.items.find(name).fields))

    def _doubts(self, fields: Mapping[str, str]) -> list[str]:
        """What may be wrong with an item's fields, so that rankers would not read what they should.

        A run whose items have no texts expects none.
        """
        config, columns = self.recommender.config, self._catalog.columns
        if not columns:
            return []
        there = ", ".join(columns)
        found = [
            f"the run's items have no field {name!r}{like(name, columns) or f', but {there}'}"
            for name in fields
            if name not in columns
        ]
        prompted = self._prompted or self._summarizes
        for what, read, asked in (
            ("prompts", config.prompts.fields, prompted),
            ("rank.text_fields", config.rank.text_fields, True),
        ):
            if asked and read and not {*read} & fields.keys():
                found.append(f"none of its fields is one that {what} read: {', '.join(read)}")
        if not fields:
            found.append(f"it has no text to rank it by; the run's items have {there}")
        return found

    # Users

    def knows(self, events: Sequence[Event]) -> bool:
        """Whether `submit_events` will not have to look into the database: it is done at once."""
        return all(self.items.at_hand(event.item) for event in events)

    def submit_events(self, events: Sequence[Event]) -> Future[AddedEvents]:
        """As `add_events`, without waiting for the disk."""
        for event in events:
            self.items.find(event.item)
            self._check_time(event)
        done = self.store.submit_events(events)
        if self._summarizes:
            done.add_done_callback(lambda _: self.summaries.call())
        return done

    @functools.cached_property
    def _unit(self) -> float:
        """How many of the run's times are a second; 0 where they are not times since 1970."""
        middle = self.recommender.dataset.interactions["time"].median()
        units = (10.0**power for power in (0, 3, 6, 9))
        found = float(middle) if isinstance(middle, float) else 0.0
        return next((unit for unit in units if _OLDEST < found / unit < _NEWEST), 0.0)

    def _check_time(self, event: Event) -> None:
        """Refuses a time that cannot be of the run's clock: histories would be in a wrong order.

        Raises:
            DataError: If it is none, with what it may be.
        """
        seconds = event.time / self._unit if self._unit else 0.0
        if abs(seconds) >= _NEWEST or (self._unit > 1 and 0 < seconds < _OLDEST / 10):
            raise DataError(
                f"the event {event.id!r} has the time {event.time:.0f}, and the run's times are "
                f"like {self._unit * time.time():.0f} for now: are these "
                f"{'seconds' if abs(seconds) < _NEWEST else 'milliseconds'}?"
            )

    def add_events(self, events: Sequence[Event]) -> AddedEvents:
        """Keeps events durably, all or none.

        Raises:
            UnknownNameError: If an item is unknown.
            EventConflictError: If an id is known with another content.
        """
        return self.submit_events(events).result()

    def delete_user(self, user: str) -> Deleted:
        """Removes all of a user: events, summaries, and the stored model outputs behind them.

        Raises:
            UnknownNameError: If there is none.
        """
        seen = self.recommender.dataset.seen([user])
        if not self.store.has_user(user) and user not in seen:
            raise UnknownNameError(f"there is no user {user!r}")
        removed, outputs = self.summaries.delete(user, self._run_keys(user))
        self._tried.pop(user, None)
        for model in self.recommender.opened():
            forget = getattr(model.inner, "forget", None)
            if forget is not None:
                forget()
        return Deleted(events=removed.events, revisions=removed.revisions, outputs=outputs)

    def _run_keys(self, user: str) -> list[str]:
        """Keys of what the run itself asked its ranking models about a user's cases."""
        recommender, rank = self.recommender, self.recommender.config.rank
        asked, path = rank.with_members(*rank.used, rank.retriever), self.run / RETRIEVED
        with noting() as keys:
            for split in SPLITS:
                cases = recommender.dataset.cases(split).of_user(user)
                if not len(cases):
                    continue
                summaries = read_summaries(self.run, [split])
                sources = [one.sources for one in summaries.values() if one.user == user]
                keys.extend(itertools.chain.from_iterable(sources))
                if recommender.config.summarize.soft and (soft := self._soft()):
                    read = (one.text for one in summaries.values() if one.user == user)
                    keys.extend(key for text in read for key in soft.keys(text))
                proposed = read_retrieved(path) if cases.full and files.exists(path) else None
                for batch in case_batches(cases, recommender.catalog, summaries, 1, proposed):
                    for name in (
                        *rank.those("pointwise", asked),
                        *rank.those("writes_titles", asked),
                    ):
                        recommender.fitted(name).score(batch)
        return keys

    def user(self, user: str) -> UserView:
        """All that is kept of a user.

        Raises:
            UnknownNameError: If there is none.
        """
        stored, revisions = self._known(user)
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
                    title=self._title(self.items.find(event.item)),
                    time=event.time,
                    weight=event.weight,
                )
                for _, event in stored
            ],
            blocks=self._blocks(self._stored_history(user, stored)),
            revisions=views,
            behind=max(0, len(stored) - covers),
        )

    def _blocks(self, history: UserHistory) -> list[BlockView]:
        if not (self._summarizes and history.interactions):
            return []
        texts = self.summaries.block_texts(history)
        return [
            BlockView(start=one.start, end=one.end, text=texts[n] if n < len(texts) else "")
            for n, one in enumerate(self.summaries.blocks(history))
        ]

    def _known(self, user: str) -> tuple[list[StoredEvent], list[Revision]]:
        """A user's events, and the revisions that hold.

        Raises:
            UnknownNameError: If there is none.
        """
        stored = self.store.stored_history(user)
        if not stored:
            raise UnknownNameError(
                f"there is no user {user!r}: send what the user does (POST /v1/events), or give a "
                "history in the request"
            )
        revisions = self.store.revisions(user)
        if not revisions and self._summarizes and user not in self._tried:
            # of users whom the run knows, its own texts are in the response cache
            self.summaries.from_cache(user)
            with self._lock:
                self._tried[user] = None
                if len(self._tried) > _TRIED:
                    self._tried.clear()
            revisions = self.store.revisions(user)
        return stored, revisions[: self.summaries.holding(stored, revisions)]

    def _stored_history(self, user: str, stored: Iterable[StoredEvent]) -> UserHistory:
        seen = tuple(Interaction(self.items.find(event.item), event.time) for _, event in stored)
        return UserHistory(user, seen)

    # Rankings

    def recommend(
        self, request: RecommendRequest, cancelled: threading.Event | None = None
    ) -> Recommendation:
        """Ranks candidates for a user or a history.

        A caller who no longer waits sets `cancelled`.

        Raises:
            UnknownNameError: If the user or an item is unknown.
            DataError: If there is nothing to rank.
            OverloadedError: If too many requests wait.
            ModelError: If the model fails, or the request's time is over.
            PromptError: If a prompt cannot be made to fit.
        """
        began = time.perf_counter()
        return self._ranked(request, self._asked(request, cancelled), began)

    def explain(
        self, request: RecommendRequest, cancelled: threading.Event | None = None
    ) -> Explanation:
        """As `recommend`, with the blocks, the prompt and the members' scores behind it."""
        began = time.perf_counter()
        asked = self._asked(request, cancelled)
        asked.parts = {}
        found = self._ranked(request, asked, began)
        ranker = self.recommender.fitted(found.ranker)
        return Explanation(
            **found.model_dump(exclude={"items"}),
            items=self._explained(found.items, asked),
            weights=ranker.weights_ if isinstance(ranker, BlendRanker) else {},
            blocks=self._blocks(asked.history),
            prompt=self._prompt(asked.query, found.items[0].item),
        )

    def _explained(self, items: Sequence[RankedItem], asked: _Asked) -> list[ExplainedItem]:
        """What each ranker that takes part gave each item."""
        name, members = self.recommender.name, asked.parts or {}
        batch = QueryBatch.of([asked.query], self._catalog)
        fitted = self.recommender.fitted
        heaviest = {one: words_of(fitted(one), batch) for one in (name, *members)}

        def words(ranker: str, place: int) -> list[WordAdded]:
            found = heaviest[ranker]
            return [WordAdded(word=one, added=add) for one, add in (found(place) if found else ())]

        ids = [item.id for item in asked.query.candidates]
        found = []
        for item in items:
            place = batch.places[0][ids.index(item.item)]
            scores = [RankerScore(ranker=name, score=item.score, words=words(name, place))]
            for one, part in members.items():
                own = part.added if part.scores is None else part.scores
                scores.append(
                    RankerScore(
                        ranker=one,
                        score=float(own[0, place]),
                        added=float(part.added[0, place]),
                        words=words(one, place),
                    )
                )
            found.append(ExplainedItem(**item.model_dump(), scores=scores))
        return found

    @property
    def _prompted(self) -> bool:
        """Whether the ranker, or one that it asks, gives a model a prompt for each candidate."""
        rank = self.recommender.config.rank
        return bool(rank.those("pointwise", rank.with_members(self.recommender.name)))

    def _prompt(self, query: Query, first: str) -> list[ChatMessage]:
        """What the language model read about one candidate; nothing where none was asked."""
        if not self._prompted:
            return []
        place = [item.id for item in query.candidates].index(first)
        messages = self.recommender.prompts(query)[place].messages
        return [ChatMessage(role=one.role, content=one.shown) for one in messages]

    def _asked(self, request: RecommendRequest, cancelled: threading.Event | None) -> _Asked:
        ends = time.perf_counter() + self.settings.deadline
        ticket = Ticket(ends, cancelled or threading.Event())
        times: dict[str, float] = {}
        with _timed(times, "summary"):
            history, summary, revision = self._user_side(request, ticket)
        with _timed(times, "retriever"):
            candidates, waiting = self._candidates(request, history, ticket)
        query = Query(f"serve/{history.user}", history, candidates, summary)
        return _Asked(history, summary, revision, query, waiting, ticket, times)

    def _user_side(
        self, request: RecommendRequest, ticket: Ticket
    ) -> tuple[UserHistory, Summary | None, int | None]:
        """The history, the summary to read, and its number where it is stored."""
        excluded, user = set(request.exclude), request.user or ""
        begun: Summary | None = None
        revision: int | None = None
        if request.history is not None:
            items = [self._item(given) for given in request.history]
            seen = [Interaction(item, float(n)) for n, item in enumerate(items)]
            stored_summary = False
        elif request.user is not None:
            stored, revisions = self._known(request.user)
            seen = list(self._stored_history(user, stored).interactions)
            first = next((n for n, one in enumerate(seen) if one.item.id in excluded), len(seen))
            stored_summary = first == len(seen)
            held = [one for one in revisions if one.covers <= first]
            if held:
                begun = Summary(user, held[-1].text, held[-1].covers)
                revision = held[-1].number
        else:
            seen, stored_summary = [], True
        kept = tuple(one for one in seen if one.item.id not in excluded)
        history = UserHistory(user, kept)
        if not self._summarizes:
            return history, None, None
        if request.summary is not None:
            given = Summary(user, request.summary, len(kept)) if request.summary.strip() else None
            return history, given, None
        if stored_summary:
            return history, begun if begun and begun.text else None, revision
        return history, self.summaries.at_once(history, begun, ticket), None

    def _candidates(
        self, request: RecommendRequest, history: UserHistory, ticket: Ticket
    ) -> tuple[tuple[Item, ...], int]:
        """What is ranked, and how many new items could not be proposed yet."""
        if request.candidates is None:
            seen = self._also_seen(request) if request.history is None else frozenset[str]()
            wanted = request.n or self.proposed(request.k)
            new, waiting = self.items.ready(ticket.left)
            found = self.retriever.propose(history, wanted, new, seen, request.where)
            return found, waiting
        given = tuple({item.id: item for item in map(self._item, request.candidates)}.values())
        return matching(self._catalog, request.where, given) if request.where else given, 0

    def proposed(self, k: int) -> int:
        """How many items are ranked where a request does not say it, for a list of `k`."""
        return max(k, self.recommender.config.rank.retrieve_k)

    def _also_seen(self, request: RecommendRequest) -> frozenset[str]:
        """What the run knows that a user met beside the stored history."""
        seen = self._seen(request.user or "")
        if seen and self.store.is_deleted(request.user or ""):  # who came back is a new user
            return frozenset()
        return seen - set(request.exclude)

    def _ranked(self, request: RecommendRequest, asked: _Asked, began: float) -> Recommendation:
        query, name = asked.query, self.recommender.name
        with on_behalf_of(asked.ticket), _timed(asked.times, "rank"):
            asked.ticket.check()
            batch = QueryBatch.of([query], self._catalog)
            ranker = self.recommender.fitted(name)
            if asked.parts is not None and ranker.members(ranker.config):
                asked.parts = ranker.parts(batch)  # asks a model no second time
            found = sum_of(asked.parts) if asked.parts else scored(ranker, batch, name).scores
            scores = found[0][batch.places[0]]
        curve = self._calibration
        order = np.argsort(-scores, kind="stable")[: request.k]
        items = [
            RankedItem(
                item=query.candidates[place].id,
                title=self._title(query.candidates[place]),
                rank=rank,
                score=float(scores[place]),
                p_yes=curve(float(scores[place])) if curve else None,
            )
            for rank, place in enumerate(order.tolist(), 1)
        ]
        ticket, summary = asked.ticket, asked.summary
        config = self.recommender.config
        asking = config.rank.those("uses_llm", config.rank.with_members(name))
        recent = asked.history.recent(config.prompts.recent) if asking else ()
        spent = asked.times["rank"] - ticket.model - ticket.queue
        return Recommendation(
            user=request.user,
            ranker=name,
            items=items,
            summary=summary
            and SummaryUsed(text=summary.text, revision=asked.revision, covers=summary.covers),
            recent=[ItemTitle(item=item.id, title=self._title(item)) for item in recent],
            prompted=self._prompted,
            items_waiting=asked.waiting,
            timings=Timings(
                queue=1000 * ticket.queue,
                summary=1000 * asked.times["summary"],
                retriever=1000 * asked.times["retriever"],
                prompt=1000 * max(0.0, spent),
                model=1000 * ticket.model,
                total=1000 * (time.perf_counter() - began),
            ),
        )

    @functools.cached_property
    def _calibration(self) -> Calibration | None:
        split = self.recommender.config.rank.split
        try:
            cases = self.recommender.dataset.cases(split)
            return calibration(self.run, cases, self.recommender.name)
        except TrsrError as error:  # a ranking without probabilities is better than none
            _log.warning("no probabilities: %s", error)
            return None

    def score(
        self, request: ScoreRequest, cancelled: threading.Event | None = None
    ) -> ScoreResponse:
        """Scores item texts for described users: the model's own p(yes), not calibrated.

        Raises:
            DataError: If the run has no language model, or the two sides are not of one length.
            ModelError, OverloadedError, PromptError: As `recommend`.
        """
        config = self.recommender.config
        if not config.rank.those("pointwise"):
            raise DataError("no ranker of this run asks a language model, so it scores no texts")
        users = [request.text_1] if isinstance(request.text_1, str) else request.text_1
        items = [request.text_2] if isinstance(request.text_2, str) else request.text_2
        if len(users) == 1:
            users = users * len(items)
        if len(users) != len(items):
            raise DataError(
                f"text_1 has {len(users)} texts and text_2 {len(items)}: give one for all, or as "
                "many"
            )
        model, writer = self.recommender.model()
        column = (*config.prompts.fields, *self.recommender.catalog.columns, "text")[0]
        prompts = []
        for user, item in zip(users, items, strict=True):
            summary = Summary("", user, 0) if user.strip() else None
            shown = Item("text", ((column, item),)) if item else Item("text")
            prompts += writer.rank(Query("score", UserHistory("", ()), (shown,), summary))
        ends = time.perf_counter() + self.settings.deadline
        with on_behalf_of(Ticket(ends, cancelled or threading.Event())):
            found = model.score(prompts, writer.answers)
        margins = (found[:, 0] - found[:, 1]).tolist()
        if not all(map(math.isfinite, margins)):
            raise ModelError("the model gave something that is not a number")
        tokens = sum(map(model.count_tokens, prompts))
        return ScoreResponse(
            id=f"score-{uuid.uuid4().hex}",
            created=int(time.time()),
            model=request.model or config.model.name,
            data=[Score(index=n, score=p_yes(one)) for n, one in enumerate(margins)],
            usage=Usage(prompt_tokens=tokens, total_tokens=tokens),
        )

    # Working

    @property
    def threads(self) -> int:
        """How many requests work side by side: those who wait for a model, or one a core."""
        rank = self.recommender.config.rank
        asking = rank.those("uses_llm", rank.with_members(self.recommender.name, rank.retriever))
        return self.settings.queue if asking or self._summarizes else machine.cores()

    def ready(self) -> bool:
        """Whether requests are answered at once.

        The first call ranks for nobody, which opens and compiles models; others meanwhile say no.
        Where that fails, such as by an endpoint that is away, it is tried again each time.
        """
        if not self._warming.acquire(blocking=False):
            return False
        try:
            self._warm = self._warm or self._warmed()
        finally:
            self._warming.release()
        return self._warm

    def _warmed(self) -> bool:
        first = itertools.islice(self.recommender.catalog, _WARM // 2)
        some: list[str | InlineItem] = [item.id for item in first]
        try:
            if self._summarizes:
                self.summaries.open_model()
            self.recommend(RecommendRequest(history=some, summary="…", n=_WARM, k=1))
        except (ModelError, StoreError, ConfigError, OSError) as error:
            # nobody's text was asked about, so the log may hold what is wrong; once, as it is asked
            # again and again
            if str(error) != self._unready:
                _log.warning("not ready: %s", error)
            self._unready = str(error)
            return False
        except TrsrError:  # a catalog with nothing to rank is no fault of the models
            pass
        return True

    def load(self) -> dict[str, float]:
        """Numbers of what goes on, for /metrics and the page, each with a name of its own."""
        models = self.recommender.opened()
        counts = [model.counts for model in models]
        caches = [getattr(model.inner, "prefix_cache", None) for model in models]
        done = self.summaries.counts
        found: dict[str, float] = {
            "model_waiting": sum(model.waiting for model in models),
            "model_passes": sum(one.passes for one in counts),
            "model_shares": sum(one.shares for one in counts),
            "model_prompts": sum(one.prompts for one in counts),
            "model_tokens": sum(one.tokens for one in counts),
            "model_seconds": sum(one.seconds for one in counts),
            "model_late": sum(one.late for one in counts),
            "prefix_tokens": sum(one.tokens for one in caches if one is not None),
            "items_waiting": self.items.waiting,
        }
        return found | {
            f"summary_{name}": float(value) for name, value in dataclasses.asdict(done).items()
        }

    def _title(self, item: Item, characters: int = 200) -> str:
        text = title_text(item, self.recommender.config.prompts.fields)
        return text[:characters].rstrip() or item.id

    def close(self) -> None:
        """Ends what works in the background, behind the step under way."""
        self.summaries.close()
        self.items.close()
        for model in self.recommender.opened():
            model.close()


def _kind_of_summaries(records: Mapping[str, StageRecord]) -> str:
    """Names what writes a run's summaries: two runs with equal settings write equal ones."""
    own = {key: one for key, one in records["summarize"].settings.items() if key != "splits"}
    soft = own["summarize"]["strategy"] == "soft"  # its encoder is trained with the ranker
    return digest([own, records["train"].files if soft else {}])


class _timed:  # noqa: N801 - used as a function
    """Notes how long a part took."""

    def __init__(self, times: dict[str, float], name: str) -> None:
        self._times, self._name = times, name

    def __enter__(self) -> None:
        self._began = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        self._times[self._name] = time.perf_counter() - self._began
