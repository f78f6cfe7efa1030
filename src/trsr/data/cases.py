"""Writes cases as columns: query id, user, history, candidates and answer."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import polars as pl

from trsr.data.candidates import Keys, Met, negatives, shuffled
from trsr.data.records import Ints, Records
from trsr.settings import derive_seed

SCHEMA = pl.Schema(
    [
        ("query", pl.String()),
        ("user", pl.String()),
        ("items", pl.List(pl.String())),
        ("times", pl.List(pl.Float64())),
        ("candidates", pl.List(pl.String())),
        ("relevant", pl.List(pl.String())),
    ]
)
"""The columns of `cases.*.parquet`; histories are oldest first."""

CHUNK = 100_000
"""Cases made at a time: bounds the memory."""


def query_ids(part: str, users: pl.Series, places: Ints) -> pl.Series:
    """`part/user/n`: n interactions came before the target."""
    frame = pl.DataFrame({"user": users, "n": places})
    return frame.select(pl.format("{}/{}/{}", pl.lit(part), "user", "n")).to_series()


def query_keys(queries: pl.Series, seed: int) -> Keys:
    """A key a query for all that is drawn for it."""
    keys = (derive_seed(seed, "candidates", query) for query in queries)
    return np.fromiter(keys, dtype=np.uint64, count=len(queries))


def histories(records: Records, begins: Ints, ends: Ints) -> pl.DataFrame:
    """`items` and `times` of the interactions from `begins` up to `ends`, a row a pair."""
    lengths = ends - begins
    row = np.repeat(np.arange(len(lengths)), lengths)
    offset = np.arange(len(row)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    flat = begins[row] + offset
    columns = {
        "row": pl.Series(row).set_sorted(),
        "items": records.items.gather(records.item[flat]),
        "times": records.time[flat],
    }
    grouped = pl.DataFrame(columns).group_by("row", maintain_order=True)
    return grouped.agg("items", "times").drop("row")


def history_begins(starts: Ints, ends: Ints, most: int, step: int) -> Ints:
    """Where the kept part of each history begins.

    Args:
        starts: [cases] positions of the users' first interactions.
        ends: [cases] positions after the histories' last ones.
        most: The latest interactions kept; 0: all.
        step: Of longer histories so many are left out at a time, counted from the user's first:
            targets between two multiples of `step` have histories that begin alike, with at most
            `most` interactions and at least as many whole steps as leave room for an open one.
    """
    if not most:
        return starts
    whole = (most - step + 1) // step * step
    begins: Ints = starts + np.maximum((ends - starts) // step * step - whole, 0)
    return begins


def uniform_cases(
    records: Records, positions: Ints, part: str, *, most: int, step: int = 1, n: int, seed: int
) -> Iterator[pl.DataFrame]:
    """Cases whose negatives are drawn from the catalogue, in frames of at most `CHUNK`.

    Args:
        records: All interactions.
        positions: The targets' positions.
        part: train, valid or test.
        most: The latest interactions kept of a history; 0: all.
        step: How many a longer history loses at a time (see `history_begins`).
        n: Negatives a case.
        seed: The run's.
    """
    met = Met.of(records)
    for start in range(0, len(positions), CHUNK):
        chunk = positions[start : start + CHUNK]
        users = records.user[chunk].astype(np.int64)
        targets = records.item[chunk].astype(np.int64)
        begins = history_begins(records.starts[users], chunk, most, step)
        names = records.users.gather(users).alias("user")
        queries = query_ids(part, names, records.place[chunk])
        keys = query_keys(queries, seed)
        drawn = negatives(keys, users, targets, met, n)
        rows = shuffled(keys, np.hstack([targets[:, None], drawn]))
        texts = records.items.gather(rows.ravel())
        yield pl.DataFrame(
            [
                queries.alias("query"),
                names,
                *histories(records, begins, chunk).get_columns(),
                texts.reshape(rows.shape).cast(pl.List(pl.String)).alias("candidates"),
                records.items.gather(targets)
                .reshape((-1, 1))
                .cast(pl.List(pl.String))
                .alias("relevant"),
            ],
            schema=SCHEMA,
        )
