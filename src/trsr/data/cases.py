"""Writes cases as columns: query id, user, history, candidates and answer."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import polars as pl

from trsr.data.negatives import Keys, Seen, Weights, excluded_items, negatives, shuffled
from trsr.data.records import Ints, Mask, Records, spans
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

SEEN = "seen"
"""One more column where the candidates are the whole catalog, and their list is empty: what the
user has seen before the target, also what `max_history` leaves out of the history, and what of the
user may be fitted on. These are no candidates."""

FULL_SCHEMA = pl.Schema([*SCHEMA.items(), (SEEN, pl.List(pl.String()))])
"""The columns where the candidates are the whole catalog."""

FULL_FORMAT = 3
"""Counted up when these columns become others, so that data prepared before is prepared again."""

CHUNK = 100_000
"""Cases made at a time: bounds the memory."""


@dataclass(frozen=True, slots=True)
class PlannedCases:
    """The cases of one split, before any is made.

    Attributes:
        make: Yields them in frames of `SCHEMA` or `FULL_SCHEMA`.
        lengths: Gives [cases] the interactions of each history, and makes none; it raises what
            `make` would.
    """

    make: Callable[[], Iterator[pl.DataFrame]]
    lengths: Callable[[], Ints]


def query_keys(queries: pl.Series, seed: int) -> Keys:
    """A key a query for all that is drawn for it."""
    keys = (derive_seed(seed, "candidates", query) for query in queries)
    return np.fromiter(keys, dtype=np.uint64, count=len(queries))


def history_begins(starts: Ints, ends: Ints, limit: int, step: int = 1) -> Ints:
    """Where the kept part of each history begins.

    Args:
        starts: [cases] positions of the users' first interactions.
        ends: [cases] positions after the histories' last ones.
        limit: The latest interactions kept; 0: all.
        step: A longer history loses so many at a time, counted from the user's first: successive
            targets then have histories that begin alike, and share the summaries of their blocks.
    """
    if not limit:
        return starts
    kept = (limit - step + 1) // step * step
    begins: Ints = starts + np.maximum((ends - starts) // step * step - kept, 0)
    return begins


def history_lengths(records: Records, positions: Ints, limit: int, step: int = 1) -> Ints:
    """[cases] the interactions that `history_columns` gives of the history before each position."""
    starts = records.starts[records.user[positions]]
    ends = starts + records.before(positions)
    return ends - history_begins(starts, ends, limit, step)


def history_columns(
    records: Records, users: Ints, ends: Ints, limit: int, step: int = 1
) -> list[pl.Series]:
    """`items` and `times` of each user's interactions before `ends`; of these the latest `limit`.

    `step` is that of `history_begins`; `limit` 0: all.
    """
    row, flat = spans(history_begins(records.starts[users], ends, limit, step), ends)
    columns = {
        "row": pl.Series(row).set_sorted(),
        "items": records.items.gather(records.item[flat]),
        "times": records.time[flat],
    }
    grouped = pl.DataFrame(columns).group_by("row", maintain_order=True)
    return grouped.agg("items", "times").drop("row").get_columns()


def sampled_cases(
    records: Records,
    positions: Ints,
    split: str,
    *,
    max_history: int,
    history_step: int = 1,
    n: int,
    seed: int,
    weights: Weights | None = None,
) -> Iterator[pl.DataFrame]:
    """Cases whose negatives are drawn from the catalog, in frames of at most `CHUNK`.

    Histories are cut as `history_columns` cuts them; without weights all items are as likely.
    """
    for chunk in _chunks(positions):
        users, targets, seen = _seen_by(records, chunk)
        query = _query_columns(records, chunk, split, max_history, history_step)
        keys = query_keys(query["query"], seed)
        drawn = negatives(keys, users, targets, seen, n, weights)
        rows = shuffled(keys, np.hstack([targets[:, None], drawn]))
        texts = records.items.gather(rows.ravel())
        lists = texts.reshape(rows.shape).cast(pl.List(pl.String)).alias("candidates")
        yield _frame(query, lists, records.items.gather(targets))


def check_negatives(records: Records, positions: Ints, n: int) -> None:
    """Checks that `sampled_cases` finds its negatives, without drawing any.

    Raises:
        DataError: If the catalog has too few items that a user has not seen.
    """
    for chunk in _chunks(positions):
        excluded_items(*_seen_by(records, chunk), n)


def _seen_by(records: Records, chunk: Ints) -> tuple[Ints, Ints, Seen]:
    """[cases] users as `Seen` numbers them, [cases] targets, and what these users have seen."""
    user, targets = records.user[chunk], records.item[chunk].astype(np.int64)
    new = np.diff(user, prepend=user[:1] + 1) != 0
    return np.cumsum(new) - 1, targets, Seen.of(records, user[new])


def full_catalog_cases(
    records: Records,
    positions: Ints,
    fit: Mask,
    split: str,
    *,
    max_history: int,
    history_step: int = 1,
) -> Iterator[pl.DataFrame]:
    """Cases whose candidates are the whole catalog except `SEEN`, in frames of `CHUNK`.

    Their lists of candidates are empty on disk: they would take users × catalog. The targets must
    be new to their users (`new_targets`); `fit` [n] says whether an interaction may be fitted on;
    for the other arguments see `sampled_cases`.
    """
    for chunk in _chunks(positions):
        query = _query_columns(records, chunk, split, max_history, history_step)
        empty = pl.Series("candidates", [[]], dtype=pl.List(pl.String))
        lists = empty.new_from_index(0, len(chunk))
        frame = _frame(query, lists, records.items.gather(records.item[chunk]))
        yield frame.with_columns(_seen(records, chunk, fit))


def _seen(records: Records, chunk: Ints, fit: Mask) -> pl.Series:
    """The items seen before each position, or fitted on; each once."""
    users = records.user[chunk]
    row, flat = spans(records.starts[users], records.starts[users + 1])
    seen = (flat < chunk[row]) | (fit[flat] & (records.item[flat] != records.item[chunk[row]]))
    columns = {"row": row[seen], SEEN: records.items.gather(records.item[flat[seen]])}
    pairs = pl.DataFrame(columns).unique(maintain_order=True)
    return pairs.group_by("row", maintain_order=True).agg(SEEN)[SEEN]


def new_targets(records: Records, positions: Ints) -> Ints:
    """The positions whose item the user has not seen before."""
    return positions[records.first_times()[positions]]


def _chunks(positions: Ints) -> Iterator[Ints]:
    for start in range(0, len(positions), CHUNK):
        yield positions[start : start + CHUNK]


def _query_columns(
    records: Records, chunk: Ints, split: str, max_history: int, history_step: int
) -> pl.DataFrame:
    """The first four columns of `SCHEMA`; a query's id is `split/user/n` after n interactions."""
    users = records.user[chunk].astype(np.int64)
    ends = records.starts[users] + records.before(chunk)
    names = pl.DataFrame({"user": records.users.gather(users), "n": records.place(chunk)})
    queries = names.select(pl.format("{}/{}/{}", pl.lit(split), "user", "n").alias("query"), "user")
    return queries.with_columns(history_columns(records, users, ends, max_history, history_step))


def _frame(query: pl.DataFrame, candidates: pl.Series, targets: pl.Series) -> pl.DataFrame:
    relevant = targets.reshape((-1, 1)).cast(pl.List(pl.String)).alias("relevant")
    return pl.DataFrame([*query.get_columns(), candidates, relevant], schema=SCHEMA)
