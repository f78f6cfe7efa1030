"""The base of every room's settings class, TOML, and the seeds derived from a run's seed."""

from __future__ import annotations

import hashlib
import json
import math
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, ConfigDict, ValidationInfo, field_validator

MOST = 2**31 - 1
"""The largest count: libraries keep them in 32 bits."""
MOST_SEED = 2**63 - 1


class Settings(BaseModel):
    """Settings of one part: frozen, unknown keys refused, checked when made.

    Every field carries a description: the configuration reference is written from it. Numbers are
    finite, counts have 31 bits, seeds 63, and texts can be written as UTF-8.
    """

    model_config = ConfigDict(
        extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False
    )

    @field_validator("*", mode="before")
    @classmethod
    def _no_truth_for_a_number(cls, value: Any, info: ValidationInfo) -> Any:
        # pydantic takes true for 1
        kinds = _kinds(cls.model_fields[str(info.field_name)].annotation)
        numbers = kinds & {int, float} and bool not in kinds
        if numbers and any(isinstance(one, bool) for one in _leaves(value)):
            raise ValueError("input should be a number, not true or false")
        return value

    @field_validator("*")
    @classmethod
    def _usable(cls, value: Any, info: ValidationInfo) -> Any:
        most = MOST_SEED if str(info.field_name).startswith("seed") else MOST
        for one in _leaves(value):
            if isinstance(one, float) and not math.isfinite(one):
                raise ValueError("input should be a finite number")
            if isinstance(one, int) and abs(one) > most:
                raise ValueError(f"input should be at most {most}")
            if isinstance(one, str | Path) and not _writable(str(one)):
                raise ValueError("input should be text in UTF-8")
        return value


def _kinds(annotation: Any) -> set[Any]:
    """A field's type, or the members of a union."""
    return set().union(*map(_kinds, get_args(annotation))) or {annotation}


def _leaves(value: Any) -> Iterator[Any]:
    """The plain values within lists and tables."""
    if isinstance(value, Mapping):
        for key, one in value.items():
            yield from (key, *_leaves(one))
    elif isinstance(value, list | tuple | set | frozenset):
        for one in value:
            yield from _leaves(one)
    else:
        yield value


def _writable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def toml_values(text: str) -> dict[str, Any]:
    """The values of TOML.

    Raises:
        ValueError: If it is none, or nested beyond reading; the message says where, and what to do.
    """
    try:
        # a key of many parts takes time by their square
        long = any(line.partition("=")[0].count(".") > 1000 for line in text.splitlines())
        values = {} if long else tomllib.loads(text)
        _refuse_deep(values, 0 if long else 100)
    except tomllib.TOMLDecodeError as error:
        escapes = any(sign in str(error) for sign in ("Unescaped", "hex value", "scalar value"))
        hint = (
            "; in double quotes a backslash begins an escape: write a Windows path in single "
            "quotes, 'C:\\data', or with /"
        )
        raise ValueError(f"not TOML: {error}{hint if escapes else ''}") from error
    except RecursionError:
        raise ValueError("not TOML: nested too deep") from None
    except ValueError as error:  # an integer of thousands of digits
        raise ValueError(f"not TOML: {error}") from error
    return values


def _refuse_deep(value: Any, room: int) -> None:
    """Raises RecursionError for values that would exhaust what copies or checks them."""
    if not room:
        raise RecursionError
    if isinstance(value, Mapping | list):
        for one in value.values() if isinstance(value, Mapping) else value:
            _refuse_deep(one, room - 1)


def digest(value: object) -> str:
    """A short stable hash of a JSON-able value (16 hexadecimal digits of SHA-256)."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def derive_seed(seed: int, *names: str) -> int:
    """A 63-bit seed for one named draw, so that order and parallelism change nothing."""
    text = "\x1f".join((str(seed), *names))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1
