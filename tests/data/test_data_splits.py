"""What may stand in a history, among the candidates and in the interactions for fitting."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from trsr.data import Dataset
from trsr.errors import DataError

CATALOG = 40
FEW = settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))

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
