"""Runs the flows of all users through one model: whatever is ready from any user is asked next."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from threading import RLock

from trsr.errors import ModelError, PromptError
from trsr.models.base import LanguageModel
from trsr.progress import Progress
from trsr.prompts import PromptWriter
from trsr.storage.response_cache import response_key
from trsr.summarize.blocks import cut_blocks, item_measure
from trsr.summarize.self_consistency import Samples
from trsr.summarize.settings import STRATEGIES, SummarizeSettings
from trsr.summarize.strategies import Flow, Strategy
from trsr.types import Block, Prompt, Summary, UserHistory

LIVE = 1024
"""Most users begun and not yet finished. The feed begins a user only when the model asks for more
than is ready, so there are as many as the model takes at once; this bounds a model that takes
everything it can get."""

_log = logging.getLogger(__name__)


def summarize(
    histories: Iterable[tuple[str, UserHistory]],
    *,
    model: LanguageModel,
    writer: PromptWriter,
    settings: SummarizeSettings,
    progress: Progress,
) -> Iterator[tuple[str, Summary]]:
    """Summarizes histories, many at once, each going on as soon as its own answers are there.

    Histories are taken as they are needed and may be without end. Nothing is remembered of a
    history once it is finished: put the output store around the model, and one that begins like
    an earlier one asks only what is new.

    Args:
        histories: (key, history) pairs.
        model: Writes the texts.
        writer: Writes the prompts, for the same model.
        settings: Strategy, blocks and sampling.
        progress: Is advanced by one for each summary; the caller begins it.

    Yields:
        (key, summary), in the order in which they are finished. A history without a block to read
        has an empty summary that covers nothing; so has one of which the model wrote nothing (an
        empty answer is counted and logged, not asked again: a greedy model would repeat it).

    Raises:
        ConfigError: If there is no such strategy.
        ModelError: If the model does not answer each prompt exactly once.
        PromptError: If a prompt cannot be made to fit; names the history.
    """
    strategy: Strategy = STRATEGIES.load(settings.strategy)(writer, settings)
    measure = item_measure(
        lambda item: writer.item_text(item, writer.settings.summary_item_words),
        model.count_tokens,
    )
    desk = _Desk(
        iter(histories),
        strategy,
        lambda history: cut_blocks(history, settings, measure),
        writer.finish,
        Samples(settings.samples),
    )
    kind = {"generate": settings.sampling.model_dump()}
    while desk.open():
        yield from _told(desk, model, kind, progress)
        if not desk.ready:
            continue
        for position, text in model.generate(desk, settings.sampling):
            desk.answer(position, text)
            yield from _told(desk, model, kind, progress)
        desk.check_answered()
    if desk.empty:
        _log.warning(
            "the model wrote nothing in %d of %d answers: those parts are missing from the "
            "summaries",
            desk.empty,
            desk.asked,
        )


@dataclass(slots=True)
class _Live:
    """One history under way."""

    key: str
    history: UserHistory
    flow: Flow
    covers: int
    ends: tuple[int, ...] = ()
    waiting: int = 0
    asked: Sequence[Prompt] | None = None
    texts: list[list[str]] = field(default_factory=list)
    prompts: list[Prompt] = field(default_factory=list)
    text: str = ""

    def wait(self, prompts: Sequence[Prompt], samples: Samples) -> None:
        """Waits for the answers to these."""
        self.asked = prompts
        self.texts = [[""] * samples.number for _ in prompts]
        self.waiting = len(prompts) * samples.number

    def take(self, place: int, draw: int, text: str) -> None:
        """Takes one answer."""
        self.texts[place][draw] = text
        self.waiting -= 1

    def kept(self, samples: Samples) -> list[str]:
        """Of the answers to each prompt the one that is kept; writes down which."""
        texts = []
        for prompt, drawn in zip(self.asked or (), self.texts, strict=True):
            best = samples.best(drawn)
            self.prompts.append(replace(prompt, draw=best))
            texts.append(drawn[best])
        return texts


def _told(
    desk: _Desk, model: LanguageModel, kind: Mapping[str, object], progress: Progress
) -> Iterator[tuple[str, Summary]]:
    """The histories finished meanwhile, as summaries."""
    while (done := desk.finished()) is not None:
        sources = tuple(response_key(model.identity, prompt, kind) for prompt in done.prompts)
        progress.advance(1, f"{desk.asked} prompts")
        ends = done.ends if sources else ()
        yield done.key, Summary(done.history.user, done.text, done.covers, sources, ends)


class _Desk:
    """The feed that the model pulls prompts from, and where its answers go.

    It may be pulled from another thread than the one that brings the answers.
    """

    def __init__(
        self,
        histories: Iterator[tuple[str, UserHistory]],
        strategy: Strategy,
        blocks: Callable[[UserHistory], Sequence[Block]],
        finish: Callable[[Prompt, str], str],
        samples: Samples,
    ) -> None:
        self.asked = 0
        self.empty = 0
        self.ready: deque[Prompt] = deque()
        self._histories = histories
        self._exhausted = False
        self._strategy = strategy
        self._blocks = blocks
        self._finish = finish
        self._samples = samples
        self._lock = RLock()
        self._live = 0
        self._position = 0  # in the current call's feed
        self._under_way: dict[int, Prompt] = {}
        self._waiters: dict[Prompt, list[tuple[_Live, int]]] = {}  # who waits, for which place
        self._done: deque[_Live] = deque()

    def open(self) -> bool:
        """Whether there is or may be more to do; begins histories until one asks something."""
        with self._lock:
            self._position = 0
            self._fill()
            return bool(self.ready or self._done or not self._exhausted)

    def finished(self) -> _Live | None:
        """The next finished history, None when there is none now."""
        with self._lock:
            return self._done.popleft() if self._done else None

    def __iter__(self) -> _Desk:
        return self

    def __next__(self) -> Prompt | None:
        with self._lock:
            self._fill()
            if self.ready:
                prompt = self.ready.popleft()
                self._under_way[self._position] = prompt
                self._position += 1
                self.asked += 1
                return prompt
            if self._under_way:
                return None
            raise StopIteration

    def _fill(self) -> None:
        """Begins histories until a prompt is ready, none is left, or enough are waiting."""
        while not (self.ready or self._exhausted):
            if self._live >= LIVE or len(self._done) >= LIVE:
                return
            try:
                key, history = next(self._histories)
            except StopIteration:
                self._exhausted = True
                return
            self._begin(key, history)

    def _begin(self, key: str, history: UserHistory) -> None:
        blocks = self._blocks(history)
        covers = blocks[-1].end if blocks else 0
        ends = tuple(block.end for block in blocks)
        live = _Live(key, history, self._strategy.flow(blocks), covers, ends)
        self._live += 1
        if blocks:
            self._go_on(live)
        else:
            self._end(live, "")

    def _go_on(self, live: _Live) -> None:
        """Sends a flow the texts it waits for; asks what it wants next, or ends it."""
        try:
            begun = live.asked is not None
            prompts = live.flow.send(live.kept(self._samples)) if begun else next(live.flow)
            while not prompts:
                prompts = live.flow.send([])
        except StopIteration as end:
            self._end(live, end.value)
            return
        except PromptError as error:
            raise PromptError(f"{live.key} (user {live.history.user}): {error}") from error
        live.wait(prompts, self._samples)
        for place, asked in enumerate(prompts):
            for prompt in self._samples.draws(asked):
                if prompt not in self._waiters:
                    self._waiters[prompt] = []
                    self.ready.append(prompt)
                self._waiters[prompt].append((live, place))

    def _end(self, live: _Live, text: str) -> None:
        self._live -= 1
        live.text = text
        live.covers = live.covers if text else 0
        self._done.append(live)

    def answer(self, position: int, text: str) -> None:
        """Takes one answer to all who wait for it.

        Raises:
            ModelError: If this prompt was not asked, or is answered already.
        """
        with self._lock:
            prompt = self._under_way.pop(position, None)
            if prompt is None:
                raise ModelError(
                    f"the model answered prompt {position}, which was not under way: its backend "
                    "must answer each prompt of a feed exactly once"
                )
            told = self._finish(prompt, text)
            self.empty += not told
            for live, place in self._waiters.pop(prompt):
                live.take(place, prompt.draw, told)
                if not live.waiting:
                    self._go_on(live)

    def check_answered(self) -> None:
        """Raises ModelError if the model ended with prompts of its feed unanswered or untaken."""
        with self._lock:
            if self._under_way or self.ready:
                raise ModelError(
                    f"the model ended with {len(self._under_way)} prompts unanswered and "
                    f"{len(self.ready)} not taken: its backend must answer all of a feed"
                )
