"""A made-up data set of any size: interactions of users with items that have text."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import polars as pl

from trsr.data.settings import Columns, DataSettings
from trsr.settings import derive_seed

Format = Literal["parquet", "csv"]

_NOUNS = (
    *("hinge", "lamp", "valve", "brush", "cable", "mask", "glove", "drill", "bolt", "tape"),
    *("filter", "pump", "ladder", "sensor", "switch", "clamp", "nozzle", "bearing", "gasket"),
)
_KINDS = (
    *("brass", "steel", "copper", "plastic", "ceramic", "rubber", "nylon", "wooden", "sealed"),
    *("small", "large", "heavy", "light", "quiet", "fast", "safe", "plain", "coated", "folding"),
)
_YEARS = 3 * 365 * 86400


def write_events(
    folder: Path, interactions: int, *, seed: int = 0, format: Format = "parquet"
) -> DataSettings:
    """Writes a data set with a tenth as many users, and a tenth as many items, as interactions.

    Users are drawn evenly; items with a probability that falls as 1/rank (Zipf's law); times over
    three years. Each item has a title of four words and a description of twelve.

    Returns:
        The settings that read it.
    """
    draw = np.random.default_rng(derive_seed(seed, "events", str(interactions)))
    users = items = max(interactions // 10, 1)
    ranks = np.minimum(items ** draw.random(interactions), items) - 1
    names = draw.permutation(items)
    frame = pl.DataFrame(
        {
            "user": draw.integers(users, size=interactions),
            "item": names[ranks.astype(np.int64)],
            "time": 1_600_000_000 + draw.integers(_YEARS, size=interactions),
        }
    )
    named = frame.with_columns(
        pl.format("u{}", "user").alias("user"), pl.format("i{}", "item").alias("item")
    )
    catalog = pl.DataFrame({"item": np.arange(items)}).select(
        pl.format("i{}", "item").alias("item"),
        _words(draw, items, 4).alias("title"),
        _words(draw, items, 12).alias("description"),
    )
    paths = folder / f"interactions.{format}", folder / f"items.{format}"
    for path, one in zip(paths, (named, catalog), strict=True):
        one.write_parquet(path) if format == "parquet" else one.write_csv(path)
    columns = Columns(user="user", item="item", time="time", item_id="item")
    return DataSettings(interactions=paths[0], items=paths[1], columns=columns)


def _words(draw: np.random.Generator, rows: int, count: int) -> pl.Series:
    """[rows] texts of `count` words, kinds and nouns in turn."""
    columns = [
        pl.Series(str(place), np.array(words, dtype=object)[_picks(draw, len(words), rows)])
        for place in range(count)
        for words in [_NOUNS if place % 4 == 3 else _KINDS]
    ]
    return pl.DataFrame(columns).select(pl.concat_str(pl.all(), separator=" ")).to_series()


def _picks(draw: np.random.Generator, size: int, rows: int) -> npt.NDArray[np.int64]:
    return draw.integers(size, size=rows)
