"""`trsr compare --shared`: only queries that all compared runs were asked."""

from __future__ import annotations

import json
from pathlib import Path

import polars as pl
import pytest
from finished_runs import write_run

from trsr.cli import main
from trsr.errors import DataError
from trsr.experiments.compare import compare

CASES = "cases.test.parquet"
VALUES = "per_query.parquet"


def cut(run: Path, start: int, stop: int) -> Path:
    """The run with some of its queries, as if no more had been drawn."""
    asked = pl.read_parquet(run / CASES)[start:stop]
    values = pl.read_parquet(run / VALUES)
    asked.write_parquet(run / CASES)
    values.filter(values["query"].is_in(asked["query"].to_list())).write_parquet(run / VALUES)
    return run


@pytest.fixture
def runs(tmp_path: Path) -> list[Path]:
    """Forty queries, the first 30, and those from the 11th on."""
    made = [write_run(tmp_path / name, seed=n) for n, name in enumerate(("all", "head", "tail"))]
    return [made[0], cut(made[1], 0, 30), cut(made[2], 10, 40)]


def test_values_are_those_of_the_queries_that_all_were_asked(
    tmp_path: Path, runs: list[Path]
) -> None:
    metrics = ["ndcg@10", "recall@1"]
    found = compare([str(run) for run in runs], metrics=metrics, only_shared=True)
    alike = [write_run(tmp_path / "cut" / run.name, seed=n) for n, run in enumerate(runs)]
    by_hand = compare([str(cut(run, 10, 30)) for run in alike], metrics=metrics)
    assert found.results == by_hand.results
    assert (found.queries, found.users) == (20, 20)
    assert not by_hand.left_out
    assert list(found.to_json()["left_out"].values()) == [20, 10, 10]
    assert (
        f"left out: 20 of the 40 queries of {runs[0]}, which not all of the compared runs have"
    ) in found.notes


def test_the_order_of_the_runs_changes_no_mean(runs: list[Path]) -> None:
    there = compare([str(run) for run in runs], only_shared=True)
    back = compare([str(run) for run in reversed(runs)], only_shared=True)
    assert {one.system: one.mean for one in there.results} == {
        one.system: one.mean for one in back.results
    }


def test_runs_with_the_same_queries_lose_none(tmp_path: Path) -> None:
    names = [str(write_run(tmp_path / name, seed=n)) for n, name in enumerate(("one", "two"))]
    found = compare(names, only_shared=True)
    assert found.results == compare(names).results
    assert any("--shared left out none" in note for note in found.notes)


def test_without_it_such_runs_are_refused_and_it_is_named(runs: list[Path]) -> None:
    with pytest.raises(DataError, match="lacks 10 .*`trsr compare --shared` leaves out"):
        compare([str(run) for run in runs])


def test_shared_queries_with_other_candidates_are_refused(runs: list[Path]) -> None:
    def other_candidates(run: Path, query: int) -> None:
        cases = pl.read_parquet(run / CASES).with_row_index()
        drawn = pl.col("candidates").list.concat(pl.lit(["stranger"]))
        changed = pl.when(pl.col("index") == query).then(drawn).otherwise("candidates")
        cases.with_columns(candidates=changed).drop("index").write_parquet(run / CASES)

    names = [str(run) for run in runs]
    other_candidates(runs[0], 3)  # which the last run was not asked
    assert compare(names, only_shared=True).queries == 20
    other_candidates(runs[0], 15)
    with pytest.raises(DataError, match="other candidates than .*stranger.*1 of 20 queries"):
        compare(names, only_shared=True)


def test_runs_without_a_common_query_are_refused(tmp_path: Path) -> None:
    apart = [write_run(tmp_path / name) for name in ("one", "two")]
    names = [str(cut(apart[0], 0, 5)), str(cut(apart[1], 5, 9))]
    with pytest.raises(DataError, match="no query that all of these runs have.*one has .*"):
        compare(names, only_shared=True)


def test_the_command_says_what_it_left_out(
    runs: list[Path], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def command(*words: str) -> tuple[str, int | str | None]:
        monkeypatch.setattr("sys.argv", ["trsr", "compare", *map(str, runs), *words])
        with pytest.raises(SystemExit) as ended:
            main()
        return capsys.readouterr().out, ended.value.code

    text, code = command("--shared")
    assert code == 0
    assert "20 queries of 20 users" in text
    assert list(json.loads(command("--shared", "--json")[0])["left_out"].values()) == [20, 10, 10]
    assert json.loads(command("--shared", "--json")[0])["queries"] == 20
    assert command()[1] == 2
