"""Chooses between a ranker's settings by how well each orders the validation cases."""

from __future__ import annotations

import abc
import heapq
import logging
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from trsr.rank.base import checked
from trsr.settings import derive_seed
from trsr.types import Case, Query, RankedList

if TYPE_CHECKING:
    from trsr.rank.base import RankContext

_log = logging.getLogger(__name__)


class QueryRanker(abc.ABC):
    """A ranker that scores the candidates of one query at a time.

    Attributes:
        chosen: The settings that it works with and how they were chosen, for the manifest.
    """

    chosen: Mapping[str, Any]

    @abc.abstractmethod
    def scores(self, query: Query) -> Sequence[float]:
        """One score a candidate, in their order; a score does not depend on that order."""

    def rank(self, queries: Iterable[Query]) -> Iterator[RankedList]:
        """Yields one list a query, in their order."""
        for query in queries:
            yield RankedList.of(query, list(self.scores(query)))


_NATURAL = {
    "share": (1.0,),
    "last": (1.0, math.inf),
    "decay": (1.0,),
    "shrinkage": (0.0,),
    "popularity": (0.0,),
    "dropout": (0.0,),
}
"""Values of settings beyond which there is nothing to try."""

R = TypeVar("R", bound=QueryRanker)


def tuned(
    name: str,
    context: RankContext,
    options: Sequence[Mapping[str, Any]],
    make: Callable[..., R],
) -> R:
    """The ranker with that one of its settings which orders the validation cases best.

    Best is the highest first metric of `context.quality`; the next metrics decide between equals,
    then the order of the options. Without validation cases the first option is taken. A number
    that was chosen at an end of those tried is told as `at_end` in what was chosen, and logged.

    Args:
        name: The ranker's name, for the log and for messages.
        context: Where validation cases and their judge are.
        options: The settings to choose from, as keyword arguments of `make`.
        make: Makes a ranker; what is costly is to be fitted before, once for all.

    Raises:
        DataError: If a score is not a number.
    """
    cases = validation_cases(context) if len(options) > 1 and context.quality else []
    if not cases or context.quality is None:
        ranker = make(**options[0])
        why = "the only setting" if len(options) == 1 else "no validation cases: the first setting"
        ranker.chosen = {**options[0], "why": why}
        _log.info("%s: %s", name, ranker.chosen)
        return ranker
    context.progress.begin(len(options), f"settings of {name}")
    best: R | None = None
    reached: tuple[float, ...] = ()
    for option in options:
        ranker = make(**option)
        lists = list(checked(ranker, (case.query for case in cases), name))
        found = context.quality(cases, lists)
        if best is None or tuple(found.values()) > reached:
            best, reached = ranker, tuple(found.values())
            rounded = {metric: round(value, 4) for metric, value in found.items()}
            best.chosen = {**option, **rounded}
        del ranker  # what it holds may be large, and the next is to be made
        context.progress.advance()
    assert best is not None  # noqa: S101  (settings refuse an empty list)
    why = f"best of {len(options)} on {len(cases)} validation cases"
    best.chosen = {**best.chosen, "why": why} | ends_told(name, best.chosen, options)
    _log.info("%s: %s", name, best.chosen)
    return best


def ends_told(
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


def validation_cases(context: RankContext) -> list[Case]:
    """The validation cases to choose on: at most `rank.tune_cases`, drawn by seed, in their order.

    A case's lot follows from the seed and its query id, whatever the other cases are.
    """
    most = context.settings.tune_cases
    if not most:
        return list(context.validation())
    numbered = enumerate(context.validation())
    kept = heapq.nsmallest(most, numbered, key=lambda one: (_lot(context.seed, one[1]), one[0]))
    return [case for _, case in sorted(kept, key=lambda one: one[0])]


def _lot(seed: int, case: Case) -> int:
    return derive_seed(seed, "validation cases to tune on", case.query.id)
