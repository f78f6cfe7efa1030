"""What a reader yields, and how it finds the columns that hold users, items and times."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import polars as pl

from trsr.data.settings import DataSettings
from trsr.errors import DataError
from trsr.plugins import like

_ITEM = (
    *("item", "itemid", "iid", "movie", "movieid", "filmid", "product", "productid", "asin"),
    *("parentasin", "sku", "news", "newsid", "article", "articleid", "book", "bookid", "isbn"),
    *("business", "businessid", "video", "videoid", "track", "trackid", "song", "songid"),
    *("gmapid", "recipeid", "gameid", "appid", "songid", "postid", "adid", "offerid"),
)
USUAL_NAMES: dict[str, tuple[str, ...]] = {
    "user": (
        *("user", "userid", "uid", "username", "reviewerid", "reviewer", "customer", "customerid"),
        *("visitorid", "member", "memberid", "session", "sessionid", "client", "clientid"),
        *("account", "accountid", "profileid", "person", "personid", "buyerid", "readerid"),
    ),
    "item": _ITEM,
    "time": (
        *("time", "timestamp", "ts", "date", "datetime", "unixreviewtime", "unixtime", "epoch"),
        *("createdat", "eventtime", "reviewtime", "clicktime", "when", "eventtimestamp"),
    ),
    "rating": ("rating", "ratings", "score", "stars", "overall", "grade"),
    "sequence": (
        *("sequence", "items", "history", "itemids", "previtems", "sessionitems", "itemlist"),
        *("itemsequence", "itemidlist", "clicks", "itemseq"),
    ),
    "split": ("split", "splits", "targetsplits", "part", "fold", "subset"),
    "item_id": ("itemid", "id", *_ITEM),
    "candidates": (
        *(
            "candidates",
            "candidateids",
            "candidateitems",
            "candidateitemids",
            "shown",
            "shownitems",
        ),
        *("itemsshown", "impression", "impressions", "slate", "displayed"),
    ),
    "taken": (
        *("taken", "takenitem", "takenitems", "clicked", "clickeditem", "clickeditems", "clicks"),
        *("chosen", "chosenitem", "chosenitems", "selected", "purchased", "bought", "relevant"),
        *("target", "targets", "positive", "positives", "itemid", "item"),
    ),
}
"""Column names, lower case and without signs, by which a column is found."""

_PIECE = r"""[^\s,;|\[\]{}()'"]+"""
"""One id in a printed list: JSON, Python, numpy, or separated by spaces or commas."""


@dataclass(frozen=True, slots=True)
class Source:
    """A data set as a reader found it, columnar and not yet judged.

    Attributes:
        interactions: Columns `user` and `item`, and where there is such a thing `time`, `rating`
            and `split`; any type, in the file's order.
        items: Column `id`, then whatever describes an item, in the order for people.
        interactions_path: What a message about interactions names.
        items_path: What a message about items names.
        json_lists: Columns of `items` whose text is a JSON list.
        impressions: Given candidate lists: `user`, `candidates` and `relevant` (lists of item
            ids), and perhaps `time`. Where interactions have times, a list's history is what came
            before its time; else all interactions of its user.
        impressions_path: What a message about these lists names; None: they stand with the
            interactions.
        counts: What the reader has already left out, by the names of `report.LABELS`.
        warnings: What people should know about how it was read.
        encoding: Of the text files, for messages.
    """

    interactions: pl.LazyFrame
    items: pl.LazyFrame
    interactions_path: Path
    items_path: Path
    json_lists: frozenset[str] = frozenset()
    impressions: pl.LazyFrame | None = None
    impressions_path: Path | None = None
    counts: Mapping[str, int] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    encoding: str = "utf-8"


class Reader(Protocol):
    """Reads one format."""

    def read(self, settings: DataSettings) -> Source:
        """Opens the files that the settings name; whole files are read only later.

        Raises:
            DataError: If a file or a column is missing or cannot be understood.
        """


def plain(name: str) -> str:
    """A column's name, lower case and without signs: `User_ID` → `userid`."""
    return re.sub(r"[\W_]+", "", name.lower())


def find(names: Sequence[str], role: str, wanted: str, path: Path) -> str | None:
    """The column that plays a role: the one wanted, or the first with a usual name.

    Raises:
        DataError: If a wanted column is not there.
    """
    if wanted:
        if wanted not in names:
            raise DataError(
                f"{path}: there is no column {wanted!r} (data.columns.{role})"
                f"{like(wanted, names)}; the columns are {', '.join(names)}"
            )
        return wanted
    by_plain = {plain(name): name for name in reversed(names)}
    return next((by_plain[usual] for usual in USUAL_NAMES[role] if usual in by_plain), None)


def need(names: Sequence[str], role: str, wanted: str, path: Path) -> str:
    """As `find`, and it must be there.

    Raises:
        DataError: If there is none; the message names the columns there are.
    """
    found = find(names, role, wanted, path)
    if found is None:
        raise DataError(
            f"{path}: which column holds the {role.replace('_', ' ')}? Set data.columns.{role}; "
            f"the columns are {', '.join(names)}"
        )
    return found


def listed(column: str, dtype: pl.DataType) -> pl.Expr:
    """A column of item ids as a list of texts, whether it is a list or a printed one."""
    if isinstance(dtype, pl.List | pl.Array):
        return pl.col(column).cast(pl.List(pl.String))
    return pl.col(column).cast(pl.String).str.extract_all(_PIECE)


def exploded(frame: pl.LazyFrame, *, path: Path) -> pl.LazyFrame:
    """One row an interaction from one row a user.

    Args:
        frame: `user`, `item` (a list), perhaps `split` (a list: names for the last items of the
            list, or for all) and columns that hold for the whole row.
        path: What a message names.

    Raises:
        DataError: If a list of splits is longer than its list of items.
    """
    if "split" not in frame.collect_schema().names():
        return frame.explode("item", empty_as_null=True)
    lengths = pl.col("item").list.len().cast(pl.Int64) - pl.col("split").list.len().cast(pl.Int64)
    longer = frame.filter(lengths < 0).select("user").head(1).collect()
    if len(longer):
        raise DataError(
            f"{path}: user {longer.item()}: there are more splits than items; data.columns.split "
            "names the splits of a list's last items"
        )
    padding = pl.lit(None, pl.String).repeat_by(lengths.clip(lower_bound=0))
    padded = frame.with_columns(split=pl.concat_list(padding, pl.col("split")))
    return padded.explode("item", "split", empty_as_null=True)
