"""Makes cases of given candidate lists: what a user was shown, and what of it was clicked."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl

from trsr.data import inputs
from trsr.data.cases import SCHEMA, PlannedCases, history_columns, query_keys
from trsr.data.ids import id_text
from trsr.data.negatives import ORDER, numbers
from trsr.data.readers.base import Source
from trsr.data.records import SPLITS, Floats, Ints, Mask, Records
from trsr.data.report import RowCounts
from trsr.data.settings import DataSettings
from trsr.data.splits import sample, time_windows, user_splits
from trsr.data.times import seconds
from trsr.errors import DataError


def impression_cases(
    records: Records, source: Source, settings: DataSettings, seed: int, row_counts: RowCounts
) -> tuple[Mask, dict[str, PlannedCases]]:
    """What may be fitted on, and each split's cases.

    A list is a case after what its user did before its time; where interactions have no times,
    after all that the user did. `rows` puts each user into one split, `global_time` cuts by the
    lists' times, `leave_last_out` takes a user's last list for test and the one before for
    validation. With times, what may be fitted on comes before the user's first held-out list, and
    with `global_time` before everybody's. A validation or test case has the whole list; a training
    case has one of the clicked items and `train_negatives` of the others. Several lists of a user
    after n interactions have the ids `split/user/n`, `split/user/n#2`, ….

    Raises:
        DataError: If the reader gives no lists, or the split cannot be made of them.
    """
    if source.impressions is None:
        raise DataError(
            f"data.candidates = given: the reader {settings.reader!r} gives no candidate lists; "
            "mind does, and table with data.impressions"
        )
    path = source.impressions_path or source.interactions_path
    with inputs.located(path, source.encoding):
        frame = source.impressions.collect()
        row_counts.add("impressions", len(frame))
        frame = _typed(frame, records, path, settings, row_counts)
    lists = _with_history_ends(frame, records, path, settings, row_counts)
    lists = _coded(lists, records, path, settings, row_counts)
    splits = _splits(lists, records, settings, seed, row_counts)
    lists = lists.with_columns(split=splits).filter(pl.col("split") >= 0)
    cases = {
        split: _made(_cases(lists.filter(split=number), split, records, settings, seed))
        for number, split in enumerate(SPLITS)
    }
    return _fit(lists, records, settings), cases


def _made(cases: pl.DataFrame) -> PlannedCases:
    return PlannedCases(lambda: iter([cases]), lambda: cases["items"].list.len().to_numpy())


def _typed(
    frame: pl.DataFrame, records: Records, path: Path, settings: DataSettings, row_counts: RowCounts
) -> pl.DataFrame:
    """The lists with `user` as text and `time` as float64, those without them left out."""
    if frame.is_empty():
        raise DataError(f"{path}: there is no list in it")
    # without times, sorting keeps the file's order
    time = pl.repeat(0.0, len(frame), eager=True)
    if "time" in frame.columns:
        times = seconds(frame["time"], path, settings.time_format)
        time = times.values
        row_counts.warnings += times.notes
    elif records.timed or settings.split == "global_time":
        why = "the interactions have times" if records.timed else "data.split = global_time"
        raise DataError(
            f"{path}: no column holds the time of a list, and it is needed ({why}); add a column "
            f"{settings.columns.time or 'time'!r}"
        )
    users = id_text(frame["user"], path, settings.encoding)
    frame = frame.with_columns(users.alias("user"), time.alias("time"))
    for name in ("user", "time"):
        frame = _dropped(frame, frame.drop_nulls(name), f"impressions_without_{name}", row_counts)
    if records.timed:
        once = frame.unique(keep="first", maintain_order=True)
        frame = _dropped(frame, once, "impressions_twice", row_counts)
    return frame


def _dropped(
    before: pl.DataFrame, after: pl.DataFrame, count: str, row_counts: RowCounts
) -> pl.DataFrame:
    """The rows that are left, and how many are not counted under a name."""
    row_counts.add(count, len(before) - len(after))
    return after


def _with_history_ends(
    frame: pl.DataFrame, records: Records, path: Path, settings: DataSettings, row_counts: RowCounts
) -> pl.DataFrame:
    """Adds `row` and `end` (where the history ends), `user` as a code; short histories left out."""
    code = frame["user"].cast(pl.Enum(records.users), strict=False).to_physical().cast(pl.UInt32)
    known = frame.with_columns(code.alias("user")).drop_nulls("user")
    known = _dropped(frame, known, "impressions_unknown_user", row_counts)
    if records.timed and len(known):
        _warn_apart(known["time"], records, path, row_counts)
    users = known["user"].to_numpy().astype(np.int64)
    ends = records.starts[users + 1]
    if records.timed:
        ends = _history_ends(records, users, known["time"].to_numpy())
    enough = ends - records.starts[users] >= settings.min_history
    row_counts.add("impressions_short", int((~enough).sum()))
    able = known.with_columns(pl.Series("end", ends)).filter(pl.Series(enough))
    return able.sort("user", "time", maintain_order=True).with_row_index("row")


def _warn_apart(times: pl.Series, records: Records, path: Path, row_counts: RowCounts) -> None:
    """Warns where lists and interactions do not overlap in time, as with two units."""
    first, last = np.min(times.to_numpy()), np.max(times.to_numpy())
    side = "later" if first > records.time.max() else "earlier" if last < records.time.min() else ""
    if side:
        row_counts.warn(
            f"{path}: all lists are {side} than all interactions; make sure that the times of both "
            "files are of one unit (seconds or milliseconds)"
        )


def _history_ends(records: Records, users: Ints, times: Floats) -> Ints:
    """[lists] the position after each user's last interaction before the time beside it."""
    low, high = records.starts[users], records.starts[users + 1].copy()
    while (open_ := low < high).any():  # halves all intervals at once
        middle = (low + high) // 2
        before = open_ & (records.time[np.minimum(middle, len(records) - 1)] < times)
        low = np.where(before, middle + 1, low)
        high = np.where(open_ & ~before, middle, high)
    return low


def _pairs(
    lists: pl.DataFrame, name: str, records: Records, path: Path, row_counts: RowCounts
) -> pl.DataFrame:
    """One row an item of a list: `row`, `text` (its id), `item` (its code, null where unknown)."""
    some = lists.select("row", text=name).filter(pl.col("text").list.len() > 0)
    pairs = some.explode("text", empty_as_null=True)
    pairs = pairs.with_columns(id_text(pairs["text"], path))
    pairs = _dropped(pairs, pairs.drop_nulls(), "candidates_without_id", row_counts)
    code = pairs["text"].cast(pl.Enum(records.items), strict=False).to_physical().cast(pl.UInt32)
    return pairs.with_columns(code.alias("item"))


def _coded(
    lists: pl.DataFrame, records: Records, path: Path, settings: DataSettings, row_counts: RowCounts
) -> pl.DataFrame:
    """One row a list with codes in `clicked` and `others`, each item once, known items only."""
    shown, clicked = (
        _pairs(lists, name, records, path, row_counts) for name in ("candidates", "relevant")
    )
    full = lists.join(shown.select("row").unique(), on="row", how="semi", maintain_order="left")
    full = _dropped(lists, full, "impressions_empty", row_counts)
    clicked = clicked.unique(["row", "text"]).join(full.select("row"), on="row", how="semi")
    unknown = shown.filter(pl.col("item").is_null())
    row_counts.add("unknown_candidates", len(unknown))
    if len(unknown) > settings.max_unknown * len(shown):
        examples = ", ".join(unknown["text"].unique(maintain_order=True).head(3).str.slice(0, 80))
        row_counts.warn(
            f"{path}: {len(unknown) / len(shown):.1%} of the candidates are not in the catalog, "
            f"such as {examples}"
        )
    known = shown.drop_nulls("item").select("row", "item")
    shown = _dropped(known, known.unique(), "candidates_twice", row_counts)
    both = clicked.select("row", "item").join(shown, on=["row", "item"], how="semi")
    clicked = _dropped(clicked, both, "clicked_not_shown", row_counts)
    others = shown.join(clicked, on=["row", "item"], how="anti")
    lists = full
    for name, frame, count in (
        ("clicked", clicked, "impressions_without_answer"),
        ("others", others, "impressions_without_choice"),
    ):
        grouped = frame.sort("row", "item").group_by("row").agg(pl.col("item").alias(name))
        joined = lists.join(grouped, on="row", how="inner", maintain_order="left")
        lists = _dropped(lists, joined, count, row_counts)
    return lists


def _splits(
    lists: pl.DataFrame, records: Records, settings: DataSettings, seed: int, row_counts: RowCounts
) -> pl.Series:
    """The split of each list as an index into `SPLITS`; -1: none."""
    users = lists["user"].to_numpy()
    if settings.split == "rows":
        able = np.isin(np.arange(len(records.users)), users)
        return pl.Series(user_splits(records, able, settings, seed, row_counts)[users])
    if settings.split == "leave_last_out":
        left = lists.select(pl.len().over("user") - pl.int_range(pl.len()).over("user"))
        return left.to_series().replace_strict({1: 2, 2: 1}, default=0, return_dtype=pl.Int64)
    if settings.split == "global_time":
        return pl.Series(time_windows(lists["time"].to_numpy(), settings), dtype=pl.Int64)
    raise DataError(
        f"data.split = {settings.split} cannot be made of given candidates; take rows, global_time "
        "or leave_last_out"
    )


def _fit(lists: pl.DataFrame, records: Records, settings: DataSettings) -> Mask:
    """[n] whether an interaction may be fitted on; the lists have their `split`."""
    if settings.split == "rows":
        return np.isin(records.user, lists.filter(split=0)["user"].unique().to_numpy())
    until = np.full(len(records.users), np.inf)
    held_out = lists.filter(pl.col("split") > 0) if records.timed else lists.clear()
    if len(held_out):
        times = held_out["time"].to_numpy()
        np.minimum.at(until, held_out["user"].to_numpy(), times)
        if settings.split == "global_time":  # the earliest held-out list is at the cut
            until[:] = times.min()
    fit: Mask = records.time < until[records.user]
    return fit


def _cases(
    lists: pl.DataFrame, split: str, records: Records, settings: DataSettings, seed: int
) -> pl.DataFrame:
    """The cases of one split's lists, which stand in the order of users and times."""
    if lists.is_empty():
        return SCHEMA.to_frame()
    lists = _limited(_identified(lists, split, records), split, settings, seed)
    users = lists["user"].to_numpy().astype(np.int64)
    candidates = _candidates(lists.with_columns(key=query_keys(lists["query"], seed)))
    if split == "train":
        # one clicked item and some of the others
        limit = pl.when("clicked").then(1).otherwise(settings.train_negatives)
        rank = pl.col("choice").rank("ordinal").over("row", "clicked")
        candidates = candidates.filter(rank <= limit)
    candidates = candidates.sort("row", "order")
    texts = candidates.with_columns(records.items.gather(candidates["item"]).alias("item"))
    grouped = texts.group_by("row", maintain_order=True).agg(
        candidates="item", relevant=pl.col("item").filter("clicked")
    )
    return pl.DataFrame(
        [
            lists["query"],
            records.users.gather(users).alias("user"),
            *history_columns(
                records,
                users,
                lists["end"].to_numpy(),
                settings.max_history,
                settings.history_step,
            ),
            *grouped.select("candidates", "relevant").get_columns(),
        ],
        schema=SCHEMA,
    )


def _identified(lists: pl.DataFrame, split: str, records: Records) -> pl.DataFrame:
    """The lists with their query ids; those after one history from the second on with `#2`, …."""
    users = lists["user"]
    names = pl.DataFrame(
        {
            "user": records.users.gather(users),
            "n": lists["end"].to_numpy() - records.starts[users.to_numpy()],
            "k": lists.select(pl.int_range(1, pl.len() + 1).over("user", "end")).to_series(),
        }
    )
    first = pl.format("{}/{}/{}", pl.lit(split), "user", "n")
    again = pl.format("{}#{}", first, "k")
    queries = names.select(query=pl.when(pl.col("k") == 1).then(first).otherwise(again))
    return lists.with_columns(queries["query"])


def _limited(lists: pl.DataFrame, split: str, settings: DataSettings, seed: int) -> pl.DataFrame:
    """At most as many training users, or validation or test cases, as the settings say."""
    limit = settings.limit(split)
    if split != "train":
        return lists[sample(lists["query"], limit, seed, "cases", split)] if limit else lists
    lists = lists.group_by("user", maintain_order=True).tail(settings.targets_per_user)
    if not limit:
        return lists
    firsts = lists.unique("user", keep="first", maintain_order=True)
    users = firsts[sample(firsts["query"], limit, seed, "cases", split)]["user"]
    return lists.filter(pl.col("user").is_in(users.implode()))


def _candidates(lists: pl.DataFrame) -> pl.DataFrame:
    """One row a candidate: `row`, `item`, `clicked`, and two numbers that choose and order."""
    rows = pl.concat(
        lists.select("row", "key", item=name, clicked=pl.lit(value=name == "clicked")).explode(
            "item"
        )
        for name in ("clicked", "others")
    )
    keys, places = rows["key"].to_numpy(), rows["item"].to_numpy().astype(np.uint64)
    return rows.with_columns(
        choice=numbers(keys, places), order=numbers(keys, places + np.uint64(ORDER))
    )
