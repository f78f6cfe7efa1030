"""Reads prepared data back: the catalog, the interactions for fitting, and the cases."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from types import MappingProxyType

import numpy as np
import numpy.typing as npt
import polars as pl

from trsr.data.cases import FULL_SCHEMA, SCHEMA, SEEN
from trsr.data.images import FOLDER, TABLE
from trsr.errors import DataError
from trsr.storage import files
from trsr.storage.images import FORMATS
from trsr.storage.tables import read_table
from trsr.types import Case, Interaction, Item, Query, UserHistory

NO_IMAGES: Mapping[str, str] = MappingProxyType({})

_ITEMS_KEPT = 100_000
"""Item objects kept for reuse."""
_ROWS = 1024
"""Cases turned into Python values at a time."""


class Catalog:
    """The items, made one at a time on demand.

    Args:
        frame: Column `id`, then the text columns.
        images: The path of an item's picture, by its id.
    """

    def __init__(self, frame: pl.DataFrame, images: Mapping[str, str] = NO_IMAGES) -> None:
        self.frame = frame
        self.images = images
        self._columns = tuple(frame.columns[1:])
        self._made = lru_cache(maxsize=_ITEMS_KEPT)(self._make)

    def __len__(self) -> int:
        return len(self.frame)

    def __contains__(self, item: object) -> bool:
        return item in self._rows

    def __iter__(self) -> Iterator[Item]:
        return (self[item] for item in self.ids)

    def __getitem__(self, item: str) -> Item:
        """The item of this id.

        Raises:
            KeyError: If there is none.
        """
        return self._made(item)

    def number(self, item: str) -> int:
        """The place of an id in the catalog.

        Raises:
            KeyError: If there is no such item.
        """
        return self._rows[item]

    def numbers(self, items: pl.Series) -> npt.NDArray[np.int64]:
        """The places of ids in the catalog.

        Raises:
            KeyError: If an item is not in it.
        """
        found = items.replace_strict(
            self.frame["id"],
            pl.int_range(len(self), eager=True),
            default=-1,
            return_dtype=pl.Int64,
        ).to_numpy()
        if len(found) and found.min() < 0:
            raise KeyError(items.gather(np.flatnonzero(found < 0)[:1])[0])
        return found

    def at(self, number: int) -> Item:
        """The item at a place."""
        return self._made(self.ids[number])

    @cached_property
    def ids(self) -> Sequence[str]:
        """All ids, in catalog order."""
        return self.frame["id"].to_list()

    @cached_property
    def all(self) -> tuple[Item, ...]:
        """All items, in catalog order; made once."""
        return tuple(self._make(item) for item in self.ids)

    @property
    def columns(self) -> tuple[str, ...]:
        """The text columns, in catalog order."""
        return self._columns

    @cached_property
    def _rows(self) -> dict[str, int]:
        return {item: row for row, item in enumerate(self.ids)}

    def _make(self, item: str) -> Item:
        _, *texts = self.frame.row(self._rows[item])
        fields = zip(self._columns, texts, strict=True)
        shown = tuple((column, text) for column, text in fields if text)
        return Item(item, shown, self.images.get(item, ""))


class Cases:
    """One split's cases; iterating makes them one at a time.

    Args:
        frame: The columns of `cases.SCHEMA`, or of `cases.FULL_SCHEMA` where the candidates are
            the whole catalog.
        catalog: Where the items' texts are.
        source: Where the cases come from, as a message names it.
    """

    def __init__(self, frame: pl.DataFrame, catalog: Catalog, source: str = "cases") -> None:
        self.frame = frame
        self._catalog = catalog
        self._source = source

    def __len__(self) -> int:
        return len(self.frame)

    def __iter__(self) -> Iterator[Case]:
        for query, relevant in self._rows():
            with self._explained(query.id):
                case = Case(query, frozenset(relevant))
            yield case

    @property
    def full(self) -> bool:
        """Whether a query's candidates are the whole catalog except what the user has seen."""
        return SEEN in self.frame.columns

    def queries(self) -> Iterator[Query]:
        """The cases without their answers."""
        return (query for query, _ in self._rows())

    def histories(self) -> Iterator[tuple[str, UserHistory]]:
        """Each query's id and history, without its candidates."""
        for chunk in self.frame.select("query", "user", "items", "times").iter_slices(_ROWS):
            for name, *columns in chunk.iter_rows():
                with self._explained(name):
                    history = self._history(*columns)
                yield name, history

    def of_user(self, user: str) -> Cases:
        """One user's cases."""
        return self.only(pl.col("user") == user)

    def only(self, chosen: pl.Expr) -> Cases:
        """Some of the cases."""
        return self.with_frame(self.frame.filter(chosen))

    def with_frame(self, frame: pl.DataFrame) -> Cases:
        """Rows of the cases as cases."""
        return Cases(frame, self._catalog, self._source)

    def _rows(self) -> Iterator[tuple[Query, list[str]]]:
        item = self._catalog.__getitem__
        for chunk in self.frame.iter_slices(_ROWS):
            for name, user, items, times, candidates, relevant, *seen in chunk.rows():
                with self._explained(name):
                    history = self._history(user, items, times)
                    shown = self._unseen(*seen) if seen else tuple(map(item, candidates))
                    query = Query(name, history, shown)
                yield query, relevant

    @contextmanager
    def _explained(self, query: str) -> Iterator[None]:
        """Names the query of a case that does not fit the items, or itself."""
        try:
            yield
        except ValueError as error:
            raise DataError(f"{self._source}: query {query}: {error}; {_AGAIN}") from error

    def _history(self, user: str, items: list[str], times: list[float]) -> UserHistory:
        pairs = zip(items, times, strict=True)
        item = self._catalog.__getitem__
        return UserHistory(user, tuple(Interaction(item(i), time) for i, time in pairs))

    def _unseen(self, seen: list[str]) -> tuple[Item, ...]:
        known = set(seen)
        return tuple(item for item in self._catalog.all if item.id not in known)


@dataclass(frozen=True)
class Dataset:
    """Prepared data.

    Attributes:
        folder: Where it lies.
        catalog: The items.
    """

    folder: Path
    catalog: Catalog

    @classmethod
    def load(cls, folder: Path | str) -> Dataset:
        """Opens a folder that `prepare` has filled.

        Raises:
            DataError: If a file is missing or damaged.
        """
        folder = Path(folder)
        return cls(folder, Catalog(_described(folder), _images(folder)))

    @cached_property
    def interactions(self) -> pl.DataFrame:
        """All that a ranker may be fitted on: `user`, `item`, `time`; oldest first within a user.

        Raises:
            DataError: If the file is missing or damaged.
        """
        path = self.folder / "interactions.parquet"
        columns = {"user": pl.String(), "item": pl.String(), "time": pl.Float64()}
        frame = read_table(path, columns, again=_AGAIN, key=(), error=DataError)
        self._check_known(frame.lazy(), path)
        return frame

    @cached_property
    def timed(self) -> bool:
        """Whether times are more than places in users' histories."""
        rows = self.interactions.with_columns(
            place=pl.int_range(pl.len()).over("user").cast(pl.Float64)
        )
        return bool((rows["time"] != rows["place"]).any())

    def cases(self, split: str) -> Cases:
        """The cases of `train`, `valid` or `test`.

        Raises:
            DataError: If the file is missing or damaged.
        """
        path = self.folder / f"cases.{split}.parquet"
        further = {SEEN: FULL_SCHEMA[SEEN]}
        frame = read_table(path, SCHEMA, again=_AGAIN, further=further, error=DataError)
        full = SEEN in frame.columns
        if not full and (frame["candidates"].list.len() == 0).any():
            raise DataError(f"{path}: a query has no candidates; {_AGAIN}")
        for column in ("items", "relevant", SEEN if full else "candidates"):
            self._check_known(frame.lazy().select("query", item=column).explode("item"), path)
        uneven = frame.filter(pl.col("items").list.len() != pl.col("times").list.len())
        if len(uneven):
            query = uneven["query"][0]
            raise DataError(f"{path}: query {query} has not as many times as items; {_AGAIN}")
        steps = pl.col("times").list.diff(null_behavior="drop")
        late = frame.filter(
            (steps.list.min() < 0) | ~steps.list.eval(~pl.element().is_nan()).list.all()
        )
        if len(late):
            query = late["query"][0]
            raise DataError(f"{path}: query {query}: the history is not oldest first; {_AGAIN}")
        return Cases(frame, self.catalog, str(path))

    def _check_known(self, named: pl.LazyFrame, path: Path) -> None:
        """Refuses an `item` that the catalog has not; the first other column says where it is."""
        known = self.catalog.frame.lazy().select(item="id")
        rows = named.drop_nulls("item").join(known, on="item", how="anti").head(1)
        unknown = rows.collect(engine="streaming")  # of all users these are many rows
        if len(unknown):
            where = f"{unknown.columns[0]} {unknown.row(0)[0]}"
            raise DataError(
                f"{path}: {where} names the item {unknown['item'][0]}, which is not in "
                f"items.parquet; {_AGAIN}"
            )

    @cached_property
    def held_out(self) -> pl.DataFrame:
        """What nothing is fitted on: `user`, `item`, `time`; oldest first within a user.

        Without a time are interactions that do not count, such as those with a low rating. A run
        that an older trsr prepared has none.

        Raises:
            DataError: If the file is damaged.
        """
        path = self.folder / HELD_OUT
        if not files.is_file(path):
            return pl.DataFrame(schema=HELD_OUT_SCHEMA)
        columns = {"user": pl.String(), "item": pl.String()}
        further = {"time": pl.Float64()}
        frame = read_table(path, columns, again=_AGAIN, key=(), further=further, error=DataError)
        if "time" not in frame.columns:
            raise DataError(f"{path}: there is no column time; {_AGAIN}")
        self._check_known(frame.lazy(), path)
        return frame

    @cached_property
    def users(self) -> list[str]:
        """All users with a history, in the order in which the data shows them."""
        cases = [self.cases(split).frame for split in ("train", "valid", "test")]
        frames = [self.interactions, self.held_out.drop_nulls("time"), *cases]
        found = pl.concat([frame.select("user") for frame in frames])
        return found["user"].unique(maintain_order=True).to_list()

    def history(self, user: str) -> UserHistory | None:
        """All that is known of a user, to recommend what comes next; None for an unknown user.

        It begins where the history of the user's last test case begins, else of the last validation
        or training case, else with the first interaction; and it ends with the last. What was
        clicked among a case's own candidates, and is no interaction, stands at its end.
        """
        return self.histories([user]).get(user)

    def histories(self, users: Collection[str]) -> dict[str, UserHistory]:
        """The histories of users as `history` gives them; unknown users are left out."""
        files.refuse_fork()
        own = pl.col("user").is_in(set(users))
        held_out = self.held_out.filter(own).drop_nulls("time")
        rows = pl.concat([self.interactions.filter(own), held_out])
        grouped = rows.sort("time", maintain_order=True).group_by("user", maintain_order=True)
        every = {one: pair for one, *pair in grouped.agg("item", "time").iter_rows()}
        found: dict[str, UserHistory] = {}
        for split in ("test", "valid", "train"):
            wanted = pl.col("user").is_in(set(users) - found.keys())
            cases = self.cases(split).only(wanted)
            cases = cases.with_frame(cases.frame.unique("user", keep="last", maintain_order=True))
            for (_, history), clicked in zip(
                cases.histories(), cases.frame["relevant"], strict=True
            ):
                later = _later(history, *every.pop(history.user, ((), ())))
                known = {item for item, _ in later}
                last = later[-1][1] if later else (_times(history) or [0.0])[-1]
                later += [(item, last) for item in sorted(clicked) if item not in known]
                more = tuple(Interaction(self.catalog[item], time) for item, time in later)
                found[history.user] = self._joined(history.user, history.interactions + more)
        for user, (items, times) in every.items():
            pairs = zip(items, times, strict=True)
            past = tuple(Interaction(self.catalog[item], time) for item, time in pairs)
            found[user] = self._joined(user, past)
        return found

    def _joined(self, user: str, interactions: tuple[Interaction, ...]) -> UserHistory:
        try:
            return UserHistory(user, interactions)
        except ValueError as error:
            path = self.folder / "interactions.parquet"
            raise DataError(f"{path}: {error}; {_AGAIN}") from error

    def seen(self, users: Collection[str]) -> dict[str, frozenset[str]]:
        """All items that each of these users has in the data, also where that does not count."""
        frame = pl.concat(
            [one.select("user", "item") for one in (self.interactions, self.held_out)]
        )
        rows = frame.filter(pl.col("user").is_in(set(users)))
        return {user: frozenset(own["item"]) for (user,), own in rows.group_by("user")}


def _times(history: UserHistory) -> list[float]:
    return [one.time for one in history.interactions]


def _later(
    history: UserHistory, items: Sequence[str], times: Sequence[float]
) -> list[tuple[str, float]]:
    """What a user did after a case's history, of all that the user did; none if it is not there."""
    size = len(history)
    own = [item.id for item in history.items], _times(history)
    for start in range(len(items) - size, -1, -1):
        end = start + size
        if (list(items[start:end]), list(times[start:end])) == own:
            return list(zip(items[end:], times[end:], strict=True)) if size else []
    return []


_AGAIN = "give `trsr run` again"


HELD_OUT = "held_out.parquet"
"""In a run directory: the interactions that nothing is fitted on."""

HELD_OUT_SCHEMA = pl.Schema({"user": pl.String(), "item": pl.String(), "time": pl.Float64()})

DESCRIPTIONS = "descriptions.parquet"
"""In a run directory: what the items' images show, as the stage `describe` wrote it."""

DESCRIPTION = "image_description"
"""The column of the catalog that holds it."""

DESCRIPTION_SCHEMA = pl.Schema({"item": pl.String(), "digest": pl.String(), "text": pl.String()})


def _items(path: Path) -> pl.DataFrame:
    columns = {"id": pl.String()}
    return read_table(path, columns, again=_AGAIN, key=("id",), rest=pl.String(), error=DataError)


def _described(folder: Path) -> pl.DataFrame:
    """The items, with what their images show where that was described."""
    items, path = _items(folder / "items.parquet"), folder / DESCRIPTIONS
    if not files.exists(path):
        return items
    columns = {"item": pl.String(), "text": pl.String()}
    again = "give `trsr run` again"
    texts = read_table(path, columns, again=again, key=("item",), error=DataError)
    if DESCRIPTION in items.columns:
        raise DataError(
            f"{path}: the items have a column {DESCRIPTION} of their own; rename it in their file"
        )
    described = texts.select(id="item", **{DESCRIPTION: "text"})
    return items.join(described, on="id", how="left", maintain_order="left")


def _images(folder: Path) -> dict[str, str]:
    """The path of each item's picture."""
    path = folder / TABLE
    if not files.exists(path):
        return {}
    frame = read_table(
        path,
        {"id": pl.String()},
        again=_AGAIN,
        key=("id",),
        further={"file": pl.String()},
        error=DataError,
    ).drop_nulls()
    named = re.compile(rf"[0-9a-f]{{64}}\.(?:{'|'.join(FORMATS.values())})")
    for item, file in frame.iter_rows():
        if not named.fullmatch(file):
            raise DataError(f"{path}: item {item} names the image {file!r}; {_AGAIN}")
    return {item: str(folder / FOLDER / file) for item, file in frame.iter_rows()}
