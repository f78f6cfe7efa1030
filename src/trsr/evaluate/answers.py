"""The answers of all cases as columns, and ranked lists checked against them."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from trsr.errors import DataError
from trsr.evaluate.ranks import Counts, Ranks
from trsr.types import Case, RankedList

_CELLS = 250_000  # candidates that are looked at together
_PADDING = -1
_UNKNOWN = -2


@dataclass(frozen=True, slots=True)
class Batch:
    """Checked ranked lists.

    Attributes:
        rows: The rows of their cases.
        ranks: Where the relevant candidates stand.
        cut: Whether a list leaves out candidates.
    """

    rows: Counts
    ranks: Ranks
    cut: bool = False


class AnswerKey:
    """What each case asks and which candidates are right, a few bytes a candidate.

    Args:
        cases: Read once.

    Attributes:
        queries: Query ids, in the cases' order.
        users: The user of each.
        history: The length of each history.
        candidates: How many candidates each has.
        relevant: How many of them are relevant.

    Raises:
        DataError: If a query stands twice.
    """

    def __init__(self, cases: Iterable[Case]) -> None:
        self._codes: dict[str, int] = {}
        self._rows: dict[str, int] = {}
        self.users: list[str] = []
        history, sizes = array("q"), array("q")
        codes, right = array("i"), array("b")
        for case in cases:
            query = case.query
            if self._rows.setdefault(query.id, len(self._rows)) < len(self.users):
                raise DataError(f"query {query.id} stands twice among the cases")
            self.users.append(query.history.user)
            history.append(len(query.history))
            sizes.append(len(query.candidates))
            for item in query.candidates:
                codes.append(self._codes.setdefault(item.id, len(self._codes)))
                right.append(item.id in case.relevant)
        self.queries = list(self._rows)
        self.history = np.array(history, np.int64)
        self.candidates = np.array(sizes, np.int64)
        self._starts = np.cumsum(self.candidates) - self.candidates
        self._asked = np.array(codes, np.int32)
        self._right = np.array(right, np.bool_)
        self.relevant = (
            np.add.reduceat(self._right, self._starts, dtype=np.int64)
            if codes
            else (np.zeros(0, np.int64))
        )

    def __len__(self) -> int:
        return len(self.users)

    def check(self, ranker: str, lists: Iterable[RankedList]) -> Iterator[Batch]:
        """Checks one ranker's lists, in any order, and finds where the relevant candidates stand.

        Raises:
            DataError: If a list is of no case or stands twice, leaves out or invents candidates,
                or has a score that is not a number; the message names the ranker and the query.
        """
        seen = np.zeros(len(self), np.bool_)
        held: list[RankedList] = []
        rows = array("q")
        cells = 0
        for ranked in lists:
            row = self._row(ranker, ranked, seen)
            held.append(ranked)
            rows.append(row)
            cells += len(ranked.entries)
            if cells >= _CELLS:
                yield self._batch(ranker, held, np.array(rows, np.int64))
                held, rows, cells = [], array("q"), 0
        if held:
            yield self._batch(ranker, held, np.array(rows, np.int64))

    def _row(self, ranker: str, ranked: RankedList, seen: npt.NDArray[np.bool_]) -> int:
        row = self._rows.get(ranked.query)
        if row is None:
            raise DataError(f"ranker {ranker}: query {ranked.query} is not among the cases")
        if seen[row]:
            raise DataError(f"ranker {ranker}: query {ranked.query} is ranked twice")
        seen[row] = True
        self._check_size(ranker, ranked, row)
        return row

    def _check_size(self, ranker: str, ranked: RankedList, row: int) -> None:
        if len(ranked.entries) != self.candidates[row]:
            raise self._other_candidates(ranker, ranked, row)

    def _batch(self, ranker: str, lists: Sequence[RankedList], rows: Counts) -> Batch:
        sizes = self.candidates[rows]
        real = np.arange(sizes.max()) < sizes[:, None]
        codes = np.full(real.shape, _PADDING, np.int32)
        scores = np.zeros(real.shape)
        found = [self._codes.get(entry.item, _UNKNOWN) for one in lists for entry in one.entries]
        codes[real] = found
        scores[real] = [entry.score for one in lists for entry in one.entries]
        asked = np.full(real.shape, _PADDING, np.int32)
        right = np.zeros(real.shape, np.bool_)
        cells = np.repeat(self._starts[rows] - np.cumsum(sizes) + sizes, sizes)
        cells += np.arange(len(cells))
        asked[real] = self._asked[cells]
        right[real] = self._right[cells]
        # Both sides in the order of their codes: equal sets are then equal rows.
        by_code, asked_by_code = np.argsort(codes, axis=1), np.argsort(asked, axis=1)
        same = np.take_along_axis(codes, by_code, 1) == np.take_along_axis(asked, asked_by_code, 1)
        for place in np.flatnonzero(~same.all(axis=1))[:1]:
            raise self._other_candidates(ranker, lists[place], int(rows[place]))
        for place in np.flatnonzero(np.isnan(scores).any(axis=1))[:1]:
            raise DataError(
                f"ranker {ranker}: query {lists[place].query} has a score that is not a number"
            )
        relevant = np.zeros(real.shape, np.bool_)
        np.put_along_axis(relevant, by_code, np.take_along_axis(right, asked_by_code, 1), 1)
        return Batch(rows, Ranks.of(scores, relevant, real))

    def _other_candidates(self, ranker: str, ranked: RankedList, row: int) -> DataError:
        names = list(self._codes)
        start = self._starts[row]
        asked = {names[code] for code in self._asked[start : start + self.candidates[row]]}
        given = {entry.item for entry in ranked.entries}
        faults = [
            f"{what} {len(items)} ({', '.join(sorted(items)[:3])}{', …' if len(items) > 3 else ''})"
            for what, items in (("leaves out", asked - given), ("invents", given - asked))
            if items
        ]
        return DataError(
            f"ranker {ranker}: the list of query {ranked.query} {' and '.join(faults)} of its "
            f"{len(asked)} candidates; every ranker must rank just the candidates it was given"
        )
