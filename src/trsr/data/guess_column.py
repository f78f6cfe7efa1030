"""Looks at one column: at its ids, lists, numbers, dates and words."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import polars as pl

from trsr.data.ids import id_text, is_missing, to_text
from trsr.data.readers.base import USUAL_NAMES, listed, plain
from trsr.data.times import Times, seconds
from trsr.errors import DataError

CELLS = 1000
"""Cells looked at where all of them would cost too much."""
_LIKE_A_DATE = (
    r"(?i)\d{1,4}[-/. ]\d{1,2}[-/. ]\d{2,4}|\d:\d\d|"
    r"\b(mon|tue|wed|thu|fri|sat|sun|jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)"
)


@dataclass(frozen=True)
class Column:
    """One column of the interactions and what its values look like."""

    name: str
    values: pl.Series
    path: Path

    @cached_property
    def is_list(self) -> bool:
        """Whether most cells seem to hold several ids."""
        if isinstance(self.values.dtype, pl.List | pl.Array):
            return True
        some = self._text(self.values.head(CELLS))
        pieces = listed(some, self.path).list.len()
        # Running text has pieces too, but signs that no printed list has.
        prose = some.str.contains(r"[.!?:]\s|\d:\d\d").mean()
        return float(str(pieces.mean() or 0)) >= 1.5 and float(str(prose or 0)) < 0.5

    @property
    def text(self) -> pl.Series:
        """The cells as text; null where they cannot be."""
        return self._text(self.values)

    def _text(self, values: pl.Series) -> pl.Series:
        try:
            return to_text(values, self.path)
        except DataError:
            return pl.Series(self.name, [None] * len(values), dtype=pl.String)

    @cached_property
    def ids(self) -> pl.Series:
        """The cells as ids; none where they cannot be."""
        return self._ids(self.text)

    @cached_property
    def pieces(self) -> pl.Series:
        """All ids in the cells' lists; none where they hold no lists of ids."""
        try:
            lists = listed(self.values, self.path)
        except DataError:
            return pl.Series(self.name, [], dtype=pl.String)
        return self._ids(lists.explode(empty_as_null=True))

    def _ids(self, values: pl.Series) -> pl.Series:
        try:
            return id_text(values, self.path).drop_nulls()
        except DataError:
            return values.clear()

    @cached_property
    def distinct(self) -> pl.Series:
        """The cells' ids, each once."""
        return self.ids.unique()

    @cached_property
    def numbers(self) -> pl.Series | None:
        """The cells as numbers, if all of them are."""
        if self.values.dtype.is_nested() or not (len(self.ids) or self.values.dtype.is_numeric()):
            return None
        text = self.text.str.strip_chars().str.replace(r"^(-?\d+),(\d+)$", "${1}.${2}")
        frame = pl.DataFrame({"text": text})
        some = frame.filter(~is_missing("text"))["text"]
        numbers = some.cast(pl.Float64, strict=False)
        return None if numbers.null_count() or numbers.is_empty() else numbers

    @cached_property
    def has_fractions(self) -> bool:
        """Whether the cells are numbers and not all whole."""
        return self.numbers is not None and bool((self.numbers % 1 != 0).any())

    @cached_property
    def dates(self) -> Times | DataError | None:
        """The first cells as times if they are dates, or why they cannot be read as such."""
        some = self.values.head(CELLS)
        if some.dtype not in (pl.String, pl.Binary, pl.Date, pl.Datetime, pl.Categorical):
            return None
        if some.dtype not in (pl.Date, pl.Datetime) and self.numbers is not None:
            return None
        try:
            times = seconds(some, self.path)
        except DataError as error:
            alike = float(str(self._text(some).str.contains(_LIKE_A_DATE).mean() or 0))
            return error if alike > 0.5 else None
        return times if times.values.null_count() < 0.5 * len(some) else None

    def named(self, role: str) -> bool:
        """Whether its name is a usual one for a role."""
        return plain(self.name) in USUAL_NAMES[role]

    @cached_property
    def words(self) -> float:
        """The mean number of words in a cell."""
        letters = self.text.head(CELLS).str.count_matches(r"\p{L}{2,}")
        return float(str(letters.mean() or 0))

    @cached_property
    def without_digits(self) -> float:
        """The share of cells without a digit."""
        return float(str((~self.text.head(CELLS).str.contains(r"\d")).mean() or 0))

    def tells(self, other: Column) -> float:
        """How far this column tells another, from 0 (as good as guessing) to 1."""
        both = pl.DataFrame({"key": self.text, "other": other.text}).drop_nulls()
        # what comes once tells nothing
        both = both.filter(pl.col("key").is_duplicated())
        if both.is_empty():
            return 0.0
        counts = both.group_by("key", "other").len()
        most = float(str(counts.group_by("key").agg(pl.col("len").max())["len"].sum()))
        base = float(str(both["other"].value_counts()["count"].max()))
        return (most - base) / max(len(both) - base, 1)
