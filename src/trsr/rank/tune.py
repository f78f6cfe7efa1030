"""Chooses between a ranker's settings by how well each orders the validation cases."""

from __future__ import annotations

import abc
import heapq
import logging
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


R = TypeVar("R", bound=QueryRanker)


def tuned(
    name: str,
    context: RankContext,
    options: Sequence[Mapping[str, Any]],
    make: Callable[..., R],
) -> R:
    """The ranker with that one of its settings which orders the validation cases best.

    Best is the highest first metric of `context.quality`; the next metrics decide between equals,
    then the order of the options. Without validation cases the first option is taken.

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
        context.progress.advance()
    assert best is not None  # noqa: S101  (settings refuse an empty list)
    why = f"best of {len(options)} on {len(cases)} validation cases"
    best.chosen = {**best.chosen, "why": why}
    _log.info("%s: %s", name, best.chosen)
    return best


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
