"""Reads MIND as Microsoft publishes it: `behaviors.tsv` and `news.tsv`, without headers.

Format: https://github.com/msnews/msnews.github.io/blob/master/assets/doc/introduction.md
"""

from __future__ import annotations

from pathlib import Path

import polars as pl

from trsr.data import inputs
from trsr.data.delimited import Dialect, delimited
from trsr.data.readers.base import Source
from trsr.data.settings import DataSettings
from trsr.errors import DataError

_DIALECT = Dialect("\t", quoted=False)
_NEWS = ("id", "category", "subcategory", "title", "abstract")


class MindReader:
    """A folder with both files (`items` may name another one), or their paths."""

    def read(self, settings: DataSettings) -> Source:
        """Opens both files; see `Reader.read`.

        With `candidates = uniform` a user's interactions are its history field, one line a user,
        the longest where it has several (the paper's protocol, in which the last item of the
        history is the target and impressions are not used). With `candidates = given` each line's
        impressions are a list of candidates after that history, the clicked ones relevant.
        """
        path = inputs.in_folder(settings.interactions, "behaviors.tsv", "interactions")
        items_path = inputs.in_folder(settings.items or settings.interactions, "news.tsv", "items")
        behaviors = _columns(path, 5, settings.encoding)
        lines = behaviors.frame.select(
            impression=pl.col("1").cast(pl.Int64, strict=False),
            user="2",
            time="3",
            item=pl.col("4").str.extract_all(r"\S+"),
            shown="5",
        )
        histories = (
            lines.sort(pl.col("item").list.len(), -pl.col("impression"), descending=True)
            .unique("user", keep="first", maintain_order=True)
            .select("user", "item")
        )
        unmarked = (
            pl.col("shown")
            .str.extract_all(r"\S+")
            .list.eval(~pl.element().str.contains(r"\S-[01]$"))
        )
        with inputs.located(path, settings.encoding):
            lines_read, users, bare = (
                frame.item()
                for frame in pl.collect_all(
                    [
                        *(lines.select(pl.len()), histories.select(pl.len())),
                        lines.select(unmarked.list.sum().sum()),
                    ]
                )
            )
        given = settings.candidates == "given"
        counts = {"impressions_unmarked": bare or 0} if given else {}
        news = _columns(items_path, 5, settings.encoding)
        return Source(
            interactions=histories.explode("item", empty_as_null=True),
            items=news.frame.select(pl.col(str(n)).alias(name) for n, name in enumerate(_NEWS, 1)),
            interactions_path=path,
            items_path=items_path,
            impressions=_impressions(lines) if given else None,
            counts={"other_rows_of_user": 0 if given else lines_read - users} | counts,
            encoding=settings.encoding,
            warnings=behaviors.notes + news.notes,
        )


def _impressions(lines: pl.LazyFrame) -> pl.LazyFrame:
    """What was shown, `N1-0 N2-1 …`, as candidates and the clicked ones of them."""
    shown = pl.col("shown").str.extract_all(r"\S+")
    one = pl.element()
    known = one.filter(one.str.contains(r"\S-[01]$")).str.head(-2)
    clicked = one.filter(one.str.contains(r"\S-1$")).str.head(-2)
    return lines.select(
        "user", "time", candidates=shown.list.eval(known), relevant=shown.list.eval(clicked)
    )


def _columns(path: Path, least: int, encoding: str) -> inputs.Table:
    table = delimited(path, dialect=_DIALECT, header=False, encoding=encoding)
    width = len(table.names)
    if width < least:
        raise DataError(
            f"{path}, line 1: {width} fields separated by tabs, MIND has at least {least}"
        )
    return table
