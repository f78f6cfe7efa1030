"""Candidate lists from a table: asked as they were shown, after what came before them."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from trsr.config import check_config, load_config
from trsr.errors import ConfigError, DataError

NAMES = ("user_id", "timestamp", "candidates", "clicked")
Shown = tuple[str, float, list[str], list[str]]


def log(users: int = 8, items: int = 30) -> list[tuple[str, str, int]]:
    """Ten interactions a user, at times 10, 20, …, 100 (all users alike)."""
    draw = random.Random(5)
    return [
        (f"u{user}", f"i{item}", 10 * when)
        for user in range(users)
        for when, item in enumerate(draw.sample(range(items), 10), 1)
    ]


def shown(users: int = 8, items: int = 30) -> list[Shown]:
    """Four lists a user, of 5 items, at times 50 (an interaction's), 65, 85 and 95."""
    draw = random.Random(6)
    lists: list[Shown] = []
    for user in range(users):
        for when in (50, 65, 85, 95):
            candidates = [f"i{item}" for item in draw.sample(range(items), 5)]
            lists.append((f"u{user}", when, candidates, candidates[: draw.randint(1, 2)]))
    draw.shuffle(lists)
    return lists


def written(bench: Any, lists: list[Any], kind: str = "jsonl", names: Any = NAMES) -> Path:
    """The lists as a file; in CSV with blanks between the items."""
    if kind == "jsonl":
        path: Path = bench.lines(
            "lists.jsonl", (dict(zip(names, row, strict=True)) for row in lists)
        )
    elif kind == "parquet":
        path = bench.folder() / "lists.parquet"
        pl.DataFrame(lists, schema=list(names), orient="row").write_parquet(path)
    else:
        rows = ([" ".join(v) if isinstance(v, list) else v for v in row] for row in lists)
        path = bench.table("lists.csv", names, rows)
    return path


def prepared(bench: Any, lists: list[Any], kind: str = "jsonl", **more: Any) -> Any:
    files = {
        "interactions": bench.clicks(log()),
        "items": bench.goods(30),
        "impressions": written(bench, lists, kind),
    }
    return bench.prepare(**files | {"candidates": "given"} | more)


def by_answer(dataset: Any, part: str) -> dict[tuple[str, frozenset[str]], Any]:
    """The cases of a part by user and candidates."""
    return {
        (case.query.history.user, frozenset(item.id for item in case.query.candidates)): case
        for case in dataset.cases(part)
    }


def of_time(lists: list[Shown], time: float) -> dict[tuple[str, frozenset[str]], frozenset[str]]:
    return {(u, frozenset(c)): frozenset(t) for u, when, c, t in lists if when == time}


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_cases_are_the_lists_after_what_came_before_them(bench: Any, kind: str) -> None:
    lists = shown()
    report, dataset = prepared(bench, lists, kind)
    for part, time in (("test", 95), ("valid", 85)):
        cases = by_answer(dataset, part)
        assert {key: case.relevant for key, case in cases.items()} == of_time(lists, time)
        for case in cases.values():
            known = [i for u, i, when in log() if u == case.query.history.user and when < time]
            assert [item.id for item in case.query.history.items] == known
            assert case.query.id == f"{part}/{case.query.history.user}/{len(known)}"
    # one taken item and one other of the list before
    for (user, candidates), case in by_answer(dataset, "train").items():
        ((whole, taken),) = [(c, t) for (u, c), t in of_time(lists, 65).items() if u == user]
        assert candidates < whole
        assert len(candidates) == 2
        assert case.relevant < candidates
        assert case.relevant <= taken
        assert max(one.time for one in case.query.history.interactions) == 60
    # nothing of a user after its first held-out list is fitted on
    assert dataset.interactions["time"].max() == 80
    assert report.counts["impressions"] == len(lists)
    assert not [
        name for name in report.counts if name.startswith("impressions_") and report.counts[name]
    ]
    assert not report.warnings


def test_an_interaction_at_the_time_of_a_list_is_not_in_its_history(bench: Any) -> None:
    lists = [one for one in shown() if one[1] == 50]
    _, dataset = prepared(bench, lists)
    for case in dataset.cases("test"):
        assert [one.time for one in case.query.history.interactions] == [10, 20, 30, 40]
    assert dataset.interactions["time"].max() == 40


def test_several_lists_after_one_history_have_ids_of_their_own(bench: Any) -> None:
    # the user's interactions are at 10, 20, …, 100
    lists = [("u3", when, ["i1", "i2", f"i{when % 10}"], ["i1"]) for when in (94, 96, 93, 105)]
    _, dataset = prepared(bench, lists, split="global_time", test_share=0.7, valid_share=0.05)
    ids = [case.query.id for case in dataset.cases("test")]
    assert ids == ["test/u3/9", "test/u3/9#2", "test/u3/10"]


@pytest.mark.parametrize("split", ["rows", "global_time"])
def test_lists_are_split_by_user_or_by_time(bench: Any, split: str) -> None:
    lists = shown()
    _, dataset = prepared(bench, lists, split=split, test_share=0.25, valid_share=0.25)
    if split == "rows":
        users = [set(dataset.cases(part).frame["user"]) for part in ("train", "valid", "test")]
        assert sum(map(len, users)) == 8
        assert set(dataset.interactions["user"]) == users[0]
        assert len(dataset.cases("test")) == 4 * len(users[2])
    else:
        assert {k: c.relevant for k, c in by_answer(dataset, "test").items()} == of_time(lists, 95)
        assert {k: c.relevant for k, c in by_answer(dataset, "valid").items()} == of_time(lists, 85)
        assert dataset.interactions["time"].max() == 80


def test_the_files_order_changes_nothing(bench: Any) -> None:
    _, one = prepared(bench, shown())
    _, other = prepared(bench, sorted(shown(), key=str))
    for part in ("train", "valid", "test"):
        assert one.cases(part).frame.equals(other.cases(part).frame)


def test_bad_rows_are_counted(bench: Any) -> None:
    good = [("u1", 95, ["i1", "i2", "i3"], ["i2"])]
    bad: list[Any] = [
        (None, 95, ["i1", "i2"], ["i1"]),
        ("u2", None, ["i1", "i2"], ["i1"]),
        ("nobody", 95, ["i1", "i2"], ["i1"]),
        ("u2", 25, ["i1", "i2"], ["i1"]),  # two interactions before it
        ("u2", 91, [], ["i1"]),
        ("u2", 92, ["i1", "i2"], []),
        ("u2", 93, ["i1", "i2"], ["i3"]),
        ("u2", 94, ["i1", "gone"], ["i1"]),
        ("u2", 95, ["i1", "i2", "i1"], ["i1"]),
        *good,
    ]
    report, dataset = prepared(bench, good + bad)
    mine = ("impressions", "candidates", "clicked", "unknown_candidates")
    assert {name: n for name, n in report.counts.items() if name.startswith(mine)} == {
        "impressions": 11,
        "impressions_without_user": 1,
        "candidates_without_id": 0,
        "impressions_without_time": 1,
        "impressions_twice": 1,
        "impressions_unknown_user": 1,
        "impressions_short": 1,
        "impressions_empty": 1,
        "unknown_candidates": 1,
        "candidates_twice": 1,
        "clicked_not_shown": 1,
        "impressions_without_answer": 2,
        "impressions_without_choice": 1,
    }
    tests = by_answer(dataset, "test")
    assert set(tests) == {("u1", frozenset(["i1", "i2", "i3"])), ("u2", frozenset(["i1", "i2"]))}
    assert "1  left out: lists without a candidate" in "\n".join(report.lines())


def test_one_clicked_id_and_whole_numbers_are_ids_too(bench: Any) -> None:
    path = bench.folder() / "lists.parquet"
    frame = pl.DataFrame({"user": [7], "ts": [9.0], "shown": [[1, 2, 3]], "clicked": [2.0]})
    frame.write_parquet(path)
    _, dataset = bench.prepare(
        interactions=bench.clicks([(7, item, item) for item in range(1, 6)]),
        items=bench.table("g.csv", ("id", "title"), [(n, f"thing {n}") for n in range(9)]),
        impressions=path,
        candidates="given",
    )
    ((key, case),) = by_answer(dataset, "test").items()
    assert key == ("7", frozenset("123"))
    assert case.relevant == {"2"}


def test_columns_are_named_or_found(bench: Any) -> None:
    names = ("wer", "wann", "was", "davon")
    clicks = bench.table("c.csv", ("wer", "item", "wann"), log())
    files = {"interactions": clicks, "items": bench.goods(30), "candidates": "given"}
    columns = dict(zip(("user", "time", "candidates", "clicked"), names, strict=True))
    _, named = bench.prepare(
        **files, impressions=written(bench, shown(), "csv", names), columns=columns
    )
    usual = {key: columns[key] for key in ("user", "time")}
    _, found = bench.prepare(**files, impressions=written(bench, shown(), "csv"), columns=usual)
    assert named.cases("test").frame.equals(found.cases("test").frame)


def test_without_times_all_interactions_are_history_and_this_is_reported(bench: Any) -> None:
    clicks = bench.table("c.csv", ("user_id", "item_id"), (row[:2] for row in log()))
    files = {"interactions": clicks, "items": bench.goods(30), "candidates": "given"}
    lists = sorted(shown(), key=lambda one: one[1])
    names = ("user_id", "candidates", "clicked")
    untimed = written(bench, [(u, c, t) for u, _, c, t in lists], "jsonl", names)
    for path in (untimed, written(bench, lists)):
        report, dataset = bench.prepare(**files, impressions=path)
        tests = by_answer(dataset, "test")
        assert {key: case.relevant for key, case in tests.items()} == of_time(lists, 95)
        for case in tests.values():
            assert len(case.query.history.items) == 10
        assert any("comes after all interactions" in one for one in report.warnings)
    with pytest.raises(
        DataError, match=r"needed \(data\.split = global_time\); add a column 'time'"
    ):
        bench.prepare(**files, impressions=untimed, split="global_time")
    timed = {"interactions": bench.clicks(log()), "items": bench.goods(30)}
    with pytest.raises(DataError, match=r"lists\.jsonl: no column holds the time of a list"):
        bench.prepare(**timed, impressions=untimed, candidates="given")


def test_times_of_two_units_are_reported(bench: Any) -> None:
    report, _ = prepared(bench, [(u, 1000 * when, c, t) for u, when, c, t in shown()])
    assert "all lists are later than all interactions" in report.warnings[0]
    with pytest.raises(DataError, match=r"(?s)no case is left.*all lists are earlier") as caught:
        prepared(bench, [(u, when / 1000, c, t) for u, when, c, t in shown()])
    assert "32  left out: lists of users with a history shorter than data.min_history" in str(
        caught.value
    )


def test_many_candidates_outside_the_catalog_are_reported(bench: Any) -> None:
    lists = [(u, when, [*c, "x1"], t) for u, when, c, t in shown()]
    report, _ = prepared(bench, lists)
    assert "16.7% of the candidates are not in the catalog, such as x1" in report.warnings[0]
    for split in ("rows", "leave_last_out", "global_time"):
        with pytest.raises(DataError, match="no case is left"):
            prepared(
                bench, [(u, when, ["x1", "x2"], ["x1"]) for u, when, *_ in shown()], split=split
            )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the file is empty (data.impressions)"),
        ("user,time,candidates,taken\n", "there is no list in it"),
        (
            "who,time,candidates,taken\nu1,95,i1 i2,i1\n",
            "which column holds the user? Call it user;",
        ),
        ("user,time,list,taken\nu1,95,i1 i2,i1\n", "Set data.columns.candidates; the columns are"),
        ("user,time,candidates,y\nu1,95,i1 i2,i1\n", "Set data.columns.clicked; the columns are"),
        (
            "user,time,candidates,taken\nu1,soon,i1 i2,i1\n",
            "the time 'soon' is neither",
        ),
        ("user,time,candidates,taken\nu1,95,i1 i2,i1,9\n", "line 2: 5 fields where the first"),
    ],
)
def test_a_file_that_cannot_be_read_says_where_and_what(
    bench: Any, text: str, message: str
) -> None:
    path = bench.raw("lists.csv", text)
    files = {"interactions": bench.clicks(log()), "items": bench.goods(30)}
    with pytest.raises(DataError) as caught:
        bench.prepare(**files, impressions=path, candidates="given")
    assert message in str(caught.value)
    assert "lists.csv" in str(caught.value)


def test_a_line_that_is_no_json_is_named(bench: Any) -> None:
    path = written(bench, shown())
    path.write_text(path.read_text().replace("\n", "\n{oops\n", 3))
    files = {"interactions": bench.clicks(log()), "items": bench.goods(30)}
    with pytest.raises(DataError, match=r"lists\.jsonl, line 2: not JSON"):
        bench.prepare(**files, impressions=path, candidates="given")
    with pytest.raises(DataError, match=r"no such file \(data\.impressions\)"):
        bench.prepare(**files, impressions=path.with_name("gone.csv"), candidates="given")
    with pytest.raises(DataError, match="name it in data.impressions"):
        bench.prepare(**files, candidates="given")


def test_a_parquet_column_of_another_kind_is_no_matter_of_its_encoding(bench: Any) -> None:
    path = bench.folder() / "lists.parquet"
    row = {"user": [["u1"]], "time": [95], "candidates": [["i1", "i2"]], "clicked": ["i1"]}
    pl.DataFrame(row).write_parquet(path)
    files = {"interactions": bench.clicks(log()), "items": bench.goods(30)}
    with pytest.raises(DataError, match=r"lists\.parquet: column 'user' holds List") as caught:
        bench.prepare(**files, impressions=path, candidates="given")
    assert "data.encoding" not in str(caught.value)


def test_given_candidates_without_lists_are_a_mistake_of_the_settings() -> None:
    data = {"interactions": "a.csv", "items": "b.csv", "candidates": "given"}
    with pytest.raises(ConfigError, match=r"name their file in data\.impressions"):
        check_config({"data": data})
    with pytest.raises(ConfigError, match=r"the reader movielens reads none"):
        check_config({"data": data | {"reader": "movielens", "impressions": "c.csv"}})
    assert check_config({"data": data | {"impressions": "c.csv"}})
    assert check_config({"data": data | {"reader": "mind"}})


def test_a_file_of_lists_that_is_not_read_is_reported(bench: Any) -> None:
    report, _ = prepared(bench, shown(), candidates="uniform")
    (message,) = report.warnings
    assert "lists.jsonl: is not read: data.impressions is for reader = table" in message


def test_the_place_of_the_file_is_from_the_configurations(tmp_path: Path) -> None:
    where = {"interactions": "a.csv", "items": "b.csv", "impressions": "c.csv"}
    lines = [f"{key} = {json.dumps(value)}" for key, value in where.items()]
    (tmp_path / "mine.toml").write_text("\n".join(["[data]", 'candidates = "given"', *lines]))
    assert load_config(tmp_path / "mine.toml").data.impressions == tmp_path / "c.csv"
