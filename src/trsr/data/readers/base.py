"""What a reader yields, and how it finds the columns that hold users, items and times."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import polars as pl

from trsr.data.ids import to_text
from trsr.data.json_lines import json_value
from trsr.data.settings import DataSettings
from trsr.errors import DataError
from trsr.registry import like

_ITEM = (
    *("item", "itemid", "iid", "movie", "movieid", "filmid", "product", "productid", "asin"),
    *("parentasin", "sku", "news", "newsid", "article", "articleid", "book", "bookid", "isbn"),
    *("business", "businessid", "video", "videoid", "track", "trackid", "song", "songid"),
    *("stockcode", "artikel", "artikelid", "artikelnummer", "artikelnr"),
    *("gmapid", "recipeid", "gameid", "appid", "songid", "postid", "adid", "offerid"),
)
USUAL_NAMES: dict[str, tuple[str, ...]] = {
    "user": (
        *("user", "userid", "uid", "username", "reviewerid", "reviewer", "customer", "customerid"),
        *("kunde", "kundeid", "kundennummer", "kundennr"),
        *("visitorid", "member", "memberid", "session", "sessionid", "client", "clientid"),
        *("account", "accountid", "profileid", "person", "personid", "buyerid", "readerid"),
    ),
    "item": _ITEM,
    "time": (
        *("time", "timestamp", "ts", "date", "datetime", "unixreviewtime", "unixtime", "epoch"),
        *("createdat", "eventtime", "reviewtime", "clicktime", "when", "eventtimestamp"),
        *("invoicedate", "orderdate", "purchasedate", "tdat", "dateadded", "datum", "zeitpunkt"),
    ),
    "rating": ("rating", "ratings", "score", "stars", "overall", "grade"),
    "sequence": (
        *("sequence", "items", "history", "itemids", "previtems", "sessionitems", "itemlist"),
        *("itemsequence", "itemidlist", "clicks", "itemseq"),
    ),
    "event": ("event", "eventtype", "eventname", "action", "behavior", "behaviour", "behaviortype"),
    "quantity": ("quantity", "qty", "menge", "anzahl"),
    "order": (),
    "split": ("split", "splits", "targetsplits", "part", "fold", "subset"),
    "item_id": ("itemid", "id", *_ITEM),
    "candidates": (
        *("candidates", "candidateids", "candidateitems", "candidateitemids", "shown"),
        *("shownitems", "itemsshown", "impression", "impressions", "slate", "displayed"),
    ),
    "clicked": (
        *("taken", "takenitem", "takenitems", "clicked", "clickeditem", "clickeditems", "clicks"),
        *("chosen", "chosenitem", "chosenitems", "selected", "purchased", "bought", "relevant"),
        *("target", "targets", "positive", "positives", "itemid", "item"),
    ),
}
"""Column names, lower case and without signs, by which a column is found."""

_PIECE = r"""'((?:[^'\\]|\\.)*)'|"((?:[^"\\]|\\.)*)"|([^\s,;|\[\](){}'"]+)"""
"""One id in a list that Python or numpy has printed."""


@dataclass(frozen=True, slots=True)
class Source:
    """A data set as a reader found it, as columns and unchecked.

    Attributes:
        interactions: Columns `user` and `item`, and where there is such a thing `time`, `order`,
            `rating`, `event`, `quantity` and `split`; any type, in the file's order.
        items: Column `id`, then whatever describes an item, in the order for people.
        interactions_path: What a message about interactions names.
        items_path: What a message about items names.
        nested: Columns of `items` in whose text lists or objects stand as JSON.
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
    nested: frozenset[str] = frozenset()
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


def find(
    names: Sequence[str], role: str, wanted: str, path: Path, *, usual: bool = True
) -> str | None:
    """The column that plays a role: the one wanted, or the first with a `usual` name.

    Raises:
        DataError: If a wanted column is not there.
    """
    if wanted:
        must_have(names, (wanted,), path, f"data.columns.{role}")
        return wanted
    by_plain = {plain(name): name for name in reversed(names)}
    known = USUAL_NAMES[role] if usual else ()
    return next((by_plain[name] for name in known if name in by_plain), None)


def must_have(names: Sequence[str], wanted: Sequence[str], path: Path, key: str = "") -> None:
    """Checks that columns are there.

    Raises:
        DataError: If one is not there; the message names the columns that are.
    """
    for name in wanted:
        if name not in names:
            setting = f" ({key})" if key else ""
            raise DataError(
                f"{path}: there is no column {name!r}{setting}{like(name, names)}; "
                f"the columns are {', '.join(names)}"
            )


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


def listed(column: pl.Series, path: Path) -> pl.Series:
    """A column of item ids as lists of texts, whether it holds lists or printed ones.

    The elements of a JSON list, and what stands in quotation marks in a list printed by Python or
    numpy, are ids as they stand. Else ids are separated by commas, semicolons, bars or spaces: the
    first of these that most cells hold between ids.

    Raises:
        DataError: If the cells hold no lists of ids.
    """
    if isinstance(column.dtype, pl.List | pl.Array):
        try:
            return column.cast(pl.List(pl.String))
        except pl.exceptions.PolarsError:
            raise DataError(
                f"{path}: column {column.name!r} holds {column.dtype}, and lists of ids are needed"
            ) from None
    text = to_text(column, path).str.strip_chars()
    if text.str.contains(r"^[\[({]").any():
        cells = [None if cell is None else _elements(cell) for cell in text]
        return pl.Series(column.name, cells, dtype=pl.List(pl.String))
    several = text.filter(text.str.contains(r"\S[\s,;|]+\S"))
    shares = {mark: several.str.contains(mark, literal=True).mean() for mark in ",;|"}
    mark = next((mark for mark, share in shares.items() if float(str(share or 0)) > 0.5), " ")
    joined = text.str.replace_all(r"\s+" if mark == " " else rf"\s*{re.escape(mark)}\s*", mark)
    return joined.str.strip_chars(f"{mark} ").str.split(mark)


def _elements(cell: str) -> list[str | None]:
    """The ids of one printed list."""
    if cell.startswith("["):
        try:
            found = json_value(cell, "", of=list)
        except DataError:
            found = [{}]
        if not any(isinstance(one, list | dict) for one in found):
            return [one if one is None else str(one) for one in found]
    groups = re.findall(_PIECE, cell)
    return [re.sub(r"\\(.)", r"\1", one or two) or three for one, two, three in groups]


def exploded(frame: pl.DataFrame, *, path: Path) -> pl.LazyFrame:
    """One row an interaction from one row a user.

    Args:
        frame: `user`, `item` (a list), perhaps `split` (a list: names for the last items of the
            list, or for all) and columns that hold for the whole row.
        path: What a message names.

    Raises:
        DataError: If a list of splits is longer than its list of items.
    """
    if "split" not in frame.columns:
        return frame.lazy().explode("item", empty_as_null=True)
    lengths = pl.col("item").list.len().cast(pl.Int64) - pl.col("split").list.len().cast(pl.Int64)
    longer = frame.filter(lengths < 0)["user"]
    if len(longer):
        raise DataError(
            f"{path}: user {longer[0]}: there are more splits than items; data.columns.split "
            "names the splits of a list's last items"
        )
    padding = pl.lit(None, pl.String).repeat_by(lengths.clip(lower_bound=0))
    padded = frame.lazy().with_columns(split=pl.concat_list(padding, pl.col("split")))
    return padded.explode("item", "split", empty_as_null=True)
