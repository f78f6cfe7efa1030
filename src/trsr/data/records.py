"""Holds all interactions as sorted columns of numbers: the form in which they are filtered."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl

from trsr.data import inputs
from trsr.data.ids import (
    finite,
    id_text,
    is_missing,
    likely_cause,
    number,
    report_ids,
    to_text,
)
from trsr.data.readers.base import Source
from trsr.data.report import RowCounts
from trsr.data.service_log import ServiceLog
from trsr.data.settings import DataSettings
from trsr.data.times import seconds
from trsr.errors import DataError
from trsr.settings import derive_seed

Ints = npt.NDArray[np.int64]
Codes = npt.NDArray[np.uint32]
Floats = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]

MANY_TIES = 0.05
"""The share of neighbours at one time from which on it is worth a warning."""

PART = 4_000_000
"""Interactions sorted at a time: bounds the memory."""

SPLITS = ("train", "valid", "test")
SPLIT_NAMES = {
    **{"train": 0, "training": 0, "valid": 1, "val": 1, "validation": 1, "dev": 1},
    **{"test": 2, "testing": 2, "eval": 2},
}


@dataclass(frozen=True)
class Records:
    """Interactions as columns, users in the order of their ids, oldest first within a user.

    Attributes:
        users: Ids, by code.
        items: Ids of the catalog, by code; sorted.
        user: [n] code of the user, never falling.
        item: [n] code of the item.
        time: [n] never falling within a user.
        rating: [n] or None; NaN where there is none.
        split: [n] index into `SPLITS` as the data gives it, or None.
        seen_user: [m] codes of users, never falling.
        seen_item: [m] what they have seen, also in interactions that filters left out.
        timed: Whether the data has times; else `time` is the place in the user's history.
        steps: Whether interactions of a user at one time are one step: none is in another's
            history.
    """

    users: pl.Series
    items: pl.Series
    user: Codes
    item: Codes
    time: Floats
    rating: Floats | None
    split: npt.NDArray[np.uint8] | None
    seen_user: Codes
    seen_item: Codes
    timed: bool
    steps: bool = False

    def __len__(self) -> int:
        return len(self.user)

    @cached_property
    def starts(self) -> Ints:
        """[users + 1] where each user's interactions begin; the last entry is their number."""
        # numbers of another type would be sought in a copy of all users
        numbers = np.arange(len(self.users) + 1, dtype=self.user.dtype)
        return np.searchsorted(self.user, numbers).astype(np.int64)

    def place(self, positions: Ints) -> Ints:
        """The interactions' places in their users' histories, from 0."""
        return positions - self.starts[self.user[positions]]

    def before(self, positions: Ints) -> Ints:
        """How many interactions the history before each of these holds."""
        return self.place(self._step_begins[positions] if self.steps else positions)

    @cached_property
    def _step_begins(self) -> Ints:
        """[n] the position of the first interaction of each one's step."""
        new = np.zeros(len(self), dtype=np.bool_)
        new[1:] = (self.user[1:] != self.user[:-1]) | (self.time[1:] != self.time[:-1])
        return np.maximum.accumulate(np.where(new, np.arange(len(self)), 0))

    def first_times(self) -> Mask:
        """[n] whether the user has not had the item before."""
        first = np.empty(len(self), dtype=np.bool_)
        begins = np.searchsorted(self.starts, np.arange(0, len(self), PART))
        bounds = [*self.starts[begins].tolist(), len(self)]
        for part in map(slice, bounds[:-1], bounds[1:]):
            pairs = pl.Series(self.user[part].astype(np.int64) * len(self.items) + self.item[part])
            first[part] = pairs.is_first_distinct().to_numpy()
        return first

    @property
    def lengths(self) -> Ints:
        """[users] interactions of each user."""
        return np.diff(self.starts)

    def only(self, keep: Mask) -> Records:
        """Some of the interactions; without times the places are counted anew."""
        if keep.all():
            return self
        kept = replace(
            self,
            user=self.user[keep],
            item=self.item[keep],
            time=self.time[keep],
            rating=None if self.rating is None else self.rating[keep],
            split=None if self.split is None else self.split[keep],
        )
        return kept if self.timed else replace(kept, time=_places(kept.lengths))


def spans(begins: Ints, ends: Ints) -> tuple[Ints, Ints]:
    """The number of each pair, and beside it all positions from its begin up to its end."""
    lengths = ends - begins
    row = np.repeat(np.arange(len(lengths)), lengths)
    offset = np.arange(len(row)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    return row, begins[row] + offset


def _places(lengths: Ints) -> Floats:
    """The places, from 0, within runs of these lengths, as times."""
    return spans(np.zeros_like(lengths), lengths)[1].astype(np.float64)


def records(
    source: Source,
    items: pl.Series,
    settings: DataSettings,
    seed: int,
    row_counts: RowCounts,
    log: ServiceLog | None = None,
) -> Records:
    """Reads the interactions and sorts them by user, time and place in the file, then in the log.

    Of texts each distinct one is held once, and of an interaction numbers alone.

    Raises:
        DataError: If the file cannot be read, no interaction is left, or too many items are
            unknown.
    """
    typed, ids = _typed(source, settings, row_counts)
    if log is not None:
        typed, ids = log.add_events(typed, ids, source.interactions_path, row_counts)
    coded, users = _coded(typed, ids, items, source, settings, row_counts)
    del typed, ids
    return _sorted(coded, users, items, settings, seed, source, row_counts)


def _read(source: Source, settings: DataSettings) -> dict[str, pl.Series]:
    """The columns; texts of ids as categories, and those of numbers as numbers, where all are."""
    kinds = source.interactions.collect_schema()
    plain = {"time", "order", "rating", "quantity"} - ({"time"} if settings.time_format else set())
    chosen = []
    for name, kind in kinds.items():
        column = pl.col(name)
        if kind == pl.String and name in ("user", "item"):
            column = column.cast(_categories())
        elif kind == pl.String and name in plain:
            numbers = column.str.strip_chars().cast(pl.Float64, strict=False)
            other = numbers.is_null() & column.is_not_null() & ~is_missing(name)
            chosen.append(other.alias(f"{name} unread"))
            column = numbers
        chosen.append(column.alias(name))
    frame = source.interactions.select(chosen).collect(engine="streaming")
    columns = {name: frame[name] for name in kinds}
    for name in kinds:
        if f"{name} unread" in frame.columns and frame[f"{name} unread"].any():
            columns[name] = source.interactions.select(name).collect(engine="streaming")[name]
    return columns


def _categories() -> pl.Categorical:
    """A type of its own: all columns of a type that has a name hold their texts together."""
    return pl.Categorical(pl.Categories.random())


def _typed(
    source: Source, settings: DataSettings, row_counts: RowCounts
) -> tuple[pl.DataFrame, dict[str, pl.Series]]:
    """The rows that have ids and a time, and the ids' texts by role.

    Ids are numbers of their texts, times are float64, splits indexes.
    """
    path = source.interactions_path
    with inputs.located(path, source.encoding):
        columns = _read(source, settings)
    row_counts.add("interactions_read", len(columns["user"]))
    if columns["user"].is_empty():
        raise DataError(f"{path}: there is no interaction in it")
    ids, found = {}, []
    for name in ("user", "item"):
        ids[name], codes = _ids(columns.pop(name), source, row_counts)
        found.append(codes.alias(name))
    typed = pl.DataFrame([*found, *_typed_columns(columns, path, settings, row_counts)])
    for count, needs, keep in (
        ("other_events", "event", pl.col("event")),
        ("rows_without_ids", "user", pl.col("user").is_not_null() & pl.col("item").is_not_null()),
        ("cancelled", "quantity", pl.col("quantity") > 0),
        ("rows_without_time", "time", pl.col("time").is_not_null()),
    ):
        if needs in typed.columns:
            kept = typed.select(keep).to_series().fill_null(value=False)
            row_counts.add(count, int((~kept).sum()))
            typed = typed if kept.all() else typed.filter(kept)
    if typed.is_empty():
        raise row_counts.error(f"{path}: no line has a user, an item and, if there is one, a time")
    return typed, ids


def _ids(column: pl.Series, source: Source, row_counts: RowCounts) -> tuple[pl.Series, pl.Series]:
    """The distinct ids as text, as the file first has them, and [n] the place of each row's."""
    path, name = source.interactions_path, column.name
    written = column
    if not isinstance(column.dtype, pl.Categorical):
        written = to_text(column, path).cast(_categories())
    codes = written.to_physical()
    none = int(str(codes.max() if codes.count() else -1)) + 1
    code = codes.fill_null(none).to_numpy()
    first = np.full(none + 1, len(code), dtype=np.uint32)
    first[code[::-1]] = np.arange(len(code), dtype=np.uint32)[::-1]
    order = np.argsort(first, kind="stable")[: int((first < len(code)).sum())]
    place = np.empty(none + 1, dtype=np.uint32)
    place[order] = np.arange(len(order), dtype=np.uint32)
    texts = written.gather(first[order]).cast(pl.String)
    code = place[code]
    rows = pl.Series(np.bincount(code))
    ids = id_text(texts, path, source.encoding, rows)
    report_ids(texts if column is written else column, ids, name, path, row_counts, rows)
    if not ids.null_count():
        return ids, pl.Series(code)
    places = pl.DataFrame({"id": ids}).select(
        pl.when(pl.col("id").is_not_null()).then(pl.int_range(pl.len(), dtype=pl.UInt32))
    )
    return ids, places.to_series().gather(code)


def _typed_columns(
    columns: dict[str, pl.Series], path: Path, settings: DataSettings, row_counts: RowCounts
) -> list[pl.Series]:
    """Numbers, times and splits; each column is let go as soon as it is read."""
    typed = []
    for name in ("time", "order"):
        if name in columns:
            form = settings.time_format if name == "time" else ""
            # messages name the column as the file does
            own = getattr(settings.columns, name) or name
            times = seconds(columns.pop(name).alias(own), path, form)
            # a row without an order comes last at its time
            values = times.values.fill_null(np.inf) if name == "order" else times.values
            typed.append(values.alias(name))
            row_counts.warnings += times.notes
    if "event" in columns:
        typed.append(_kept_events(columns.pop("event"), settings, path, row_counts))
    if settings.min_rating is not None:
        typed.append(_ratings(columns, path))
    if "split" in columns:
        typed.append(_splits(columns["split"], path))
    if "quantity" in columns:
        typed.append(_number(columns["quantity"], path, "quantity"))
    return typed


def _kept_events(
    column: pl.Series, settings: DataSettings, path: Path, row_counts: RowCounts
) -> pl.Series:
    """Whether each row is of a kind of event that is kept."""
    kinds = to_text(column, path).str.strip_chars().alias("event")
    absent = set(settings.events) - set(kinds.unique())
    if absent:
        found = ", ".join(sorted(filter(None, kinds.unique())))[:200]
        raise DataError(
            f"data.events names {', '.join(sorted(absent))}, but no row is of it; there is {found}"
        )
    kept = kinds.is_in(settings.events).fill_null(value=False)
    others = kinds.filter(~kept).fill_null("none").value_counts(sort=True).head(9).rows()
    if others:
        named = ", ".join(f"{kind} ({count:,})" for kind, count in others)
        row_counts.warn(f"{path}: events that data.events does not name: {named}")
    return kept


def _ratings(columns: dict[str, pl.Series], path: Path) -> pl.Series:
    if "rating" in columns:
        return _number(columns["rating"], path, "rating")
    raise DataError(f"{path}: data.min_rating needs ratings: set data.columns.rating")


def _number(column: pl.Series, path: Path, what: str) -> pl.Series:
    """Numbers, null where there is none; decimal commas are read too."""
    if column.dtype.is_numeric():
        return finite(column.cast(pl.Float64).alias(what))
    frame = pl.DataFrame({"text": to_text(column, path).str.strip_chars()})
    frame = frame.select(pl.when(~is_missing("text")).then("text"))
    numbers = frame.select(number("text").alias(what)).to_series()
    bad = frame["text"].filter(numbers.is_null() & frame["text"].is_not_null())
    if len(bad):
        raise DataError(f"{path}: the {what} {bad[0]!r} (and {len(bad) - 1} more) is not a number")
    return finite(numbers)


def _splits(column: pl.Series, path: Path) -> pl.Series:
    """Indexes into `SPLITS`; null (an item before the named ones of a sequence) is training."""
    names = column.cast(pl.String).str.strip_chars().str.to_lowercase()
    splits = names.replace_strict(SPLIT_NAMES, default=None, return_dtype=pl.UInt8)
    wrong = names.filter(splits.is_null() & names.is_not_null())
    if len(wrong):
        raise DataError(
            f"{path}: {wrong[0]!r} is no split: data.columns.split must hold train, valid or test"
        )
    return splits.fill_null(0).alias("split")


def _coded(
    frame: pl.DataFrame,
    ids: dict[str, pl.Series],
    items: pl.Series,
    source: Source,
    settings: DataSettings,
    row_counts: RowCounts,
) -> tuple[pl.DataFrame, pl.Series]:
    """Ids as codes, without the interactions whose item the catalog does not have."""
    codes = ids["item"].cast(pl.Enum(items), strict=False).to_physical().cast(pl.UInt32)
    item = codes.gather(frame["item"])
    count = item.null_count()
    row_counts.add("unknown_items", count)
    if count:
        unknown = frame["item"].filter(item.is_null()).unique(maintain_order=True)
        missing, share = ids["item"].gather(unknown), count / len(frame)
        message = (
            f"{source.interactions_path}: {share:.1%} of the interactions have an item that "
            f"{source.items_path} does not have, such as "
            f"{', '.join(missing.unique(maintain_order=True).head(3).str.slice(0, 80))}"
        )
        if cause := likely_cause(missing, items):
            message = f"{message}. {cause}"
        if share > settings.max_unknown or count == len(frame):
            raise DataError(
                f"{message}; check data.columns.item and data.columns.item_id, or raise "
                f"data.max_unknown (now {settings.max_unknown:.1%})"
            )
        row_counts.warn(message)
    frame = frame.with_columns(item.alias("item"))
    frame = frame.drop_nulls("item") if count else frame
    rows = np.bincount(frame["user"].to_numpy(), minlength=len(ids["user"]))
    users = ids["user"].filter(pl.Series(rows > 0)).unique().sort()
    user = ids["user"].cast(pl.Enum(users), strict=False).to_physical().cast(pl.UInt32)
    return frame.with_columns(user.gather(frame["user"]).alias("user")), users


def _sorted(
    frame: pl.DataFrame,
    users: pl.Series,
    items: pl.Series,
    settings: DataSettings,
    seed: int,
    source: Source,
    row_counts: RowCounts,
) -> Records:
    """By user, time and row; without the same user, item and time again."""
    timed, drawn = bool({"time", "order"} & set(frame.columns)), settings.ties != "file"
    if "time" not in frame.columns and timed:
        frame = frame.rename({"order": "time"})
    draws = _draws(users, items, seed) if timed and drawn else None
    counts = Counter[str]()
    kinds = {"user": np.uint32, "item": np.uint32, "time": np.float64}
    kinds |= {"rating": np.float64} if "rating" in frame.columns else {}
    kinds |= {"split": np.uint8} if "split" in frame.columns else {}
    columns = {name: np.empty(len(frame), dtype=kind) for name, kind in kinds.items()}
    filled = 0
    for part in _parts(frame, len(users)):
        found = _part_sorted(part, items, draws, counts) if timed else _as_in_file(part)
        for name, column in columns.items():
            column[filled : filled + len(found)] = found[name].to_numpy()
        filled += len(found)
    if timed:
        _report_order(counts, drawn, source, row_counts)
    columns = {name: column[:filled] for name, column in columns.items()}
    return Records(
        users=users,
        items=items,
        user=columns["user"],
        item=columns["item"],
        time=columns["time"],
        rating=columns.get("rating"),
        split=columns.get("split"),
        seen_user=columns["user"],
        seen_item=columns["item"],
        timed=timed,
        steps=settings.ties == "step" and timed,
    )


def _parts(frame: pl.DataFrame, users: int) -> Iterator[pl.DataFrame]:
    """Users in the order of their codes, about `PART` rows at a time, rows as in the file."""
    user = frame["user"].to_numpy()
    ends = np.cumsum(np.bincount(user, minlength=users))
    part = ((ends - 1) // PART).astype(np.uint16)
    if not part[-1]:
        yield frame
        return
    of_row = pl.Series(part[user])
    for place in range(part[-1] + 1):
        yield frame.filter(of_row == place)


def _as_in_file(part: pl.DataFrame) -> pl.DataFrame:
    """By user and row; the time is the place in the history."""
    ordered = part.sort("user", maintain_order=True)
    return ordered.with_columns(time=pl.int_range(pl.len()).over("user").cast(pl.Float64))


def _part_sorted(
    part: pl.DataFrame,
    items: pl.Series,
    draws: tuple[pl.Series, pl.Series] | None,
    counts: Counter[str],
) -> pl.DataFrame:
    """By user, time, order, drawn number and row, the same again left out; it is counted."""
    at = [name for name in ("time", "order") if name in part.columns]
    part = part.with_row_index("row")
    if draws:
        user, item = draws
        part = part.with_columns(random=user.gather(part["user"]) ^ item.gather(part["item"]))
    part = part.sort("user", *at, *(["random"] if draws else []), "row")
    keys = [pl.col(name) for name in ("user", *at)]
    ties = pl.all_horizontal(key.eq_missing(key.shift(1)) for key in keys)
    part = part.with_columns(tie=ties)
    tied = part.filter(pl.col("tie") | pl.col("tie").shift(-1, fill_value=False))
    twice = tied.filter(~pl.struct("user", "item", *at).is_first_distinct())["row"]
    if len(twice):
        part = part.filter(~pl.col("row").is_in(twice.implode())).with_columns(tie=ties)
    tie = pl.col("tie")
    neighbours = pl.col("user") == pl.col("user").shift(1)
    unsorted = neighbours & (pl.col("row") < pl.col("row").shift(1)) & ~tie
    rising = tie & (pl.col("rank") > pl.col("rank").shift(1))
    found = part.with_columns(rank=_rank(part["item"], items)).select(
        unsorted=unsorted.sum(),
        equal_times=tie.sum(),
        rising=rising.sum(),
        neighbours=neighbours.sum(),
    )
    counts.update(found.row(0, named=True) | {"duplicates": len(twice)})
    return part


def _rank(item: pl.Series, items: pl.Series) -> pl.Series:
    """[n] numbers that grow as ids do: as numbers where all of them are."""
    numbers = items.cast(pl.Float64, strict=False)
    return item if numbers.null_count() else numbers.gather(item)


def _draws(users: pl.Series, items: pl.Series, seed: int) -> tuple[pl.Series, pl.Series]:
    """A number of each user and item, so that the rows' order changes nothing."""
    user, item = (
        pl.Series(np.fromiter((derive_seed(seed, "ties", one) for one in ids), np.uint64, len(ids)))
        for ids in (users, items)
    )
    return user, item


def _report_order(counts: Counter[str], drawn: bool, source: Source, row_counts: RowCounts) -> None:
    """What was left out as the same again, and how far rows and times say the order."""
    for name in ("duplicates", "unsorted", "equal_times"):
        row_counts.add(name, counts[name])
    ties, neighbours = counts["equal_times"], counts["neighbours"]
    if ties and ties >= MANY_TIES * neighbours:
        share, rising = ties / neighbours, counts["rising"] / ties
        row_counts.warn(_ties_warning(share, rising, drawn, source))


def _ties_warning(share: float, rising: float, drawn: bool, source: Source) -> str:
    """Says that the order within one moment is not known; it may be that of the ids."""
    message = (
        f"{source.interactions_path}: {share:.0%} of a user's neighbouring interactions have the "
        "same time"
    )
    if drawn:
        return f"{message}; their order is random (data.ties)"
    if rising > 0.95 or rising < 0.05:
        message += " and stand in the order of item ids, which tells the next item"
    return (
        f"{message}; is there a column that orders them (data.columns.order)? Else set data.ties = "
        '"drawn", or "step" for baskets'
    )
