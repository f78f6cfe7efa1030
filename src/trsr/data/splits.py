"""Decides which interactions are targets of which part, and which a ranker may be fitted on.

Whatever the split, an interaction for fitting comes before each held-out target of its user; with
`global_time` it also comes before the cut, with `rows` its user is a training user.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import polars as pl

from trsr.data.records import PARTS, Ints, Mask, Records
from trsr.data.report import RowCounts
from trsr.data.settings import DataSettings
from trsr.errors import DataError
from trsr.settings import derive_seed


@dataclass(frozen=True, slots=True)
class Targets:
    """Positions in the records' columns.

    Attributes:
        of: part → the targets' positions, rising.
        fit: [n] whether an interaction may be fitted on.
    """

    of: dict[str, Ints]
    fit: Mask


def split(records: Records, settings: DataSettings, seed: int, row_counts: RowCounts) -> Targets:
    """Splits by the settings' rule, leaves out short histories, draws the numbers asked for.

    Raises:
        DataError: If the rule needs what the data does not have, or no case is left.
    """
    targets = _RULES[settings.split](records, settings, seed, row_counts)
    long_enough = {
        part: _long_enough(records, positions, part, settings.min_history, row_counts)
        for part, positions in targets.of.items()
    }
    if not any(len(positions) for positions in long_enough.values()):
        raise DataError(
            f"no case is left: every history is shorter than data.min_history = "
            f"{settings.min_history}:\n" + "\n".join(row_counts.report().lines())
        )
    drawn = {
        part: _drawn(records, positions, part, settings, seed)
        for part, positions in long_enough.items()
    }
    return Targets(drawn, targets.fit)


def _long_enough(
    records: Records, positions: Ints, part: str, least: int, row_counts: RowCounts
) -> Ints:
    enough = records.before[positions] >= least
    row_counts.add(f"short_{part}", int((~enough).sum()))
    return positions[enough]


def _drawn(records: Records, positions: Ints, part: str, settings: DataSettings, seed: int) -> Ints:
    """At most so many training users, or validation or test cases, drawn by seed."""
    most = settings.most(part)
    if not most:
        return positions
    users = records.user[positions]
    if part == "train":
        chosen = np.unique(users)
        draw = "users" if settings.same_users else part
        kept = chosen[lottery(records.users.gather(chosen), most, seed, "cases", draw)]
        return positions[np.isin(users, kept)]
    names = records.users.gather(users)
    if settings.same_users:
        return positions[lottery(names, most, seed, "cases", "users")]
    places = pl.DataFrame({"user": names, "n": records.place[positions]})
    names = places.select(pl.format("{}/{}", "user", "n")).to_series()
    return positions[lottery(names, most, seed, "cases", part)]


def lottery(names: pl.Series, winners: int, seed: int, *draw: str) -> Ints:
    """The places, rising, of the `winners` names with the lowest derived numbers.

    So neither the order of the names nor the other names change a name's number.
    """
    if len(names) <= winners:
        return np.arange(len(names))
    return np.sort(shuffle(names, seed, *draw)[:winners])


def shuffle(names: pl.Series, seed: int, *draw: str) -> Ints:
    """The places of the names in the order of their derived numbers."""
    tickets = np.fromiter((derive_seed(seed, *draw, name) for name in names), dtype=np.uint64)
    return np.argsort(tickets, kind="stable")


def _training_targets(records: Records, ends: Ints, settings: DataSettings) -> Ints:
    """Each user's last `targets_per_user` interactions before `ends` [users]: first, the last."""
    earliest = records.starts[:-1] + settings.min_history
    last = ends - 1
    found = [last[last >= records.starts[:-1]]]
    for earlier in range(1, settings.targets_per_user):
        positions = last - earlier
        found.append(positions[positions >= earliest])
    return np.sort(np.concatenate(found))


def _moment(records: Records, positions: Ints) -> Ints:
    """The positions where the histories of targets end."""
    return records.starts[records.user[positions]] + records.before[positions]


def _leave_last_out(
    records: Records, settings: DataSettings, seed: int, row_counts: RowCounts
) -> Targets:
    starts, ends = records.starts[:-1], records.starts[1:]
    test = ends - 1
    valid = _moment(records, test) - 1
    has_test = records.before[test] >= settings.min_history
    has_valid = (valid >= starts) & (records.before[valid] >= settings.min_history)
    # Users too short to be asked about are still worth fitting on.
    held = np.where(has_valid, valid, test)
    fit_end = np.where(has_valid | has_test, _moment(records, held), ends)
    return Targets(
        {
            "train": _training_targets(records, fit_end, settings),
            "valid": valid[valid >= starts],
            "test": test[test >= starts],
        },
        np.arange(len(records)) < fit_end[records.user],
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
    held = held_share(settings)
    times = np.sort(records.time)
    cuts = [times[int(len(times) * (1 - share))] for share in (held, settings.test_share)]
    window = np.searchsorted(np.array(cuts), records.time, side="right")
    ends = records.starts[:-1] + np.bincount(
        records.user[window == 0], minlength=len(records.users)
    )
    firsts = {}
    for part, name in ((1, "valid"), (2, "test")):
        positions = np.flatnonzero(window == part)
        _, first = np.unique(records.user[positions], return_index=True)
        firsts[name] = positions[first]
    return Targets(
        {"train": _training_targets(records, ends, settings), **firsts},
        window == 0,
    )


def held_share(settings: DataSettings) -> float:
    """The share of the time that is for validation and test.

    Raises:
        DataError: If nothing is left for training.
    """
    held = settings.valid_share + settings.test_share
    if held >= 1:
        raise DataError("data.valid_share and data.test_share leave no time for training")
    return held


def _rows(records: Records, settings: DataSettings, seed: int, row_counts: RowCounts) -> Targets:
    """Each user in one part, its last item the target (the paper's protocol)."""
    able = records.lengths > settings.min_history
    row_counts.add("short_users", int((records.lengths > 0).sum() - able.sum()))
    parts = user_parts(records, able, settings, seed, row_counts)
    ends = records.starts[1:]
    train_ends = np.where(parts == 0, ends, records.starts[:-1])
    return Targets(
        {
            "train": _training_targets(records, train_ends, settings),
            "valid": ends[parts == 1] - 1,
            "test": ends[parts == 2] - 1,
        },
        parts[records.user] == 0,
    )


def user_parts(
    records: Records, able: Mask, settings: DataSettings, seed: int, row_counts: RowCounts
) -> Ints:
    """[users] the part that each user is drawn for, as an index into `PARTS`, or -1 for none."""
    users = np.flatnonzero(able)
    sizes = _sizes(len(users), settings, row_counts)
    order = shuffle(records.users.gather(users), seed, "rows")
    parts = np.full(len(records.users), -1, dtype=np.int64)
    begin = 0
    for part in ("test", "valid", "train"):
        parts[users[order[begin : begin + sizes[part]]]] = PARTS.index(part)
        begin += sizes[part]
    row_counts.add("not_drawn", len(users) - begin)
    return parts


def _sizes(users: int, settings: DataSettings, row_counts: RowCounts) -> dict[str, int]:
    """Users of each part: as asked; shares where nothing is asked; fewer where there are fewer."""
    valid = settings.valid_cases or int(users * settings.valid_share)
    test = settings.test_cases or max(1, int(users * settings.test_share))
    train = settings.train_users or max(users - valid - test, 0)
    asked = train + valid + test
    if asked > users and users:
        row_counts.warn(
            f"split = rows: {train} + {valid} + {test} users are asked for, {users} have a long "
            "enough history: each part is made smaller in proportion"
        )
        valid, test = valid * users // asked, max(1, test * users // asked)
        train = users - valid - test
    return {"train": train, "valid": valid, "test": test}


def _given(records: Records, settings: DataSettings, seed: int, row_counts: RowCounts) -> Targets:
    """The data says; a user can have many validation and test targets."""
    if records.part is None:
        raise DataError("data.split = given needs a column of parts: set data.columns.split")
    held = np.where(records.part > 0, np.arange(len(records)), len(records))
    filled = records.starts[:-1] < records.starts[1:]
    ends = records.starts[1:].copy()
    first_held = np.minimum.reduceat(held, records.starts[:-1][filled])
    ends[filled] = np.minimum(ends[filled], first_held)
    fit = np.arange(len(records)) < ends[records.user]
    row_counts.add("late_train", int(((records.part == 0) & ~fit).sum()))
    return Targets(
        {
            "train": _training_targets(records, ends, settings),
            "valid": np.flatnonzero(records.part == 1),
            "test": np.flatnonzero(records.part == 2),
        },
        fit,
    )


_RULES: dict[str, Callable[[Records, DataSettings, int, RowCounts], Targets]] = {
    "leave_last_out": _leave_last_out,
    "global_time": _global_time,
    "rows": _rows,
    "given": _given,
}
