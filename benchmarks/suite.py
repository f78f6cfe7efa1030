"""`python -m benchmarks all`: every bench, sized for two cores."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import run
from benchmarks.options import (
    AllOptions,
    OverheadOptions,
    PrepareOptions,
    ScoreOptions,
    SummarizeOptions,
    TrainOptions,
)
from benchmarks.records import Result
from trsr.errors import ConfigError, TrsrError
from trsr.progress import Progress
from trsr.registry import near

BENCHES = ("score", "train", "summarize", "prepare", "overhead")
DATA = ("industrial", "movies")
"""Recipes whose queries are scored; the last one's users are summarized."""

MANY = 5
"""From so many repeats on, slow benches are repeated too."""


@dataclass(frozen=True)
class _Part:
    """One bench of the suite.

    Attributes:
        bench: Its name.
        title: What stands in the page where it cannot run.
        results: Runs it.
    """

    bench: str
    title: str
    results: Callable[[Progress], Sequence[Result]]


def run_all(
    options: AllOptions, progress: Callable[[str], Any], failed: Callable[[str], None]
) -> Iterator[Result]:
    """Runs the benches, each as far as it can.

    Args:
        options: How much.
        progress: Gives each bench, by name, a context whose value is its `Progress`.
        failed: Gets why a bench could not run.

    Yields:
        Results as they are found; without records where a bench could not run.

    Raises:
        ConfigError: If `only` names a bench that there is not.
    """
    for name in options.only:
        if name not in BENCHES:
            raise ConfigError(f"there is no bench {name!r}{near(name, list(BENCHES))}")
    for part in _parts(options):
        if options.only and part.bench not in options.only:
            continue
        try:
            with progress(part.title) as bar:
                found = part.results(bar)
            yield from found
        except TrsrError as error:
            failed(f"{part.title}: not run: {error}")
            yield Result(part.title, (), ("not run: its data or model is not here",))


def _parts(options: AllOptions) -> Iterator[_Part]:
    model = {"model": options.model, "dtype": options.dtype, "device": options.device}
    common: dict[str, Any] = model | {"repeats": options.repeats, "seed": options.seed}
    # one run of these takes two minutes on two cores
    slow = options.repeats if options.repeats >= MANY else 1
    last: dict[str, Any] = {"config": _recipe(DATA[-1]), "data": options.data}

    def part(title: str, work: Callable[[Any, Progress], Sequence[Result]], *each: Any) -> _Part:
        return _Part(work.__name__, title, functools.partial(_every, work, each))

    yield part("score, random tokens", run.score, ScoreOptions(**common))
    few = max(1, options.queries // 4)
    for name in DATA:
        of: dict[str, Any] = {"config": _recipe(name), "data": options.data}
        yield part(
            f"score, {name}",
            run.score,
            ScoreOptions(**common, **of, queries=options.queries, candidates=(20,)),
            ScoreOptions(**common, **of, queries=few, candidates=(100,)),
        )
    yield part("train", run.train, TrainOptions(**common))
    yield part(
        f"summarize, {DATA[-1]}",
        run.summarize,
        SummarizeOptions(**common | {"repeats": slow}, **last, users=options.users, alone_users=2),
    )
    pair = (max(options.interactions // 10, 1), options.interactions)
    yield part(
        "prepare, made-up data",
        run.prepare,
        PrepareOptions(interactions=pair, seed=options.seed, repeats=min(slow, 3)),
    )
    yield part(
        f"overhead, {DATA[-1]}",
        run.overhead,
        OverheadOptions(**common | {"repeats": 2}, **last, queries=max(1, options.users // 4)),
    )


def _every(
    work: Callable[[Any, Progress], Sequence[Result]], each: Sequence[Any], progress: Progress
) -> list[Result]:
    return [result for one in each for result in work(one, progress)]


def _recipe(name: str) -> Path:
    return Path("recipes", f"{name}.toml")
