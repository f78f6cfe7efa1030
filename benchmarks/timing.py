"""Times variants in turn, so that a machine that drifts hits all alike; watches their memory."""

from __future__ import annotations

import contextlib
import gc
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from trsr import recommender
from trsr.machine import forget_peak, peak_resident
from trsr.models.base import Feed, ModelWrapper, Sampling, ScoringModel
from trsr.models.settings import ModelSettings
from trsr.progress import Progress
from trsr.types import Prompt


def _nothing() -> None:
    pass


@dataclass(frozen=True)
class Variant:
    """One way to do the work.

    Attributes:
        name: Its name.
        run: Does the work once.
        ready: Done before each repeat, untimed.
        warm: Done once before the first repeat; None: `run`.
    """

    name: str
    run: Callable[[], Any]
    ready: Callable[[], None] = _nothing
    warm: Callable[[], Any] | None = None


@dataclass
class Timing:
    """One variant's repeats.

    Attributes:
        seconds: Of each repeat.
        peak_memory: The largest of the repeats, in bytes; None where it cannot be said.
        result: What the last repeat gave.
    """

    seconds: list[float] = field(default_factory=list)
    peak_memory: int | None = None
    result: Any = None

    @property
    def median(self) -> float:
        """Seconds, in the middle."""
        return statistics.median(self.seconds)

    @property
    def spread(self) -> float:
        """(slowest − fastest) / median."""
        return (max(self.seconds) - min(self.seconds)) / self.median


def interleave(
    variants: Sequence[Variant], repeats: int, device: str, progress: Progress
) -> dict[str, Timing]:
    """Times all variants: each warmed up once, then A B A B … .

    Args:
        variants: What is compared.
        repeats: Timed runs of each.
        device: cuda waits for the device before the clock is read.
        progress: Shows each run.

    Raises:
        ValueError: If `repeats` is below 1.
    """
    if repeats < 1:
        raise ValueError(f"a bench needs at least one repeat, not {repeats}")
    progress.begin((repeats + 1) * len(variants), "runs")
    for variant in variants:
        variant.ready()
        (variant.warm or variant.run)()
        progress.advance(1, f"warm-up {variant.name}")
    timings = {variant.name: Timing() for variant in variants}
    for _ in range(repeats):
        for variant in variants:
            variant.ready()
            _time(variant, timings[variant.name], device)
            progress.advance(1, variant.name)
    return timings


def _time(variant: Variant, timing: Timing, device: str) -> None:
    timing.result = None
    gc.collect()
    memory = MemoryWatch(device)
    started = time.perf_counter()
    timing.result = variant.run()
    wait_for(device)
    timing.seconds.append(time.perf_counter() - started)
    peak = memory.peak()
    if peak is not None:
        timing.peak_memory = max(peak, timing.peak_memory or 0)


def wait_for(device: str) -> None:
    """Waits until a device has done what it was given."""
    if device == "cuda":
        import torch

        torch.cuda.synchronize()
    elif device == "mps":
        import torch

        torch.mps.synchronize()


class MemoryWatch:
    """The most memory in use since it was made.

    Linux can forget a process's earlier peak; where it cannot be forgotten, the peak is that of
    the process's whole life.

    Args:
        device: cuda watches the device's memory, all else the process's resident size.
    """

    def __init__(self, device: str) -> None:
        self.device = device
        if device == "cuda":
            import torch

            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
        else:
            forget_peak()

    def peak(self) -> int | None:
        """Bytes; None where the system does not say."""
        if self.device == "cuda":
            import torch

            return int(torch.cuda.max_memory_allocated())
        return peak_resident()


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
