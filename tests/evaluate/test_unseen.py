"""`trsr compare --unseen-by`: only queries that other runs were not asked."""

from __future__ import annotations

import json
from pathlib import Path

import polars as pl
import pytest
from finished_runs import write_run

from trsr.cli import main
from trsr.errors import ConfigError, DataError, StaleRunError, StoreError
from trsr.evaluate.sides import SidesReport
from trsr.pipeline.compare import compare
from trsr.store.rundir import RunDirectory, StageRecord

CASES = "cases.test.parquet"
VALUES = "per_query.parquet"


def prepared(folder: Path, rows: pl.DataFrame, name: str = CASES) -> Path:
    """A folder with cases alone."""
    folder.mkdir()
    rows.write_parquet(folder / name)
    return folder


def cases(run: Path) -> pl.DataFrame:
    return pl.read_parquet(run / CASES)


def counts(found: SidesReport) -> list[tuple[int, int]]:
    assert found.unseen is not None
    return [(one.queries, one.users) for one in found.unseen.runs]


@pytest.fixture
def runs(tmp_path: Path) -> list[str]:
    return [str(write_run(tmp_path / name, seed=n)) for n, name in enumerate(("one", "two"))]


def test_values_are_those_of_the_queries_that_are_left(tmp_path: Path, runs: list[str]) -> None:
    few = prepared(tmp_path / "few", cases(Path(runs[0]))[10:25])
    found = compare(runs, metrics=["ndcg@10", "recall@1"], unseen_by=[str(few)])
    asked = set(cases(few)["query"])
    cut = []
    for run in map(Path, runs):
        copy = tmp_path / f"cut-{run.name}" / run.name
        copy.mkdir(parents=True)
        for name in (CASES, VALUES):
            rows = pl.read_parquet(run / name)
            rows.filter(~rows["query"].is_in(list(asked))).write_parquet(copy / name)
        for name in ("config.toml", "manifest.json", "report.json"):
            (copy / name).write_bytes((run / name).read_bytes())
        cut.append(str(copy))
    by_hand = compare(cut, metrics=["ndcg@10", "recall@1"])
    assert found.results == by_hand.results
    assert (found.queries, found.users) == (25, 25)
    assert found.unseen is not None
    assert found.unseen.left_out == 15
    assert any(note == f"left out: 15 of 40 queries, which {few} was asked" for note in found.notes)
    assert any(note.startswith("25 queries of 25 users") for note in found.notes)
    plain = found.to_json()
    assert plain["queries"] == 25
    by = [{"run": str(few), "left_out": 15, "left_of_its_users": 0}]
    assert plain["unseen_by"] == {"left_out": 15, "runs": by}
    assert compare(runs).to_json()["unseen_by"] is None


def test_several_runs_are_told_apart_and_what_both_were_asked_is_left_out_once(
    tmp_path: Path, runs: list[str]
) -> None:
    rows = cases(Path(runs[0]))
    some, more = prepared(tmp_path / "a", rows[:20]), prepared(tmp_path / "b", rows[15:30])
    again = tmp_path / "a" / ".." / "a"
    found = compare(runs, unseen_by=[str(some), str(more), str(again)])
    assert found.queries == 10
    assert counts(found) == [(20, 0), (15, 0)]
    assert found.unseen is not None
    assert [one.run for one in found.unseen.runs] == [str(some), str(more)]
    assert "left out together: 30 of 40 queries" in found.notes


def test_no_query_left_is_an_error_that_says_by_whom(tmp_path: Path, runs: list[str]) -> None:
    rows = cases(Path(runs[0]))
    some, rest = prepared(tmp_path / "a", rows[:30]), prepared(tmp_path / "b", rows[30:])
    with pytest.raises(
        DataError, match="no query is left.*of 40 queries .*a was asked 30 and .*b was asked 10"
    ):
        compare(runs, unseen_by=[str(some), str(rest)])
    with pytest.raises(DataError, match="no query is left.*one was asked 40"):
        compare(runs, unseen_by=[runs[0]])


def test_a_run_without_a_common_query_is_told_and_no_error(tmp_path: Path, runs: list[str]) -> None:
    rows = cases(Path(runs[0]))
    strangers = rows.with_columns(query="x" + pl.col("query"), user="x" + pl.col("user"))
    far = prepared(tmp_path / "far", strangers)
    none = prepared(tmp_path / "none", rows[:0])
    found = compare(runs, unseen_by=[str(far), str(none)])
    assert counts(found) == [(0, 0), (0, 0)]
    assert found.queries == 40
    assert found.results == compare(runs).results
    for run in (far, none):
        said = f"left out: 0 of 40 queries: {run} has no query and no user of these"
        assert said in found.notes


def test_other_candidates_are_the_same_query_and_other_queries_of_users_are_counted(
    tmp_path: Path, runs: list[str]
) -> None:
    rows = cases(Path(runs[0]))
    drawn = rows[:5].with_columns(candidates=pl.col("candidates").list.reverse(), items=[])
    # as under other filters: the same event after one interaction fewer
    moved = rows[5:9].with_columns(query=pl.format("test/{}/2", "user"))
    other = prepared(tmp_path / "other", pl.concat([drawn, moved], how="vertical_relaxed"))
    found = compare(runs, unseen_by=[str(other)])
    assert counts(found) == [(5, 4)]
    assert any("of those left 4 are of users about whom it was asked" in n for n in found.notes)


def test_of_validation_runs_the_validation_cases_count(tmp_path: Path) -> None:
    runs = []
    for n, name in enumerate(("one", "two")):
        run = write_run(tmp_path / name, seed=n, settings='[rank]\nsplit = "valid"')
        (run / CASES).rename(run / "cases.valid.parquet")
        runs.append(str(run))
    rows = pl.read_parquet(tmp_path / "one" / "cases.valid.parquet")
    few = prepared(tmp_path / "few", rows[:7], "cases.valid.parquet")
    rows.write_parquet(few / CASES)
    assert counts(compare(runs, unseen_by=[str(few)])) == [(7, 0)]
    (few / "cases.valid.parquet").unlink()
    with pytest.raises(StoreError, match=r"there is no cases\.valid\.parquet in it"):
        compare(runs, unseen_by=[str(few)])


def test_what_holds_no_cases_is_refused(tmp_path: Path, runs: list[str]) -> None:
    rows = cases(Path(runs[0]))
    for nothing in ("", " "):
        with pytest.raises(ConfigError, match="--unseen-by names no run"):
            compare(runs, unseen_by=[nothing])
    with pytest.raises(StoreError, match="none: there is no such run directory"):
        compare(runs, unseen_by=[str(tmp_path / "none")])
    (tmp_path / "empty").mkdir()
    with pytest.raises(StoreError, match="empty: is not a run directory"):
        compare(runs, unseen_by=[str(tmp_path / "empty")])
    numbers = prepared(tmp_path / "numbers", rows.with_columns(query=pl.lit(1)))
    with pytest.raises(StoreError, match="there are two rows for query 1"):
        compare(runs, unseen_by=[str(numbers)])
    lacking = prepared(tmp_path / "lacking", rows.drop("query"))
    with pytest.raises(StoreError, match="there is no column query"):
        compare(runs, unseen_by=[str(lacking)])
    (lacking / CASES).write_text("no table")
    with pytest.raises(StoreError, match="is damaged"):
        compare(runs, unseen_by=[str(lacking)])


def test_cases_that_are_not_those_it_was_asked_are_refused(tmp_path: Path, runs: list[str]) -> None:
    few = prepared(tmp_path / "few", cases(Path(runs[0]))[:7])
    directory = RunDirectory(few)
    directory._write_manifest({}, ["prepare"])
    with pytest.raises(StoreError, match="few: prepare was stopped before its end"):
        compare(runs, unseen_by=[str(few)])
    now = directory.hashes([CASES])
    directory._write_manifest({"rank": StageRecord({}, now, {})}, ["rank"])
    assert compare(runs, unseen_by=[str(few)]).queries == 33
    cases(few)[:3].write_parquet(few / CASES)
    with pytest.raises(StaleRunError, match="changed since the run was ranked"):
        compare(runs, unseen_by=[str(few)])


def test_the_command_says_what_it_left_out(
    tmp_path: Path,
    runs: list[str],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rows = cases(Path(runs[0]))
    some, more = prepared(tmp_path / "a", rows[:6]), prepared(tmp_path / "b", rows[6:8])

    def command(*words: str) -> tuple[str, int | str | None]:
        options = ["--unseen-by", str(some), "--unseen-by", str(more)]
        monkeypatch.setattr("sys.argv", ["trsr", "compare", *runs, *options, *words])
        with pytest.raises(SystemExit) as ended:
            main()
        return capsys.readouterr().out, ended.value.code

    text, code = command()
    assert code == 0
    assert "32 queries of 32 users" in text
    assert f"left out: 6 of 40 queries, which {some} was asked" in text
    assert "left out together: 8 of 40 queries" in text
    assert json.loads(command("--json")[0])["unseen_by"]["left_out"] == 8
    assert command("--unseen-by", runs[1])[1] == 2
