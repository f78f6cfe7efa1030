"""Model passes that concurrent requests share, with a bounded queue in front.

Whatever waits when the model is free goes into the next pass, up to a budget of tokens: nobody
waits for a batch to fill. Requests that were given up, or whose time is over, are left out.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from trsr.errors import ModelError, PromptError, TrsrError
from trsr.models.base import ModelWrapper, ScoringModel
from trsr.serve.noting import noted_model
from trsr.types import Prompt

Rows = npt.NDArray[np.float64]


class OverloadedError(TrsrError):
    """Too many requests wait; `retry_after` says when to come again, in seconds."""

    def __init__(self, message: str, retry_after: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class TooLateError(ModelError):
    """A request was given up by its caller, or its time is over."""


@dataclass
class Ticket:
    """One request on its way through the service.

    Attributes:
        ends: When its time is over, on the clock of `time.perf_counter`.
        cancelled: Set when nobody waits for the answer any more.
        queue: Seconds that it waited for the model.
        model: Seconds of the passes that it took part in.
    """

    ends: float = float("inf")
    cancelled: threading.Event = field(default_factory=threading.Event)
    queue: float = 0.0
    model: float = 0.0

    @property
    def left(self) -> float:
        """Seconds until its time is over, as much as a lock can wait."""
        return min(max(self.ends - time.perf_counter(), 0.0), threading.TIMEOUT_MAX)

    def check(self) -> None:
        """Raises TooLateError where the request need cost no more."""
        if self.cancelled.is_set():
            raise TooLateError("the request was given up by its caller")
        if time.perf_counter() >= self.ends:
            raise TooLateError(
                "the request's time is over before the model had room for it; try again"
            )


_TICKET: ContextVar[Ticket | None] = ContextVar("ticket", default=None)


@contextlib.contextmanager
def on_behalf_of(ticket: Ticket) -> Iterator[Ticket]:
    """What this thread asks of a `BatchedModel` meanwhile is for this request."""
    token = _TICKET.set(ticket)
    try:
        yield ticket
    finally:
        _TICKET.reset(token)


@dataclass
class BatchCounts:
    """What a model did so far.

    Attributes:
        passes: How often it was asked.
        shares: How many requests took part, summed over the passes.
        prompts: How many prompts it read.
        tokens: About how many tokens it read, what prompts of one request share once.
        seconds: How long that took.
        late: Requests that were given up or whose time was over before they were answered.
    """

    passes: int = 0
    shares: int = 0
    prompts: int = 0
    tokens: int = 0
    seconds: float = 0.0
    late: int = 0


@dataclass(eq=False)
class _Job:
    """The prompts of one request.

    Attributes:
        parts: Of what is left: the prompts (from, to) that go together, and their tokens.
        seconds: Of the passes that it took part in.
        done: Set when `found` is complete, or there is an `error`.
    """

    prompts: Sequence[Prompt]
    answers: tuple[str, ...]
    ticket: Ticket
    parts: deque[tuple[int, int, int]]
    found: Rows
    seconds: float = 0.0
    error: Exception | None = None
    done: threading.Event = field(default_factory=threading.Event)

    def end(self, error: Exception | None = None) -> None:
        self.error = error
        self.done.set()


class BatchedModel(ModelWrapper):
    """A `ScoringModel` for many threads: one thread of its own asks the inner model for all.

    Scores are those of the inner model asked for each request alone, up to the rounding of another
    order of sums. A pass holds about so many tokens; a single longer prompt is a pass of its own.
    """

    inner: ScoringModel

    def __init__(self, inner: ScoringModel, tokens: int, queue: int) -> None:
        super().__init__(inner)
        self.counts = BatchCounts()
        self._tokens = tokens
        self._most = queue
        self._jobs: deque[_Job] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._work, name="trsr-model", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """How many requests wait for a pass."""
        return len(self._jobs)

    def score(self, prompts: Sequence[Prompt], answers: Sequence[str]) -> Rows:
        """Log-probabilities as `ScoringModel.score` gives, out of passes that others share.

        Raises:
            OverloadedError: If too many requests wait.
            TooLateError: If the request's time is over, or it was given up.
            ModelError: If the model fails.
            PromptError: If a prompt with an answer exceeds the context.
        """
        if (noted := noted_model(self.inner)) is not None:
            return noted.score(prompts, answers)
        ticket = _TICKET.get() or Ticket()
        found = np.zeros((len(prompts), len(answers)))
        if not prompts:
            return found
        parts = deque(_parts(self._sizes(prompts), self._tokens))
        job = _Job(prompts, tuple(answers), ticket, parts, found)
        began = time.perf_counter()
        with self._changed:
            if self._closed:
                raise ModelError("the service is closing")
            if len(self._jobs) >= self._most:
                pause = max(1.0, self.counts.seconds / max(self.counts.passes, 1))
                raise OverloadedError(f"{len(self._jobs)} requests wait already; come again", pause)
            self._jobs.append(job)
            self._changed.notify_all()
        in_time = job.done.wait(ticket.left)
        ticket.model += job.seconds
        ticket.queue += time.perf_counter() - began - job.seconds
        if not in_time:
            ticket.check()  # the work on it ends at the next pass, for the same reason
        if job.error is not None:
            raise job.error
        return job.found

    def close(self) -> None:
        """Ends the thread; who waits gets an error."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._thread.join()

    def _sizes(self, prompts: Sequence[Prompt]) -> list[int]:
        """About how many tokens each prompt adds to a pass: what it shares with the first, none."""
        texts = ["\n".join(message.shown for message in one.messages) for one in prompts]
        shared = _common(min(texts), max(texts)) if len(texts) > 1 else 0
        # to count is to read as tokens, which the inner model then need not do in its pass
        tokens = [self.count_tokens(prompt) for prompt in prompts]
        own = (
            1 + round(count * (1 - shared / max(len(text), 1)))
            for count, text in zip(tokens[1:], texts[1:], strict=True)
        )
        return [tokens[0], *own]

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._jobs or self._closed)
                if self._closed:
                    for job in self._jobs:
                        job.end(ModelError("the service is closing"))
                    self._jobs.clear()
                    return
                taken = self._take()
            if taken:
                self._ask(taken)

    def _take(self) -> list[tuple[_Job, int, int]]:
        """The parts of jobs that go into the next pass; what is late is ended."""
        for job in list(self._jobs):
            try:
                job.ticket.check()
            except TooLateError as error:
                self._jobs.remove(job)
                self.counts.late += 1
                job.end(error)
        taken: list[tuple[_Job, int, int]] = []
        room = self._tokens
        for job in list(self._jobs):
            start, end, tokens = job.parts[0]
            if taken and (tokens > room or job.answers != taken[0][0].answers):
                continue
            job.parts.popleft()
            taken.append((job, start, end))
            room -= tokens
            self.counts.tokens += tokens
            self._jobs.remove(job)
            if room <= 0:
                break
        return taken

    def _ask(self, taken: list[tuple[_Job, int, int]]) -> None:
        began = time.perf_counter()
        error: Exception | None = None
        try:
            prompts = [prompt for job, start, end in taken for prompt in job.prompts[start:end]]
            rows = self.inner.score(prompts, taken[0][0].answers)
            at = 0
            for job, start, end in taken:
                job.found[start:end] = rows[at : at + end - start]
                at += end - start
        except Exception as raised:  # goes to those who wait; the others are still to be answered
            error = raised
        took = time.perf_counter() - began
        self.counts.passes += 1
        self.counts.shares += len(taken)
        self.counts.prompts += sum(end - start for _, start, end in taken)
        self.counts.seconds += took
        for job, _, _ in taken:
            job.seconds += took
        if isinstance(error, PromptError) and len(taken) > 1:
            for one in taken:  # one request's prompt is no reason to refuse the others
                self._ask([one])
            return
        for job, _, _ in taken:
            self._settle(job, error)

    def _settle(self, job: _Job, error: Exception | None) -> None:
        """Ends a job, or puts it behind the others where some of it is left."""
        if error is not None:
            job.end(error if isinstance(error, TrsrError) else _failed(self.identity, error))
        elif job.parts:
            with self._changed:
                self._jobs.append(job)
        else:
            job.end()


def _failed(identity: str, error: Exception) -> ModelError:
    found = ModelError(f"model {identity} failed ({type(error).__name__}: {error})")
    found.__cause__ = error
    return found


def _common(one: str, other: str) -> int:
    """How many characters two texts begin alike."""
    pairs = zip(one, other, strict=False)
    return next((n for n, (a, b) in enumerate(pairs) if a != b), min(len(one), len(other)))


def _parts(sizes: Sequence[int], budget: int) -> Iterator[tuple[int, int, int]]:
    """Neighbours (from, to) of at most so many tokens together, at least one, and their tokens."""
    start = tokens = 0
    for place, size in enumerate(sizes):
        if place > start and tokens + size > budget:
            yield start, place, tokens
            start, tokens = place, 0
        tokens += size
    yield start, len(sizes), tokens
