"""How much of a stage's time the model itself takes: a clock that runs only while it computes."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.timing import wait_for
from trsr import recommender
from trsr.models.base import Feed, ModelWrapper, Sampling, ScoringModel
from trsr.models.settings import ModelSettings
from trsr.types import Prompt

_END = object()


class Clock:
    """Counts a model's seconds, in one thread.

    Attributes:
        seconds: While the model computed.
        loading: While it was opened.
    """

    def __init__(self) -> None:
        self.seconds = 0.0
        self.loading = 0.0
        self._on = False
        self._since = 0.0

    def turn(self, on: bool) -> bool:
        """Lets it run, or stops it; whether it ran before."""
        now, before = time.perf_counter(), self._on
        if before:
            self.seconds += now - self._since
        self._since, self._on = now, on
        return before

    @contextlib.contextmanager
    def during(self, on: bool) -> Iterator[None]:
        """Lets it run, or stops it, for a while."""
        before = self.turn(on)
        try:
            yield
        finally:
            self.turn(before)

    def inside(self, work: Callable[..., Any]) -> Callable[..., Any]:
        """The same function, counted as the model's time."""

        def counted(*args: Any, **kwargs: Any) -> Any:
            with self.during(True):
                return work(*args, **kwargs)

        return counted

    def outside(self, work: Callable[..., Any]) -> Callable[..., Any]:
        """The same function, not counted as the model's time."""

        def uncounted(*args: Any, **kwargs: Any) -> Any:
            with self.during(False):
                return work(*args, **kwargs)

        return uncounted


@contextlib.contextmanager
def watching(clock: Clock) -> Iterator[None]:
    """Puts a clock on every model that is opened meanwhile.

    What is timed is the stages themselves, so their one way to a model is changed for a while.
    """
    seam: Any = recommender
    plain = seam.open_model

    def opened(settings: ModelSettings, adapter: Path | None = None) -> Any:
        started = time.perf_counter()
        model = clocked(plain(settings, adapter), clock)  # a pass to be compiled is compiled here
        clock.loading += time.perf_counter() - started
        return model

    seam.open_model = opened
    try:
        yield
    finally:
        seam.open_model = plain


def clocked(model: Any, clock: Clock) -> Any:
    """A model with a clock on it.

    Of a torch model, decoder, its compiled pass and head count. Of any other, a call counts without
    what it waits for from its feed and without the cutting of text into tokens.
    """
    if hasattr(model, "network"):
        _hook(model, clock)
        return model
    chat_format = getattr(model, "chat_format", None)
    for name in ("encode", "questions", "turns", "decode") if chat_format is not None else ():
        setattr(chat_format, name, clock.outside(getattr(chat_format, name)))
    kind = ClockedScoringModel if isinstance(model, ScoringModel) else ClockedModel
    return kind(model, clock)


def _hook(model: Any, clock: Clock) -> None:
    from trsr.models.token_tree.kv_cache import decoder_of

    def begin(*_: Any) -> None:
        wait_for(model.device.type)
        clock.turn(True)

    def end(*_: Any) -> None:
        wait_for(model.device.type)
        clock.turn(False)

    if (compiled := model.compiled) is not None:
        compiled.infer = clock.inside(compiled.infer)
    for module in (decoder_of(model.network), model.network.get_output_embeddings()):
        module.register_forward_pre_hook(begin)
        module.register_forward_hook(end)


class ClockedModel(ModelWrapper):
    """A `LanguageModel` with a clock on it.

    Args:
        inner: The model.
        clock: Runs while it answers.
    """

    def __init__(self, inner: Any, clock: Clock) -> None:
        super().__init__(inner)
        self.clock = clock

    def generate(self, prompts: Feed, sampling: Sampling) -> Iterator[tuple[int, str]]:
        """Yields what the inner model yields."""
        source = iter(prompts)

        def feed() -> Iterator[Prompt | None]:
            pull = self.clock.outside(lambda: next(source, _END))
            while (prompt := pull()) is not _END:
                yield prompt

        answers = iter(self.inner.generate(feed(), sampling))
        while True:
            with self.clock.during(True):
                answer = next(answers, None)
            if answer is None:
                return
            yield answer


class ClockedScoringModel(ClockedModel):
    """A `ScoringModel` with a clock on it."""

    def score(self, prompts: Sequence[Prompt], answers: Sequence[str]) -> npt.NDArray[np.float64]:
        """The inner model's."""
        scoring: Any = self.inner
        with self.clock.during(True):
            found: npt.NDArray[np.float64] = scoring.score(prompts, answers)
        return found
