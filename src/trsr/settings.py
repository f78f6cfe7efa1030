"""The base of every room's settings class, and the seeds derived from a run's seed."""

from __future__ import annotations

import hashlib
import json

from pydantic import BaseModel, ConfigDict


class Settings(BaseModel):
    """Settings of one part: frozen, unknown keys refused, checked when made.

    Every field carries a description: the configuration reference is written from it.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)


def digest(value: object) -> str:
    """A short stable hash of a JSON-able value (16 hexadecimal digits of SHA-256)."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def derive_seed(seed: int, *names: str) -> int:
    """A 63-bit seed for one named draw, so that order and parallelism change nothing."""
    text = "\x1f".join((str(seed), *names))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1
