"""`trsr bench all`: every bench, sized for two cores."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trsr.bench import run
from trsr.bench.overhead import bench_overhead
from trsr.bench.prepare import bench_prepare
from trsr.bench.records import Result
from trsr.errors import ConfigError, TrsrError
from trsr.plugins import near
from trsr.progress import Progress

BENCHES = ("score", "train", "summarize", "prepare", "overhead")
DATA = ("industrial", "movies")
"""Recipes whose queries are scored; the last one's users are summarized."""


@dataclass(frozen=True)
class Sizes:
    """How much `trsr bench all` does.

    Attributes:
        model: The model's name; empty: the recipes'.
        dtype: Its number format; empty: the recipes'.
        device: Its device; empty: the recipes'.
        data: A folder that holds the recipes' data, in folders of their names; None: where the
            recipes say.
        repeats: Timed runs of each variant.
        queries: Real queries of 20 candidates; a quarter as many, one at least, of 100.
        users: Users summarized by trsr's engines, and a quarter as many queries for the overhead.
        interactions: The largest made-up data set; the other is a tenth of it.
        only: Benches to run; empty: all.
    """

    model: str = ""
    dtype: str = ""
    device: str = ""
    data: Path | None = None
    repeats: int = 3
    queries: int = 4
    users: int = 48
    interactions: int = 10_000_000
    only: tuple[str, ...] = ()

    def command(self) -> str:
        """The command with what differs from the defaults, without this machine's paths."""
        words = ["trsr bench all"]
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if value == field.default:
                continue
            if field.name == "data":
                words.append("--data FOLDER")
            elif field.name == "only":
                words += [f"--only {name}" for name in value]
            else:
                shown = Path(value).name if field.name == "model" else value
                words.append(f"--{field.name} {shown}")
        return " ".join(words)


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
    sizes: Sizes, progress: Callable[[str], Any], failed: Callable[[str], None]
) -> Iterator[Result]:
    """Runs the benches, each as far as it can.

    Args:
        sizes: How much.
        progress: Gives each bench, by name, a context whose value is its `Progress`.
        failed: Told why a bench could not run.

    Yields:
        Results as they are found; without records where a bench could not run.

    Raises:
        ConfigError: If `only` names a bench that there is not.
    """
    for name in sizes.only:
        if name not in BENCHES:
            raise ConfigError(f"there is no bench {name!r}{near(name, list(BENCHES))}")
    for part in _parts(sizes):
        if sizes.only and part.bench not in sizes.only:
            continue
        try:
            with progress(part.title) as bar:
                found = part.results(bar)
            yield from found
        except TrsrError as error:
            failed(f"{part.title}: not run: {error}")
            yield Result(part.title, (), ("not run: its data or model is not here",))


def _parts(sizes: Sizes) -> Iterator[_Part]:
    def part(bench: str, title: str, work: Callable[..., Sequence[Result]], *more: str) -> _Part:
        return _Part(bench, title, functools.partial(work, sizes, *more))

    yield part("score", "score, random tokens", _score, "")
    yield from (part("score", f"score, {name}", _score, name) for name in DATA)
    yield part("train", "train", _train)
    yield part("summarize", f"summarize, {DATA[-1]}", _summarize)
    yield part("prepare", "prepare, made-up data", _prepare)
    yield part("overhead", f"overhead, {DATA[-1]}", _overhead)


def _source(sizes: Sizes, name: str) -> run.Source:
    found = run.source(Path("recipes", f"{name}.toml"), (), sizes.data)
    if found is None:  # a name always gives one
        raise ConfigError(f"there is no recipe {name!r}")
    return found


def _score(sizes: Sizes, name: str, progress: Progress) -> list[Result]:
    source = _source(sizes, name) if name else None
    model = run.model_settings(source, sizes.model, sizes.dtype, sizes.device)
    if source is None:
        return run.score(None, model, repeats=sizes.repeats, progress=progress)
    few = max(1, sizes.queries // 4)
    return [
        result
        for candidates, queries in ((20, sizes.queries), (100, few))
        for result in run.score(
            source,
            model,
            queries=queries,
            candidates=(candidates,),
            repeats=sizes.repeats,
            progress=progress,
        )
    ]


def _train(sizes: Sizes, progress: Progress) -> list[Result]:
    model = run.model_settings(None, sizes.model, sizes.dtype, sizes.device)
    return [run.train(model, repeats=sizes.repeats, progress=progress)]


def _summarize(sizes: Sizes, progress: Progress) -> list[Result]:
    source = _source(sizes, DATA[-1])
    model = run.model_settings(source, sizes.model, sizes.dtype, sizes.device, summarizer=True)
    found = run.summarize(
        source,
        model,
        users=sizes.users,
        alone_users=2,
        # one run of each of these takes two minutes on two cores
        repeats=1 if sizes.repeats < 5 else sizes.repeats,
        progress=progress,
    )
    return [found]


def _prepare(sizes: Sizes, progress: Progress) -> list[Result]:
    pair = (max(sizes.interactions // 10, 1), sizes.interactions)
    return [bench_prepare(pair, repeats=1 if sizes.repeats < 5 else 3, progress=progress)]


def _overhead(sizes: Sizes, progress: Progress) -> list[Result]:
    source = _source(sizes, DATA[-1])
    config = source.config
    model = run.model_settings(source, sizes.model, sizes.dtype, sizes.device)
    writer = run.model_settings(source, sizes.model, sizes.dtype, sizes.device, summarizer=True)
    changed = config.model_copy(
        update={
            "model": model,
            "summarize": config.summarize.model_copy(update={"model": writer}),
        }
    )
    queries = max(1, sizes.users // 4)
    return [bench_overhead(source.name, changed, queries=queries, repeats=2, progress=progress)]
