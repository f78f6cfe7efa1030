"""`python -m benchmarks serve`: what the live service adds to the model's time, and what it saves.

Each row is compared with its plain way in the same run and in turn, so that a machine that drifts
hits both alike.
"""

from __future__ import annotations

import dataclasses
import functools
import random
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.options import ServeOptions
from benchmarks.records import Place, Record, Result, Work, record, speed_ratio
from benchmarks.timing import Timing
from trsr.errors import ConfigError
from trsr.models import open_model
from trsr.models.cached import cached
from trsr.progress import Progress, Silent
from trsr.recommender import summary_writer
from trsr.serve.schemas import Event, Recommendation, RecommendRequest
from trsr.serve.service import Service
from trsr.serve.settings import ServeSettings
from trsr.serve.store import Store
from trsr.storage import files
from trsr.storage.response_cache import ResponseCache
from trsr.summarize import summarize
from trsr.types import Interaction, UserHistory


def bench_serve(options: ServeOptions, progress: Progress) -> Iterator[Result]:
    """Times the service's functions over a finished run, in this process.

    Args:
        options: The run, and how much.
        progress: Told of each measure.

    Raises:
        TrsrError: If the run cannot be served.
    """
    if options.run is None:
        raise ConfigError("name a run directory whose ranker asks a language model")
    measures: dict[str, Callable[..., Result]] = {
        "overhead": _overhead,
        "returning": _returning,
        "clients": _clients,
        "summary": _summary,
    }
    wanted = options.only or tuple(measures)
    progress.begin(len(wanted), "measures")
    for name in wanted:
        if name not in measures:
            raise ConfigError(f"there is no measure {name!r}; there are {', '.join(measures)}")
    with _served(options) as service:
        for name in wanted:
            yield measures[name](service, options)
            progress.advance(1)


@contextmanager
def _served(options: ServeOptions) -> Iterator[Service]:
    """The run, copied aside with a cache and a database of its own."""
    with tempfile.TemporaryDirectory(prefix="benchmarks-") as folder:
        run = Path(folder) / "runs" / "run"
        files.copy(Path(str(options.run)), run)
        text = files.read_text(run / "config.toml")
        files.write_text(run / "config.toml", _changed(text, options))
        store = Store(f"sqlite:///{Path(folder) / 'state.sqlite'}")
        service = Service(run, store, ServeSettings(ranker=options.ranker, deadline=600))
        try:
            yield service
        finally:
            service.close()
            store.close()


def _changed(text: str, options: ServeOptions) -> str:
    """The run's settings with another scorer, or another number of recent items."""
    import tomllib

    import tomli_w

    found = tomllib.loads(text)
    found.get("run", {}).pop("cache", None)
    if options.scorer:
        found.setdefault("model", {})["scorer"] = options.scorer
    if options.recent:
        found.setdefault("prompts", {})["recent"] = options.recent
    return tomli_w.dumps(found)


@functools.cache
def _users(service: Service, options: ServeOptions, count: int) -> list[str]:
    """New users, each with a history drawn from the catalog, and summarized."""
    ids, draw = list(service.recommender.catalog.ids), random.Random(options.seed)  # noqa: S311
    length = min(max(options.history, 1), len(ids) // 2)
    users = [f"bench/{length}/{number}" for number in range(count)]
    if options.words:
        service.summaries.close()  # none is to be written
    for user in users:
        seen = draw.sample(ids, length)
        service.add_events(
            [
                Event(id=f"{user}/{n}", user=user, item=one, time=float(n))
                for n, one in enumerate(seen)
            ]
        )
    while service.store.due(1) and not options.words:
        time.sleep(0.05)
    return users


def _requests(service: Service, options: ServeOptions, users: Sequence[str]) -> list[Any]:
    draw = random.Random(options.seed + 1)  # noqa: S311 - no secret
    catalog = service.recommender.catalog
    ids = list(catalog.ids)
    given: dict[str, Any] = {}
    requests = []
    for user in users:
        if options.words:
            own = random.Random(user)  # noqa: S311 - the same in each request of this user
            texts = " ".join(text for one in own.sample(ids, 60) for _, text in catalog[one].fields)
            given = {"summary": " ".join(texts.split()[: options.words])}
        candidates: list[Any] = draw.sample(ids, options.candidates)
        requests.append(RecommendRequest(user=user, candidates=candidates, **given))
    return requests


def _shape(service: Service, request: RecommendRequest) -> str:
    """How many tokens of a request's prompts stand before all candidates, and behind."""
    served, writer = service.recommender.model()
    model: Any = served.inner  # type: ignore[attr-defined]
    query = service._asked(request, None).query
    prompts = [model.encode(prompt) for prompt in writer.rank(query)]
    least, most = min(prompts), max(prompts)
    pairs = zip(least, most, strict=False)
    shared = next((n for n, (one, other) in enumerate(pairs) if one != other), len(least))
    behind = sum(map(len, prompts)) - shared * len(prompts)
    return f"{shared} tokens before the candidates, {behind} behind in {len(prompts)} prompts"


def _forget(service: Service) -> None:
    for model in service.recommender.opened():
        forget = getattr(model.inner, "forget", None)
        if forget is not None:  # a model elsewhere keeps what it keeps
            forget()


def _timed(work: Callable[[], Any], timing: Timing) -> Any:
    began = time.perf_counter()
    found = work()
    timing.seconds.append(time.perf_counter() - began)
    return found


def _overhead(service: Service, options: ServeOptions) -> Result:
    users = _users(service, options, options.users)
    for request in _requests(service, options, users[:2]):
        service.recommend(request)
    model, whole, beyond = Timing(), Timing(), []
    parts: dict[str, list[float]] = {}
    for request in _requests(service, options, users):
        found: Recommendation = _timed(lambda: service.recommend(request), whole)  # noqa: B023
        model.seconds.append(found.timings.model / 1000)
        beyond.append(1000 * whole.seconds[-1] - found.timings.model)
        for name, value in found.timings.model_dump().items():
            parts.setdefault(name, []).append(value)
    each = ", ".join(f"{name} {_median(values):.1f}" for name, values in parts.items())
    return Result(
        f"serve, recommend: {options.candidates} candidates, one request at a time",
        _records(service, options, "recommend", {"model": model, "whole": whole}, 1),
        (f"beyond the model's own time: {_median(beyond):.1f} ms at the median ({each})",),
    )


def _returning(service: Service, options: ServeOptions) -> Result:
    users = _users(service, options, options.users)
    first, other = (
        _requests(service, dataclasses.replace(options, seed=options.seed + more), users)
        for more in (0, 1000)
    )
    service.recommend(first[0])
    cold, known = Timing(), Timing()
    for before, request in zip(first, other, strict=True):
        _forget(service)
        plain = _timed(lambda: service.recommend(request), cold)  # noqa: B023
        _forget(service)
        service.recommend(before)
        again = _timed(lambda: service.recommend(request), known)  # noqa: B023
        cold.result = max(cold.result or 0.0, _difference(plain, again))
    return Result(
        f"serve, a returning user: {options.candidates} other candidates",
        _records(service, options, "user", {"cold": cold, "returning": known}, 1),
        (f"largest difference of a score: {cold.result:.2g}", _shape(service, first[-1])),
    )


def _clients(service: Service, options: ServeOptions) -> Result:
    users = _users(service, options, options.users)
    requests = _requests(service, options, users)
    service.recommend(requests[0])
    alone, together = Timing(), Timing()
    counts = service.recommender.opened()[0].counts
    notes = []
    with ThreadPoolExecutor(options.clients) as pool:
        for _ in range(options.repeats):
            _forget(service)
            plain = _timed(lambda: [service.recommend(one) for one in requests], alone)
            _forget(service)
            before = dataclasses.replace(counts)
            shared = _timed(lambda: list(pool.map(service.recommend, requests)), together)
            passes = counts.passes - before.passes
            gap = max(map(_difference, plain, shared))
            notes.append(f"{len(requests)} requests in {passes} passes; scores differ by {gap:.2g}")
    timings = {"one at a time": alone, f"{options.clients} at once": together}
    return Result(
        f"serve, {options.clients} clients: {len(requests)} requests of {options.candidates}",
        _records(service, options, "clients", timings, len(requests)),
        tuple(notes),
    )


def _summary(service: Service, options: ServeOptions) -> Result:
    """A block's worth of events one by one, against the history anew."""
    config = service.recommender.config
    block = config.summarize.block_items
    (user,) = _users(service, dataclasses.replace(options, history=options.anew), 1)
    ids = list(service.recommender.catalog.ids)
    begin, counts = len(service.store.history(user)), service.summaries.counts
    before, event = dataclasses.replace(counts), Timing()
    for n in range(begin, begin + block):
        service.add_events([Event(id=f"{user}/{n}", user=user, item=ids[n], time=float(n))])
        while not service.summaries.idle:
            time.sleep(0.01)
    used = {
        name: (getattr(counts, name) - getattr(before, name)) / block
        for name in ("seconds", "calls", "tokens")
    }
    event.seconds.append(used["seconds"])
    model = cached(open_model(config.summarizer), ResponseCache(Path(":memory:")))
    catalog = service.recommender.catalog
    seen = tuple(Interaction(catalog[one.item], one.time) for one in service.store.history(user))
    full = len(seen) // block * block
    writer, anew = summary_writer(config, model, catalog), Timing()
    asked = [(user, UserHistory(user, seen[:full]))]
    plain = dict(
        _timed(
            lambda: list(
                summarize(
                    asked,
                    model=model,
                    writer=writer,
                    settings=config.summarize,
                    sampling=config.summary_sampling,
                    progress=Silent(),
                )
            ),
            anew,
        )
    )
    same = plain[user].text == service.store.revisions(user)[-1].text
    shares = {
        "calls": model.counts.asked / used["calls"],
        "tokens": model.counts.tokens / used["tokens"],
    }
    return Result(
        f"serve, {config.summarize.strategy} summary: an event on a history of {full}",
        _records(service, options, "summary", {"anew": anew, "an event": event}, 1),
        (
            f"an event costs 1/{shares['calls']:.1f} of the calls and 1/{shares['tokens']:.1f} of "
            f"the prompt tokens (of {block} events one fills a block)",
            f"the summary is {'the same' if same else 'another one'}",
        ),
    )


def _records(
    service: Service, options: ServeOptions, name: str, timings: dict[str, Timing], units: int
) -> tuple[Record, ...]:
    first, *_ = timings.values()
    model = service.recommender.config.model
    place, work = Place("cpu", model.dtype), Work(units)
    label = f"{name}/{model.scorer}"
    return tuple(
        record("serve", f"{label}/{kind}", place, one, work, speed_ratio(one, work, first, work))
        for kind, one in timings.items()
    )


def _difference(one: Recommendation, other: Recommendation) -> float:
    scores = {entry.item: entry.score for entry in one.items}
    return max(abs(scores.get(entry.item, entry.score) - entry.score) for entry in other.items)


def _median(values: Sequence[float]) -> float:
    return sorted(values)[len(values) // 2]
