"""Limits of requests: bytes of a body, and requests a second of one client."""

from __future__ import annotations

import math
import time
from collections import OrderedDict

_CLIENTS = 10_000
"""Clients that are remembered; the one seen longest ago is forgotten."""
_BURST_SECONDS = 2.0


class RateLimit:
    """Lets each client do so many requests a second, and twice as many at once.

    Args:
        rate: Requests a second; 0: no limit.
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
