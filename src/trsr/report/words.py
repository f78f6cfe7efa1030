"""A run's settings and counts as rows of text: for the page and for `report.md`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from trsr.metrics.metrics import parse_metric
from trsr.metrics.report import NOTHING, Report

if TYPE_CHECKING:
    from trsr.report.page import StageTime


@dataclass(frozen=True, slots=True)
class SettingRow:
    """A setting.

    Attributes:
        name: As an override names it, such as `rank.depth`.
        value: Its value.
        changed: Whether it is another than trsr's default.
    """

    name: str
    value: str
    changed: bool


def setting_rows(settings: Mapping[str, object], changed: Mapping[str, object]) -> list[SettingRow]:
    """Every setting, in order.

    Args:
        settings: section → key → value, or key → value.
        changed: Those of them that are no defaults, in the same form.
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


def duration(seconds: float | None) -> str:
    """`0.4 s`, `3 min 20 s`, `1 h 5 min`."""
    if seconds is None:
        return NOTHING
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def count_words(stage: StageTime) -> list[tuple[str, str]]:
    """(what, how many) of a stage; a set flag has no number, one that is not set is left out."""
    return [
        (key.replace("_", " "), "" if value is True else amount(value))
        for key, value in stage.counts.items()
        if value is not False
    ]


def headline_metrics(report: Report) -> list[str]:
    """One metric of each name, with its widest cut-off; four at most, and no lower bounds."""
    widest: dict[str, str] = {}
    known = [text for text in report.metrics if parse_metric(text).family.accuracy]
    for text in sorted(known, key=lambda text: parse_metric(text).k or 0):
        widest[parse_metric(text).name] = text
    shown = [text for text in report.metrics if text in widest.values()]
    return [text for text in shown if text not in report.bounds][:4]
