"""What the manifest says of a run's stages, for its page: time, counts, machine, packages."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from trsr.report import StageTime
from trsr.storage.run_directory import StageRecord

_TOLD_ELSEWHERE = ("seconds", "earlier_seconds", "seed")


def stage_times(records: Mapping[str, StageRecord], order: Sequence[str]) -> list[StageTime]:
    """What each stage took and did.

    Args:
        records: By name.
        order: The names of the stages that are wanted, in order.
    """
    return [
        StageTime(name, records[name].info.get("seconds"), dict(_counts(records[name].info)))
        for name in order
        if name in records
    ]


def _counts(info: Mapping[str, Any]) -> Iterator[tuple[str, object]]:
    for key, value in info.items():
        if key not in _TOLD_ELSEWHERE and isinstance(value, int | float):
            yield key, value
    yield from info.get("usage", {}).items()
    costs = info.get("costs", {}).values()
    if any(one["prompts"] for one in costs):
        for key in ("prompts", "from_store", "tokens"):
            yield key, sum(one[key] for one in costs)
    if "taken_from" in info:
        yield "copied_from", info["taken_from"]


def made_with(records: Mapping[str, StageRecord], order: Sequence[str]) -> list[tuple[str, str]]:
    """(what, which) of the machine and the packages; with the stages where these differ in it.

    Args:
        records: By name.
        order: The names of the stages that are wanted, in order.
    """
    found: dict[str, dict[str, list[str]]] = {}
    for name in order:
        info = records[name].info if name in records else {}
        made = info.get("made", {})
        machine = ", ".join(one for one in (made.get("on"), made.get("gpu")) if one)
        models = ", ".join(info.get("models", {}))
        for what, which in {
            "machine": machine,
            "models": models,
            **info.get("versions", {}),
        }.items():
            if which:
                found.setdefault(what, {}).setdefault(str(which), []).append(name)
    return [(what, _which(stages)) for what, stages in found.items()]


def _which(stages: Mapping[str, Sequence[str]]) -> str:
    if len(stages) == 1:
        return next(iter(stages))
    return "; ".join(f"{which} ({', '.join(names)})" for which, names in stages.items())
