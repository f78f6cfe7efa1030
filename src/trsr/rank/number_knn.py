"""Ranks by how near a number in a candidate's text is to those of the history's latest items."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from trsr.errors import ConfigError
from trsr.rank.settings import RankSettings
from trsr.rank.text_number import ENOUGH, mostly_years, number_in
from trsr.rank.tune import QueryRanker, tuned
from trsr.types import Item, Query

if TYPE_CHECKING:
    from trsr.data import Catalog
    from trsr.rank.base import RankContext

_LARGE = 1e15
"""A larger number is a code of many digits: it measures nothing, and float64 rounds it."""

Values = npt.NDArray[np.float64]


class ColumnNumbers:
    """A number an item, out of one column's whole text (see `text_number`).

    Args:
        column: The column.
        texts: What the catalogue's items hold there, empty where nothing. They decide whether
            years are read.

    Attributes:
        count: How many of these items have a number.
        share: Their share, from 0 to 1.
        span: The largest of their numbers less the smallest; 0 where there are none.
    """

    def __init__(self, column: str, texts: Sequence[str]) -> None:
        self._column = column
        self._years = mostly_years(texts)
        self._read = {text: self._number(text) for text in set(texts)}
        numbers = np.array([self._read[text] for text in texts], dtype=np.float64)
        numbers = numbers[~np.isnan(numbers)]
        self.count = len(numbers)
        self.share = len(numbers) / len(texts) if texts else 0.0
        self.span = float(numbers.max() - numbers.min()) if len(numbers) else 0.0

    def of(self, items: Sequence[Item]) -> Values:
        """Shape (items,): in the unit of the text; NaN for an item without a number.

        An item outside the catalogue is read from its own text.
        """
        return np.array([self._of(item) for item in items], dtype=np.float64)

    def _of(self, item: Item) -> float:
        text = next((text for column, text in item.fields if column == self._column), "")
        number = self._read.get(text)
        return self._number(text) if number is None else number

    def _number(self, text: str) -> float:
        number = number_in(text, years=self._years)
        return number if number < _LARGE else np.nan


class NumberKnnRanker(QueryRanker):
    """Minus the distance of a candidate's number to those of the history's latest items.

    The distance is that to the nearest of them, or the mean of those to all. It is at most the
    span of the catalogue's numbers, and that where the candidate has no number. Equal numbers tie.
    Items of the history without a number are passed over, though they count as latest; where none
    of them has one, every candidate scores 0.

    Args:
        numbers: The items' numbers.
        last: How many of the latest items count; 0: all.
        to: nearest or mean.
    """

    def __init__(self, numbers: ColumnNumbers, last: int, to: str) -> None:
        self.numbers = numbers
        self.last = last
        self.to = to

    def scores(self, query: Query) -> Sequence[float]:
        """One score a candidate, from minus the span to 0, in the unit of the numbers."""
        items = query.history.items
        met = self.numbers.of(items[-self.last :] if self.last else items)
        met = met[~np.isnan(met)]
        if not len(met):
            return [0.0] * len(query.candidates)
        asked = self.numbers.of(query.candidates)
        apart = np.abs(asked - met[0])
        # one item at a time: all at once would be a matrix of catalogue by history
        for number in met[1:]:
            one = np.abs(asked - number)
            apart = np.minimum(apart, one) if self.to == "nearest" else apart + one
        if self.to == "mean":
            apart = apart / len(met)
        span = self.numbers.span
        apart = np.where(np.isnan(asked), span, np.minimum(apart, span))
        return [float(score) for score in 0.0 - apart]


def number_columns(catalog: Catalog, settings: RankSettings) -> dict[str, ColumnNumbers]:
    """The columns of `rank.text_fields` in which 90 % of the catalogue's items hold a number.

    The whole catalogue is asked, as candidates come from all of it: also items that nobody met.

    Args:
        catalog: The items with their texts.
        settings: The settings of ranking.

    Returns:
        Column → numbers, in the settings' order.

    Raises:
        ConfigError: If there is no such column.
    """
    columns = dict.fromkeys(settings.text_fields or catalog.columns)
    read = {
        column: ColumnNumbers(column, [text or "" for text in catalog.frame[column].to_list()])
        for column in columns
        if column in catalog.columns
    }
    found = {column: numbers for column, numbers in read.items() if numbers.share >= ENOUGH}
    if not found:
        best = max(read, key=lambda column: read[column].share, default=None)
        seen = (
            "there is no text column"
            if best is None
            else f"the most have one in {best}: {read[best].count:,} of {len(catalog):,} items, "
            f"{100 * read[best].share:.1f} %"
        )
        where = "rank.text_fields" if settings.text_fields else "all text columns"
        raise ConfigError(
            "the ranker number_knn needs a column in which at least "
            f"{100 * ENOUGH:.0f} % of the items hold a number, such as a year or a price; it "
            f"looked in {where}, and {seen}. Name such a column in rank.text_fields, or take "
            "number_knn out of where it stands: rank.rankers, rank.blend, rank.first_stage or "
            "train.prior"
        )
    return found


def make_number_knn(context: RankContext) -> NumberKnnRanker:
    """Nearness of numbers; the column is tuned on the validation cases as the settings are.

    Raises:
        ConfigError: If no column holds a number in enough items.
    """
    own = context.settings.number_knn
    columns = number_columns(context.catalog, context.settings)
    options = [
        {"column": column, "last": last, "to": to}
        for column, last, to in itertools.product(columns, own.last, own.to)
        if last != 1 or to == own.to[0]  # the mean of a single distance is that distance
    ]

    def make(column: str, last: int, to: str) -> NumberKnnRanker:
        return NumberKnnRanker(columns[column], last, to)

    return tuned("number_knn", context, options, make)
