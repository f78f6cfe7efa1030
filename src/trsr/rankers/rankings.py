"""Ranked lists at rest: one Parquet file for all rankers of a run, read lazily."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

import polars as pl

from trsr.errors import DataError
from trsr.rankers.batch import RankedBatch
from trsr.storage import files
from trsr.types import Entry, RankedList

SCHEMA = pl.Schema(
    {
        "ranker": pl.String(),
        "query": pl.String(),
        "items": pl.List(pl.String()),
        "scores": pl.List(pl.Float64()),
    }
)
"""Items best first, and the score of each."""

_NAMES = "trsr.rankers"  # file metadata: the rankers, also those without a single list
_CHUNK = 8192  # lists that are Python objects at one time


class Rankings:
    """One ranker's lists in a file: sized, and iterated as often as wanted.

    The frame has the columns `query`, `items`, `scores`.
    """

    def __init__(self, ranker: str, frame: pl.DataFrame, source: str) -> None:
        self.ranker = ranker
        self.frame = frame
        self._source = source

    def __len__(self) -> int:
        return self.frame.height

    def __iter__(self) -> Iterator[RankedList]:
        for chunk in self.frame.iter_slices(_CHUNK):
            for query, items, scores in chunk.iter_rows():
                yield self._list(query, items, scores)

    def _list(self, query: str, items: list[str], scores: list[float]) -> RankedList:
        try:
            return RankedList(query, tuple(map(Entry, items, scores)))
        except ValueError as error:
            raise DataError(f"{self._source}, ranker {self.ranker}: {error}") from error


def named(ranker: str, lists: pl.DataFrame) -> pl.DataFrame:
    """The columns of `SCHEMA` from those without the ranker."""
    return lists.select(pl.lit(ranker).alias("ranker"), pl.all())


def write_rankings(
    path: Path, rankings: Mapping[str, Iterable[RankedBatch | pl.DataFrame]]
) -> dict[str, int]:
    """Writes ranked lists as Parquet, rankers in the mapping's order, lists in theirs.

    The iterables are read once, one after the other, and kept as columns. A frame has columns as
    `RankedBatch.frame` gives them.

    Returns:
        ranker → number of lists.
    """
    frames = [SCHEMA.to_frame()]
    counts = dict.fromkeys(rankings, 0)
    for name, batches in rankings.items():
        for batch in batches:
            counts[name] += len(batch)
            lists = batch if isinstance(batch, pl.DataFrame) else batch.frame()
            frames.append(named(name, lists))
    names = json.dumps(list(rankings))
    files.write_parquet(pl.concat(frames, rechunk=False), path, metadata={_NAMES: names})
    return counts


def read_rankings(path: Path) -> dict[str, Rankings]:
    """Opens ranked lists, also those made outside; ranker → its lists, in the file's order.

    Raises:
        DataError: If the file cannot be read, or does not hold ranked lists. A list that is not
            sorted or names an item twice is an error when it is reached.
    """
    try:
        frame = files.read_parquet(path)
        named = files.parquet_metadata(path).get(_NAMES, "[]")
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from error
    except ValueError as error:
        raise DataError(f"{path}: not a Parquet file ({error}); give `trsr run` again") from error
    frame = _checked(frame, path)
    names = dict.fromkeys((*json.loads(named), *frame["ranker"].unique(maintain_order=True)))
    lists = _by_ranker(frame)
    return {name: Rankings(name, lists.get(name, frame.clear()), str(path)) for name in names}


def _checked(frame: pl.DataFrame, path: Path) -> pl.DataFrame:
    """The four columns with their types, without holes."""
    missing = [name for name in SCHEMA if name not in frame.columns]
    if missing:
        raise DataError(
            f"{path}: no column {', '.join(missing)}; it has {', '.join(frame.columns)}"
        )
    try:
        frame = frame.select(pl.col(name).cast(kind) for name, kind in SCHEMA.items())
    except pl.exceptions.PolarsError as error:
        raise DataError(f"{path}: a column is of the wrong type ({error})") from error
    hole = pl.any_horizontal(pl.all().is_null())
    for column in ("items", "scores"):
        hole |= _any_value(frame, column, pl.Expr.is_null)
    uneven = pl.col("items").list.len() != pl.col("scores").list.len()
    not_numbers = _any_value(frame, "scores", pl.Expr.is_nan)
    for bad, what in (
        (hole, "has an empty value"),
        (uneven, "has not one score an item"),
        (not_numbers, "has a score that is not a number"),
    ):
        found = frame.filter(bad)
        if found.height:
            ranker, query = found.row(0)[:2]
            raise DataError(
                f"{path}: {found.height} of {frame.height} lists {what} "
                f"(first: ranker {ranker}, query {query})"
            )
    return frame


def _any_value(frame: pl.DataFrame, column: str, wrong: Callable[[pl.Expr], pl.Expr]) -> pl.Expr:
    """Which lists have a wrong value; looked at list by list only where there is one at all."""
    filled = frame[column].filter(frame[column].list.len() > 0)
    if not filled.explode().to_frame("value").select(wrong(pl.col("value")).any()).item():
        return pl.lit(value=False)
    return pl.col(column).list.eval(wrong(pl.element())).list.any()


def _by_ranker(frame: pl.DataFrame) -> dict[str, pl.DataFrame]:
    """Each ranker's lists: a view where they stand together, as `write_rankings` puts them."""
    runs = frame["ranker"].rle().struct.unnest()
    if runs["value"].is_duplicated().any():
        parts = frame.partition_by("ranker", as_dict=True, include_key=False)
        return {str(name): part for (name,), part in parts.items()}
    lists, starts = frame.drop("ranker"), runs["len"].cum_sum() - runs["len"]
    return {
        name: lists.slice(start, size)
        for name, start, size in zip(runs["value"], starts, runs["len"], strict=True)
    }
