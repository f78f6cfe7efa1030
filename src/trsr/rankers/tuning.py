"""Chooses between a ranker's settings by how well each orders the validation cases."""

from __future__ import annotations

import heapq
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from trsr.rankers.base import FitData, FitOptions, Ranker, scored
from trsr.rankers.batch import batched, ranked
from trsr.settings import derive_seed
from trsr.types import Case, RankedList

_log = logging.getLogger(__name__)

_NATURAL = {
    "share": (1.0,),
    "last": (1.0, math.inf),
    "decay": (1.0,),
    "shrinkage": (0.0,),
    "popularity": (0.0,),
    "dropout": (0.0,),
}
"""Values of settings beyond which there is nothing to try."""


def tune(
    ranker: Ranker,
    data: FitData,
    options: FitOptions,
    settings: Sequence[Mapping[str, Any]],
    make: Callable[..., Ranker],
) -> None:
    """Gives a ranker that one of its settings which orders the validation cases best.

    Best is the highest first metric of `options.quality`; the next metrics decide between equals,
    then the order of the settings. Without validation cases the first one is taken. A number
    that was chosen at an end of those tried is given as `at_end` in what was chosen, and logged.

    Args:
        ranker: It gets the state of the best one, and what was `chosen`.
        data: Where validation cases are.
        options: Has the quality to maximize.
        settings: The settings to choose from, as keyword arguments of `make`.
        make: Makes the ranker with a setting (see `Ranker.altered`); what is costly is to be
            fitted before, once for all.

    Raises:
        DataError: If a score is not a number.
    """
    several = len(settings) > 1 and options.quality is not None
    cases = validation_cases(ranker, data, options) if several else []
    if not cases or options.quality is None:
        why = "the only setting" if len(settings) == 1 else "no validation cases: the first setting"
        _take(ranker, make(**settings[0]), {**settings[0], "why": why})
        return
    options.progress.begin(len(settings), f"settings of {ranker.name}")
    catalog = ranker.resources.catalog
    batches = list(batched((case.query for case in cases), catalog, ranker.batch_size))
    best: Ranker | None = None
    reached: tuple[float, ...] = ()
    chosen: dict[str, Any] = {}
    for setting in settings:
        tried = make(**setting)
        lists: list[RankedList] = []
        for batch in batches:
            lists += ranked(batch, scored(tried, batch, ranker.name)).lists()
        found = options.quality(cases, lists)
        if best is None or tuple(found.values()) > reached:
            best, reached = tried, tuple(found.values())
            chosen = {**setting, **{metric: round(value, 4) for metric, value in found.items()}}
        del tried  # what it holds may be large, and the next is to be made
        options.progress.advance()
    assert best is not None  # noqa: S101  (settings refuse an empty list)
    why = f"best of {len(settings)} on {len(cases)} validation cases"
    _take(ranker, best, {**chosen, "why": why} | end_notes(ranker.name, chosen, settings))


def _take(ranker: Ranker, best: Ranker, chosen: dict[str, Any]) -> None:
    vars(ranker).update(vars(best))
    ranker.chosen = chosen
    _log.info("%s: %s", ranker.name, chosen)


def end_notes(
    name: str, chosen: Mapping[str, Any], options: Sequence[Mapping[str, Any]]
) -> dict[str, list[str]]:
    """For the manifest and the log: the numbers that were chosen at an end of those tried.

    Args:
        name: The ranker's name, also of its table of settings.
        chosen: Its setting → value.
        options: All that were tried.

    Returns:
        `at_end` → those settings; empty where there are none.
    """
    ends = _at_end(chosen, options)
    for key in ends:
        _log.warning(
            "%s: %s = %g was chosen at an end of the values tried; a longer list in rank.%s.%s "
            "may do better",
            *(name, key, chosen[key], name, key),
        )
    return {"at_end": ends} if ends else {}


def _at_end(chosen: Mapping[str, Any], options: Sequence[Mapping[str, Any]]) -> list[str]:
    """The settings whose number is the least or the most of three or more, but could go on."""
    found = []
    for key in dict.fromkeys(key for option in options for key in option):
        tried = {_size(key, option[key]) for option in options if key in option}
        if key not in chosen or len(tried) < 3 or any(map(math.isnan, tried)):
            continue
        value = _size(key, chosen[key])
        if value in (min(tried), max(tried)) and value not in _NATURAL.get(key, ()):
            found.append(key)
    return found


def _size(key: str, value: object) -> float:
    """A setting's number, by which the tried ones are in order; NaN if it is none."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return math.nan
    return math.inf if key == "last" and not value else float(value)  # 0: all items


def validation_cases(ranker: Ranker, data: FitData, options: FitOptions) -> list[Case]:
    """The validation cases to choose on: at most `rank.tune_cases`, drawn by seed, in their order.

    A case is sampled by the seed and its query id, whatever the other cases are.
    """
    most = ranker.resources.settings.tune_cases
    if not most:
        return list(data.validation())
    numbered = enumerate(data.validation())
    kept = heapq.nsmallest(most, numbered, key=lambda one: (_draw(options.seed, one[1]), one[0]))
    return [case for _, case in sorted(kept, key=lambda one: one[0])]


def _draw(seed: int, case: Case) -> int:
    return derive_seed(seed, "validation cases to tune on", case.query.id)
