"""Prepared data read back."""

from __future__ import annotations

import random
import subprocess
import sys
from collections import Counter
from typing import Any

import pytest

import trsr.data
from trsr.data import Dataset, DataSettings, inspect
from trsr.errors import DataError
from trsr.types import Item


def rows(users: int = 3, length: int = 6) -> list[tuple[str, str, int]]:
    return [(f"u{u}", f"i{u + k}", 10 * k) for u in range(users) for k in range(length)]


def test_the_catalog_is_in_the_order_of_ids_and_makes_items_when_asked(bench: Any) -> None:
    _, dataset = bench.prepare(interactions=bench.clicks(rows()), items=bench.goods(30))
    catalog = dataset.catalog
    assert len(catalog) == 30
    assert catalog.ids == sorted(f"i{k}" for k in range(30))
    assert catalog["i7"] == Item("i7", (("title", "Thing number 7"), ("brand", "Acme")))
    assert "i7" in catalog
    assert "i99" not in catalog
    assert [item.id for item in catalog] == catalog.ids
    assert catalog.frame.columns == ["id", "title", "brand"]
    with pytest.raises(KeyError):
        catalog["i99"]


def test_queries_are_the_cases_without_answers(bench: Any) -> None:
    _, dataset = bench.prepare(interactions=bench.clicks(rows()), items=bench.goods(30))
    cases = dataset.cases("test")
    assert [case.query for case in cases] == list(cases.queries())
    assert len(cases) == len(list(cases)) == 3
    assert cases.frame.columns == ["query", "user", "items", "times", "candidates", "relevant"]


def test_cases_are_made_one_at_a_time(bench: Any) -> None:
    _, dataset = bench.prepare(interactions=bench.clicks(rows()), items=bench.goods(30))
    frame = dataset.cases("test").frame
    broken = trsr.data.Cases(
        frame.with_columns(candidates=frame["candidates"].list.set_difference(["i5", "i6", "i7"])),
        dataset.catalog,
    )
    queries = broken.queries()
    assert next(queries).id == "test/u0/5"
    with pytest.raises(DataError, match="test/u0/5: .* not candidates"):
        next(iter(broken))


def test_a_users_history_is_all_that_is_known(bench: Any) -> None:
    some = [*rows(), ("short", "i1", 1), ("short", "i2", 2)]
    _, dataset = bench.prepare(
        interactions=bench.clicks(some), items=bench.goods(30), max_history=4
    )
    history = dataset.history("u1")
    assert [item.id for item in history.items] == ["i2", "i3", "i4", "i5", "i6"]
    assert [item.id for item in dataset.history("short").items] == ["i1", "i2"]
    assert dataset.history("nobody") is None


def test_inspect_reports_the_same_and_writes_nothing(bench: Any) -> None:
    chosen = {"interactions": bench.clicks(rows()), "items": bench.goods(30)}
    report, dataset = bench.prepare(**chosen)
    before = sorted(chosen["items"].parent.iterdir())
    assert inspect(DataSettings(**chosen), seed=1) == report
    assert sorted(chosen["items"].parent.iterdir()) == before
    assert sorted(path.name for path in dataset.folder.iterdir()) == [
        "cases.test.parquet",
        "cases.train.parquet",
        "cases.valid.parquet",
        "held_out.parquet",
        "interactions.parquet",
        "items.parquet",
    ]


@pytest.mark.parametrize(
    "chosen",
    [
        {"candidates": "popular", "min_history": 1, "targets_per_user": 3},
        {"candidates": "full", "max_history": 3, "split": "global_time"},
        {"candidates": "full", "drop_repeats": True, "max_history": 0},
        {"split": "rows", "train_users": 5, "valid_cases": 2, "test_cases": 2},
        {"max_history": 5, "history_step": 3, "ties": "step", "valid_cases": 2},
    ],
)
def test_inspect_counts_cases_that_it_does_not_make(bench: Any, chosen: dict[str, Any]) -> None:
    draw = random.Random(3)
    clicks = [
        (f"u{user}", f"i{draw.randrange(9)}", draw.randrange(20))
        for user in range(12)
        for _ in range(draw.randrange(2, 14))
    ]
    chosen = {"interactions": bench.clicks(clicks), "items": bench.goods(30)} | chosen
    report, _ = bench.prepare(**chosen)
    assert inspect(DataSettings(**chosen), seed=1) == report
    assert report.counts["cases_test"] > 0


@pytest.mark.parametrize("more", [{"negatives": 25}, {"train_negatives": 25, "split": "rows"}])
def test_inspect_finds_too_few_negatives_without_drawing(bench: Any, more: dict[str, Any]) -> None:
    chosen = {"interactions": bench.clicks(rows()), "items": bench.goods(30)} | more
    with pytest.raises(DataError, match="25 negatives cannot be drawn: .* 30 items") as drawn:
        bench.prepare(**chosen)
    with pytest.raises(DataError) as checked:
        inspect(DataSettings(**chosen), seed=1)
    assert str(checked.value) == str(drawn.value)


def test_the_report_reads_well(bench: Any) -> None:
    report, _ = bench.prepare(interactions=bench.clicks(rows()), items=bench.goods(30))
    lines = report.lines()
    assert lines[0].split(maxsplit=1) == ["18", "interactions read"]
    assert any(line.endswith("test cases") for line in lines)
    assert not any("NUL" in line or line.strip().startswith("0  left out") for line in lines)
    assert report.counts["cases_test"] == 3
    assert report.counts["train_interactions"] == 12


def test_missing_and_damaged_files_are_named(bench: Any) -> None:
    folder = bench.folder()
    with pytest.raises(DataError, match=r"items\.parquet: there is no such file; give `trsr run"):
        Dataset.load(folder)
    (folder / "items.parquet").write_bytes(b"not parquet at all")
    with pytest.raises(DataError, match=r"items\.parquet: is damaged"):
        Dataset.load(folder)
    _, dataset = bench.prepare(interactions=bench.clicks(rows()), items=bench.goods(30))
    with pytest.raises(DataError, match=r"cases\.tests\.parquet: there is no such file"):
        dataset.cases("tests")


def test_names_come_from_the_package_and_settings_load_no_heavy_library() -> None:
    for name in trsr.data.__all__:
        assert getattr(trsr.data, name) is getattr(trsr.data, name)
    assert callable(trsr.data.prepare)
    assert callable(trsr.data.guess)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = trsr.data.nothing
    code = "import sys, trsr.data.settings; sys.exit(bool({'polars', 'numpy'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# --- Candidates by popularity and the whole catalog: what stands at rest, and what is asked


CATALOG = 50


def clicks(users: int = 60, repeats: bool = False) -> list[tuple[str, str, int]]:
    """Users who take mostly the first items."""
    draw = random.Random(4)
    rows = []
    for user in range(users):
        taken: list[int] = []
        while len(taken) < 8:
            item = min(int(draw.expovariate(0.1)), CATALOG - 1)
            if repeats or item not in taken:
                taken.append(item)
        rows += [(f"u{user}", f"i{item}", when) for when, item in enumerate(taken)]
    return rows


def settings(bench: Any, rows: list[tuple[str, str, int]], **more: Any) -> dict[str, Any]:
    paths = {"interactions": bench.clicks(rows), "items": bench.goods(CATALOG)}
    return paths | {"min_history": 3, "negatives": 5} | more


def popularity(dataset: Any, part: str, negatives: int = 5) -> float:
    """How often the negatives of a part stand in the training interactions, in the mean."""
    counts = Counter(dataset.interactions["item"])
    drawn = [
        counts[item.id]
        for case in dataset.cases(part)
        for item in case.query.candidates
        if item.id not in case.relevant
    ]
    assert len(drawn) == negatives * len(dataset.cases(part))
    return sum(drawn) / len(drawn)


def test_popular_candidates_follow_the_training_interactions(bench: Any) -> None:
    chosen = settings(bench, clicks(), train_negatives=5)
    _, uniform = bench.prepare(**chosen)
    _, popular = bench.prepare(**chosen, candidates="popular")

    # Each draw has the weight count + 1 instead of 1; seen items are left out of both.
    for part in ("train", "test"):
        assert popularity(popular, part) > 1.5 * popularity(uniform, part)
    histories = {row[0]: {r[1] for r in clicks() if r[0] == row[0]} for row in clicks()}
    for part in ("train", "valid", "test"):
        for case in popular.cases(part):
            shown = {item.id for item in case.query.candidates}
            assert shown & histories[case.query.history.user] == case.relevant
    backwards = settings(bench, clicks()[::-1], train_negatives=5, candidates="popular")
    _, again = bench.prepare(**backwards)
    assert again.cases("test").frame.equals(popular.cases("test").frame)
    # where whole catalogs are ranked, the others keep uniform ones
    _, full = bench.prepare(**chosen, candidates="full")
    for part in ("train", "valid"):
        assert full.cases(part).frame.equals(uniform.cases(part).frame)


@pytest.mark.parametrize("kept", [0, 3])
def test_full_candidates_are_all_that_the_user_has_not_seen(bench: Any, kept: int) -> None:
    more = {"candidates": "full", "max_history": kept, "k_core": 0}
    _, dataset = bench.prepare(**settings(bench, clicks(), **more))
    cases = dataset.cases("test")
    assert cases.full
    assert not dataset.cases("valid").full
    assert not dataset.cases("train").full
    assert cases.frame["candidates"].list.len().to_list() == [0] * len(cases)
    log = {user: [r[1] for r in clicks() if r[0] == user] for user, _, _ in clicks()}
    for case, seen in zip(cases, cases.frame["seen"].to_list(), strict=True):
        history, target = log[case.query.history.user][:-1], log[case.query.history.user][-1]
        shown = [item.id for item in case.query.candidates]
        # The second last interaction is the validation target: with a history kept in part it is
        # still the latest of it.
        assert set(shown) == {f"i{n}" for n in range(CATALOG)} - set(history)
        assert case.relevant == {target}
        assert set(seen) >= set(history)
        assert target not in seen
    assert {case.query.candidates[0].id for case in dataset.cases("valid")}
    queries = dict(cases.histories())
    assert [q.history for q in cases.queries()] == list(queries.values())


@pytest.mark.parametrize("split", ["leave_last_out", "global_time", "rows"])
@pytest.mark.parametrize("kept", [0, 3])
def test_full_never_offers_what_the_user_had_seen(bench: Any, split: str, kept: int) -> None:
    # Each user begins at a time of its own, so that a date parts histories anywhere.
    rows = [(user, item, when + 3 * int(user[1:])) for user, item, when in clicks()]
    more = {"candidates": "full", "max_history": kept, "split": split, "test_share": 0.4}
    _, dataset = bench.prepare(**settings(bench, rows, **more))
    cases = dataset.cases("test")
    assert len(cases)
    for case, seen in zip(cases, cases.frame["seen"].to_list(), strict=True):
        log = [item for user, item, _ in rows if user == case.query.history.user]
        (target,) = case.relevant
        before = set(log[: log.index(target)])
        shown = {item.id for item in case.query.candidates}
        assert not shown & before
        assert shown == {f"i{n}" for n in range(CATALOG)} - set(seen)
        assert shown >= {f"i{n}" for n in range(CATALOG)} - set(log)


def test_full_leaves_out_targets_that_the_user_had_seen_and_counts_them(bench: Any) -> None:
    rows = clicks(repeats=True)
    report, dataset = bench.prepare(**settings(bench, rows, candidates="full"))
    again = 0
    for user in {row[0] for row in rows}:
        items = [row[1] for row in rows if row[0] == user]
        again += items[-1] in items[:-1]
    assert again
    assert report.counts["repeats_test"] == again
    assert len(dataset.cases("test")) == 60 - again
    assert any("seen the item before" in line for line in report.lines())


def test_all_that_a_user_did_is_known_whether_a_case_was_drawn_or_not(bench: Any) -> None:
    """Two users are tested; of all, the last two interactions are held out, one is rated low."""
    clicks = [(f"u{user}", f"i{user + n}", 10 * n, 5) for user in range(6) for n in range(7)]
    low = [(f"u{user}", f"i{20 + user}", 15, 1) for user in range(6)]
    _, dataset = bench.prepare(
        interactions=bench.table(
            "rated.csv", ("user_id", "item_id", "timestamp", "rating"), [*clicks, *low]
        ),
        items=bench.goods(30),
        min_rating=3,
        negatives=4,
        test_cases=2,
        valid_cases=2,
        train_users=2,
        max_history=3,
    )
    assert len(dataset.cases("test").frame) == 2
    assert dataset.users == [f"u{user}" for user in range(6)]
    fitted = dataset.interactions.group_by("user").len()
    assert set(fitted["len"]) == {5}
    for user in range(6):
        history = dataset.history(f"u{user}")
        every = [(f"i{user + n}", 10.0 * n) for n in range(7)]
        found = [(one.item.id, one.time) for one in history.interactions]
        assert found == every[-len(found) :]
        assert len(found) >= 4
        seen = dataset.seen([f"u{user}"])[f"u{user}"]
        assert seen == {item for item, _ in every} | {f"i{20 + user}"}
    (dataset.folder / "held_out.parquet").unlink()  # as an older trsr prepared it
    older = Dataset.load(dataset.folder)
    assert older.users == dataset.users
    assert not older.held_out.height
