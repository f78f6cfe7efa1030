"""`trsr compare`: what it says of runs, and which runs it refuses to compare."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import polars as pl
import pytest
from finished_runs import write_run

from trsr.cli import main
from trsr.errors import ConfigError, DataError, StaleRunError, StoreError
from trsr.pipeline.compare import compare
from trsr.store.rundir import RunDirectory, StageRecord, hash_file


def test_one_run_sets_all_its_rankers_against_the_main_one(tmp_path: Path) -> None:
    run = write_run(tmp_path / "a", skills={"random": 0.0, "popular": 2.0, "llm": 2.0})
    found = compare([str(run)])
    assert found.baseline == "llm"
    assert [one.side for one in found.results] == ["llm", "random", "popular"]
    assert {one.metric for one in found.results} == {"ndcg@10"}
    random = found.results[1]
    table = pl.read_parquet(run / "per_query.parquet")
    means = dict(table.group_by("ranker").agg(pl.col("ndcg@10").mean()).rows())
    assert random.difference is not None
    assert random.difference.mean == pytest.approx(means["random"] - means["llm"])
    assert random.p_holm == pytest.approx(2 * random.difference.p)
    cells = dict(zip(found.table().header, found.table().rows[1], strict=True))
    assert cells["difference"].startswith("−")
    assert found.table().rows[1][-1] == "↓"
    assert found.table().rows[0][3] == "baseline"


def test_runs_are_paired_by_query_whatever_the_order_of_rows(tmp_path: Path) -> None:
    one, two = write_run(tmp_path / "one"), write_run(tmp_path / "two", seed=1)
    straight = compare([str(one), str(two)], metrics=["recall@1", "ndcg@10"])
    path = two / "per_query.parquet"
    pl.read_parquet(path).reverse().write_parquet(path)
    assert compare([str(one), str(two)], metrics=["recall@1", "ndcg@10"]) == straight
    assert [r.side for r in straight.results] == ["one", "two"] * 2
    assert [r.metric for r in straight.results] == ["recall@1"] * 2 + ["ndcg@10"] * 2


def test_a_run_against_itself_does_not_differ(tmp_path: Path) -> None:
    one, two = write_run(tmp_path / "one"), write_run(tmp_path / "two")
    result = compare([str(one), str(two)]).results[1]
    assert result.difference is not None
    assert (result.difference.mean, result.difference.p) == (0.0, 1.0)


def test_rankers_and_the_baseline_can_be_named(tmp_path: Path) -> None:
    one, two = write_run(tmp_path / "one"), write_run(tmp_path / "two", seed=1)
    found = compare([str(one), f"{two}:random"], baseline=f"{two}:llm")
    assert found.baseline == "two:llm"
    assert [r.side for r in found.results] == ["two:llm", "one:llm", "two:random"]
    named = compare([str(one), str(two)], rankers=["random", "llm"])
    assert [r.side for r in named.results] == ["one:random", "one:llm", "two:random", "two:llm"]
    with pytest.raises(ConfigError, match="no ranker 'lm': did you mean llm"):
        compare([f"{one}:lm"])
    with pytest.raises(ConfigError, match="no metric 'ndcg@5'.*did you mean ndcg@10"):
        compare([str(one)], metrics=["ndcg@5"])


def test_of_a_single_run_all_rankers_are_compared_with_the_named_one(tmp_path: Path) -> None:
    one, two = write_run(tmp_path / "one"), write_run(tmp_path / "two", seed=1)
    for baseline in ("random", f"{one}:random"):
        found = compare([str(one)], baseline=baseline)
        assert found.baseline == "random"
        assert [result.side for result in found.results] == ["random", "llm"]
    other = compare([str(one)], baseline=str(two))
    assert [result.side for result in other.results] == ["two", "one"]
    with pytest.raises(ConfigError, match="no ranker 'randm': did you mean random"):
        compare([str(one)], baseline="randm")


def test_seeds_are_pooled_where_nothing_else_differs(tmp_path: Path) -> None:
    good = [
        str(write_run(tmp_path / f"good{n}", seed=n, skills={"llm": 2.0}, settings="[train]\na=1"))
        for n in range(3)
    ]
    bad = [
        str(write_run(tmp_path / f"bad{n}", seed=n + 9, skills={"llm": 0}, settings="[train]\na=2"))
        for n in range(3)
    ]
    found = compare([*bad, *good], seeds=True)
    assert [(r.side, r.seeds) for r in found.results] == [("bad0", 3), ("good0", 3)]
    difference = found.results[1].difference
    assert difference is not None
    assert difference.test == "seeds"
    assert found.results[1].seed_sd is not None
    assert any("over seeds" in note for note in found.notes)
    assert len(compare([*bad, *good]).results) == 6


def test_seeds_of_the_training_alone_are_pooled_too(tmp_path: Path) -> None:
    runs = [
        str(write_run(tmp_path / f"one{n}", seed=n, settings=f"[train]\nseed = {n}"))
        for n in range(2)
    ]
    found = compare(runs, seeds=True)
    assert [(one.side, one.seeds) for one in found.results] == [("one0", 2)]


def test_one_training_does_not_count_as_two_seeds(tmp_path: Path) -> None:
    one = write_run(tmp_path / "one", settings="[train]\nseed = 3")
    copied = tmp_path / "copied"
    shutil.copytree(one, copied)
    for again in (copied, tmp_path / "." / "sub" / ".." / "one"):
        (tmp_path / "sub").mkdir(exist_ok=True)
        with pytest.raises(ConfigError, match="the same settings and seed: they are one training"):
            compare([str(one), str(again)], seeds=True)


def test_another_whole_catalogue_is_refused(tmp_path: Path) -> None:
    """Lists of candidates are empty at rest: what they stand for is what counts."""
    runs = {}
    for name, catalogue, met in (
        ("one", "abc", ["b"]),
        ("same", "cba", ["b"]),
        ("larger", "abcd", ["b"]),
        ("met", "abc", ["c"]),
    ):
        folder = runs[name] = write_run(tmp_path / name)
        cases = pl.read_parquet(folder / "cases.test.parquet")
        told = cases.with_columns(
            candidates=pl.Series([[]] * len(cases), dtype=pl.List(pl.String)),
            met=pl.Series([met] * len(cases)),
        )
        told.write_parquet(folder / "cases.test.parquet")
        pl.DataFrame({"id": list(catalogue)}).write_parquet(folder / "items.parquet")
    one = str(runs["one"])
    assert len(compare([one, str(runs["same"])]).results) == 2
    with pytest.raises(DataError, match="larger has other candidates .*only .*one has catalogue"):
        compare([one, str(runs["larger"])])
    with pytest.raises(DataError, match=r"only .*one has \(without b\).*met has \(without c\)"):
        compare([one, str(runs["met"])])


def test_other_queries_are_refused_with_their_number_and_the_first(tmp_path: Path) -> None:
    one, two = write_run(tmp_path / "one"), write_run(tmp_path / "two", queries=38)
    with pytest.raises(DataError, match=r"two has other queries.*40 it lacks 2 \(first: test/u38"):
        compare([str(one), str(two)])
    other = write_run(tmp_path / "three", rename="x")
    with pytest.raises(DataError, match=r"lacks 40 .* and has besides 40 \(first: xtest/u0/3\)"):
        compare([str(one), str(other)])


def test_other_candidates_and_answers_are_refused_with_an_example(tmp_path: Path) -> None:
    one, two = write_run(tmp_path / "one"), write_run(tmp_path / "two", candidates=5)
    with pytest.raises(DataError, match=r"test/u0/3 only .*one has i5; 40 of 40 .*data.seed"):
        compare([str(one), str(two)])
    three = write_run(tmp_path / "three")
    path = three / "cases.test.parquet"
    cases = pl.read_parquet(path)
    answers = [["i1"], *cases["relevant"].to_list()[1:]]
    cases.with_columns(pl.Series("relevant", answers)).write_parquet(path)
    with pytest.raises(DataError, match=r"other right answers.*1 of 40"):
        compare([str(one), str(three)])


def test_the_order_of_candidates_is_no_difference(tmp_path: Path) -> None:
    one, two = write_run(tmp_path / "one"), write_run(tmp_path / "two")
    path = two / "cases.test.parquet"
    turned = pl.read_parquet(path).with_columns(pl.col("candidates").list.reverse()).reverse()
    turned.write_parquet(path)
    assert compare([str(one), str(two)]).queries == 40


def test_stale_and_missing_runs_are_refused(tmp_path: Path) -> None:
    run = write_run(tmp_path / "one")
    with pytest.raises(StoreError, match="no such run directory"):
        compare([str(tmp_path / "none")])
    (tmp_path / "empty").mkdir()
    with pytest.raises(StoreError, match="trsr run"):
        compare([str(tmp_path / "empty")])
    with pytest.raises(ConfigError, match="nothing to compare"):
        compare([])
    parents = {"cases.test.parquet": hash_file(run / "cases.test.parquet")}
    directory = RunDirectory(run)
    directory._write_manifest({"evaluate": StageRecord({}, parents, {})}, [])
    assert compare([str(run)]).queries == 40
    directory._write_manifest({"evaluate": StageRecord({}, {"cases.test.parquet": "0"}, {})}, [])
    with pytest.raises(StaleRunError, match="changed since it was evaluated"):
        compare([str(run)])


@pytest.mark.parametrize(("queries", "said"), [(0, "no queries"), (1, "one user")])
def test_what_cannot_be_said_is_said(tmp_path: Path, queries: int, said: str) -> None:
    one, two = (write_run(tmp_path / name, queries=queries, seed=3) for name in ("one", "two"))
    found = compare([str(one), str(two)])
    assert any("nothing can be said" in note for note in found.notes)
    assert any(said in note for note in found.notes)
    assert found.table().rows[1][4:7] == ("–", "–", "–")
    json.dumps(found.to_json(), allow_nan=False)


def test_the_command_prints_a_table_or_json(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = write_run(tmp_path / "one")

    def command(*words: str) -> tuple[str, int | str | None]:
        monkeypatch.setattr("sys.argv", ["trsr", "compare", *words])
        with pytest.raises(SystemExit) as ended:
            main()
        return capsys.readouterr().out, ended.value.code

    text, code = command(str(run), "--metric", "recall@1")
    assert code == 0
    assert "recall@1" in text
    assert "baseline" in text
    plain = json.loads(command(str(run), "--json")[0])
    assert plain["baseline"] == "llm"
    assert [one["name"] for one in plain["comparisons"]] == ["llm", "random"]
    assert command(str(tmp_path / "none"))[1] == 2
