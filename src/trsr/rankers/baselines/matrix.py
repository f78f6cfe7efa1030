"""Who met which item, as a sparse matrix."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl

from trsr.data import Catalog
from trsr.rankers.batch import Floats, Ints, QueryBatch
from trsr.registry import optional

POPULARITY = (1e-3, 0.0, 1e-2, 1e-1, 1.0)
POPULARITY_IS = (
    "candidates for the weight of a candidate's own popularity, from 0 to 1, beside the sum; a "
    "small one orders what shares no user with the history"
)


class InteractionMatrix:
    """Binary: a user who met an item twice met it.

    Args:
        interactions: Columns `user` and `item` (str).
        catalog: All items.
        ranker: Who needs it, for the message where scipy is missing.

    Attributes:
        users_of: [rows, users] compressed sparse rows of ones, a row for each item that was met,
            sorted by id.
        counts: [rows] how many users met each item.
        popularity_share: [rows] log(1 + count) / log(1 + the largest count), from 0 to 1.
        rows: [catalog] an item's row; −1 where nobody met it.

    Raises:
        ConfigError: If scipy is not installed.
    """

    def __init__(self, interactions: pl.DataFrame, catalog: Catalog, ranker: str) -> None:
        sparse = optional("scipy.sparse", "baselines", f"the ranker {ranker}")
        pairs = interactions.select("user", "item").unique()
        items = pairs.select("item").unique().sort("item").with_row_index("row")
        users = pairs.select("user").unique().sort("user").with_row_index("column")
        placed = pairs.join(items, on="item").join(users, on="user")
        rows, columns = placed["row"].to_numpy(), placed["column"].to_numpy()
        shape = (len(items), len(users))
        self.users_of: Any = sparse.csr_array((np.ones(len(placed)), (rows, columns)), shape=shape)
        self.counts: Floats = np.bincount(rows, minlength=len(items)).astype(float)
        most = self.counts.max(initial=0.0)
        self.popularity_share: Floats = np.log1p(self.counts) / (np.log1p(most) if most else 1.0)
        row_of = dict(zip(items["item"], items["row"], strict=True))
        self.rows: Ints = np.array([row_of.get(item, -1) for item in catalog.ids], np.int64)


def known_histories(batch: QueryBatch, rows: Ints) -> tuple[Ints, Ints, Ints]:
    """The items of histories that a ranker knows.

    Args:
        batch: The queries.
        rows: [catalog] an item's row; −1 where it is not known.

    Returns:
        The query, the row and the age of each, oldest first; the latest item's age is 0.
    """
    found = batch.extended(rows, -1)[batch.histories.values]
    known = found >= 0
    ends = np.repeat(batch.histories.starts[1:], batch.histories.lengths)
    age = ends - 1 - np.arange(len(found))
    return batch.histories.rows[known], found[known], age[known]
