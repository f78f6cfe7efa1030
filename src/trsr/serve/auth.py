"""API keys: random, shown once, kept as keyed digests, each with its scopes."""

from __future__ import annotations

import hashlib
import hmac
import math
import secrets
import time
from collections.abc import Collection, Mapping
from typing import Any, Literal, NamedTuple, get_args

from trsr.errors import ConfigError
from trsr.serve.store import Store

Scope = Literal["read", "write", "admin"]
SCOPES: tuple[str, ...] = get_args(Scope)
_PREFIX = "trsr"
_FRESH_SECONDS = 5.0
"""How long a removed key may still be taken."""


class Client(NamedTuple):
    """Who asks: a key's id, or an address where no key is needed; and what it may do."""

    name: str
    scopes: frozenset[str]

    def may(self, scope: str) -> bool:
        """Whether it may do this; `admin` may all."""
        return scope in self.scopes or "admin" in self.scopes


def add_key(store: Store, name: str, scopes: Collection[str]) -> str:
    """Makes a key, and gives its text, which is kept nowhere.

    Raises:
        ConfigError: If a scope is unknown, or there is none.
    """
    unknown = sorted(set(scopes) - set(SCOPES))
    if unknown or not scopes:
        raise ConfigError(f"scopes are {', '.join(SCOPES)}, not {', '.join(unknown) or 'none'}")
    # 256 random bits: no guess and no table finds them, so the digest need not be slow
    key, secret, salt = secrets.token_hex(8), secrets.token_urlsafe(32), secrets.token_hex(16)
    store.put_key(
        {
            "id": key,
            "name": name,
            "salt": salt,
            "digest": _digest(secret, salt),
            "scopes": ",".join(sorted(set(scopes))),
            "created": time.time(),
        }
    )
    return f"{_PREFIX}_{key}_{secret}"


def _digest(secret: str, salt: str) -> str:
    return hashlib.blake2b(secret.encode(), key=salt.encode(), digest_size=32).hexdigest()


class Keys:
    """The keys of a store, to be read again every few seconds."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._rows: dict[str, Mapping[str, Any]] = {}
        self._read = -math.inf

    def __bool__(self) -> bool:
        return bool(self._rows)

    @property
    def stale(self) -> bool:
        """Whether to call `refresh` before the next question."""
        return time.monotonic() - self._read >= _FRESH_SECONDS

    def refresh(self) -> None:
        """Reads the keys.

        Raises:
            StoreUnavailableError: If the database cannot be reached.
        """
        self._rows = {row["id"]: row for row in self._store.api_keys()}
        self._read = time.monotonic()

    def client(self, header: str) -> Client | None:
        """Whose key an `Authorization` header holds; None for none of ours."""
        kind, _, text = header.partition(" ")
        prefix, _, rest = text.strip().partition("_")
        key, _, secret = rest.partition("_")
        row = self._rows.get(key)
        if kind.lower() != "bearer" or prefix != _PREFIX or row is None:
            return None
        if not hmac.compare_digest(_digest(secret, row["salt"]), row["digest"]):
            return None
        return Client(f"key {key}", frozenset(row["scopes"].split(",")))
