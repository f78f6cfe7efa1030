"""The gate before all routes: who asks, how much, how often; headers, counts and log after."""

from __future__ import annotations

import asyncio
import functools
import ipaddress
import json
import logging
import math
import time
import traceback
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from typing import Any
from urllib.parse import urlsplit

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Histogram,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from starlette.concurrency import run_in_threadpool
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from trsr.errors import TrsrError
from trsr.serve.auth import SCOPES, Client, Keys
from trsr.serve.settings import ServeSettings
from trsr.storage import files

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)


class _Load:
    """Reads the service's load when it is asked for."""

    def __init__(self, load: Callable[[], Mapping[str, float]]) -> None:
        self._load = load

    def collect(self) -> Iterable[Metric]:
        for name, value in self._load().items():
            yield GaugeMetricFamily(f"trsr_{name}", f"{name} of the service", value)


class Metrics:
    """Counts requests and events."""

    def __init__(self, load: Callable[[], Mapping[str, float]]) -> None:
        self._registry = CollectorRegistry()
        self._requests = Counter(
            "trsr_requests",
            "requests by route and status",
            ("method", "route", "status"),
            registry=self._registry,
        )
        self._seconds = Histogram(
            "trsr_request_seconds",
            "seconds of a request",
            ("method", "route"),
            buckets=_BUCKETS,
            registry=self._registry,
        )
        self.events = Counter("trsr_events", "new events kept", registry=self._registry)
        self._registry.register(_Load(load))
        ProcessCollector(registry=self._registry)  # memory, processor time

    def request(self, method: str, route: str, status: int, seconds: float) -> None:
        """Counts a request; `route` is the template of its path."""
        self._requests.labels(method, route, str(status)).inc()
        self._seconds.labels(method, route).observe(seconds)

    def text(self) -> bytes:
        """All numbers in Prometheus's format."""
        return generate_latest(self._registry)


_CLIENTS = 10_000
"""Clients that are remembered; the one seen longest ago is forgotten."""
_BURST_SECONDS = 2.0


class RateLimit:
    """Lets each client do so many requests a second, and twice as many at once.

    Without a rate there is no limit.
    """

    def __init__(self, rate: float) -> None:
        self._rate = rate
        self._burst = max(1.0, rate * _BURST_SECONDS)
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def wait(self, client: str, now: float | None = None) -> int:
        """Counts a request; 0 where it may go on, else the seconds until one may."""
        if not self._rate:
            return 0
        now = time.monotonic() if now is None else now
        left, at = self._left.pop(client, (self._burst, now))
        left = min(self._burst, left + (now - at) * self._rate)
        waits = 0 if left >= 1 else math.ceil((1 - left) / self._rate)
        self._left[client] = (left - (not waits), now)
        if len(self._left) > _CLIENTS:
            self._left.popitem(last=False)
        return waits


log = logging.getLogger("trsr.serve")

HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
        "require-trusted-types-for 'script'; trusted-types 'none'"  # no text ever becomes markup
    ),
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
    "cache-control": "no-store",
}
_RAW_HEADERS = [(name.encode(), value.encode()) for name, value in HEADERS.items()]
_BODY_SECONDS = 20.0
"""A body must have arrived by then: a client that drips holds no connection for long."""


class Refusal(Exception):  # noqa: N818 - it is an answer
    """What the gate answers in place of a route."""

    def __init__(self, status: int, code: str, message: str, **headers: str) -> None:
        super().__init__(message)
        self.status, self.code, self.message, self.headers = status, code, message, headers


def problem(code: str, message: str, where: str = "") -> dict[str, Any]:
    """An error as JSON."""
    return {"error": {"code": code, "message": message, "where": where}}


class Gate:
    """ASGI middleware around the whole application."""

    def __init__(
        self, app: ASGIApp, *, settings: ServeSettings, keys: Keys, metrics: Metrics
    ) -> None:
        self._app = app
        self._loopback, self._most = settings.loopback, settings.max_body
        self._keys = keys
        self._metrics = metrics
        self._limit = RateLimit(settings.allowed_rate)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Lets a request through, or answers it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began, status = time.perf_counter(), 0

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], *_RAW_HEADERS]
            await send(message)

        try:
            await self._through(scope, receive, sending)
        except Refusal as refusal:
            await _answer(sending, refusal)
        except Exception as error:
            log_error(error)
            if not status:
                message = "the service made a mistake; its log says where"
                await _answer(sending, Refusal(500, "internal", message))
        finally:
            route = getattr(scope.get("route"), "path_format", "other")
            took = time.perf_counter() - began
            self._metrics.request(_method(scope), route, status, took)
            log.info("%s %s %d %.1f ms", _method(scope), route, status, 1000 * took)

    async def _through(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = {name: value.decode("latin-1") for name, value in scope["headers"]}
        self._check_origin(headers)
        if scope["path"] != "/healthz":
            client = await self._client(scope, headers)
            scope.setdefault("state", {})["client"] = client
            if seconds := self._limit.wait(client.name):
                raise Refusal(
                    429, "too_many_requests", "too many requests; wait", retry_after=str(seconds)
                )
        await self._app(scope, await self._whole_body(headers, receive), send)

    def _check_origin(self, headers: Mapping[bytes, str]) -> None:
        """Refuses pages of other sites that reach for the service through the user's browser."""
        host = headers.get(b"host", "")
        if self._loopback and not _local(host):
            raise Refusal(
                421, "wrong_host", "the service answers on this machine's own address only"
            )
        origin = headers.get(b"origin")
        if origin is not None and urlsplit(origin).netloc != host:
            raise Refusal(403, "wrong_origin", "pages of other sites may not ask the service")

    async def _client(self, scope: Scope, headers: Mapping[bytes, str]) -> Client:
        address = (scope.get("client") or ("unknown",))[0]
        if self._keys.stale:
            try:
                await run_in_threadpool(self._keys.refresh)
            except TrsrError:
                message = "the database cannot be reached now; try again"
                raise Refusal(503, "unavailable", message, retry_after="2") from None
        if self._loopback and not self._keys:
            return Client(address, frozenset(SCOPES))
        found = self._keys.client(headers.get(b"authorization", ""))
        return found or Client(address, frozenset())

    async def _whole_body(self, headers: Mapping[bytes, str], receive: Receive) -> Receive:
        """Reads the body within its limits, and gives what hands it on."""
        most, declared = self._most, headers.get(b"content-length", "0")
        if declared.isdigit() and int(declared) > most:
            raise _too_large(most)
        body, more, gone = bytearray(), True, False
        try:
            async with asyncio.timeout(_BODY_SECONDS):
                while more and not gone:
                    message = await receive()
                    gone = message["type"] == "http.disconnect"
                    body += message.get("body", b"")
                    more = message.get("more_body", False)
                    if len(body) > most:
                        raise _too_large(most)
        except TimeoutError:
            raise Refusal(408, "timeout", "the request's body came too slowly") from None
        _refuse_repeated_keys(bytes(body))
        first: list[Message] = [{"type": "http.request", "body": bytes(body), "more_body": False}]

        async def replay() -> Message:
            if first:
                return first.pop()
            return {"type": "http.disconnect"} if gone else await receive()

        return replay


def _refuse_repeated_keys(body: bytes) -> None:
    """Refuses what every parser behind would read as the last of several values."""
    try:
        json.loads(body, object_pairs_hook=files.json_object)
    except files.RepeatedKeyError:
        message = "an object of the body has a key twice; leave one out"
        raise Refusal(422, "invalid", message) from None
    except (ValueError, RecursionError):
        pass  # no JSON: the route says so


def log_error(error: BaseException) -> None:
    """Logs an error's kind and place, and those of what caused it; their texts may be a user's."""
    chain: list[str] = []
    cause: BaseException | None = error
    while cause is not None:
        place = "".join(traceback.format_tb(cause.__traceback__)[-6:])
        chain.append(f"{type(cause).__name__}\n{place}")
        cause = cause.__cause__ or cause.__context__
    log.error("%s", "because of ".join(chain))


def _too_large(most: int) -> Refusal:
    return Refusal(
        413, "too_large", f"a request's body holds at most {most:,} bytes; send smaller batches"
    )


def _method(scope: Scope) -> str:
    known = ("GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH")
    return scope["method"] if scope["method"] in known else "OTHER"


@functools.lru_cache(1024)
def _local(host: str) -> bool:
    name = urlsplit(f"//{host}").hostname or ""
    if name in ("localhost", "testserver"):
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


async def _answer(send: Send, refusal: Refusal) -> None:
    body = json.dumps(problem(refusal.code, refusal.message)).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    headers += [
        (name.replace("_", "-").encode(), value.encode()) for name, value in refusal.headers.items()
    ]
    await send({"type": "http.response.start", "status": refusal.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
