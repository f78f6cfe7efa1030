"""The service's own numbers for Prometheus: no user, item or key is in a label."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Histogram,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric

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
    """Counts requests and events.

    Args:
        load: Gives the service's load by name.
    """

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
            ("route",),
            buckets=_BUCKETS,
            registry=self._registry,
        )
        self.events = Counter("trsr_events", "new events kept", registry=self._registry)
        self._registry.register(_Load(load))
        ProcessCollector(registry=self._registry)  # memory, processor time

    def request(self, method: str, route: str, status: int, seconds: float) -> None:
        """Counts a request; `route` is the template of its path."""
        self._requests.labels(method, route, str(status)).inc()
        self._seconds.labels(route).observe(seconds)

    def text(self) -> bytes:
        """All numbers in Prometheus's format."""
        return generate_latest(self._registry)
