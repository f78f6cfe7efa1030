"""Writes cases as columns: query id, user, history, candidates and answer."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import polars as pl

from trsr.data.negatives import Keys, Met, Weights, negatives, shuffled
from trsr.data.records import Ints, Mask, Records
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

MET = "met"
"""One more column where the candidates are the whole catalog, and their list is empty: what the
user had met before the question, also what `max_history` leaves out of the history, and what of the
user may be fitted on. These are no candidates."""

OPEN_SCHEMA = pl.Schema([*SCHEMA.items(), (MET, pl.List(pl.String()))])
"""The columns where the candidates are the whole catalog."""

OPEN_FORMAT = 2
"""Counted up when these columns become others, so that data prepared before is prepared again."""

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
    row, flat = _flat(begins, ends)
    columns = {
        "row": pl.Series(row).set_sorted(),
        "items": records.items.gather(records.item[flat]),
        "times": records.time[flat],
    }
    grouped = pl.DataFrame(columns).group_by("row", maintain_order=True)
    return grouped.agg("items", "times").drop("row")


def _flat(begins: Ints, ends: Ints) -> tuple[Ints, Ints]:
    """All positions from each begin up to its end, and beside them the pair's number."""
    lengths = ends - begins
    row = np.repeat(np.arange(len(lengths)), lengths)
    offset = np.arange(len(row)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    return row, begins[row] + offset


def history_begins(starts: Ints, ends: Ints, most: int, step: int = 1) -> Ints:
    """Where the kept part of each history begins.

    Args:
        starts: [cases] positions of the users' first interactions.
        ends: [cases] positions after the histories' last ones.
        most: The latest interactions kept; 0: all.
        step: A longer history loses so many at a time, counted from the user's first, so that
            successive targets have histories that begin alike and share their blocks.
    """
    if not most:
        return starts
    whole = (most - step + 1) // step * step
    begins: Ints = starts + np.maximum((ends - starts) // step * step - whole, 0)
    return begins


def sampled_cases(
    records: Records,
    positions: Ints,
    part: str,
    *,
    most: int,
    step: int = 1,
    n: int,
    seed: int,
    weights: Weights | None = None,
) -> Iterator[pl.DataFrame]:
    """Cases whose negatives are drawn from the catalog, in frames of at most `CHUNK`.

    Args:
        records: All interactions.
        positions: The targets' positions.
        part: train, valid or test.
        most: The latest interactions kept of a history; 0: all.
        step: How many a longer history loses at a time (see `history_begins`).
        n: Negatives a case.
        seed: The run's.
        weights: How likely each item is drawn; left out: all alike.
    """
    met = Met.of(records)
    for chunk in _chunks(positions):
        users, targets = _asked(records, chunk)
        told = _told(records, chunk, part, most, step)
        keys = query_keys(told["query"], seed)
        drawn = negatives(keys, users, targets, met, n, weights)
        rows = shuffled(keys, np.hstack([targets[:, None], drawn]))
        texts = records.items.gather(rows.ravel())
        lists = texts.reshape(rows.shape).cast(pl.List(pl.String)).alias("candidates")
        yield _frame(told, lists, records.items.gather(targets))


def open_cases(
    records: Records, positions: Ints, fit: Mask, part: str, *, most: int, step: int = 1
) -> Iterator[pl.DataFrame]:
    """Cases whose candidates are the whole catalog except `MET`, in frames of `CHUNK`.

    Their lists of candidates are empty at rest: what they stand for would be users × catalog.
    The targets must be new to their users (`new_targets`).

    Args:
        records: All interactions.
        positions: The targets' positions.
        fit: [n] whether an interaction may be fitted on.
        part: train, valid or test.
        most: The latest interactions kept of a history; 0: all.
        step: How many a longer history loses at a time (see `history_begins`).
    """
    for chunk in _chunks(positions):
        _, targets = _asked(records, chunk)
        told = _told(records, chunk, part, most, step)
        lists = pl.Series("candidates", [[]], dtype=pl.List(pl.String)).new_from_index(
            0, len(chunk)
        )
        made = _frame(told, lists, records.items.gather(targets))
        yield made.with_columns(_met(records, chunk, fit))


def _met(records: Records, chunk: Ints, fit: Mask) -> pl.Series:
    """The items met before each position, or fitted on; each once."""
    users = records.user[chunk].astype(np.int64)
    begins, ends = records.starts[users], records.starts[users + 1]
    row, flat = _flat(begins, ends)
    seen = (flat < chunk[row]) | (fit[flat] & (records.item[flat] != records.item[chunk[row]]))
    columns = {"row": row[seen], MET: records.items.gather(records.item[flat[seen]])}
    pairs = pl.DataFrame(columns).unique(maintain_order=True)
    return pairs.group_by("row", maintain_order=True).agg(MET)[MET]


def new_targets(records: Records, positions: Ints) -> Ints:
    """The positions whose item the user has not met before."""
    pairs = records.user.astype(np.int64) * len(records.items) + records.item
    first = np.zeros(len(records), dtype=np.bool_)
    first[np.unique(pairs, return_index=True)[1]] = True
    return positions[first[positions]]


def _chunks(positions: Ints) -> Iterator[Ints]:
    for start in range(0, len(positions), CHUNK):
        yield positions[start : start + CHUNK]


def _asked(records: Records, chunk: Ints) -> tuple[Ints, Ints]:
    """The users and the targets at these positions, as codes."""
    return records.user[chunk].astype(np.int64), records.item[chunk].astype(np.int64)


def _told(records: Records, chunk: Ints, part: str, most: int, step: int) -> pl.DataFrame:
    """The first four columns of `SCHEMA`: what is known when the query is asked."""
    users = records.user[chunk].astype(np.int64)
    ends = records.starts[users] + records.before[chunk]
    begins = history_begins(records.starts[users], ends, most, step)
    names = records.users.gather(users).alias("user")
    queries = query_ids(part, names, records.place[chunk]).alias("query")
    return pl.DataFrame([queries, names, *histories(records, begins, ends).get_columns()])


def _frame(told: pl.DataFrame, candidates: pl.Series, targets: pl.Series) -> pl.DataFrame:
    relevant = targets.reshape((-1, 1)).cast(pl.List(pl.String)).alias("relevant")
    return pl.DataFrame([*told.get_columns(), candidates, relevant], schema=SCHEMA)
