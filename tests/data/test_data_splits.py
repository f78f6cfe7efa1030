"""What may stand in a history, among the candidates and in the interactions for fitting."""

from __future__ import annotations

import itertools
import random
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from trsr.data import Dataset
from trsr.data.cases import history_begins
from trsr.data.negatives import Keys, Seen, Weights, negatives, shuffled
from trsr.data.records import Ints
from trsr.errors import DataError

CATALOG = 40
FEW = settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))

Row = tuple[str, str, int]


@st.composite
def interactions(draw: st.DrawFn) -> list[Row]:
    """Users with one to a dozen interactions at distinct times, repeats allowed."""
    lengths = draw(st.lists(st.integers(1, 12), min_size=2, max_size=8))
    times = draw(st.permutations(range(sum(lengths))))
    rows, at = [], 0
    for user, length in enumerate(lengths):
        for time in times[at : at + length]:
            rows.append((f"u{user}", f"i{draw(st.integers(0, 14))}", time))
        at += length
    return rows


def by_user(rows: list[Row]) -> dict[str, list[Row]]:
    users: dict[str, list[Row]] = {}
    for row in sorted(rows, key=lambda row: row[2]):
        users.setdefault(row[0], []).append(row)
    return users


RULES = [
    pytest.param({"split": "leave_last_out"}, id="leave_last_out"),
    pytest.param({"split": "leave_last_out", "targets_per_user": 3}, id="three targets"),
    pytest.param({"split": "global_time", "valid_share": 0.2, "test_share": 0.3}, id="global_time"),
    pytest.param({"split": "rows", "valid_share": 0.3, "test_share": 0.3}, id="rows"),
]


@pytest.mark.parametrize("rule", RULES)
@FEW
@given(rows=interactions())
def test_a_case_knows_only_what_came_before_its_target(
    bench: Any, rule: dict[str, Any], rows: list[Row]
) -> None:
    least, most, n, few = 2, 5, 6, 3
    try:
        _, dataset = bench.prepare(
            interactions=bench.clicks(rows),
            items=bench.goods(CATALOG),
            min_history=least,
            max_history=most,
            negatives=n,
            train_negatives=few,
            **rule,
        )
    except DataError as error:
        assert "no case is left" in str(error)  # noqa: PT017 - only this error is right
        return
    users = by_user(rows)
    fit = {
        (row["user"], row["item"], row["time"])
        for row in dataset.interactions.iter_rows(named=True)
    }
    queries = set()
    for split in ("train", "valid", "test"):
        for case in dataset.cases(split):
            part, user, place = case.query.id.rsplit("/", 2)
            target = users[user][int(place)]
            assert part == split
            assert case.relevant == {target[1]}
            before = users[user][: int(place)][-most:]
            found = [(i.item.id, i.time) for i in case.query.history.interactions]
            assert found == [(item, time) for _, item, time in before]
            assert int(place) >= least
            negatives = {item.id for item in case.query.candidates} - case.relevant
            assert len(negatives) == len(case.query.candidates) - 1
            assert len(negatives) == (few if split == "train" else n)
            assert not negatives & {item for _, item, _ in users[user]}
            assert case.query.id not in queries
            queries.add(case.query.id)
            if split != "train":
                later = {row for row in users[user] if row[2] >= target[2]}
                assert not fit & later
            else:
                assert target in fit
    assert fit <= set(rows)


@FEW
@given(rows=interactions(), order=st.randoms(use_true_random=False))
def test_the_order_of_rows_changes_nothing(
    bench: Any, rows: list[Row], order: random.Random
) -> None:
    shuffled = rows[:]
    order.shuffle(shuffled)
    chosen = {"items": bench.goods(CATALOG), "min_history": 1, "test_cases": 3, "negatives": 4}
    try:
        _, one = bench.prepare(interactions=bench.clicks(rows), **chosen)
    except DataError:
        return
    _, other = bench.prepare(interactions=bench.clicks(shuffled), **chosen)
    assert tables(one) == tables(other)


def tables(dataset: Dataset) -> list[list[tuple[Any, ...]]]:
    return [pl.read_parquet(path).rows() for path in sorted(dataset.folder.glob("*.parquet"))]


def many(users: int, length: int, seed: int = 0) -> list[Row]:
    draw = random.Random(seed)
    return [
        (f"u{user}", f"i{draw.randrange(CATALOG)}", 1000 * step + user)
        for user in range(users)
        for step in range(length)
    ]


def test_the_seed_decides_and_nothing_else(bench: Any) -> None:
    chosen = {"interactions": bench.clicks(many(30, 6)), "items": bench.goods(CATALOG)}
    first, again = (bench.prepare(**chosen, seed=3)[1] for _ in range(2))
    other = bench.prepare(**chosen, seed=4)[1]
    assert tables(first) == tables(again)
    assert tables(first) != tables(other)


def test_a_smaller_bound_keeps_some_of_the_same_cases(bench: Any) -> None:
    chosen = {"interactions": bench.clicks(many(60, 6)), "items": bench.goods(CATALOG)}
    whole = bench.prepare(**chosen)[1]
    ten = bench.prepare(**chosen, train_users=10, valid_cases=10, test_cases=10)[1]
    five = bench.prepare(**chosen, train_users=5, valid_cases=5, test_cases=5)[1]
    for split in ("train", "valid", "test"):
        cases = {case.query.id: case for case in whole.cases(split)}
        some = {case.query.id: case for case in ten.cases(split)}
        fewer = {case.query.id: case for case in five.cases(split)}
        assert (len(some), len(fewer)) == (10, 5)
        assert fewer.items() <= some.items() <= cases.items()
    assert ten.interactions.equals(whole.interactions)


def test_splits_can_share_their_users(bench: Any) -> None:
    files = {"interactions": bench.clicks(many(30, 9)), "items": bench.goods(CATALOG)}
    _, dataset = bench.prepare(
        **files, same_users=True, train_users=6, valid_cases=9, test_cases=12, targets_per_user=2
    )
    users = {part: set(dataset.cases(part).frame["user"]) for part in ("train", "valid", "test")}
    assert [len(users[part]) for part in users] == [6, 9, 12]
    assert users["train"] < users["valid"] < users["test"]


def test_a_train_bound_counts_users_not_targets(bench: Any) -> None:
    _, dataset = bench.prepare(
        interactions=bench.clicks(many(20, 9)),
        items=bench.goods(CATALOG),
        train_users=5,
        targets_per_user=3,
    )
    users = Counter(dataset.cases("train").frame["user"])
    assert sorted(users.values()) == [3] * 5


def test_rows_puts_each_user_into_one_split_of_the_wanted_size(bench: Any) -> None:
    report, dataset = bench.prepare(
        interactions=bench.clicks(many(50, 6)),
        items=bench.goods(CATALOG),
        split="rows",
        train_users=20,
        valid_cases=10,
        test_cases=5,
    )
    parts = {split: set(dataset.cases(split).frame["user"]) for split in ("train", "valid", "test")}
    assert [len(parts[split]) for split in ("train", "valid", "test")] == [20, 10, 5]
    assert not parts["train"] & parts["test"]
    assert not parts["valid"] & (parts["train"] | parts["test"])
    assert set(dataset.interactions["user"]) == parts["train"]
    assert report.counts["not_drawn"] == 15


def short(users: int, length: int) -> list[Row]:
    """Further users, of few interactions."""
    return [(f"s{user}", f"i{step}", step) for user in range(users) for step in range(length)]


def test_rows_draws_no_user_whose_history_is_too_short(bench: Any) -> None:
    report, dataset = bench.prepare(
        interactions=bench.clicks(many(30, 6) + short(20, 3)),
        items=bench.goods(CATALOG),
        split="rows",
        min_history=3,
        train_users=20,
        valid_cases=6,
        test_cases=4,
    )
    assert [len(dataset.cases(split)) for split in ("train", "valid", "test")] == [20, 6, 4]
    assert report.counts["short_users"] == 20


def test_users_with_too_short_a_history_for_any_case_are_counted(bench: Any) -> None:
    report, dataset = bench.prepare(
        interactions=bench.clicks(many(10, 9) + short(5, 3)),
        items=bench.goods(CATALOG),
        min_history=3,
    )
    assert report.counts["short_train"] == 5
    assert set(dataset.cases("train").frame["user"]) == {f"u{user}" for user in range(10)}


def test_rows_shrinks_in_proportion_and_says_so(bench: Any) -> None:
    report, dataset = bench.prepare(
        interactions=bench.clicks(many(24, 6)),
        items=bench.goods(CATALOG),
        split="rows",
        train_users=10_000,
        valid_cases=1_000,
        test_cases=1_000,
    )
    assert [len(dataset.cases(split)) for split in ("train", "valid", "test")] == [20, 2, 2]
    assert any("in proportion" in warning for warning in report.warnings)


def test_global_time_needs_times(bench: Any) -> None:
    table = bench.table("c.csv", ("user", "item"), [("a", "i1"), ("a", "i2")])
    with pytest.raises(DataError, match="needs times"):
        bench.prepare(interactions=table, items=bench.goods(9), split="global_time")


def test_global_time_fits_only_before_the_first_cut(bench: Any) -> None:
    rows = many(40, 10)
    _, dataset = bench.prepare(
        interactions=bench.clicks(rows), items=bench.goods(CATALOG), split="global_time"
    )
    ordered = sorted(row[2] for row in rows)
    first, second = ordered[int(len(rows) * 0.8)], ordered[int(len(rows) * 0.9)]
    assert dataset.interactions["time"].max() < first  # type: ignore[operator]
    for part, low, high in (("valid", first, second), ("test", second, float("inf"))):
        users = by_user(rows)
        for case in dataset.cases(part):
            _, user, place = case.query.id.rsplit("/", 2)
            assert low <= users[user][int(place)][2] < high
            assert all(i.time < low for i in case.query.history.interactions)


def given_rows() -> list[tuple[str, str, int, str]]:
    names = ["train", "train", "train", "valid", "train", "test", "test"]
    return [("u", f"i{k}", k, name) for k, name in enumerate(names)]


def test_given_takes_every_named_target_and_fits_before_the_first(bench: Any) -> None:
    table = bench.table("c.csv", ("user", "item", "time", "split"), given_rows())
    report, dataset = bench.prepare(
        interactions=table, items=bench.goods(30), split="given", min_history=2
    )
    assert dataset.cases("valid").frame["query"].to_list() == ["valid/u/3"]
    assert dataset.cases("test").frame["query"].to_list() == ["test/u/5", "test/u/6"]
    assert dataset.cases("train").frame["query"].to_list() == ["train/u/2"]
    assert dataset.interactions["item"].to_list() == ["i0", "i1", "i2"]
    assert report.counts["late_train"] == 1


def test_given_names_the_last_items_of_a_sequence(bench: Any) -> None:
    rows = [
        {"user": "a", "items": [1, 2, 3, 4, 5], "parts": ["valid", "test"]},
        {"user": "b", "items": [5, 4, 3, 2], "parts": []},
    ]
    items = bench.lines("items.jsonl", ({"id": k, "title": f"t{k}"} for k in range(30)))
    _, dataset = bench.prepare(
        interactions=bench.lines("s.jsonl", rows),
        items=items,
        split="given",
        columns={"split": "parts"},
        min_history=2,
    )
    assert dataset.cases("valid").frame["relevant"].to_list() == [["4"]]
    assert dataset.cases("test").frame["relevant"].to_list() == [["5"]]
    assert dataset.cases("train").frame["query"].to_list() == ["train/a/2", "train/b/3"]


def test_a_wrong_split_name_is_refused(bench: Any) -> None:
    rows = [*given_rows(), ("u", "i8", 9, "holdout")]
    table = bench.table("c.csv", ("user", "item", "time", "split"), rows)
    with pytest.raises(DataError, match="'holdout' is no split"):
        bench.prepare(interactions=table, items=bench.goods(30), split="given")


def test_too_short_histories_are_counted_and_all_too_short_is_refused(bench: Any) -> None:
    rows = [*many(3, 6), ("short", "i1", 5), ("short", "i2", 6), ("short", "i3", 7)]
    report, dataset = bench.prepare(interactions=bench.clicks(rows), items=bench.goods(CATALOG))
    assert report.counts["short_test"] == 1
    assert "short" not in dataset.cases("test").frame["user"]
    with pytest.raises(DataError, match="min_history = 9"):
        bench.prepare(interactions=bench.clicks(rows), items=bench.goods(CATALOG), min_history=9)


@pytest.mark.parametrize("gone", ["u0", "u1", "u2"])
def test_a_user_whose_interactions_are_all_filtered_out_has_no_case(bench: Any, gone: str) -> None:
    rows = [(user, item, time, 1 if user == gone else 5) for user, item, time in many(3, 8)]
    _, dataset = bench.prepare(
        interactions=bench.table("c.csv", ("user", "item", "time", "rating"), rows),
        items=bench.goods(CATALOG),
        min_rating=3,
    )
    for split in ("train", "valid", "test"):
        frame = dataset.cases(split).frame
        assert sorted(set(frame["user"])) == sorted({"u0", "u1", "u2"} - {gone})
        assert frame["query"].is_unique().all()


def test_one_interaction_that_is_left_is_too_short_for_a_case(bench: Any) -> None:
    rows = [("u0", "i1", 1, 1), ("u0", "i2", 2, 1), ("u1", "i3", 3, 5)]
    with pytest.raises(DataError, match="min_history"):
        bench.prepare(
            interactions=bench.table("c.csv", ("user", "item", "time", "rating"), rows),
            items=bench.goods(CATALOG),
            min_rating=3,
        )


@pytest.mark.parametrize("form", ["", "%d.%m.%Y %H:%M"])
def test_few_unreadable_times_are_left_out_and_counted_more_are_another_format(
    bench: Any, form: str
) -> None:
    def prepared(bad: int) -> Any:
        rows = [
            (user, item, f"{1 + n % 28:02}.01.2024 10:{n % 60:02}")
            for n, (user, item, _) in enumerate(many(20, 10))
        ]
        rows[5 : 5 + bad] = [(user, item, "not a date") for user, item, _ in rows[5 : 5 + bad]]
        return bench.prepare(
            interactions=bench.table("c.csv", ("user", "item", "time"), rows),
            items=bench.goods(CATALOG),
            time_format=form,
        )

    report, dataset = prepared(2)
    assert len(dataset.interactions) + 2 == len(prepared(0)[1].interactions)
    assert report.counts["rows_without_time"] == 2
    said = "the time 'not a date' (and 1 more) cannot be read, of 200: such rows have no time"
    assert any(said in warning for warning in report.warnings)
    with pytest.raises(DataError, match="the time 'not a date' .and 2 more. is"):
        prepared(3)


def test_k_core_also_takes_items_from_the_catalog(bench: Any, tmp_path: Path) -> None:
    # Round by round: i9 is met once, without it user d has one interaction, without d …
    rows = [(u, i, 10 * k + ord(u)) for u in "abc" for k, i in enumerate(("i1", "i2", "i3"))]
    rows += [("d", "i9", 1), ("d", "i1", 2), ("e", "i4", 3), ("e", "i4", 4)]
    report, dataset = bench.prepare(
        interactions=bench.clicks(rows),
        items=bench.goods(30),
        k_core=2,
        min_history=1,
        negatives=1,
    )
    assert list(dataset.catalog.ids) == ["i1", "i2", "i3", "i4"]
    assert report.counts["k_core_users"] == 1
    assert report.counts["k_core_interactions"] == 2
    assert len(dataset.catalog) == 4


def test_filters_count_what_they_leave_out(bench: Any) -> None:
    rows = [(f"u{u}", f"i{k % (2 + u)}", k, 1 + k % 5) for u in range(4) for k in range(6 + 2 * u)]
    table = bench.table("c.csv", ("user", "item", "time", "rating"), rows)
    report, _ = bench.prepare(
        interactions=table,
        items=bench.goods(40),
        min_rating=2,
        drop_repeats=True,
        max_items_per_user=3,
        min_history=1,
    )
    low = sum(rating < 2 for *_, rating in rows)
    assert report.counts["below_min_rating"] == low
    left = [(user, item) for user, item, _, rating in rows if rating >= 2]
    assert report.counts["repeats"] == len(left) - len(set(left))
    lengths = Counter(user for user, _ in set(left))
    assert report.counts["long_users"] == sum(length > 3 for length in lengths.values())
    assert report.counts["interactions"] == sum(n for n in lengths.values() if n <= 3)


def test_items_left_out_by_a_filter_are_no_negatives_either(bench: Any) -> None:
    rows = [("u", f"i{k}", k, 5 if k < 5 else 1) for k in range(10)]
    table = bench.table("c.csv", ("user", "item", "time", "rating"), rows)
    chosen = {"interactions": table, "items": bench.goods(14), "min_rating": 4, "negatives": 4}
    _, dataset = bench.prepare(**chosen)
    (case,) = dataset.cases("test")
    assert {item.id for item in case.query.candidates} == {"i4", "i10", "i11", "i12", "i13"}
    with pytest.raises(
        DataError, match="5 negatives cannot be drawn: the catalog has 14 items, and user u"
    ):
        bench.prepare(**{**chosen, "negatives": 5})


def test_the_answer_stands_anywhere_among_the_candidates(bench: Any) -> None:
    _, dataset = bench.prepare(
        interactions=bench.clicks(many(400, 6)), items=bench.goods(CATALOG), negatives=4
    )
    for split, width in (("train", 2), ("test", 5)):
        frame = dataset.cases(split).frame
        places = Counter(
            shown.index(relevant)
            for shown, (relevant,) in frame.select("candidates", "relevant").iter_rows()
        )
        expected = 400 / width
        assert all(abs(places[place] - expected) < 5 * expected**0.5 for place in range(width))


# --- Histories that begin alike: what a user's successive targets know of the past


def begins(lengths: list[int], most: int, step: int) -> list[int]:
    ends = np.array(lengths, dtype=np.int64)
    return history_begins(np.zeros_like(ends), ends, most, step).tolist()


def test_a_long_history_loses_whole_steps_counted_from_the_first_interaction() -> None:
    assert begins(list(range(16)), 11, 4) == [0] * 12 + [4] * 4
    assert begins([25, 26, 29, 30], 25, 5) == [5, 5, 5, 10]
    assert begins([9, 10, 11, 12], 10, 1) == [0, 0, 1, 2]
    assert begins([1, 100], 0, 7) == [0, 0]


@given(st.integers(1, 9), st.integers(0, 30), st.integers(0, 200))
def test_it_keeps_as_many_steps_as_always_fit(step: int, more: int, length: int) -> None:
    most = 2 * step - 1 + more
    (begin,) = begins([length], most, step)
    kept = length - begin
    assert kept <= most
    assert begin % step == 0
    assert kept == length or kept > most - 2 * step + 1
    alike = range(length - length % step, length - length % step + step)
    assert set(begins(list(alike), most, step)) == {begin}


def test_a_user_s_cases_stand_together_each_history_going_on_where_the_last_ended(
    bench: Any,
) -> None:
    rows = [(f"u{user}", f"i{(7 * user + n) % 40}", n) for user in range(6) for n in range(20)]
    _, dataset = bench.prepare(
        interactions=bench.clicks(rows),
        items=bench.goods(60),
        max_history=9,
        history_step=4,
        targets_per_user=9,
    )
    cases = list(dataset.cases("train"))
    users = [case.query.history.user for case in cases]
    assert len(users) == 54
    assert [user for user, _ in itertools.groupby(users)] == sorted(set(users))
    grown = 0
    for one, later in itertools.pairwise(cases):
        place = int(later.query.id.rsplit("/", 1)[1])
        if one.query.history.user != later.query.history.user or place % 4 == 0:
            continue
        (taken,) = one.relevant
        ids = [item.id for item in later.query.history.items]
        assert ids == [*(item.id for item in one.query.history.items), taken]
        grown += 1
    assert grown > 30


def test_too_little_beside_a_step_is_refused() -> None:
    from trsr.data import DataSettings

    with pytest.raises(ValueError, match="at least 9"):
        DataSettings(history_step=5, max_history=8)
    DataSettings(history_step=5, max_history=9)
    DataSettings(history_step=5, max_history=0)


# --- The draws: uniform, without replacement, allowed items only, each query for itself


def keys(n: int, seed: int = 0) -> Keys:
    return np.random.default_rng(seed).integers(0, 1 << 63, n).astype(np.uint64)


def seen(users: int, size: int, pairs: set[tuple[int, int]]) -> Seen:
    codes: Ints = np.array(sorted(user * size + item for user, item in pairs), dtype=np.int64)
    names = pl.Series([f"u{user}" for user in range(users)])
    return Seen(codes, size, np.bincount(codes // size, minlength=users), names)


@settings(deadline=None, max_examples=30)
@given(data=st.data(), size=st.integers(4, 300), seed=st.integers(0, 99))
def test_negatives_are_distinct_allowed_and_independent(
    data: st.DataObject, size: int, seed: int
) -> None:
    users = 5
    items = st.integers(0, size - 1)
    pairs = data.draw(st.sets(st.tuples(st.integers(0, users - 1), items), min_size=1))
    known = seen(users, size, pairs)
    n = data.draw(st.integers(1, max(1, size - int(known.counts.max()) - 1)))
    who = np.array(data.draw(st.lists(st.integers(0, users - 1), min_size=1, max_size=9)))
    target = np.array(data.draw(st.lists(items, min_size=len(who), max_size=len(who))))
    stream = keys(len(who), seed)
    room = size - max(
        len({i for u, i in pairs if u == w} | {t}) for w, t in zip(who, target, strict=True)
    )
    if room < n:
        with pytest.raises(DataError, match=r"negatives cannot be drawn.* user u"):
            negatives(stream, who, target, known, n)
        return
    drawn = negatives(stream, who, target, known, n)
    for row, user, item in zip(drawn.tolist(), who.tolist(), target.tolist(), strict=True):
        assert len(set(row)) == n
        assert item not in row
        assert not {(user, one) for one in row} & pairs
        assert all(0 <= one < size for one in row)
    alone = negatives(stream[-1:], who[-1:], target[-1:], known, n)
    assert np.array_equal(alone[0], drawn[-1])


@pytest.mark.parametrize(("size", "n"), [(200, 5), (12, 5)], ids=["sparse", "crowded"])
def test_every_allowed_item_is_drawn_as_often(size: int, n: int) -> None:
    queries = 20_000
    known = seen(1, size, {(0, 0), (0, 3)})
    zeros = np.zeros(queries, dtype=np.int64)
    drawn = negatives(keys(queries), zeros, zeros + 5, known, n)
    counts = np.bincount(drawn.ravel(), minlength=size)
    allowed = np.setdiff1d(np.arange(size), [0, 3, 5])
    share = n / len(allowed)
    spread = np.sqrt(queries * share * (1 - share))
    assert counts.sum() == counts[allowed].sum()
    assert np.abs(counts[allowed] - queries * share).max() < 5 * spread


def test_the_positive_stands_anywhere() -> None:
    queries, width = 20_000, 5
    rows = np.tile(np.arange(width), (queries, 1))
    mixed = shuffled(keys(queries), rows)
    assert (np.sort(mixed, axis=1) == rows).all()
    places = np.bincount(np.argmax(mixed == 0, axis=1), minlength=width)
    assert np.abs(places - queries / width).max() < 5 * np.sqrt(queries * 0.16)


@pytest.mark.parametrize("size", [9, 60], ids=["crowded", "sparse"])
def test_weighted_draws_are_successive_samples_in_proportion_to_the_weights(size: int) -> None:
    queries, n = 40_000, 2
    weights = Weights.by_popularity(np.repeat(np.arange(size), np.arange(size)), size)
    known = seen(1, size, {(0, size - 1), (0, 0)})
    zeros = np.zeros(queries, dtype=np.int64)
    drawn = negatives(keys(queries), zeros, zeros + 5, known, n, weights)
    allowed = np.setdiff1d(np.arange(size), [0, 5, size - 1])
    share = (allowed + 1.0) / (allowed + 1.0).sum()
    # Chance to be drawn second: over each first draw, in proportion to what is left.
    odds = share / (1 - share)
    twice = share * (1 + odds.sum() - odds)
    counts = np.bincount(drawn.ravel(), minlength=size)
    assert counts.sum() == counts[allowed].sum()
    spread = np.sqrt(queries * twice * (1 - twice))
    assert (np.abs(counts[allowed] - queries * twice) < 5 * spread).all()


@settings(deadline=None, max_examples=10)
@given(seed=st.integers(0, 99), heavy=st.sampled_from([1, 10_000_000]))
def test_weighted_draws_do_not_depend_on_their_company(seed: int, heavy: int) -> None:
    size, n, users = 120, 4, 6
    # A seen item that has nearly all the weight: its users' draws are made by ordering.
    counts = np.concatenate([np.zeros(heavy, dtype=np.int64), np.arange(size)])
    weights = Weights.by_popularity(counts, size)
    known = seen(users, size, {(0, 0), (1, 3), (2, 0), (2, 7), (3, 9), (4, 1), (5, 0)})
    who = np.random.default_rng(seed).integers(0, users, 12)
    target = np.full(12, 11)
    stream = keys(12, seed)
    drawn = negatives(stream, who, target, known, n, weights)
    for row in range(12):
        one = slice(row, row + 1)
        alone = negatives(stream[one], who[one], target[one], known, n, weights)
        assert np.array_equal(alone[0], drawn[row])
        assert len(set(drawn[row].tolist()) - {11}) == n
        assert not known.has(who[one], drawn[row]).any()
