"""Details of talking to an endpoint: addresses, keys, waits, messages."""

from __future__ import annotations

import ipaddress
import json
import math
import os
import re
import urllib.parse
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, NamedTuple

from trsr.errors import ConfigError
from trsr.models.settings import ModelSettings
from trsr.settings import derive_seed
from trsr.storage.files import json_object

FIRST_WAIT = 0.5  # seconds before the second try; doubled before each further one
LONGEST_WAIT = 30.0
MOST_TOKENS = 2**53  # of one answer; a larger count is wrong
_BROKEN_OFF = (
    "filter|safety|sensitive|moderat|guard|recitation|prohibited|blocklist|block_list|spii|refus|"
    "error|insufficient|abort|cancel|interrupt"
)
"""In reasons to stop, as endpoints name them: what came before is no whole answer."""
_FINISH = 40  # characters of a reason to stop
_MOST_TEXT = 300  # characters of an endpoint's own message in ours


def address_of(base_url: str) -> str:
    """The endpoint's address, checked.

    Raises:
        ConfigError: If it is no address.
    """
    try:
        parts = urllib.parse.urlsplit(base_url)
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        good = False
    if not good:
        raise ConfigError(
            f"model.base_url is {base_url!r}: give the endpoint's address, "
            "such as http://localhost:8000/v1"
        )
    return base_url.rstrip("/")


def here(address: str) -> bool:
    """Whether an address is on this machine."""
    host = urllib.parse.urlsplit(address).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def key_of(settings: ModelSettings, address: str) -> str:
    """The key, from the environment only; empty where a server on this machine needs none.

    Raises:
        ConfigError: If it is missing or cannot be a key.
    """
    key = os.environ.get(settings.key_env, "").strip()
    if not key and not here(address):
        raise ConfigError(
            f"model.key_env: the environment variable {settings.key_env} is not set, and {address} "
            "is not on this machine: set it to the endpoint's key"
        )
    if not (key.isascii() and key.isprintable()):
        raise ConfigError(f"model.key_env: {settings.key_env} holds characters that no key has")
    return key


def wait_before(asked: float, attempt: int, body: Mapping[str, Any] | None) -> float:
    """Seconds before the next try: exponential, spread so that requests do not return as one."""
    backoff = min(FIRST_WAIT * 2**attempt, LONGEST_WAIT)
    spread = derive_seed(attempt, json.dumps(body)) / 2**63
    return float(max(asked, backoff / 2) + spread * backoff / 2)


def asked_wait(headers: Mapping[str, str]) -> float:
    """What Retry-After asks for in seconds, given as a number or as a date; 0 without one."""
    asked = headers.get("retry-after", "").strip()
    try:
        return max(0.0, float(asked))
    except ValueError:
        pass
    try:
        date = parsedate_to_datetime(asked)
    except ValueError:
        return 0.0
    date = date if date.tzinfo else date.replace(tzinfo=UTC)
    return max(0.0, (date - datetime.now(UTC)).total_seconds())


def error_text(body: str) -> str:
    """An endpoint's error message as one short line."""
    try:
        error = json.loads(body)["error"]
        body = error["message"] if isinstance(error, dict) else str(error)
    except (ValueError, LookupError, TypeError, RecursionError):
        pass
    line = " ".join(str(body).split()) or "no message"
    return line if len(line) <= _MOST_TEXT else line[:_MOST_TEXT] + "…"


def answer_json(text: str) -> Any:
    """The value of an answer's JSON; integers of hundreds of digits are infinite.

    Raises:
        ValueError: If it is none, or an object has a key twice.
        RecursionError: If it is nested beyond reading.
    """
    return json.loads(text, parse_int=_whole, object_pairs_hook=json_object)


def _whole(digits: str) -> float:
    return int(digits) if len(digits) < _MOST_TEXT else math.inf


def token_count(counts: Any, name: str) -> int:
    """A count that an endpoint gave; 0 where it is missing or wrong."""
    value = counts.get(name) if isinstance(counts, dict) else None
    return value if isinstance(value, int) and 0 <= value <= MOST_TOKENS else 0


class ReceivedMessage(NamedTuple):
    """An answer's message.

    Attributes:
        text: The text, whether it is a string or a list of parts; empty where there is none.
        thought: Whether the endpoint gave thinking beside it.
        finish: Why the model stopped; empty if not given.
    """

    text: str
    thought: bool
    finish: str

    @property
    def broken_off(self) -> bool:
        """Whether something stopped the model before its answer was whole, such as a filter."""
        return re.search(_BROKEN_OFF, self.finish.lower()) is not None

    @classmethod
    def of(cls, message: Any, finish: Any) -> ReceivedMessage | None:
        """Reads a message; None where it is none."""
        content = message.get("content")
        thought = any(message.get(name) for name in ("reasoning_content", "reasoning"))
        finish = finish if isinstance(finish, str) else ""
        if isinstance(content, list):
            thought = thought or any(_kind(part) in ("thinking", "reasoning") for part in content)
            content = "".join(map(_part, content))
        if content is None and (thought or finish or message.get("refusal")):
            content = ""
        return cls(content, thought, finish[:_FINISH]) if isinstance(content, str) else None


def _kind(part: Any) -> object:
    return part.get("type") if isinstance(part, dict) else None


def _part(part: Any) -> str:
    """The text of one part of a content, without thinking."""
    plain = isinstance(part, dict) and part.get("type", "text") in ("text", "output_text")
    text = part.get("text") if plain else part
    return text if isinstance(text, str) else ""


def after(begun: str, text: str) -> str:
    """The text after the begun answer, which many endpoints repeat."""
    start = begun.strip()
    if not start:
        return text
    stripped = text.lstrip()
    if stripped[: len(start)].casefold() == start.casefold():
        text = stripped[len(start) :]
    # some endpoints strip the space after it
    if text[:1].isalnum() and not begun[-1].isspace():
        return f" {text}"
    return text
