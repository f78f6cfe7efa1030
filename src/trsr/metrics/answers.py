"""The answers of all cases as columns, and columns of ranked lists checked against them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import polars as pl

from trsr.errors import DataError
from trsr.types import Case, RankedList

Counts = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

NOT_FOUND = 1 << 40
"""The place of a relevant item that a list leaves out: beyond every cut-off."""


@dataclass(frozen=True, slots=True)
class Ranks:
    """The places of the relevant candidates of some queries.

    Attributes:
        row: Which query each relevant candidate is of, from 0; shape (relevant candidates,), as
            the next three.
        above: How many candidates have a strictly better score.
        tied: How many have the same score, itself included.
        partners: How many of those are relevant.
        relevant: How many candidates of each query are relevant; shape (queries,).
        candidates: How many candidates each query has; shape (queries,).
    """

    row: Counts
    above: Counts
    tied: Counts
    partners: Counts
    relevant: Counts
    candidates: Counts

    @classmethod
    def at_random(cls, relevant: Counts, candidates: Counts) -> Ranks:
        """All candidates of each query tied: the expectation over random orders, chance level."""
        row = np.repeat(np.arange(len(relevant)), relevant)
        return cls(row, np.zeros_like(row), candidates[row], relevant[row], relevant, candidates)

    @property
    def before(self) -> Counts:
        """How many relevant candidates have a strictly better score; as `above`."""
        keys = self.row * (2 * NOT_FOUND) + self.above
        ordered = np.sort(keys)
        return np.searchsorted(ordered, keys) - np.searchsorted(
            self.row[np.argsort(keys)], self.row
        )

    def sum(self, values: Floats) -> Floats:
        """Sums values of relevant candidates over each query; shape (queries,)."""
        return np.bincount(self.row, values, len(self.relevant)).astype(np.float64)

    def best(self, values: Floats) -> Floats:
        """The highest of the values of each query's relevant candidates, at least 0."""
        found = np.zeros(len(self.relevant))
        np.maximum.at(found, self.row, values)
        return found

    @property
    def ambiguous(self) -> npt.NDArray[np.bool_]:
        """Whether a relevant candidate ties with one that is not; shape (queries,)."""
        return self.best((self.tied > self.partners).astype(np.float64)) > 0


Codes = npt.NDArray[np.int32]
Mask = npt.NDArray[np.bool_]
_T = TypeVar("_T", bound=np.generic)

_CELLS = 2_000_000  # candidates that are looked at together
_PADDING = -1
_UNKNOWN = -2

CASES = {
    "query": pl.String(),
    "user": pl.String(),
    "items": pl.List(pl.String()),
    "candidates": pl.List(pl.String()),
    "relevant": pl.List(pl.String()),
}
"""The columns that an `AnswerKey` reads."""

LISTS = {"query": pl.String(), "items": pl.List(pl.String()), "scores": pl.List(pl.Float64())}
"""The columns of one ranker's lists: items best first, and the score of each."""

Lists = pl.DataFrame | Iterable[RankedList]
"""One ranker's lists: the columns `LISTS`, or objects."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Checked ranked lists.

    Attributes:
        rows: The rows of their cases.
        ranks: Where the relevant candidates stand.
        codes: The items' codes, best first; shape (lists, most places), -1 behind a list's end.
        above: How many places of the list have a strictly better score; same shape.
        tied: How many have the same score, the place itself included; same shape.
        cut: Whether a list leaves out candidates.
    """

    rows: Counts
    ranks: Ranks
    codes: Codes
    above: Counts
    tied: Counts
    cut: bool


class AnswerKey:
    """What each case asks and which candidates are right.

    Where the cases have a column `seen`, the candidates are the whole catalog except
    what it holds. A list may then leave out candidates; a relevant one that it leaves out counts
    as not found: beyond every cut-off, and last for `auc`. Its query stays in the mean.

    Args:
        cases: The columns `CASES`; `seen` instead of `candidates` for the whole catalog.
        catalog: All item ids; None: the candidates.

    Attributes:
        queries: Query ids, in the cases' order.
        users: The user of each.
        history: The length of each history.
        candidates: How many candidates each has.
        relevant: How many of them are relevant.
        items: Item ids in the order of their codes.

    Raises:
        DataError: If a query stands twice, has no answer, or a candidate twice, or if a relevant
            item is no candidate.
    """

    def __init__(self, cases: pl.DataFrame, catalog: Sequence[str] | None = None) -> None:
        self.full = "seen" in cases.columns
        self.queries, self.users = cases["query"], cases["user"]
        twice = self.queries.filter(self.queries.is_duplicated())
        if len(twice):
            raise DataError(f"query {twice[0]} stands twice among the cases")
        cases = cases.with_columns(pl.col("relevant").list.unique(maintain_order=True))
        self._frame = cases
        self._row_of = pl.DataFrame({"query": self.queries}).with_row_index("row")
        self.history = cases["items"].list.len().cast(pl.Int64).to_numpy()
        self.relevant = cases["relevant"].list.len().cast(pl.Int64).to_numpy()
        # of the whole catalog it is shorter to keep what are no candidates
        kept = cases["seen"].list.unique(maintain_order=True) if self.full else cases["candidates"]
        if catalog is None:
            catalog = _flat(kept).unique(maintain_order=True).to_list()
        self.items = pl.Series(catalog, dtype=pl.String)
        self._codes = pl.Enum(self.items)
        self._right = self.code(cases["relevant"])
        self._right_row = np.repeat(np.arange(len(cases)), self.relevant)
        self._sizes = kept.list.len().cast(pl.Int64).to_numpy()
        self._kept = self.code(kept)
        self._kept_row = np.repeat(np.arange(len(cases)), self._sizes)
        self._starts = np.cumsum(self._sizes) - self._sizes
        self._check_answers()
        known = np.bincount(self._kept_row[self._kept >= 0], minlength=len(cases))
        self.candidates = len(self.items) - known if self.full else self._sizes

    @classmethod
    def of(cls, cases: Iterable[Case]) -> AnswerKey:
        """The key of cases that are objects; read once."""
        rows = [
            (
                case.query.id,
                case.query.history.user,
                [item.id for item in case.query.history.items],
                [item.id for item in case.query.candidates],
                sorted(case.relevant),
            )
            for case in cases
        ]
        return cls(pl.DataFrame(rows, schema=CASES, orient="row"))

    def __len__(self) -> int:
        return len(self.queries)

    @property
    def history_items(self) -> tuple[Counts, Codes]:
        """The row and the code of each item of the histories; negative where it is unknown."""
        return np.repeat(np.arange(len(self)), self.history), self.code(self._frame["items"])

    def code(self, lists: pl.Series) -> Codes:
        """The codes of all items of lists, end to end; negative for what is no item."""
        codes = _flat(lists).cast(self._codes, strict=False).to_physical().cast(pl.Int32)
        return codes.fill_null(_UNKNOWN).to_numpy()

    def check(self, ranker: str, lists: Lists) -> Iterator[Batch]:
        """Checks one ranker's lists, in any order, and finds where the relevant candidates stand.

        Raises:
            DataError: If a list is of no case or stands twice, leaves out or invents candidates,
                is not sorted, or has a score that is not a number; the message names the ranker
                and the query.
        """
        frame = lists if isinstance(lists, pl.DataFrame) else _columns(lists)
        rows = self._rows(ranker, frame["query"])
        sizes = frame["items"].list.len().cast(pl.Int64).to_numpy()
        if not self.full:
            for place in np.flatnonzero(sizes != self.candidates[rows])[:1]:
                raise self._wrong(ranker, frame, int(place), int(rows[place]))
        step = max(1, _CELLS // max(1, int(sizes.max(initial=1))))
        for start in range(0, len(frame), step):
            part = slice(start, start + step)
            yield self._batch(ranker, frame[part], rows[part], sizes[part])

    def _rows(self, ranker: str, queries: pl.Series) -> Counts:
        named = pl.DataFrame({"query": queries})
        found = named.join(self._row_of, on="query", how="left", maintain_order="left")["row"]
        unknown = queries.filter(found.is_null())
        if len(unknown):
            raise DataError(f"ranker {ranker}: query {unknown[0]} is not among the cases")
        twice = queries.filter(queries.is_duplicated())
        if len(twice):
            raise DataError(f"ranker {ranker}: query {twice[0]} is ranked twice")
        return found.cast(pl.Int64).to_numpy()

    def _batch(self, ranker: str, frame: pl.DataFrame, rows: Counts, sizes: Counts) -> Batch:
        codes = _padded(self.code(frame["items"]), sizes, _PADDING)
        flat = _flat(frame["scores"]).to_numpy()
        scores = _padded(flat, sizes, np.nan)
        real = np.arange(codes.shape[1]) < sizes[:, None]
        with np.errstate(invalid="ignore"):
            rising = scores[:, 1:] > scores[:, :-1]
        for bad, what in (
            (np.isnan(scores) & real, "has a score that is not a number"),
            (rising, "is not sorted by score"),
        ):
            for place in np.flatnonzero(bad.any(axis=1))[:1]:
                raise DataError(f"ranker {ranker}: query {frame['query'][int(place)]} {what}")
        for place in np.flatnonzero(self._faulty(codes, rows, sizes))[:1]:
            raise self._wrong(ranker, frame, int(place), int(rows[place]))
        above, tied = _ties(scores)
        cut = bool((sizes < self.candidates[rows]).any())
        return Batch(rows, self._ranks(rows, codes, above, tied), codes, above, tied, cut)

    def _faulty(self, codes: Codes, rows: Counts, sizes: Counts) -> Mask:
        """Which lists do not hold just candidates, each once."""
        ordered = np.sort(codes, axis=1)
        if not self.full:
            wanted = _padded(self._kept[_spans(self._starts[rows], sizes)], sizes, _PADDING)
            unlike: Mask = np.any(ordered != np.sort(wanted, axis=1), axis=1)
            return unlike
        unknown = np.any(codes == _UNKNOWN, axis=1)
        twice = np.any((ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] >= 0), axis=1)
        seen = self._sizes[rows]
        wide = len(self.items) + 2  # the padding and the unknown have codes too
        listed = (np.arange(len(rows))[:, None] * wide + ordered + 2).ravel()
        place = np.repeat(np.arange(len(rows)), seen)
        wrong = self._kept[_spans(self._starts[rows], seen)]
        keys = (place * wide + wrong + 2)[wrong >= 0]
        at = np.searchsorted(listed, keys)
        hits = listed[np.minimum(at, max(len(listed) - 1, 0))] == keys if len(listed) else at < 0
        invented = np.bincount(place[wrong >= 0][hits], minlength=len(rows)) > 0
        faulty: Mask = unknown | twice | invented
        return faulty

    def _ranks(self, rows: Counts, codes: Codes, above: Counts, tied: Counts) -> Ranks:
        wanted = self.relevant[rows]
        row = np.repeat(np.arange(len(rows)), wanted)
        right = self._right[_spans((np.cumsum(self.relevant) - self.relevant)[rows], wanted)]
        place = np.full(len(row), -1)
        step = max(1, 4 * _CELLS // max(1, codes.shape[1]))
        for start in range(0, len(row), step):
            part = slice(start, start + step)
            same = codes[row[part]] == right[part, None]
            place[part] = np.where(same.any(axis=1), same.argmax(axis=1), -1)
        found = place >= 0
        # several that one list leaves out share its last places, as in a tie of their own
        lacking = np.bincount(row[~found], minlength=len(rows))
        over = np.where(found, above[row, place], NOT_FOUND) if len(row) else place
        same_score = np.where(found, tied[row, place], lacking[row]) if len(row) else place
        keys = row * (2 * NOT_FOUND) + over
        _, group, together = np.unique(keys, return_inverse=True, return_counts=True)
        return Ranks(row, over, same_score, together[group], wanted, self.candidates[rows])

    def _check_answers(self) -> None:
        wide = len(self.items) + 2
        kept = self._kept_row * wide + self._kept + 2
        right = self._right_row * wide + self._right + 2
        known = np.isin(right, kept, invert=self.full) & (self._right >= 0)
        for row in [*np.flatnonzero(self.relevant == 0)[:1], *self._right_row[~known][:1]]:
            wrong = _flat(self._frame["relevant"]).filter(
                pl.Series(~known & (self._right_row == row))
            )
            what = f"the relevant {sorted(wrong)} are no candidates" if len(wrong) else "no answer"
            raise DataError(f"query {self.queries[int(row)]}: {what}")
        if self.full:
            return
        for place in np.flatnonzero(self._kept < 0)[:1]:
            item = _flat(self._frame["candidates"])[int(place)]
            name = self.queries[int(self._kept_row[place])]
            raise DataError(f"query {name}: the candidate {item} is not in the catalog")
        twice = np.sort(kept)
        for key in twice[1:][twice[1:] == twice[:-1]][:1]:
            raise DataError(f"query {self.queries[int(key // wide)]}: a candidate stands twice")

    def _wrong(self, ranker: str, frame: pl.DataFrame, place: int, row: int) -> DataError:
        """What is wrong with a list that does not hold just candidates."""
        name, items = self.queries[row], frame["items"][place].to_list()
        if len(set(items)) < len(items):
            return DataError(f"ranker {ranker}: query {name}: an item is ranked twice")
        case = self._frame.row(row, named=True)
        if self.full:
            known = set(self.items) - set(case["seen"])
            faults = [("invents", [item for item in items if item not in known])]
            end = ": not in the catalog, or in the history; every ranker must rank candidates only"
        else:
            wanted, given = set(case["candidates"]), set(items)
            faults = [("leaves out", sorted(wanted - given)), ("invents", sorted(given - wanted))]
            end = (
                f" of its {len(wanted)} candidates; every ranker must rank just the candidates it "
                "was given"
            )
        parts = [
            f"{what} {len(some)} ({', '.join(some[:3])}{', …' if len(some) > 3 else ''})"
            for what, some in faults
            if some
        ]
        return DataError(f"ranker {ranker}: the list of query {name} {' and '.join(parts)}{end}")


def _columns(lists: Iterable[RankedList]) -> pl.DataFrame:
    rows = [
        (one.query, [entry.item for entry in one], [entry.score for entry in one]) for one in lists
    ]
    return pl.DataFrame(rows, schema=LISTS, orient="row")


def _flat(lists: pl.Series) -> pl.Series:
    """All values of lists, end to end; of an empty list nothing."""
    filled = lists.list.len() > 0
    return (lists if filled.all() else lists.filter(filled)).explode()


def _spans(starts: Counts, sizes: Counts) -> Counts:
    """The places from each start on, as many as its size, end to end."""
    ends = np.cumsum(sizes)
    return np.repeat(starts - ends + sizes, sizes) + np.arange(ends[-1] if len(ends) else 0)


def _padded(flat: npt.NDArray[_T], sizes: Counts, padding: float) -> npt.NDArray[_T]:
    """Values of lists as a row each, at least one wide."""
    width = max(int(sizes.max(initial=0)), 1)
    if len(flat) == len(sizes) * width:
        return flat.reshape(-1, width)
    found = np.full((len(sizes), width), padding, flat.dtype)
    found[np.arange(width) < sizes[:, None]] = flat
    return found


def _ties(scores: Floats) -> tuple[Counts, Counts]:
    """How many places have a better score than each place, and how many the same."""
    places = np.arange(scores.shape[1])
    first = np.ones(scores.shape, np.bool_)  # padding, which is NaN, begins a group of its own
    first[:, 1:] = scores[:, 1:] != scores[:, :-1]
    above = np.maximum.accumulate(np.where(first, places, 0), axis=1)
    ends = np.full(scores.shape, scores.shape[1])
    ends[:, :-1] = np.where(first[:, 1:], places[1:], scores.shape[1])
    ends = np.minimum.accumulate(ends[:, ::-1], axis=1)[:, ::-1]
    return above, ends - above
