"""Reads Amazon-M2 (KDD Cup 2023) and the Amazon review sets of 2018 and 2023.

Formats: https://arxiv.org/abs/2307.09688 (M2), https://cseweb.ucsd.edu/~jmcauley/datasets/amazon_v2
(2018), https://amazon-reviews-2023.github.io (2023).
"""

from __future__ import annotations

from pathlib import Path

import polars as pl

from trsr.data import inputs
from trsr.data.delimited import Dialect, delimited
from trsr.data.json_lines import json_lines, json_value
from trsr.data.readers.base import Source, must_have
from trsr.data.settings import DataSettings
from trsr.errors import DataError

_ASIN = r"""[^\s,\[\]'"]+"""
_COMMA = Dialect(",", quoted=True)


class AmazonM2Reader:
    """`sessions_train.csv` and `products_train.csv`, or the folder that holds both."""

    def read(self, settings: DataSettings) -> Source:
        """Opens both files; see `Reader.read`.

        A session is a user: its number in the file, from 0, is the user's id. Its items are
        `prev_items`, a list as numpy prints it, then `next_item`. With `locale` only its sessions
        and products are kept.
        """
        path = inputs.in_folder(settings.interactions, "sessions_train.csv", "interactions")
        items_path = inputs.in_folder(
            settings.items or settings.interactions, "products_train.csv", "items"
        )
        encoding = settings.encoding
        tables = [delimited(file, dialect=_COMMA, encoding=encoding) for file in (path, items_path)]
        sessions, products = (table.frame for table in tables)
        must_have(sessions.collect_schema().names(), ("prev_items", "next_item", "locale"), path)
        must_have(products.collect_schema().names(), ("id", "locale", "title"), items_path)
        sessions = sessions.with_row_index("user")
        counts = {}
        if settings.locale:
            counts["other_locale"] = _others(sessions, settings.locale, path, encoding)
            mine = pl.col("locale") == settings.locale
            sessions, products = sessions.filter(mine), products.filter(mine)
        items = pl.concat_list(pl.col("prev_items").str.extract_all(_ASIN), "next_item")
        others = [n for n in products.collect_schema().names() if n not in ("id", "locale")]
        return Source(
            interactions=sessions.select("user", item=items).explode("item", empty_as_null=True),
            items=products.select("id", *others),
            interactions_path=path,
            items_path=items_path,
            counts=counts,
            encoding=encoding,
            warnings=tables[0].notes + tables[1].notes,
        )


def _others(sessions: pl.LazyFrame, locale: str, path: Path, encoding: str) -> int:
    """How many sessions are of another locale.

    Raises:
        DataError: If all are.
    """
    with inputs.located(path, encoding):
        counts = dict(sessions.group_by("locale").len().collect().iter_rows())
    if locale not in counts:
        there = ", ".join(sorted(map(str, counts)))
        raise DataError(f"{path}: there is no session of data.locale = {locale!r}, but of {there}")
    return int(sum(counts.values()) - counts[locale])


class AmazonReviewsReader:
    """A category's reviews and its metadata, JSON Lines as published, gzip or not."""

    def read(self, settings: DataSettings) -> Source:
        """Opens both files and sees by the keys whether they are of 2018 or 2023.

        Times are as published: seconds in 2018, milliseconds in 2023.
        """
        path = inputs.a_file(settings.interactions, "interactions", "the reviews' file")
        items_path = inputs.a_file(settings.items, "items", "the metadata's file")
        encoding = settings.encoding
        known = {key for named in FORMATS for key in named.values()}
        reviews = json_lines(path, encoding=encoding, keys=known)
        keys = reviews.names
        named = next((new for new in FORMATS if set(new.values()) <= set(keys)), None)
        if named is None:
            first = inputs.head(path, encoding, 1)[0]
            keys = list(json_value(first, f"{path}, line 1", of=dict))
            wanted = "; or ".join(", ".join(new.values()) for new in FORMATS)
            raise DataError(
                f"{path}: Amazon reviews have the keys {wanted}; here are {', '.join(keys)}"
            )
        meta = json_lines(items_path, encoding=encoding)
        must_have(meta.names, (named["item"],), items_path)
        texts = [name for name in _META if name in meta.names]
        chosen = [pl.col(named["item"]).alias("id"), *map(pl.col, texts)]
        return Source(
            interactions=reviews.frame.select(
                pl.col(key).alias(role) for role, key in named.items()
            ),
            items=meta.frame.select(chosen),
            interactions_path=path,
            items_path=items_path,
            nested=meta.nested & set(texts),
            encoding=encoding,
            warnings=reviews.notes + meta.notes,
        )


FORMATS = (
    {"user": "user_id", "item": "parent_asin", "rating": "rating", "time": "timestamp"},
    {"user": "reviewerID", "item": "asin", "rating": "overall", "time": "unixReviewTime"},
)
"""The keys of a review, of 2023 and of 2018."""
_META = (
    *("title", "brand", "store", "main_category", "main_cat", "category", "categories", "price"),
    *("feature", "features", "description"),
)
"""What describes a product in either set; links, ranks and pictures are left out."""
