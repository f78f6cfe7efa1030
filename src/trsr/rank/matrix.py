"""Who met which item, as a sparse matrix."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from trsr.plugins import optional
from trsr.types import Item

if TYPE_CHECKING:
    import polars as pl

Rows = npt.NDArray[np.int64]


class InteractionMatrix:
    """Binary: a user who met an item twice met it.

    Args:
        interactions: Columns `user` and `item` (str).
        ranker: Who needs it, for the message where scipy is missing.

    Attributes:
        users_of: [items, users] compressed sparse rows of ones, items sorted by id.
        counts: [items] how many users met each item.
        fame: [items] log(1 + count) / log(1 + the largest count), from 0 to 1.

    Raises:
        ConfigError: If scipy is not installed.
    """

    def __init__(self, interactions: pl.DataFrame, ranker: str) -> None:
        sparse = optional("scipy.sparse", "baselines", f"the ranker {ranker}")
        pairs = interactions.select("user", "item").unique()
        items = pairs.select("item").unique().sort("item").with_row_index("row")
        users = pairs.select("user").unique().sort("user").with_row_index("column")
        placed = pairs.join(items, on="item").join(users, on="user")
        rows, columns = placed["row"].to_numpy(), placed["column"].to_numpy()
        shape = (len(items), len(users))
        self.users_of: Any = sparse.csr_array((np.ones(len(placed)), (rows, columns)), shape=shape)
        self.counts: npt.NDArray[np.float64] = np.bincount(rows, minlength=len(items)).astype(float)
        most = self.counts.max(initial=0.0)
        self.fame = np.log1p(self.counts) / (np.log1p(most) if most else 1.0)
        self._rows = {item: row for row, item in enumerate(items["item"])}

    def __len__(self) -> int:
        return len(self._rows)

    def rows(self, items: Iterable[Item]) -> Rows:
        """The items' rows; −1 for an item that nobody met."""
        return np.array([self._rows.get(item.id, -1) for item in items], dtype=np.int64)
