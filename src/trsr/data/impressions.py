"""Makes cases of given candidate lists: what was shown to a user, and what of it was taken."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import polars as pl

from trsr.data import files
from trsr.data.cases import SCHEMA, histories, history_begins, query_keys
from trsr.data.ids import id_text
from trsr.data.negatives import ORDER, numbers
from trsr.data.readers.base import Source
from trsr.data.records import PARTS, Floats, Ints, Mask, Records
from trsr.data.report import RowCounts
from trsr.data.settings import DataSettings
from trsr.data.splits import held_share, lottery, user_parts
from trsr.data.times import seconds
from trsr.errors import DataError


def impression_cases(
    found: Records, source: Source, settings: DataSettings, seed: int, row_counts: RowCounts
) -> tuple[Mask, dict[str, Iterator[pl.DataFrame]]]:
    """What may be fitted on, and each part's cases.

    A list is a case after what its user did before its time; where interactions have no times,
    after all that the user did. `rows` puts each user into one part, `global_time` cuts by the
    lists' times, `leave_last_out` takes a user's last list for test and the one before for
    validation. With times, what may be fitted on comes before the user's first held-out list, and
    with `global_time` before everybody's. A validation or test case has the whole list; a training
    case has one of the taken items and `train_negatives` of the others. Several lists of a user
    after n interactions have the ids `part/user/n`, `part/user/n#2`, ….

    Raises:
        DataError: If the reader gives no lists, or the split cannot be made of them.
    """
    if source.impressions is None:
        raise DataError(
            f"data.candidates = given: the reader {settings.reader!r} gives no candidate lists; "
            "mind does, and table with data.impressions"
        )
    path = source.impressions_path or source.interactions_path
    with files.located(path, source.encoding):
        frame = source.impressions.collect()
        row_counts.add("impressions", len(frame))
        frame = _typed(frame, found, path, settings, row_counts)
    lists = _known(
        _asked(frame, found, path, settings, row_counts), found, path, settings, row_counts
    )
    parts = _parts(lists, found, settings, seed, row_counts)
    lists = lists.with_columns(part=parts).filter(pl.col("part") >= 0)
    cases = {
        part: iter([_cases(lists.filter(pl.col("part") == number), part, found, settings, seed)])
        for number, part in enumerate(PARTS)
    }
    return _fit(lists, found, settings), cases


def _typed(
    frame: pl.DataFrame, found: Records, path: Path, settings: DataSettings, row_counts: RowCounts
) -> pl.DataFrame:
    """The lists with `user` as text and `time` as float64, those without them left out."""
    if frame.is_empty():
        raise DataError(f"{path}: there is no list in it")
    timed = "time" in frame.columns
    if not timed and (found.timed or settings.split == "global_time"):
        why = "the interactions have times" if found.timed else "data.split = global_time"
        raise DataError(
            f"{path}: no column holds the time of a list, and it is needed ({why}); add a column "
            f"{settings.columns.time or 'time'!r}"
        )
    # without times, sorting keeps the file's order
    time = pl.repeat(0.0, len(frame), eager=True)
    if timed:
        read = seconds(frame["time"], path, settings.time_format)
        time = read.values
        for note in read.notes:
            row_counts.warn(note)
    users = id_text(frame["user"], path, settings.encoding)
    frame = frame.with_columns(users.alias("user"), time.alias("time"))
    for name in ("user", "time"):
        there = frame.drop_nulls(name)
        row_counts.add(f"impressions_without_{name}", len(frame) - len(there))
        frame = there
    if found.timed:
        once = frame.unique(keep="first", maintain_order=True)
        row_counts.add("impressions_twice", len(frame) - len(once))
        frame = once
    return frame


def _asked(
    frame: pl.DataFrame, found: Records, path: Path, settings: DataSettings, row_counts: RowCounts
) -> pl.DataFrame:
    """Adds `row` and `end` (where the history ends), `user` as a code; short histories left out."""
    code = frame["user"].cast(pl.Enum(found.users), strict=False).to_physical().cast(pl.UInt32)
    known = frame.with_columns(code.alias("user")).drop_nulls("user")
    row_counts.add("impressions_unknown_user", len(frame) - len(known))
    if found.timed and len(known):
        _warn_apart(known["time"], found, path, row_counts)
    users = known["user"].to_numpy().astype(np.int64)
    ends = found.starts[users + 1]
    if found.timed:
        ends = _ends(found, users, known["time"].to_numpy())
    enough = ends - found.starts[users] >= settings.min_history
    row_counts.add("impressions_short", int((~enough).sum()))
    able = known.with_columns(pl.Series("end", ends)).filter(pl.Series(enough))
    return able.sort("user", "time", maintain_order=True).with_row_index("row")


def _warn_apart(times: pl.Series, found: Records, path: Path, row_counts: RowCounts) -> None:
    """Times of two units part lists and interactions; the data may also be so."""
    first, last = np.min(times.to_numpy()), np.max(times.to_numpy())
    side = "later" if first > found.time.max() else "earlier" if last < found.time.min() else ""
    if side:
        row_counts.warn(
            f"{path}: all lists are {side} than all interactions; make sure that the times of both "
            "files are of one unit (seconds or milliseconds)"
        )


def _ends(found: Records, users: Ints, times: Floats) -> Ints:
    """[lists] the position after each user's last interaction before the time beside it."""
    low, high = found.starts[users], found.starts[users + 1].copy()
    while (open_ := low < high).any():  # halves all intervals at once
        middle = (low + high) // 2
        before = open_ & (found.time[np.minimum(middle, len(found) - 1)] < times)
        low = np.where(before, middle + 1, low)
        high = np.where(open_ & ~before, middle, high)
    return low


def _pairs(
    lists: pl.DataFrame, name: str, found: Records, path: Path, row_counts: RowCounts
) -> pl.DataFrame:
    """One row an item of a list: `row`, `text` (its id), `item` (its code, null where unknown)."""
    some = lists.select("row", text=name).filter(pl.col("text").list.len() > 0)
    pairs = some.explode("text", empty_as_null=True)
    pairs = pairs.with_columns(id_text(pairs["text"], path))
    there = pairs.drop_nulls()
    row_counts.add("candidates_without_id", len(pairs) - len(there))
    code = there["text"].cast(pl.Enum(found.items), strict=False).to_physical().cast(pl.UInt32)
    return there.with_columns(code.alias("item"))


def _known(
    lists: pl.DataFrame, found: Records, path: Path, settings: DataSettings, row_counts: RowCounts
) -> pl.DataFrame:
    """One row a list with codes in `clicked` and `others`, each item once, known items only."""
    shown, taken = (
        _pairs(lists, name, found, path, row_counts) for name in ("candidates", "relevant")
    )
    full = lists.join(shown.select("row").unique(), on="row", how="semi", maintain_order="left")
    taken = taken.unique(["row", "text"]).join(full.select("row"), on="row", how="semi")
    row_counts.add("impressions_empty", len(lists) - len(full))
    unknown = shown.filter(pl.col("item").is_null())
    row_counts.add("unknown_candidates", len(unknown))
    if len(unknown) > settings.max_unknown * len(shown):
        examples = ", ".join(unknown["text"].unique(maintain_order=True).head(3))
        row_counts.warn(
            f"{path}: {len(unknown) / len(shown):.1%} of the candidates are not in the catalog, "
            f"such as {examples}"
        )
    known = shown.drop_nulls("item").select("row", "item")
    shown = known.unique()
    row_counts.add("candidates_twice", len(known) - len(shown))
    clicked = taken.select("row", "item").join(shown, on=["row", "item"], how="semi")
    row_counts.add("taken_not_shown", len(taken) - len(clicked))
    others = shown.join(clicked, on=["row", "item"], how="anti")
    lists = full
    for name, frame, count in (
        ("clicked", clicked, "impressions_without_answer"),
        ("others", others, "impressions_without_choice"),
    ):
        grouped = frame.sort("row", "item").group_by("row").agg(pl.col("item").alias(name))
        joined = lists.join(grouped, on="row", how="inner", maintain_order="left")
        row_counts.add(count, len(lists) - len(joined))
        lists = joined
    return lists


def _parts(
    lists: pl.DataFrame, found: Records, settings: DataSettings, seed: int, row_counts: RowCounts
) -> pl.Series:
    """The part of each list as an index into `PARTS`; -1: none."""
    if settings.split == "rows":
        able = np.isin(np.arange(len(found.users)), lists["user"].to_numpy())
        parts = user_parts(found, able, settings, seed, row_counts)
        return pl.Series(parts[lists["user"].to_numpy()])
    if settings.split == "leave_last_out":
        left = lists.select(pl.len().over("user") - pl.int_range(pl.len()).over("user"))
        return left.to_series().replace_strict({1: 2, 2: 1}, default=0, return_dtype=pl.Int64)
    if settings.split == "global_time":
        times = np.sort(lists["time"].to_numpy())
        held = held_share(settings)
        if not len(times):
            return pl.Series([], dtype=pl.Int64)
        cuts = [times[int(len(times) * (1 - share))] for share in (held, settings.test_share)]
        return pl.Series(np.searchsorted(np.array(cuts), lists["time"].to_numpy(), side="right"))
    raise DataError(
        f"data.split = {settings.split} cannot be made of given candidates; take rows, global_time "
        "or leave_last_out"
    )


def _fit(lists: pl.DataFrame, found: Records, settings: DataSettings) -> Mask:
    """[n] whether an interaction may be fitted on; the lists have their `part`."""
    if settings.split == "rows":
        training = lists.filter(pl.col("part") == 0)["user"].unique().to_numpy()
        return np.isin(found.user, training)
    until = np.full(len(found.users), np.inf)
    held = lists.filter(pl.col("part") > 0) if found.timed else lists.clear()
    if len(held):
        times = held["time"].to_numpy()
        np.minimum.at(until, held["user"].to_numpy(), times)
        if settings.split == "global_time":  # the earliest held-out list is at the cut
            until[:] = times.min()
    fit: Mask = found.time < until[found.user]
    return fit


def _cases(
    lists: pl.DataFrame, part: str, found: Records, settings: DataSettings, seed: int
) -> pl.DataFrame:
    """The cases of one part's lists, which stand in the order of users and times."""
    if lists.is_empty():
        return SCHEMA.to_frame()
    lists = _bounded(_identified(lists, part, found), part, settings, seed)
    users = lists["user"].to_numpy().astype(np.int64)
    ends = lists["end"].to_numpy()
    begins = history_begins(found.starts[users], ends, settings.max_history, settings.history_step)
    shown = _shown(lists.with_columns(key=query_keys(lists["query"], seed)))
    if part == "train":
        shown = _sampled(shown, settings.train_negatives)
    shown = shown.sort("row", "order")
    texts = shown.with_columns(found.items.gather(shown["item"]).alias("item"))
    grouped = texts.group_by("row", maintain_order=True).agg(
        candidates="item", relevant=pl.col("item").filter("taken")
    )
    return pl.DataFrame(
        [
            lists["query"],
            found.users.gather(users).alias("user"),
            *histories(found, begins, ends).get_columns(),
            *grouped.select("candidates", "relevant").get_columns(),
        ],
        schema=SCHEMA,
    )


def _identified(lists: pl.DataFrame, part: str, found: Records) -> pl.DataFrame:
    """The lists with their query ids; those after one history from the second on with `#2`, …."""
    users = lists["user"]
    names = pl.DataFrame(
        {
            "user": found.users.gather(users),
            "n": lists["end"].to_numpy() - found.starts[users.to_numpy()],
            "k": lists.select(pl.int_range(1, pl.len() + 1).over("user", "end")).to_series(),
        }
    )
    first = pl.format("{}/{}/{}", pl.lit(part), "user", "n")
    again = pl.format("{}#{}", first, "k")
    queries = names.select(query=pl.when(pl.col("k") == 1).then(first).otherwise(again))
    return lists.with_columns(queries["query"])


def _bounded(lists: pl.DataFrame, part: str, settings: DataSettings, seed: int) -> pl.DataFrame:
    """At most as many training users, or validation or test cases, as the settings say."""
    most = settings.most(part)
    if part != "train":
        return lists[lottery(lists["query"], most, seed, "cases", part)] if most else lists
    lists = lists.group_by("user", maintain_order=True).tail(settings.targets_per_user)
    if not most:
        return lists
    firsts = lists.unique("user", keep="first", maintain_order=True)
    chosen = firsts[lottery(firsts["query"], most, seed, "cases", part)]["user"]
    return lists.filter(pl.col("user").is_in(chosen.implode()))


def _shown(lists: pl.DataFrame) -> pl.DataFrame:
    """One row a candidate: `row`, `item`, `taken`, and two numbers that choose and order."""
    rows = pl.concat(
        lists.select("row", "key", item=name, taken=pl.lit(value=name == "clicked")).explode("item")
        for name in ("clicked", "others")
    )
    keys, places = rows["key"].to_numpy(), rows["item"].to_numpy().astype(np.uint64)
    return rows.with_columns(
        choice=numbers(keys, places), order=numbers(keys, places + np.uint64(ORDER))
    )


def _sampled(shown: pl.DataFrame, negatives: int) -> pl.DataFrame:
    """One taken candidate of each list and some of the others."""
    rank = pl.col("choice").rank("ordinal").over("row", "taken")
    most = pl.when("taken").then(1).otherwise(negatives)
    return shown.filter(rank <= most)
