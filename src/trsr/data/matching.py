"""Which items match: those with one of some values in a column, such as a genre."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from numbers import Real
from typing import Any

import numpy as np
import polars as pl

from trsr.data.dataset import Catalog
from trsr.data.requests import cell_text
from trsr.errors import DataError
from trsr.registry import like
from trsr.types import Item

Value = str | int | float
Where = Mapping[str, Value | Sequence[Value]]
"""By column a value, or several of which one is enough; a number counts as its text."""
_SUCH = '{"genre": ["Drama", "War"]}'
_BETWEEN = r"\s*[,;|]\s*"


def matching(
    catalog: Catalog,
    where: Where,
    items: Sequence[Item] | None = None,
    new: Sequence[Item] = (),
) -> tuple[Item, ...]:
    """The items that have one of the values in each of the columns.

    A value is a column's whole text, or one of its parts between commas, semicolons or bars.
    Capitals do not count.

    Args:
        catalog: The run's items.
        where: What is asked for; at least one column.
        items: Those to look among; None: the catalog.
        new: Items that the catalog lacks, or holds with another text: it is the new one that
            counts.

    Raises:
        DataError: If it is no mapping of columns to values, there is no such column, or no item
            matches.
    """
    if not isinstance(where, Mapping) or not where:
        raise DataError(f"where: {where!r} is no mapping such as {_SUCH}")
    wanted = {str(column): _values(str(column), value) for column, value in where.items()}
    for column in wanted:
        if column not in catalog.columns:
            there = like(column, catalog.columns) or f", but {', '.join(catalog.columns)}"
            raise DataError(f"where: the run's items have no field {column!r}{there}")
    outside = list(new if items is None else items)
    texts = [dict(item.fields) for item in outside]
    own = pl.DataFrame(
        {column: [text.get(column) for text in texts] for column in wanted},
        dict.fromkeys(wanted, pl.String),
    )
    found = [outside[row] for row in _rows(own, wanted)]
    if items is None:
        replaced = {item.id for item in outside}
        inside = map(catalog.at, _rows(catalog.frame, wanted))
        found = [*(item for item in inside if item.id not in replaced), *found]
    if not found:
        raise DataError(_none(catalog, wanted))
    return tuple(found)


def _values(column: str, given: Any) -> list[str]:
    """What is asked for in a column, as texts."""
    several = isinstance(given, Iterable) and not isinstance(given, str | bytes | Mapping)
    values = list(given) if several else [given]
    if not values:
        raise DataError(f"where: {column} has no value; give one, or leave {column} out")
    for value in values:
        if isinstance(value, bool) or not isinstance(value, str | Real):
            raise DataError(
                f"where: {column} = {value!r} is neither text nor a number; write such as {_SUCH}"
            )
    return [cell_text(value) for value in values]


def _rows(frame: pl.DataFrame, wanted: Mapping[str, Sequence[str]]) -> list[int]:
    """The rows that match."""
    kept = frame.select(pl.all_horizontal(_has(*one) for one in wanted.items())).to_series()
    rows: list[int] = np.flatnonzero(kept.to_numpy()).tolist()
    return rows


def _has(column: str, values: Sequence[str]) -> pl.Expr:
    text = pl.col(column).str.strip_chars().str.to_lowercase()
    parts = text.str.replace_all(_BETWEEN, "|").str.split("|")
    asked = pl.Series([value.strip() for value in values], dtype=pl.String).str.to_lowercase()
    one = parts.list.set_intersection(pl.lit(asked.implode())).list.len() > 0
    return (text.is_in(asked.implode()) | one).fill_null(False)


def _none(catalog: Catalog, wanted: Mapping[str, Sequence[str]]) -> str:
    """Says that nothing matches, and what there is."""
    said = " and ".join(
        f"{column} = {' or '.join(map(repr, values))}" for column, values in wanted.items()
    )
    column = next(iter(wanted))
    parts = catalog.frame[column].drop_nulls().str.replace_all(_BETWEEN, "|").str.split("|")
    usual = parts.explode().value_counts(sort=True)[column].head(5).to_list()
    return f"where: no item has {said}; {column} is, say, {', '.join(map(repr, usual))}"
