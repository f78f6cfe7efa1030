"""What goes over the wire to an endpoint and back: addresses, keys, waits, words."""

from __future__ import annotations

import importlib
import ipaddress
import json
import os
import time
import urllib.parse
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, NamedTuple

from trsr.errors import ConfigError, ModelError
from trsr.models.settings import ModelSettings
from trsr.settings import derive_seed

if TYPE_CHECKING:
    import openai

FIRST_WAIT = 0.5  # seconds before the second try; doubled before each further one
LONGEST_WAIT = 30.0
MOST_BYTES = 2**24
"""Of an answer's body: far more than any model writes."""
MOST_COUNTED = 2**53  # tokens of one answer: a larger number is none
_FINISH = 40  # characters of a reason to stop
_SAID = 300  # characters of an endpoint's own words in our messages


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
    """Whether an address is of this machine."""
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


def wait_before(asked: float, attempt: int, body: dict[str, Any]) -> float:
    """Seconds before the next try: exponential, spread so that requests do not return as one."""
    backoff = min(FIRST_WAIT * 2**attempt, LONGEST_WAIT)
    spread = derive_seed(attempt, json.dumps(body["messages"])) / 2**63
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


def words_of(body: str) -> str:
    """What an endpoint said, as one short line."""
    try:
        error = json.loads(body)["error"]
        body = error["message"] if isinstance(error, dict) else str(error)
    except (ValueError, LookupError, TypeError, RecursionError):
        pass
    line = " ".join(str(body).split()) or "nothing more said"
    return line if len(line) <= _SAID else line[:_SAID] + "…"


def whole(counts: Any, name: str) -> int:
    """A count that an endpoint gave, 0 where it gave none that can be one."""
    value = counts.get(name) if isinstance(counts, dict) else None
    return value if isinstance(value, int) and 0 <= value <= MOST_COUNTED else 0


class AgainError(Exception):
    """A try failed in a way that another one may not."""

    def __init__(self, reason: str, wait: float = 0.0) -> None:
        super().__init__(reason)
        self.wait = wait  # seconds that the endpoint asked for


class Said(NamedTuple):
    """What an answer's message holds.

    Attributes:
        text: The text, whether it is a string or a list of parts; empty where there is none.
        thought: Whether the endpoint gave thinking apart from it.
        finish: Why the model stopped, empty where that is not told.
    """

    text: str
    thought: bool
    finish: str

    @classmethod
    def of(cls, message: Any, finish: Any) -> Said | None:
        """Reads a message; None where it is none."""
        content = message.get("content")
        thought = any(message.get(name) for name in ("reasoning_content", "reasoning"))
        finish = finish if isinstance(finish, str) else ""
        if isinstance(content, list):
            thought = thought or any(_kind(part) in ("thinking", "reasoning") for part in content)
            content = "".join(map(_part, content))
        if content is None and (thought or finish):
            content = ""
        return cls(content, thought, finish[:_FINISH]) if isinstance(content, str) else None


def _kind(part: Any) -> object:
    return part.get("type") if isinstance(part, dict) else None


def _part(part: Any) -> str:
    """The text of one part of a content; thinking is none."""
    text = part.get("text") if _kind(part) in ("text", "output_text") else part
    return text if isinstance(text, str) else ""


def after(begun: str, text: str) -> str:
    """What follows the begun answer, which many endpoints repeat and some strip the space after."""
    start = begun.strip()
    if not start:
        return text
    said = text.lstrip()
    if said[: len(start)].casefold() == start.casefold():
        text = said[len(start) :]
    if text[:1].isalnum() and not begun[-1].isspace():
        return f" {text}"
    return text


def client_of(settings: ModelSettings, address: str, key: str) -> openai.OpenAI:
    """The package's client for an endpoint.

    Raises:
        ModelError: If the package is not installed.
    """
    try:
        import openai
    except ImportError as error:
        raise ModelError(
            "the openai backend needs the openai package: pip install 'trsr[openai]'"
        ) from error
    return openai.OpenAI(
        api_key=key or "none",  # the package insists on one; a server on this machine ignores it
        base_url=address,
        timeout=settings.timeout,
        max_retries=0,  # ours are counted, and cover malformed answers too
        default_headers={"Accept-Encoding": "identity"},  # a small body cannot become a large one
        # A proxy for the world outside must not get what is said on this machine.
        http_client=openai.DefaultHttpxClient(
            trust_env=not here(address),
            event_hooks={"response": [_watched(settings.timeout)]},
        ),
    )


def _watched(timeout: float) -> Callable[[Any], None]:
    """What is done with each response of the HTTP client before it is followed or read."""
    import openai

    # httpx, or httpx2, the fork of it that newer versions of the package stand on
    client: Any = openai.DefaultHttpxClient.__base__
    http: Any = importlib.import_module(client.__module__.partition(".")[0])

    class Bounded(http.SyncByteStream):  # type: ignore[misc]
        """A body that ends in time and is of bounded size."""

        def __init__(self, stream: Any) -> None:
            self.stream, self.ends = stream, time.monotonic() + timeout

        def __iter__(self) -> Iterator[bytes]:
            size = 0
            for part in self.stream:
                size += len(part)
                if time.monotonic() > self.ends:
                    raise late(timeout)
                if size > MOST_BYTES:
                    raise AgainError(f"an answer of more than {MOST_BYTES:,} bytes")
                yield part

        def close(self) -> None:
            self.stream.close()

    def watch(response: Any) -> None:
        response.stream = Bounded(response.stream)
        if response.has_redirect_location:
            old = response.request.url
            _check_redirect(old, old.join(response.headers["location"]), response.status_code)

    return watch


def late(timeout: float) -> AgainError:
    """What is raised where an answer does not come in time."""
    return AgainError(f"no answer within {timeout:g} s (model.timeout)")


def _check_redirect(old: Any, new: Any, status: int) -> None:
    """Refuses a redirect to another host: what is said of people goes to the one that is set.

    Raises:
        ModelError: Names the place that it points to.
    """
    safer = old.scheme == "http" and new.scheme == "https" and old.host == new.host
    if safer or (old.scheme, old.host, old.port) == (new.scheme, new.host, new.port):
        return
    raise ModelError(
        f"{old.scheme}://{old.netloc.decode()} answers with a redirect (HTTP {status}) to "
        f"{new.scheme}://{new.netloc.decode()}, where nothing is sent: set model.base_url to it if "
        "you trust it"
    )
