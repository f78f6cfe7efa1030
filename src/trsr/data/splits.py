"""Chooses the targets of each split, and the interactions that a ranker may be fitted on.

Whatever the rule, an interaction for fitting comes before each held-out target of its user. With
`global_time` it also comes before the cut; with `rows` its user is a training user.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import polars as pl

from trsr.data.records import SPLITS, Floats, Ints, Mask, Records
from trsr.data.report import RowCounts
from trsr.data.settings import DataSettings
from trsr.errors import DataError
from trsr.settings import derive_seed


@dataclass(frozen=True, slots=True)
class Targets:
    """Positions in the records' columns.

    Attributes:
        of: split → the targets' positions, rising.
        fit: [n] whether an interaction may be fitted on.
    """

    of: dict[str, Ints]
    fit: Mask


def split_targets(
    records: Records, settings: DataSettings, seed: int, row_counts: RowCounts
) -> Targets:
    """Splits by the settings' rule, leaves out short histories, samples to the settings' limits.

    Raises:
        DataError: If the rule needs what the data does not have, or no case is left.
    """
    targets = _RULES[settings.split](records, settings, seed, row_counts)
    long_enough = {}
    for split, positions in targets.of.items():
        enough = records.before(positions) >= settings.min_history
        row_counts.add(f"short_{split}", int((~enough).sum()))
        long_enough[split] = positions[enough]
    if not any(len(positions) for positions in long_enough.values()):
        raise row_counts.error(
            f"no case is left: every history is shorter than data.min_history = "
            f"{settings.min_history}"
        )
    limited = {
        split: _limited(records, positions, split, settings, seed)
        for split, positions in long_enough.items()
    }
    return Targets(limited, targets.fit)


def _limited(
    records: Records, positions: Ints, split: str, settings: DataSettings, seed: int
) -> Ints:
    """As many training users, or validation or test cases, as the settings allow."""
    limit = settings.limit(split)
    if not limit:
        return positions
    users = records.user[positions]
    purpose = "users" if settings.same_users else split
    if split == "train":
        all_users = np.unique(users)
        kept = all_users[sample(records.users.gather(all_users), limit, seed, "cases", purpose)]
        return positions[np.isin(users, kept)]
    names = records.users.gather(users)
    if not settings.same_users:
        places = pl.DataFrame({"user": names, "n": records.place(positions)})
        names = places.select(pl.format("{}/{}", "user", "n")).to_series()
    return positions[sample(names, limit, seed, "cases", purpose)]


def sample(names: pl.Series, count: int, seed: int, *purpose: str) -> Ints:
    """The places, rising, of the `count` names with the lowest derived numbers.

    So neither the order of the names nor the other names change a name's number.
    """
    if len(names) <= count:
        return np.arange(len(names))
    return np.sort(shuffle(names, seed, *purpose)[:count])


def shuffle(names: pl.Series, seed: int, *purpose: str) -> Ints:
    """The places of the names in the order of their derived numbers."""
    numbers = np.fromiter((derive_seed(seed, *purpose, name) for name in names), dtype=np.uint64)
    return np.argsort(numbers, kind="stable")


def _training_targets(records: Records, ends: Ints, settings: DataSettings) -> Ints:
    """Each user's last `targets_per_user` interactions before `ends` [users]: first, the last."""
    earliest = records.starts[:-1] + settings.min_history
    last = ends - 1
    found = [last[last >= records.starts[:-1]]]
    for earlier in range(1, settings.targets_per_user):
        positions = last - earlier
        found.append(positions[positions >= earliest])
    return np.sort(np.concatenate(found))


def _history_ends(records: Records, positions: Ints) -> Ints:
    """The positions where the histories of targets end."""
    return records.starts[records.user[positions]] + records.before(positions)


def _up_to(records: Records, ends: Ints) -> Mask:
    """[n] whether an interaction stands before the position `ends` [users] of its user."""
    before = ends - records.starts[:-1]
    runs = np.stack([before, records.lengths - before], axis=1).ravel()
    return np.repeat(np.tile(np.array([True, False]), len(ends)), runs)


def _leave_last_out(
    records: Records, settings: DataSettings, seed: int, row_counts: RowCounts
) -> Targets:
    starts, ends = records.starts[:-1], records.starts[1:]
    filled = starts < ends
    test = np.maximum(ends - 1, 0)  # an empty first user has none
    valid = _history_ends(records, test) - 1
    has_test = filled & (records.before(test) >= settings.min_history)
    has_valid = filled & (valid >= starts) & (records.before(valid) >= settings.min_history)
    # Users too short for a query are still worth fitting on.
    held_out = np.where(has_valid, valid, test)
    fit_end = np.where(has_valid | has_test, _history_ends(records, held_out), ends)
    return Targets(
        {
            "train": _training_targets(records, fit_end, settings),
            "valid": valid[filled & (valid >= starts)],
            "test": test[filled & (test >= starts)],
        },
        _up_to(records, fit_end),
    )


def _global_time(
    records: Records, settings: DataSettings, seed: int, row_counts: RowCounts
) -> Targets:
    """Two moments cut time; a user's first interaction in a window is that window's case.

    So a history is what was known when the window opened. Interactions at a cut's very moment
    come after it.
    """
    if not records.timed:
        raise DataError("data.split = global_time needs times: set data.columns.time")
    window = time_windows(records.time, settings)
    training = window == 0
    ends = records.starts[:-1] + np.bincount(records.user[training], minlength=len(records.users))
    firsts = {}
    for number, split in ((1, "valid"), (2, "test")):
        positions = np.flatnonzero(window == number)
        _, first = np.unique(records.user[positions], return_index=True)
        firsts[split] = positions[first]
    return Targets({"train": _training_targets(records, ends, settings), **firsts}, training)


def time_windows(times: Floats, settings: DataSettings) -> Ints:
    """[n] the index into `SPLITS` of each time, by the settings' shares.

    Raises:
        DataError: If nothing is left for training.
    """
    held_out = settings.valid_share + settings.test_share
    if held_out >= 1:
        raise DataError("data.valid_share and data.test_share leave no time for training")
    if not len(times):
        return np.zeros(0, dtype=np.int64)
    ordered = np.sort(times)
    cuts = [ordered[int(len(times) * (1 - share))] for share in (held_out, settings.test_share)]
    return np.searchsorted(np.array(cuts), times, side="right")


def _rows(records: Records, settings: DataSettings, seed: int, row_counts: RowCounts) -> Targets:
    """Each user in one split, its last item the target (the paper's protocol)."""
    able = records.lengths > settings.min_history
    row_counts.add("short_users", int((records.lengths > 0).sum() - able.sum()))
    splits = user_splits(records, able, settings, seed, row_counts)
    ends = records.starts[1:]
    train_ends = np.where(splits == 0, ends, records.starts[:-1])
    return Targets(
        {
            "train": _training_targets(records, train_ends, settings),
            "valid": ends[splits == 1] - 1,
            "test": ends[splits == 2] - 1,
        },
        splits[records.user] == 0,
    )


def user_splits(
    records: Records, able: Mask, settings: DataSettings, seed: int, row_counts: RowCounts
) -> Ints:
    """[users] the split that each user is sampled for, as an index into `SPLITS`; -1: none."""
    users = np.flatnonzero(able)
    sizes = _sizes(len(users), settings, row_counts)
    order = shuffle(records.users.gather(users), seed, "rows")
    splits = np.full(len(records.users), -1, dtype=np.int64)
    begin = 0
    for split in ("test", "valid", "train"):
        splits[users[order[begin : begin + sizes[split]]]] = SPLITS.index(split)
        begin += sizes[split]
    row_counts.add("not_drawn", len(users) - begin)
    return splits


def _sizes(users: int, settings: DataSettings, row_counts: RowCounts) -> dict[str, int]:
    """Users of each split: as set, else by share; all fewer where there are too few users."""
    valid = settings.valid_cases or int(users * settings.valid_share)
    test = settings.test_cases or max(1, int(users * settings.test_share))
    train = settings.train_users or max(users - valid - test, 0)
    wanted = train + valid + test
    if wanted > users and users:
        row_counts.warn(
            f"split = rows: the settings want {train} + {valid} + {test} users, and {users} have a "
            "long enough history: each split is made smaller in proportion"
        )
        valid, test = valid * users // wanted, max(1, test * users // wanted)
        train = users - valid - test
    return {"train": train, "valid": valid, "test": test}


def _given(records: Records, settings: DataSettings, seed: int, row_counts: RowCounts) -> Targets:
    """A column says the split; a user can have many validation and test targets."""
    if records.split is None:
        raise DataError("data.split = given needs a column of splits: set data.columns.split")
    held_out = np.where(records.split > 0, np.arange(len(records)), len(records))
    filled = records.starts[:-1] < records.starts[1:]
    ends = records.starts[1:].copy()
    first_held_out = np.minimum.reduceat(held_out, records.starts[:-1][filled])
    ends[filled] = np.minimum(ends[filled], first_held_out)
    fit = _up_to(records, ends)
    row_counts.add("late_train", int(((records.split == 0) & ~fit).sum()))
    return Targets(
        {
            "train": _training_targets(records, ends, settings),
            "valid": np.flatnonzero(records.split == 1),
            "test": np.flatnonzero(records.split == 2),
        },
        fit,
    )


_RULES: dict[str, Callable[[Records, DataSettings, int, RowCounts], Targets]] = {
    "leave_last_out": _leave_last_out,
    "global_time": _global_time,
    "rows": _rows,
    "given": _given,
}
