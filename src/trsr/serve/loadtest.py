"""`trsr loadtest`: a bounded load on a service of its own, and how it stood it.

The service is a process on loopback with a database that is gone afterwards; the clients are one
other process, so that neither measures itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import math
import random
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from trsr import machine
from trsr.errors import StoreError
from trsr.progress import Progress
from trsr.storage import files

CANDIDATES = 20
"""Items that each recommendation ranks."""
BATCH = 20
"""Events in one request of the second part on events."""
_EVENTS_A_USER = 3
"""Too few to fill a block: what is measured is keeping events, not summaries."""
_START_SECONDS = 600.0
_MEMORY = "process_resident_memory_bytes"
_FIRST, _LATER = 100, 10_000
"""Requests after which memory is compared."""
_MARKS = frozenset(round(10 ** (2 + step / 2)) for step in range(13))
"""Requests after which memory is looked at: two in a power of ten."""
_KEPT = 50_000
"""Most answers of a part of which the times are held: a long load takes no more memory."""

Ask = Callable[[], tuple[str, str, Any, int]]
"""The next request: method, path, body, and how many things it asks for."""


@dataclass
class Part:
    """One kind of load and what became of it.

    Attributes:
        name: What was asked.
        unit: Of what the throughput counts.
        clients: Connections, each with one request at a time.
        seconds: How long it took.
        done: Things that were answered well.
        answers: Good answers.
        times: Of a uniform sample of them, milliseconds: until the answer, of the model, and of the
            service in all; the last two as the answer says, else 0.
        errors: Bad answers by status; 0 where the connection broke.
    """

    name: str
    unit: str
    clients: int
    seconds: float = 0.0
    done: int = 0
    answers: int = 0
    times: list[tuple[float, float, float]] = field(default_factory=list)
    errors: Counter[int] = field(default_factory=Counter)

    def add(self, latency: float, model: float, whole: float) -> None:
        """Counts a good answer."""
        self.answers += 1
        if len(self.times) < _KEPT:
            self.times.append((latency, model, whole))
        elif (place := random.randrange(self.answers)) < _KEPT:  # noqa: S311 - a sample
            self.times[place] = latency, model, whole

    @property
    def requests(self) -> int:
        """How many were answered, well or not."""
        return self.answers + self.errors.total()

    def to_json(self) -> dict[str, Any]:
        """The part's figures."""
        latencies, model, whole = zip(*self.times, strict=True) if self.times else ((), (), ())
        figures = {
            "name": self.name,
            "unit": self.unit,
            "clients": self.clients,
            "seconds": round(self.seconds, 2),
            "requests": self.requests,
            "throughput": round(self.done / self.seconds, 2) if self.seconds else 0.0,
            **{f"p{share}_ms": percentile(latencies, share) for share in (50, 95, 99)},
            "errors": {str(status): count for status, count in sorted(self.errors.items())},
        }
        if sum(whole):
            beside = statistics.median(all - own for all, own in zip(whole, model, strict=True))
            figures["model_share"] = round(sum(model) / sum(whole), 3)
            figures["beside_model_p50_ms"] = round(beside, 2)
        return figures


def percentile(values: Sequence[float], share: float) -> float | None:
    """The smallest value that `share` percent of the values do not exceed; None without values."""
    if not values:
        return None
    return round(sorted(values)[math.ceil(len(values) * share / 100) - 1], 2)


def growth(memory: Sequence[dict[str, float]]) -> float | None:
    """Memory after 10,000 requests, or at the end of fewer, as a multiple of that after 100."""
    at = {point["requests"]: point["bytes"] for point in memory}
    if _FIRST not in at:
        return None
    return round(at.get(_LATER, memory[-1]["bytes"]) / at[_FIRST], 3)


def loadtest(
    run: Path,
    *,
    seconds: float,
    clients: int,
    rate: float,
    ranker: str,
    database: str,
    progress: Progress,
) -> dict[str, Any]:
    """Puts a run under load, and gives the figures.

    With the rate 0 it gets as many requests as it answers. Without a database it has a SQLite file
    that is gone afterwards.

    Raises:
        StoreError: If the service does not start.
    """
    with files.temporary_folder() as folder:
        url = database or f"sqlite:///{folder / 'load.sqlite'}"
        with serving(run, url, ranker) as port:
            return asyncio.run(_Load(port, seconds, clients, rate, progress).all(run))


@contextlib.contextmanager
def serving(run: Path, database: str, ranker: str = "") -> Iterator[int]:
    """A service of a run in a process of its own; gives its port.

    Raises:
        StoreError: If it does not start.
    """
    command = [sys.executable, "-m", "trsr", "serve", str(run), "--port", "0"]
    command += ["--database", database, *(["--ranker", ranker] if ranker else [])]
    process = subprocess.Popen(  # noqa: S603 - our own command
        command, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True
    )
    try:
        yield _port(process)
    finally:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(30)
        process.kill()
        process.wait()
        if process.stderr:
            process.stderr.close()


def _port(process: subprocess.Popen[str]) -> int:
    said = []
    for line in process.stderr or ():
        said.append(line)
        if line.startswith("serving "):
            return int(line.rpartition(":")[2])
    raise StoreError(f"the service did not start: {''.join(said[-5:]).strip()}")


class _Load:
    """The parts of the load over one service."""

    def __init__(
        self, port: int, seconds: float, clients: int, rate: float, progress: Progress
    ) -> None:
        self._port = port
        self._seconds = seconds
        self._clients = clients
        self._rate = rate
        self._progress = progress
        self._numbers = itertools.count()
        self._requests = 0
        self._began = time.perf_counter()
        self._memory: list[dict[str, float]] = []

    async def all(self, run: Path) -> dict[str, Any]:
        first, *rest = await self._users()
        users = itertools.cycle([first, *rest])
        answer = await self._warm(first)
        first_list = json.loads(answer)
        ranker, self._item = first_list["ranker"], first_list["items"][0]["item"]
        parts = []
        self._began = time.perf_counter()
        self._progress.begin(4, "parts")
        for name, unit, many, ask in (
            ("recommend, one at a time", "lists", 1, lambda: _recommend_one(next(users))),
            ("recommend, at once", "lists", self._clients, lambda: _recommend_one(next(users))),
            ("events, one a request", "events", self._clients, lambda: self._events(1)),
            (f"events, {BATCH} a request", "events", self._clients, lambda: self._events(BATCH)),
        ):
            parts.append(await self._part(Part(name, unit, many), ask))
            await self._note_memory()
            self._progress.advance(note=name)
        return {
            "run": run.name,
            "ranker": ranker,
            "candidates": CANDIDATES,
            "machine": machine.processor(),
            "cores": machine.cores(),
            "parts": [part.to_json() for part in parts],
            "requests": self._requests,
            "memory": self._memory,
            "memory_growth": growth(self._memory),
        }

    async def _warm(self, user: str) -> bytes:
        """Asks until an answer comes: the first opens the model and warms caches."""
        until = time.perf_counter() + _START_SECONDS
        async with _Connection(self._port, _START_SECONDS) as connection:
            while True:
                status, answer = await connection.ask("POST", "/v1/recommend", _recommend(user))
                if status == 200:
                    return answer
                if status != 503 or time.perf_counter() > until:
                    raise StoreError(f"the service answers {status}: {answer.decode()[:200]}")
                await asyncio.sleep(1)

    async def _users(self) -> list[str]:
        async with _Connection(self._port, _START_SECONDS) as connection:
            _, answer = await connection.ask("GET", "/v1/users?limit=200", None)
        if found := [row["user"] for row in json.loads(answer)["users"]]:
            return found
        raise StoreError("the run has no user to recommend for")

    async def _note_memory(self) -> None:
        """Notes the service's resident memory, where its system says it."""
        seconds, requests = time.perf_counter() - self._began, self._requests
        async with _Connection(self._port, _START_SECONDS) as connection:
            _, answer = await connection.ask("GET", "/metrics", None)
        lines = (line.split() for line in answer.decode().splitlines())
        if found := next((line[1] for line in lines if line[0] == _MEMORY), None):
            self._memory.append(
                {"requests": requests, "seconds": round(seconds, 1), "bytes": int(float(found))}
            )

    def _events(self, count: int) -> tuple[str, str, Any, int]:
        numbers = [next(self._numbers) for _ in range(count)]
        events = [
            {
                "id": f"load/{number}",
                "user": f"load/{number // _EVENTS_A_USER}",
                "item": self._item,
                "time": float(number),
            }
            for number in numbers
        ]
        return "POST", "/v1/events", {"events": events}, count

    async def _part(self, part: Part, ask: Ask) -> Part:
        began = time.perf_counter()
        until = began + self._seconds
        turns = (began + n / self._rate if self._rate else began for n in itertools.count())
        await asyncio.gather(*(self._client(part, ask, turns, until) for _ in range(part.clients)))
        part.seconds = time.perf_counter() - began
        return part

    async def _client(self, part: Part, ask: Ask, turns: Iterator[float], until: float) -> None:
        async with _Connection(self._port, _START_SECONDS) as connection:
            while (turn := max(next(turns), time.perf_counter())) < until:
                await asyncio.sleep(turn - time.perf_counter())
                method, path, body, count = ask()
                began = time.perf_counter()
                status, answer = await connection.ask(method, path, body)
                self._requests += 1
                if self._requests in _MARKS:
                    await self._note_memory()
                if status != 200:
                    part.errors[status] += 1
                    await asyncio.sleep(0.05)
                    continue
                latency, model, whole = 1000 * (time.perf_counter() - began), 0.0, 0.0
                part.done += count
                if part.unit == "lists":
                    timings = json.loads(answer)["timings"]
                    model, whole = timings["model"] + timings["summary"], timings["total"]
                part.add(latency, model, whole)


def _recommend(user: str) -> dict[str, Any]:
    return {"user": user, "n": CANDIDATES, "k": CANDIDATES}


def _recommend_one(user: str) -> tuple[str, str, Any, int]:
    return "POST", "/v1/recommend", _recommend(user), 1


class _Connection:
    """A kept HTTP connection to loopback; as little as can be, since it shares the cores."""

    def __init__(self, port: int, timeout: float) -> None:
        self._port = port
        self._timeout = timeout

    async def __aenter__(self) -> Self:
        self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self._port)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._writer.close()
        with contextlib.suppress(OSError):
            await self._writer.wait_closed()

    async def ask(self, method: str, path: str, body: Any) -> tuple[int, bytes]:
        """The status, 0 where the connection broke, and the answer's body."""
        content = b"" if body is None else json.dumps(body).encode()
        head = f"{method} {path} HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n"
        try:
            async with asyncio.timeout(self._timeout):
                self._writer.write(
                    f"{head}content-length: {len(content)}\r\n\r\n".encode() + content
                )
                return await self._answer()
        except (OSError, EOFError, TimeoutError):
            self._writer.close()
            self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self._port)
            return 0, b""

    async def _answer(self) -> tuple[int, bytes]:
        head = (await self._reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
        _, _, length = head.partition("content-length:")
        return int(head.split(" ", 2)[1]), await self._reader.readexactly(
            int(length.split("\r\n", 1)[0])
        )


def rows(found: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """The figures as a table."""
    header = ["load", "clients", "a second", "p50 ms", "p95 ms", "p99 ms", "model", "errors"]
    table = []
    for part in found["parts"]:
        share = part.get("model_share")
        table.append(
            [
                part["name"],
                str(part["clients"]),
                f"{part['throughput']:,.1f} {part['unit']}",
                *(_ms(part[f"p{p}_ms"]) for p in (50, 95, 99)),
                "" if share is None else f"{share:.0%}",
                str(sum(part["errors"].values())),
            ]
        )
    return header, table


def _ms(value: float | None) -> str:
    return "" if value is None else f"{value:,.1f}"


@dataclass(frozen=True)
class _Bar:
    """A part in the picture: its name, its height, and where its percentiles stand."""

    name: str
    y: float
    p50: float
    p95: float
    p99: float
    words: str


def picture(found: dict[str, Any]) -> str:
    """The latencies on a logarithmic axis, and memory over time below, as an SVG drawing."""
    import jinja2

    parts = [part for part in found["parts"] if part["p50_ms"]]
    values = [part[f"p{p}_ms"] for part in parts for p in (50, 99)]
    low, high = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values) * 1.01))
    left, width = 190.0, 640.0

    def at(value: float) -> float:
        return round(left + (math.log10(value) - low) / (high - low) * (width - left - 30), 1)

    bars = [
        _Bar(
            part["name"],
            28.0 + 46 * n,
            at(part["p50_ms"]),
            at(part["p95_ms"]),
            at(part["p99_ms"]),
            f"{part['throughput']:,.1f} {part['unit']} a second, {part['clients']} clients",
        )
        for n, part in enumerate(parts)
    ]
    ticks = [(at(10.0**power), f"{10.0**power:g}") for power in range(low, high + 1)]
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("trsr.serve", "."), autoescape=True, trim_blocks=True
    )
    base = 46.0 * len(bars) + 20
    memory, top = found["memory"], base + 60
    longest = max((point["seconds"] for point in memory), default=0) or 1
    most = max((point["bytes"] for point in memory), default=0) or 1
    line = [
        (
            round(left + point["seconds"] / longest * (width - left - 30), 1),
            round(top + 60 * (1 - point["bytes"] / most), 1),
        )
        for point in memory
    ]
    return environment.get_template("loadtest.svg.jinja").render(
        bars=bars,
        ticks=ticks,
        width=width,
        base=base,
        line=line,
        memory=memory_of(found),
        seconds=longest,
        height=base + (150 if line else 40),
        found=found,
    )


def settings_of(found: dict[str, Any]) -> str:
    """What was measured, in a line."""
    return (
        f"{found['ranker']}, {found['candidates']} candidates; {found['machine']}, "
        f"{found['cores']} cores"
    )


def memory_of(found: dict[str, Any]) -> str:
    """The service's memory, in a line; empty where its system does not say it."""
    points = [
        f"{point['bytes'] / 2**20:,.0f} MiB after {point['requests']:,}"
        for point in found["memory"]
        if point["requests"] in (_FIRST, _LATER) or point is found["memory"][-1]
    ]
    times = f" ({found['memory_growth']:.2f}x)" if found["memory_growth"] else ""
    return f"memory: {', '.join(points)} requests{times}" if points else ""
