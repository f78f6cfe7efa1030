"""The users' histories that a run holds, for the service to begin with."""

from __future__ import annotations

from collections.abc import Iterator

import polars as pl

from trsr.data import Dataset

History = tuple[str, list[str], list[float]]
"""A user, the items, their times; oldest first."""


def run_histories(dataset: Dataset, users: int) -> Iterator[list[History]]:
    """Each user's history, as `Dataset.history` gives it, some users at a time.

    Args:
        dataset: The run's data.
        users: How many users a batch holds.
    """
    known = pl.DataFrame(schema={"user": pl.String})
    for split in ("test", "valid", "train"):
        last = dataset.cases(split).frame.unique("user", keep="last", maintain_order=True)
        last = last.join(known, on="user", how="anti")
        known = pl.concat([known, last.select("user")])
        for frame in last.select("user", "items", "times", "relevant").iter_slices(users):
            # of what was clicked then a case keeps no time of its own
            yield [
                (user, items + sorted(clicked), times + [times[-1]] * len(clicked))
                for user, items, times, clicked in frame.iter_rows()
            ]
    rest = dataset.interactions.join(known, on="user", how="anti")
    grouped = rest.group_by("user", maintain_order=True).agg("item", "time")
    for frame in grouped.iter_slices(users):
        yield list(frame.iter_rows())
