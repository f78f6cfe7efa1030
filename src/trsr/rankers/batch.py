"""Queries, scores and ranked items as columns: what rankers read and give."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import itertools
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import numpy.typing as npt
import polars as pl

from trsr.data import Cases, Catalog
from trsr.data.cases import SEEN
from trsr.types import Entry, Interaction, Item, Query, RankedList, Summary, UserHistory

if TYPE_CHECKING:
    from typing import Any

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
T = TypeVar("T", np.int64, np.float64)

CELLS = 2**21
"""Scores of one batch that ranks a whole catalog, at most."""
MOST = 512
"""Queries of a batch that ranks a whole catalog, at most."""
FEW = 64
ASKED = 8
"""Queries of a batch with candidates of their own."""

_NONE = np.zeros(0, np.int64)


@dataclass(frozen=True)
class Ragged:
    """Rows of different lengths, end to end.

    Attributes:
        values: [total] all rows' values.
        starts: [rows + 1] where each row begins, and where the last one ends.
    """

    values: Ints
    starts: Ints

    @classmethod
    def of(cls, rows: Iterable[Sequence[int] | Ints]) -> Ragged:
        """From a sequence of integers a row."""
        arrays = [np.asarray(row, np.int64) for row in rows]
        values = np.concatenate(arrays) if arrays else _NONE
        return cls(values, _starts([len(row) for row in arrays]))

    @classmethod
    def empty(cls, rows: int) -> Ragged:
        """So many rows without a value."""
        return cls(_NONE, np.zeros(rows + 1, np.int64))

    def __len__(self) -> int:
        return len(self.starts) - 1

    def __getitem__(self, row: int) -> Ints:
        return self.values[self.starts[row] : self.starts[row + 1]]

    @property
    def lengths(self) -> Ints:
        """[rows] how many values each row has."""
        return np.diff(self.starts)

    @property
    def rows(self) -> Ints:
        """[total] the row of each value."""
        return np.repeat(np.arange(len(self)), self.lengths)

    def select(self, rows: Sequence[int]) -> Ragged:
        """Some of the rows."""
        return Ragged.of([self[row] for row in rows])


@dataclass(frozen=True)
class QueryBatch:
    """Queries as columns. Items are numbers: places in the catalog, then in `outside`.

    Attributes:
        catalog: The items 0 to len(catalog) − 1.
        ids: The queries' ids.
        users: Their users.
        histories: Item numbers a query, oldest first.
        times: [histories' total] when each was.
        candidates: Item numbers a query, in their order; None: the whole catalog without
            `excluded`.
        excluded: Item numbers a query that are no candidates; empty where `candidates` is given.
        summaries: A query's summary, or None.
        outside: Items that the catalog lacks, or holds with another text.
    """

    catalog: Catalog
    ids: tuple[str, ...]
    users: tuple[str, ...]
    histories: Ragged
    times: Floats
    candidates: Ragged | None
    excluded: Ragged
    summaries: tuple[Summary | None, ...]
    outside: tuple[Item, ...] = ()

    @classmethod
    def of(cls, queries: Sequence[Query], catalog: Catalog) -> QueryBatch:
        """From query objects, whose items may be outside the catalog."""
        numbered = _Numbered(catalog)
        candidates = Ragged.of([numbered(one.candidates) for one in queries])
        batch = cls._build(
            [(one.id, one.history, one.summary) for one in queries],
            numbered,
            candidates,
            Ragged.empty(len(queries)),
        )
        batch.__dict__["_queries"] = tuple(queries)
        return batch

    @classmethod
    def whole(
        cls,
        asked: Sequence[tuple[str, UserHistory, Summary | None]],
        catalog: Catalog,
        seen: Mapping[str, Collection[str]] = MappingProxyType({}),
        new: Sequence[Item] = (),
    ) -> QueryBatch:
        """From query ids, histories and summaries: candidates are all unseen items.

        `seen` is by user what else was seen, beside the history; `new` are items that the catalog
        lacks, candidates after its own, or holds with another text: it is the new one that counts.
        """
        known = _all_seen(asked, seen)
        excluded = [sorted(catalog.number(i) for i in own if i in catalog) for own in known]
        numbered = _Numbered(catalog)
        new = [item for item in new if item.id not in catalog or catalog[item.id] != item]
        if not new:
            return cls._build(asked, numbered, None, Ragged.of(excluded))
        changed = [catalog.number(item.id) for item in new if item.id in catalog]
        numbers = np.concatenate([np.arange(len(catalog)), numbered(new)])
        rows = []
        for own, catalogs in zip(known, excluded, strict=True):
            later = [n for n, item in enumerate(new, len(catalog)) if item.id in own]
            rows.append(np.delete(numbers, [*catalogs, *changed, *later]))
        return cls._build(asked, numbered, Ragged.of(rows), Ragged.empty(len(asked)))

    @classmethod
    def choosing(
        cls,
        asked: Sequence[tuple[str, UserHistory, Summary | None]],
        catalog: Catalog,
        items: Sequence[Item],
        seen: Mapping[str, Collection[str]] = MappingProxyType({}),
    ) -> QueryBatch:
        """As `whole`, of these items, which may be outside the catalog."""
        numbered = _Numbered(catalog)
        numbers = np.array(numbered(items), np.int64)
        places = {item.id: place for place, item in enumerate(items)}
        rows = [
            np.delete(numbers, sorted(places[one] for one in own if one in places))
            for own in _all_seen(asked, seen)
        ]
        return cls._build(asked, numbered, Ragged.of(rows), Ragged.empty(len(asked)))

    @classmethod
    def _build(
        cls,
        asked: Sequence[tuple[str, UserHistory, Summary | None]],
        numbered: _Numbered,
        candidates: Ragged | None,
        excluded: Ragged,
    ) -> QueryBatch:
        histories = Ragged.of([numbered(history.items) for _, history, _ in asked])
        times = [one.time for _, history, _ in asked for one in history.interactions]
        return cls(
            numbered.catalog,
            tuple(name for name, _, _ in asked),
            tuple(history.user for _, history, _ in asked),
            histories,
            np.array(times, np.float64),
            candidates,
            excluded,
            tuple(summary for _, _, summary in asked),
            tuple(numbered.outside),
        )

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def full(self) -> bool:
        """Whether the candidates are the whole catalog."""
        return self.candidates is None

    @functools.cached_property
    def columns(self) -> Ints:
        """[columns] the numbers of all candidates of the batch, ascending, each once."""
        if self.candidates is None:
            return np.arange(len(self.catalog))
        return np.unique(self.candidates.values)

    @functools.cached_property
    def places(self) -> Ragged:
        """A query's candidates, in their order, as places in `columns`."""
        if self.candidates is not None:
            found = np.searchsorted(self.columns, self.candidates.values)
            return Ragged(found, self.candidates.starts)
        kept = np.ones((len(self), len(self.catalog)), np.bool_)
        kept[self.excluded.rows, self.excluded.values] = False
        rows, values = np.nonzero(kept)
        return Ragged(values, _starts(np.bincount(rows, minlength=len(self))))

    def item(self, number: int) -> Item:
        """The item of a number."""
        within = number < len(self.catalog)
        return self.catalog.at(number) if within else self.outside[number - len(self.catalog)]

    def item_ids(self, numbers: Ints) -> pl.Series:
        """The ids of items."""
        ids = self.catalog.frame["id"]
        if self.outside:
            ids = pl.concat([ids, pl.Series([item.id for item in self.outside], dtype=pl.String)])
        return ids.gather(numbers)

    def extended(self, values: npt.NDArray[T], missing: float) -> npt.NDArray[T]:
        """[items] a value for each number, from one for each item of the catalog.

        An item outside has that of the catalog's item of its id, or else `missing`.
        """
        if not self.outside:
            return values
        ids = [item.id for item in self.outside]
        places = np.array([self.catalog.number(i) if i in self.catalog else -1 for i in ids])
        more = np.full(len(places), missing, values.dtype)
        more[places >= 0] = values[places[places >= 0]]
        return np.concatenate([values, more])

    def blank(self) -> Floats:
        """[queries, columns] zeros."""
        return np.zeros((len(self), len(self.columns)))

    def scattered(self, values: Sequence[float] | Floats) -> Floats:
        """[queries, columns] from one value a candidate, query after query; 0 elsewhere."""
        found = self.blank()
        found[self.places.rows, self.places.values] = values
        return found

    def select(self, rows: Sequence[int]) -> QueryBatch:
        """Some of the queries."""
        places = [self.histories.starts[row] + np.arange(len(self.histories[row])) for row in rows]
        return dataclasses.replace(
            self,
            ids=tuple(self.ids[row] for row in rows),
            users=tuple(self.users[row] for row in rows),
            histories=self.histories.select(rows),
            times=self.times[np.concatenate(places)] if places else np.zeros(0),
            candidates=None if self.candidates is None else self.candidates.select(rows),
            excluded=self.excluded.select(rows),
            summaries=tuple(self.summaries[row] for row in rows),
        )

    def among(self, numbers: Sequence[int]) -> QueryBatch:
        """Of a batch that ranks the whole catalog: with these items as candidates alone."""
        others = np.setdiff1d(np.arange(len(self.catalog)), numbers)
        rows = [np.union1d(self.excluded[row], others) for row in range(len(self))]
        return dataclasses.replace(self, excluded=Ragged.of(rows))

    def without_user(self) -> QueryBatch:
        """The same candidates, with nothing known of the users."""
        none = Ragged.empty(len(self))
        return dataclasses.replace(
            self, histories=none, times=np.zeros(0), summaries=(None,) * len(self)
        )

    def queries(self) -> Iterator[Query]:
        """The queries as objects."""
        yield from self._queries

    @functools.cached_property
    def _queries(self) -> tuple[Query, ...]:
        return tuple(map(self._query, range(len(self))))

    def _query(self, row: int) -> Query:
        pairs = zip(
            self.histories[row],
            self.times[self.histories.starts[row] : self.histories.starts[row + 1]],
            strict=True,
        )
        history = tuple(Interaction(self.item(int(n)), float(time)) for n, time in pairs)
        candidates = tuple(self.item(int(n)) for n in self.columns[self.places[row]])
        user = UserHistory(self.users[row], history)
        return Query(self.ids[row], user, candidates, self.summaries[row])


def _all_seen(
    asked: Sequence[tuple[str, UserHistory, Summary | None]], seen: Mapping[str, Collection[str]]
) -> list[set[str]]:
    """The ids of all that each query's user has met."""
    return [
        {*(item.id for item in history.items), *seen.get(history.user, ())}
        for _, history, _ in asked
    ]


class _Numbered:
    """Gives items their numbers, and collects those outside the catalog."""

    def __init__(self, catalog: Catalog) -> None:
        self.catalog = catalog
        self.outside: dict[Item, int] = {}

    def __call__(self, items: Iterable[Item]) -> list[int]:
        return [self._number(item) for item in items]

    def _number(self, item: Item) -> int:
        # the same id may come with another text
        if item.id in self.catalog and self.catalog[item.id] == item:
            return self.catalog.number(item.id)
        return len(self.catalog) + self.outside.setdefault(item, len(self.outside))


@dataclass(frozen=True)
class ScoreBatch:
    """The scores of a batch.

    Attributes:
        scores: [queries, columns] float64; higher is better. What stands where a column is no
            candidate of the query is not looked at. Candidates that cannot be told apart have the
            same score: no order is to be made up.
    """

    scores: Floats


@dataclass(frozen=True)
class RankedBatch:
    """The ranked candidates of a batch.

    Attributes:
        batch: The queries.
        items: Item numbers a query, best first.
        scores: [items' total] their scores.
    """

    batch: QueryBatch
    items: Ragged
    scores: Floats

    def __len__(self) -> int:
        return len(self.batch)

    def frame(self) -> pl.DataFrame:
        """Columns `query`, `items`, `scores`."""
        query = pl.Series("query", self.batch.ids, pl.String)
        items, scores = self.batch.item_ids(self.items.values), pl.Series(self.scores)
        lengths = np.unique(self.items.lengths)
        if len(lengths) == 1 and lengths[0]:
            shape = (len(self), int(lengths[0]))
            kinds = ((items, pl.List(pl.String)), (scores, pl.List(pl.Float64)))
            columns = [values.reshape(shape).cast(kind) for values, kind in kinds]
            return pl.DataFrame({"query": query, "items": columns[0], "scores": columns[1]})
        rows = pl.DataFrame({"row": self.items.rows, "items": items, "scores": scores})
        found = rows.group_by("row", maintain_order=True).agg("items", "scores")
        return found.select(query.gather(found["row"]), "items", "scores")

    def lists(self) -> Iterator[RankedList]:
        """Each query's list as an object."""
        ids = self.batch.item_ids(self.items.values).to_list()
        scores = self.scores.tolist()
        for query, (start, end) in zip(
            self.batch.ids, itertools.pairwise(self.items.starts.tolist()), strict=True
        ):
            entries = map(Entry, ids[start:end], scores[start:end])
            yield RankedList(query, tuple(entries))


def ranked(
    batch: QueryBatch, found: ScoreBatch, depth: int | None = None, seed: int = 0
) -> RankedBatch:
    """Sorts each query's candidates by falling score; ties keep the candidates' order.

    Where a cut at `depth` falls among equal scores, draws decide which of them are kept, drawn by
    the seed, the query and the item: the expected value of a metric with a cut-off of at most
    `depth` is then that of the whole list.
    """
    places = batch.places
    longest = int(places.lengths.max(initial=0))
    if depth is None or longest <= depth:
        scores = found.scores[places.rows, places.values]
        order = np.lexsort((-scores, places.rows))
        return RankedBatch(
            batch, Ragged(batch.columns[places.values[order]], places.starts), scores[order]
        )
    # wanted where scores tie at the cut alone
    ids = functools.cache(lambda: [one.encode() for one in batch.item_ids(batch.columns)])
    kept: list[Ints] = []
    values: list[Floats] = []
    for row, query in enumerate(batch.ids):
        at = places[row]
        own = found.scores[row, at]
        draws = _Draws(seed, query, ids, at)
        chosen = _top(own, depth, draws)
        kept.append(batch.columns[at[chosen]])
        values.append(own[chosen])
    return RankedBatch(batch, Ragged.of(kept), np.concatenate(values))


class _Draws:
    """The draws of a query's candidates: the order of `derive_seed(seed, "cut", query, item)`.

    The digest is begun once a query: where many candidates tie, most of the time goes here.
    """

    def __init__(
        self, seed: int, query: str, ids: Callable[[], Sequence[bytes]], places: Ints
    ) -> None:
        self._begun = hashlib.sha256(f"{seed}\x1fcut\x1f{query}\x1f".encode())
        self._ids = ids
        self._places = places

    def __call__(self, at: int) -> bytes:
        one = self._begun.copy()
        one.update(self._ids()[self._places[at]])
        return one.digest()


def _top(scores: Floats, n: int, draw: Callable[[int], bytes]) -> Ints:
    """The places of the first `n` scores, best first."""
    if len(scores) <= n:
        return np.argsort(-scores, kind="stable")
    last = -np.partition(-scores, n - 1)[n - 1]
    better, tied = np.flatnonzero(scores > last), np.flatnonzero(scores == last)
    if len(better) + len(tied) > n:
        drawn = sorted(tied.tolist(), key=draw)
        tied = np.sort(np.array(drawn[: n - len(better)], np.int64))
    better = better[np.argsort(-scores[better], kind="stable")]
    return np.concatenate([better, tied])


def batched(queries: Iterable[Query], catalog: Catalog, size: int) -> Iterator[QueryBatch]:
    """Query objects in batches; reads one batch ahead at most."""
    source = iter(queries)
    while some := list(itertools.islice(source, size)):
        yield QueryBatch.of(some, catalog)


def whole_size(catalog: Catalog) -> int:
    """How many queries that rank the whole catalog make a batch."""
    return max(1, min(MOST, CELLS // max(len(catalog), 1)))


def case_batches(
    cases: Cases,
    catalog: Catalog,
    summaries: Mapping[str, Summary],
    size: int = 0,
    retrieve_k: Mapping[str, Sequence[str]] | None = None,
) -> Iterator[QueryBatch]:
    """The queries of cases in batches, made of columns.

    `retrieve_k` is by query id what is ranked in place of the whole catalog. A batch of size 0 has
    as many as are scored at once well.
    """
    whole = cases.full and retrieve_k is None
    size = size or (whole_size(catalog) if whole else FEW)
    for part in cases.frame.iter_slices(size):
        ids = tuple(part["query"])
        if whole:
            candidates, excluded = None, _numbers(part[SEEN], catalog)
        else:
            column = (
                part["candidates"]
                if retrieve_k is None
                else pl.Series([list(retrieve_k[query]) for query in ids], dtype=pl.List(pl.String))
            )
            candidates, excluded = _numbers(column, catalog), Ragged.empty(len(ids))
        times = part["times"].explode(empty_as_null=False).to_numpy()
        yield QueryBatch(
            catalog,
            ids,
            tuple(part["user"]),
            _numbers(part["items"], catalog),
            np.asarray(times, np.float64),
            candidates,
            excluded,
            tuple(summaries.get(query) for query in ids),
        )


def _numbers(lists: pl.Series, catalog: Catalog) -> Ragged:
    numbers = catalog.numbers(lists.explode(empty_as_null=False))
    return Ragged(numbers, _starts(lists.list.len().to_numpy()))


def _starts(lengths: Any) -> Ints:
    return np.concatenate([[0], np.cumsum(np.asarray(lengths, np.int64))]).astype(np.int64)
