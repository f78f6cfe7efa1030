"""A run's settings and counts in words, for the terminal's lines and the report."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from trsr.metrics.report import NOTHING


@dataclass(frozen=True, slots=True)
class SettingRow:
    """A setting, by the name that an override has, and whether it is another than the default."""

    name: str
    value: str
    changed: bool


def setting_rows(settings: Mapping[str, object], changed: Mapping[str, object]) -> list[SettingRow]:
    """Every setting, in order.

    Both tables are section → key → value, or key → value; `changed` holds what is no default.
    """
    others = {name for name, _ in _flat(changed)}
    return [SettingRow(name, plain(value), name in others) for name, value in _flat(settings)]


def _flat(table: Mapping[str, object], prefix: str = "") -> Iterator[tuple[str, object]]:
    for key, value in table.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def plain(value: object) -> str:
    """A setting's value, exactly."""
    if value is None or value == "":
        return NOTHING
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list | tuple):
        return ", ".join(plain(one) for one in value) or NOTHING
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {plain(one)}" for key, one in value.items()) or NOTHING
    return str(value)


def amount(value: object) -> str:
    """A count for reading: thousands set apart, long fractions cut."""
    if isinstance(value, bool):
        return plain(value)
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    return plain(value)


WORDS = {
    "cases_train": "training cases",
    "cases_valid": "validation cases",
    "cases_test": "test cases",
    "asked": "prompts answered by the model",
    "from_store": "prompts answered from the store",
    "cached_tokens": "tokens of answers from the store",
    "cached_unknown": "answers from the store of unknown cost",
    "shortened": "prompts shortened to fit",
    "empty": "histories without a summary",
    "unfit": "queries that fit no prompt",
}
"""What counts that are no words of their own are of."""


def count_line(info: Mapping[str, object]) -> str:
    """What a stage did, for a line: why it did nothing, then counts; zeros say nothing.

    Args:
        info: Of the stage's record; texts and whole numbers are shown.
    """
    shown = {key: one for key, one in info.items() if key not in ("seed", "prompts", "why") and one}
    parts = [str(info["why"])] if info.get("why") else []
    for key, value in shown.items():
        if isinstance(value, int | str):
            parts.append(" ".join(filter(None, _pair(key, value))))
    return ", ".join(parts)


def count_words(counts: Mapping[str, object]) -> list[tuple[str, str]]:
    """(what, how many) of a stage; a set flag has no number, one that is not set is left out."""
    return [_pair(key, value) for key, value in counts.items() if value is not False]


def _pair(key: str, value: object) -> tuple[str, str]:
    name = WORDS.get(key, key.replace("_", " "))
    return name, "" if value is True else amount(value)
