"""Guesses which of the items' columns are worth reading, and what kind of things the items are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from trsr.data.readers.base import plain

_ITEMS = 5000
"""Items looked at."""
_LONG = 25
"""Words, in the mean, from which a text is read after the short ones."""

TITLES = (
    *("title", "name", "headline", "movietitle", "producttitle", "productname", "itemname"),
    *("itemtitle", "newstitle", "booktitle", "label", "bezeichnung", "description"),
    "itemdescription",
)
"""Names of columns that hold titles, the surest first."""
_NUMBERS = ("price", "year", "releaseyear")
"""Numbers that describe an item."""
_NOT_TEXT = r"^(https?://|www\.|\{)"

_DOMAINS: dict[str, tuple[frozenset[str], str]] = {
    "films": (
        frozenset({"genre", "genres", "overview", "tagline", "director", "cast", "movietitle"}),
        r"\((19|20)\d\d\)$|^(Action|Adventure|Animation|Comedy|Crime|Documentary|Drama|Fantasy|"
        r"Horror|Musical|Romance|Sci-Fi|Thriller|Western)\b",
    ),
    "products": (
        frozenset({"brand", "price", "asin", "parentasin", "sku", "color", "material", "store"}),
        r"(?i)\b(pack of|inch|inches|oz|lbs?|\d+ ?(mm|cm|ml|pcs|count|pack)|stainless|warranty)\b",
    ),
    "news": (
        frozenset({"abstract", "headline", "newsid", "publisher", "subcategory", "lead", "byline"}),
        r"(?i)^(news|sports|finance|lifestyle|politics|weather|health|travel|business)$",
    ),
}
"""Domain → the names of columns and the values that point to it."""
_FILE_WORDS = {
    "films": ("movie", "film"),
    "products": ("product", "goods", "shop", "retail", "order", "purchase"),
    "news": ("news", "article"),
}


@dataclass(frozen=True, slots=True)
class _Text:
    """What one text column looks like."""

    name: str
    filled: float
    words: float
    distinct: float
    links: float
    numbers: float
    digits: float


def text_fields(items: pl.DataFrame, reasons: list[str]) -> tuple[str, ...]:
    """The columns worth reading: a title, then short ones in their order, then long ones.

    Left out: links, vectors, nearly empty or constant columns, codes, and numbers other than a
    price or a year.

    Args:
        items: Of `catalog`.
        reasons: A sentence is added.
    """
    texts = [
        _profile(column) for column in items.head(_ITEMS).iter_columns() if column.name != "id"
    ]
    worth = [text for text in texts if _worth_reading(text)]
    if not worth:
        reasons.append("fields: no column looks like a text; all are read")
        return ()
    title = next((t for name in TITLES for t in worth if plain(t.name) == name), None) or max(
        worth, key=lambda t: (1 < t.words <= _LONG) * t.distinct
    )
    rest = [text for text in worth if text is not title]
    short = [text for text in rest if text.words <= _LONG]
    long = sorted((text for text in rest if text.words > _LONG), key=lambda text: text.words)
    left_out = [text.name for text in texts if text not in worth]
    reasons.append(
        f"fields: {title.name!r} looks like the title ({title.words:.0f} words)"
        + (f"; left out: {', '.join(left_out)}" if left_out else "")
    )
    return tuple(text.name for text in (title, *short, *long))


def _profile(column: pl.Series) -> _Text:
    values = column.drop_nulls()
    some = max(len(values), 1)
    return _Text(
        name=column.name,
        filled=len(values) / max(len(column), 1),
        words=float(str(values.str.count_matches(r"\S+").mean() or 0)),
        distinct=values.n_unique() / some,
        links=float(values.str.contains(_NOT_TEXT).sum()) / some,
        numbers=float(values.str.contains(r"^[-+$€£]?\s?\d[\d.,]*$").sum()) / some,
        digits=float(values.str.contains(r"\d").sum()) / some,
    )


def _worth_reading(text: _Text) -> bool:
    if text.filled < 0.01 or text.links > 0.5 or text.distinct * text.filled == 0:
        return False
    if text.numbers > 0.9:
        return plain(text.name) in _NUMBERS
    code = text.words < 1.1 and text.distinct > 0.8 and text.digits > 0.5
    return not code


def domain_of(
    items: pl.DataFrame, fields: Sequence[str], paths: Sequence[Path], reasons: list[str]
) -> str:
    """`films`, `products` or `news` by columns, values or file names, else `generic`."""
    some = items.head(_ITEMS)
    scores: dict[str, float] = {}
    for domain, (columns, pattern) in _DOMAINS.items():
        named = sum(plain(name) in columns for name in items.columns)
        shares = [
            float(str(some[name].drop_nulls().str.contains(pattern).mean() or 0)) for name in fields
        ]
        filed = any(word in path.stem.lower() for word in _FILE_WORDS[domain] for path in paths)
        scores[domain] = named + 3 * max(shares, default=0.0) + filed
    best = max(scores, key=lambda domain: scores[domain])
    if scores[best] < 1:
        reasons.append("domain: generic: neither columns nor texts show what the items are")
        return "generic"
    reasons.append(f"domain: {best}: by the items' columns and texts")
    return best
