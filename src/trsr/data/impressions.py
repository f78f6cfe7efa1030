"""Makes cases of given candidate lists: what was shown to a user, and what of it was taken."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import polars as pl

from trsr.data import files
from trsr.data.candidates import ORDER, numbers
from trsr.data.cases import SCHEMA, histories, history_begins, query_keys
from trsr.data.ids import seconds
from trsr.data.records import PARTS, Mask, Records
from trsr.data.report import Tally
from trsr.data.settings import DataSettings
from trsr.data.source import Source
from trsr.data.splits import held_share, lottery, user_parts
from trsr.errors import DataError


def impression_cases(
    found: Records, source: Source, settings: DataSettings, seed: int, tally: Tally
) -> tuple[Mask, dict[str, Iterator[pl.DataFrame]]]:
    """What may be fitted on, and each part's cases.

    A list is a case after its user's whole history. `rows` puts each user into one part,
    `global_time` cuts by the lists' times, `leave_last_out` takes a user's last list for test and
    the one before for validation. A validation or test case has the whole list; a training case has
    one of the taken items and `train_negatives` of the others. Several lists of a user have the
    ids `part/user/n`, `part/user/n#2`, ….

    Raises:
        DataError: If the reader gives no lists, or the split cannot be made of them.
    """
    if source.impressions is None:
        raise DataError(
            f"data.candidates = given: the reader {settings.reader!r} gives no candidate lists; "
            "mind does"
        )
    lists = _known(_read(found, source, settings, tally), found, tally)
    parts = _parts(lists, found, settings, seed, tally)
    lists = lists.with_columns(part=parts).filter(pl.col("part") >= 0)
    fit = np.ones(len(found), dtype=np.bool_)
    if settings.split == "rows":
        training = lists.filter(pl.col("part") == 0)["user"].unique().to_numpy()
        fit = np.isin(found.user, training)
    cases = {
        part: iter([_cases(lists.filter(pl.col("part") == number), part, found, settings, seed)])
        for number, part in enumerate(PARTS)
    }
    return fit, cases


def _read(found: Records, source: Source, settings: DataSettings, tally: Tally) -> pl.DataFrame:
    """`row`, `user` (code), `time`, `candidates`, `relevant` of users with enough history."""
    path = source.interactions_path
    if source.impressions is None:
        raise DataError(f"{path}: there are no lists of candidates")
    with files.located(path, source.encoding):
        frame = source.impressions.collect()
    tally.add("impressions", len(frame))
    code = frame["user"].cast(pl.String).str.strip_chars()
    user = code.cast(pl.Enum(found.users), strict=False).to_physical().cast(pl.UInt32)
    time = seconds(frame["time"], path)
    frame = frame.with_columns(user.alias("user"), time.fill_null(0.0).alias("time"))
    enough = pl.Series(found.lengths >= settings.min_history)
    able = frame.filter(pl.col("user").is_not_null())
    able = able.filter(enough.gather(able["user"]))
    tally.add("impressions_short", len(frame) - len(able))
    return able.sort("user", "time", maintain_order=True).with_row_index("row")


def _known(lists: pl.DataFrame, found: Records, tally: Tally) -> pl.DataFrame:
    """One row a list with codes in `clicked` and `others`, each item once, known items only."""
    exploded = {
        name: lists.select("row", item=name).explode("item", empty_as_null=True).drop_nulls()
        for name in ("candidates", "relevant")
    }
    coded = {
        name: frame.with_columns(
            frame["item"].cast(pl.Enum(found.items), strict=False).to_physical().cast(pl.UInt32)
        )
        for name, frame in exploded.items()
    }
    tally.add("unknown_candidates", coded["candidates"]["item"].null_count())
    clicked = coded["relevant"].drop_nulls().unique()
    others = coded["candidates"].drop_nulls().unique().join(clicked, on=["row", "item"], how="anti")
    for name, frame, count in (
        ("clicked", clicked, "impressions_without_answer"),
        ("others", others, "impressions_without_choice"),
    ):
        grouped = frame.sort("row", "item").group_by("row").agg(pl.col("item").alias(name))
        joined = lists.join(grouped, on="row", how="inner", maintain_order="left")
        tally.add(count, len(lists) - len(joined))
        lists = joined
    return lists


def _parts(
    lists: pl.DataFrame, found: Records, settings: DataSettings, seed: int, tally: Tally
) -> pl.Series:
    """The part of each list as an index into `PARTS`; -1: none."""
    if settings.split == "rows":
        able = np.isin(np.arange(len(found.users)), lists["user"].to_numpy())
        parts = user_parts(found, able, settings, seed, tally)
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


def _cases(
    lists: pl.DataFrame, part: str, found: Records, settings: DataSettings, seed: int
) -> pl.DataFrame:
    """The cases of one part's lists, which stand in the order of users and times."""
    if lists.is_empty():
        return SCHEMA.to_frame()
    lists = _bounded(_identified(lists, part, found), part, settings, seed)
    users = lists["user"].to_numpy().astype(np.int64)
    ends = found.starts[users + 1]
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
    """The lists with their query ids; from a user's second list on with `#2`, `#3`, …."""
    users = lists["user"]
    names = pl.DataFrame(
        {
            "user": found.users.gather(users),
            "n": found.lengths[users.to_numpy()],
            "k": lists.select(pl.int_range(1, pl.len() + 1).over("user")).to_series(),
        }
    )
    first = pl.format("{}/{}/{}", pl.lit(part), "user", "n")
    again = pl.format("{}#{}", first, "k")
    queries = names.select(query=pl.when(pl.col("k") == 1).then(first).otherwise(again))
    return lists.with_columns(queries["query"])


def _bounded(lists: pl.DataFrame, part: str, settings: DataSettings, seed: int) -> pl.DataFrame:
    """At most as many training users, or validation or test cases, as the settings say."""
    most: int = getattr(settings, f"{part}_cases")
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
