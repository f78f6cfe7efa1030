"""Runs the flows of all users through one model, which gets whatever prompt is ready next."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from threading import RLock
from types import MappingProxyType

from trsr.errors import ModelError, PromptError
from trsr.models.base import LanguageModel, Sampling
from trsr.progress import Progress
from trsr.prompts import PromptWriter
from trsr.storage.response_cache import response_key
from trsr.summarize.settings import STRATEGIES, SummarizeSettings
from trsr.summarize.strategies import Flow, Resumable, Strategy
from trsr.types import Block, Prompt, Summary, UserHistory


def cut_blocks(history: UserHistory, settings: SummarizeSettings) -> Sequence[Block]:
    """The blocks to summarize, oldest first, from the first interaction on without a gap.

    Earlier blocks never depend on later interactions. With `last_block = false` a block that a
    later interaction could still join is left out.
    """
    blocks = history.blocks(settings.block_items)
    full = [block for block in blocks if len(block.interactions) == settings.block_items]
    return blocks if settings.last_block else full


LIVE = 1024
"""Most users under way. The feed begins a user only when the model asks for more prompts than are
ready; this bounds a model that takes everything it can get."""

_log = logging.getLogger(__name__)


def summarize(
    histories: Iterable[tuple[str, UserHistory]],
    *,
    model: LanguageModel,
    writer: PromptWriter,
    settings: SummarizeSettings,
    sampling: Sampling,
    progress: Progress,
    begun: Mapping[str, Summary] = MappingProxyType({}),
) -> Iterator[tuple[str, Summary]]:
    """Summarizes histories, many at once, each going on as soon as its own answers are there.

    Histories are taken as they are needed and may be without end. With the response cache around
    the model, a history that begins like an earlier one needs only its new prompts.

    Args:
        histories: (key, history) pairs.
        model: Writes the texts.
        writer: Writes the prompts, for the same model.
        settings: Strategy and blocks.
        sampling: How the texts are generated.
        progress: Is advanced by one for each summary; the caller begins it.
        begun: By key the summary of a history's first blocks. A strategy that is `Resumable` goes
            on from it, and the new summary's sources are those of its own steps.

    Yields:
        (key, summary), in the order in which they are finished. A history without a block, or for
        which the model wrote nothing, has an empty summary that covers nothing. An empty answer is
        logged, not asked again: a greedy model would repeat it.

    Raises:
        ConfigError: If there is no such strategy.
        ModelError: If the model does not answer each prompt exactly once.
        PromptError: If a prompt cannot be made to fit; names the history.
    """
    strategy: Strategy = STRATEGIES.load(settings.strategy)(writer, settings)
    scheduler = _Scheduler(
        iter(histories),
        strategy,
        lambda history: cut_blocks(history, settings),
        writer.finish,
        begun,
    )
    kind = {"generate": sampling.model_dump()}
    while scheduler.has_more():
        yield from _summaries(scheduler, model, kind, progress)
        if not scheduler.ready:
            continue
        for position, text in model.generate(scheduler, sampling):
            scheduler.answer(position, text)
            yield from _summaries(scheduler, model, kind, progress)
        scheduler.check_answered()
    if scheduler.empty:
        _log.warning(
            "the model wrote nothing in %d of %d answers: those parts are missing from the "
            "summaries",
            scheduler.empty,
            scheduler.asked,
        )


@dataclass(slots=True)
class _Live:
    """One history under way."""

    key: str
    history: UserHistory
    flow: Flow
    covers: int
    waiting: int = 0
    texts: list[str] = field(default_factory=list)
    prompts: list[Prompt] = field(default_factory=list)
    text: str = ""

    def wait(self, prompts: Sequence[Prompt]) -> None:
        """Waits for the answers to these."""
        self.prompts += prompts
        self.texts = [""] * len(prompts)
        self.waiting = len(prompts)

    def take(self, place: int, text: str) -> None:
        """Takes one answer."""
        self.texts[place] = text
        self.waiting -= 1


def _summaries(
    scheduler: _Scheduler, model: LanguageModel, kind: Mapping[str, object], progress: Progress
) -> Iterator[tuple[str, Summary]]:
    """The histories finished meanwhile, as summaries."""
    while (done := scheduler.finished()) is not None:
        sources = tuple(response_key(model.identity, prompt, kind) for prompt in done.prompts)
        progress.advance(1, f"{scheduler.asked} prompts")
        yield done.key, Summary(done.history.user, done.text, done.covers, sources)


class _Scheduler:
    """The feed of prompts for the model, which also takes its answers; thread-safe."""

    def __init__(
        self,
        histories: Iterator[tuple[str, UserHistory]],
        strategy: Strategy,
        blocks: Callable[[UserHistory], Sequence[Block]],
        finish: Callable[[Prompt, str], str],
        begun: Mapping[str, Summary],
    ) -> None:
        self.asked = 0
        self.empty = 0
        self.ready: deque[Prompt] = deque()
        self._histories = histories
        self._exhausted = False
        self._strategy = strategy
        self._blocks = blocks
        self._finish = finish
        self._begun = begun
        self._lock = RLock()
        self._live = 0
        self._position = 0  # in the current call's feed
        self._under_way: dict[int, Prompt] = {}
        self._waiters: dict[Prompt, list[tuple[_Live, int]]] = {}
        self._done: deque[_Live] = deque()

    def has_more(self) -> bool:
        """Whether there is or may be more to do; begins histories until a prompt is ready."""
        with self._lock:
            self._position = 0
            self._fill()
            return bool(self.ready or self._done or not self._exhausted)

    def finished(self) -> _Live | None:
        """The next finished history, None when there is none now."""
        with self._lock:
            return self._done.popleft() if self._done else None

    def __iter__(self) -> _Scheduler:
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
        text, begun = "", self._begun.get(key)
        if begun is not None and isinstance(self._strategy, Resumable):
            text = begun.text
            blocks = [block for block in blocks if block.start >= begun.covers]
            flow = self._strategy.resume(text, blocks)
        else:
            flow = self._strategy.flow(blocks)
        live = _Live(key, history, flow, covers)
        self._live += 1
        if blocks:
            self._go_on(live)
        else:
            self._end(live, text)

    def _go_on(self, live: _Live) -> None:
        """Sends a flow the texts it waits for; queues its next prompts, or ends it."""
        try:
            prompts = live.flow.send(live.texts) if live.prompts else next(live.flow)
            while not prompts:
                prompts = live.flow.send([])
        except StopIteration as end:
            self._end(live, end.value)
            return
        except PromptError as error:
            raise PromptError(f"{live.key} (user {live.history.user}): {error}") from error
        live.wait(prompts)
        for place, prompt in enumerate(prompts):
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
        """Passes one answer to all flows that wait for it.

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
            summary = self._finish(prompt, text)
            self.empty += not summary
            for live, place in self._waiters.pop(prompt):
                live.take(place, summary)
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
