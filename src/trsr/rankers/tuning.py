"""Chooses between a ranker's settings by how well each orders the validation cases."""

from __future__ import annotations

import heapq
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from trsr.rankers.base import FitData, FitOptions, Ranker, scored
from trsr.rankers.batch import batched, ranked
from trsr.settings import derive_seed
from trsr.types import Case, RankedList

_log = logging.getLogger(__name__)

TUNE_CASES = 2000
"""More validation cases hardly change the choice, and each takes its time."""


def tune(
    ranker: Ranker,
    data: FitData,
    options: FitOptions,
    settings: Sequence[Mapping[str, Any]],
    make: Callable[..., Ranker],
) -> None:
    """Gives a ranker that one of its settings which orders the validation cases best.

    Best is the highest first metric of `options.quality`; the next metrics decide between equals,
    then the order of the settings. Without validation cases the first one is taken.

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
    cases = validation_cases(data, options) if several else []
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
    _take(ranker, best, {**chosen, "why": why})


def _take(ranker: Ranker, best: Ranker, chosen: dict[str, Any]) -> None:
    vars(ranker).update(vars(best))
    ranker.chosen = chosen
    _log.info("%s: %s", ranker.name, chosen)


def validation_cases(data: FitData, options: FitOptions) -> list[Case]:
    """The validation cases to choose on: at most `TUNE_CASES`, drawn by seed, in their order.

    A case is sampled by the seed and its query id, whatever the other cases are.
    """

    def drawn(one: tuple[int, Case]) -> tuple[int, int]:
        query = one[1].query.id
        return derive_seed(options.seed, "validation cases to tune on", query), one[0]

    kept = heapq.nsmallest(TUNE_CASES, enumerate(data.validation()), key=drawn)
    return [case for _, case in sorted(kept, key=lambda one: one[0])]
