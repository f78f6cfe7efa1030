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
from trsr.experiments.compare import compare
from trsr.storage.run_directory import RunDirectory, StageRecord, hash_file

pytestmark = pytest.mark.usefixtures("few_draws")


def test_one_run_sets_all_its_rankers_against_the_main_one(tmp_path: Path) -> None:
    run = write_run(tmp_path / "a", skills={"random": 0.0, "popular": 2.0, "llm": 2.0})
    found = compare([str(run)])
    assert found.baseline == "llm"
    assert [one.system for one in found.results] == ["llm", "random", "popular"]
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


def test_a_run_stands_for_the_ranker_that_its_report_is_about(tmp_path: Path) -> None:
    skills = {"blend": 2.0, "popular": 1.0, "llm": 2.0}
    for rankers, about in ((["popular", "blend", "llm"], "blend"), (["llm", "popular"], "llm")):
        run = write_run(tmp_path / about, skills={name: skills[name] for name in rankers})
        found = compare([str(run), f"{run}:popular"])
        assert [one.system for one in found.results] == [about, "popular"]
    run = write_run(tmp_path / "cheap", skills={"random": 0.0, "popular": 1.0})
    assert compare([str(run)]).baseline == "popular"


def test_runs_are_paired_by_query_whatever_the_order_of_rows(tmp_path: Path) -> None:
    one, two = write_run(tmp_path / "one"), write_run(tmp_path / "two", seed=1)
    straight = compare([str(one), str(two)], metrics=["recall@1", "ndcg@10"])
    path = two / "per_query.parquet"
    pl.read_parquet(path).reverse().write_parquet(path)
    assert compare([str(one), str(two)], metrics=["recall@1", "ndcg@10"]) == straight
    assert [r.system for r in straight.results] == ["one", "two"] * 2
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
    assert [r.system for r in found.results] == ["two:llm", "one:llm", "two:random"]
    named = compare([str(one), str(two)], rankers=["random", "llm"])
    assert [r.system for r in named.results] == ["one:random", "one:llm", "two:random", "two:llm"]
    with pytest.raises(ConfigError, match="no ranker 'lm': did you mean llm"):
        compare([f"{one}:lm"])
    with pytest.raises(ConfigError, match="no metric 'ndcg@5'.*did you mean ndcg@10"):
        compare([str(one)], metrics=["ndcg@5"])


def test_of_a_single_run_all_rankers_are_compared_with_the_named_one(tmp_path: Path) -> None:
    one, two = write_run(tmp_path / "one"), write_run(tmp_path / "two", seed=1)
    for baseline in ("random", f"{one}:random"):
        found = compare([str(one)], baseline=baseline)
        assert found.baseline == "random"
        assert [result.system for result in found.results] == ["random", "llm"]
    for baseline in (str(two), f"{two}:llm"):
        other = compare([str(one)], baseline=baseline)
        assert [result.system for result in other.results] == ["two:llm", "one:random", "one:llm"]
    with pytest.raises(ConfigError, match="no ranker 'randm': did you mean random"):
        compare([str(one)], baseline="randm")


def test_a_ranker_that_no_run_takes_is_refused(tmp_path: Path) -> None:
    one, two = write_run(tmp_path / "one"), write_run(tmp_path / "two", seed=1)
    named = [f"{one}:llm", f"{two}:llm"]
    for runs in (named, named[:1]):
        with pytest.raises(ConfigError, match="--ranker zork: no run takes it.*write RUN:zork"):
            compare(runs, rankers=["zork"])
    # The baseline takes the first, where it names none.
    found = compare(named, baseline=str(one), rankers=["random"])
    assert found.baseline == "one:random"
    with pytest.raises(ConfigError, match="--ranker llm: no run takes it"):
        compare(named, baseline=str(one), rankers=["random", "llm"])
    assert len(compare([named[0], str(two)], rankers=["random"]).results) == 2


def test_a_baseline_that_is_a_rankers_name_alone_says_how_to_write_it(tmp_path: Path) -> None:
    one, two = write_run(tmp_path / "one"), write_run(tmp_path / "two", seed=1)
    runs = [f"{one}:llm", f"{two}:llm"]
    with pytest.raises(ConfigError, match=rf"no such run dir.*RUN:random, such as {one}:random$"):
        compare(runs, baseline="random")
    with pytest.raises(ConfigError, match="no such run.*no ranker of that .*did you mean random?"):
        compare(runs, baseline="randm")
    with pytest.raises(StoreError, match="none: there is no such run directory"):
        compare(runs, baseline=str(tmp_path / "none"))


def test_one_row_alone_is_told_to_be_no_comparison(tmp_path: Path) -> None:
    one, two = write_run(tmp_path / "one"), write_run(tmp_path / "two", seed=1)
    for runs, options in (
        ([str(one)], {"rankers": ["random"]}),
        ([f"{one}:llm"], {}),
        ([str(one), str(two)], {"seeds": True}),
    ):
        found = compare(runs, **options)
        assert len(found.results) == 1
        assert any("Nothing is compared" in note for note in found.notes)
        assert not any("another training may differ" in note for note in found.notes)
    both = compare([str(one), str(two)])
    assert not any("Nothing is compared" in note for note in both.notes)


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
    named = [("bad0 and 2 more", 3), ("good0 and 2 more", 3)]
    assert [(r.system, r.seeds) for r in found.results] == named
    difference = found.results[1].difference
    assert difference is not None
    assert difference.test == "seeds"
    assert found.results[1].seed_sd is not None
    assert any("over seeds" in note for note in found.notes)
    # What p is for, the note on seeds says; without them it is for these trainings alone.
    assert not any("another training may differ" in note for note in found.notes)
    single = compare([*bad, *good])
    assert len(single.results) == 6
    assert sum("another training may differ" in note for note in single.notes) == 1


def test_seeds_of_the_training_alone_are_pooled_too(tmp_path: Path) -> None:
    runs = [
        str(write_run(tmp_path / f"one{n}", seed=n, settings=f"[train]\nseed = {n}"))
        for n in range(2)
    ]
    found = compare(runs, seeds=True)
    assert [(one.system, one.seeds) for one in found.results] == [("one0 and 1 more", 2)]


@pytest.mark.parametrize(
    ("one", "other", "row"),
    [
        ("max_history=5,seed=1", "max_history=5,seed=2", "max_history=5"),
        ("seed=1", "seed=2", "sweep"),
        ("a,train.seed=1", "a,train.seed=2", "a"),
    ],
)
def test_a_row_of_several_seeds_is_not_named_by_one(
    tmp_path: Path, one: str, other: str, row: str
) -> None:
    rival = write_run(tmp_path / "sweep" / "rival,seed=1", settings="[train]\nrank = 9")
    runs = [
        str(write_run(tmp_path / "sweep" / name, seed=n, settings=f"[train]\nseed = {n}"))
        for n, name in enumerate((one, other), 3)
    ]
    found = compare([*runs, str(rival)], seeds=True)
    assert [(r.system, r.seeds) for r in found.results] == [(row, 2), ("rival,seed=1", 1)]


def test_rows_whose_names_would_be_the_same_without_seeds_are_told_apart(tmp_path: Path) -> None:
    runs = [
        str(write_run(tmp_path / place / f"a,seed={n}", seed=n, settings=f"[train]\na = {a}"))
        for place, a, seeds in (("x", 1, (1, 2)), ("y", 2, (3, 4)))
        for n in seeds
    ]
    systems = [one.system for one in compare(runs, seeds=True).results]
    assert systems == [f"{tmp_path}/x/a,seed=1 and 1 more", f"{tmp_path}/y/a,seed=3 and 1 more"]


def test_one_training_does_not_count_as_two_seeds(tmp_path: Path) -> None:
    one = write_run(tmp_path / "one", settings="[train]\nseed = 3")
    copied = tmp_path / "copied"
    shutil.copytree(one, copied)
    with pytest.raises(ConfigError, match="the same settings and seed: they are one training"):
        compare([str(one), str(copied)], seeds=True)


def seed_runs(folder: Path, **made: int) -> list[str]:
    """Runs of one setting under seeds of their own, each with the lists of the seed it is given."""
    runs = []
    for n, (name, seed) in enumerate(made.items(), 1):
        run = write_run(folder / name, seed=seed, settings=f"[train]\nseed = {n}")
        records = {
            "rank": StageRecord({"rank": {}}, {"adapter": str(seed)}, {}),
            "evaluate": StageRecord({}, {}, {}),
        }
        RunDirectory(run)._write_manifest(records, [])
        text = (run / "config.toml").read_text("utf-8")
        (run / "config.toml").write_text(text.replace(f"seed = {seed}\n", "seed = 0\n", 1))
        runs.append(str(run))
    return runs


def test_where_a_seed_changes_nothing_runs_count_as_one(tmp_path: Path) -> None:
    """As where the rank stage was copied: the ranker was never made twice."""
    runs = seed_runs(tmp_path, a=5, b=5)
    rival = str(write_run(tmp_path / "rival", seed=7, settings="[train]\nrank = 9"))
    found = compare([*runs, rival], seeds=True)
    assert [(one.system, one.seeds) for one in found.results] == [("a and 1 more", 1), ("rival", 1)]
    assert found.results[0].seed_sd is None
    assert any("a and 1 more: 2 runs gave the same" in note for note in found.notes)
    alone = compare([runs[0], rival], seeds=True).results[1].difference
    assert found.results[1].difference == alone


def test_a_copied_stage_among_other_seeds_is_refused(tmp_path: Path) -> None:
    runs = seed_runs(tmp_path, a=5, b=6, c=5)
    with pytest.raises(ConfigError, match="a and .*c|c and .*a"):
        compare(runs, seeds=True)
    with pytest.raises(ConfigError, match="one training, and would count as two; leave one"):
        compare(runs, seeds=True)
    assert compare(runs[:2], seeds=True).results[0].seeds == 2


def test_a_run_that_is_named_twice_is_refused(tmp_path: Path) -> None:
    one = write_run(tmp_path / "one")
    (tmp_path / "sub").mkdir()
    again = tmp_path / "sub" / ".." / "one"
    for twice in (str(one), str(again), f"{again}:llm"):
        for seeds in (False, True):
            with pytest.raises(ConfigError, match="its llm stands twice"):
                compare([str(one), twice], seeds=seeds)
    found = compare([str(one)], baseline=f"{again}:random")
    assert [result.system for result in found.results] == ["random", "llm"]


def test_what_is_no_run_directory_is_told_as_what_it_is(tmp_path: Path) -> None:
    one = write_run(tmp_path / "sweep" / "one")
    (tmp_path / "sweep" / "sweep.json").write_text("{}")
    with pytest.raises(StoreError, match="sweep.json: is a file and not a run directory; leave it"):
        compare([str(one), str(tmp_path / "sweep" / "sweep.json")])
    with pytest.raises(StoreError, match="sweep: is not a run directory"):
        compare([str(tmp_path / "sweep")])
    for empty in ("", " ", ":llm"):
        with pytest.raises(ConfigError, match="names no run"):
            compare([str(one), empty])


VALUES = "per_query.parquet"


def evaluated(folder: Path) -> Path:
    """A finished run whose manifest holds the hashes of its values and its report."""
    run = write_run(folder)
    hashes = {name: hash_file(run / name) for name in (VALUES, "report.json")}
    record = StageRecord({}, {}, hashes)
    RunDirectory(run)._write_manifest({"evaluate": record}, [])
    return run


def test_values_that_evaluate_did_not_write_are_refused(tmp_path: Path) -> None:
    run = evaluated(tmp_path / "one")
    assert compare([str(run)]).queries == 40
    better = pl.read_parquet(run / VALUES).with_columns(pl.lit(1.0).alias("ndcg@10"))
    better.write_parquet(run / VALUES)
    said = "one/per_query.parquet: is not the file that evaluate wrote.*; give `trsr run .*one"
    with pytest.raises(StaleRunError, match=said):
        compare([str(run)])


def test_a_report_that_evaluate_did_not_write_is_refused(tmp_path: Path) -> None:
    run = evaluated(tmp_path / "one")
    (run / "report.json").write_text('{"chance": {}, "notes": ["made up"]}')
    with pytest.raises(StaleRunError, match=r"one/report.json: is not the file that evaluate"):
        compare([str(run)])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            lambda rows: rows.filter((rows["ranker"] != "llm") | (rows["query"] != "test/u3/3")),
            r"ranker llm has no value for 1 of 40 queries \(first: test/u3/3\)",
        ),
        (lambda rows: pl.concat([rows, rows[:1]]), "ranker random has query test/u0/3 more than"),
        (
            lambda rows: rows.with_columns(
                pl.when(pl.col("query") == "test/u3/3")
                .then(float("nan"))
                .otherwise(pl.col("ndcg@10"))
                .alias("ndcg@10")
            ),
            "ranker random has nan for ndcg@10 of query test/u3/3",
        ),
        (
            lambda rows: rows.with_columns(pl.lit(None, pl.Float64).alias("recall@1")),
            "ranker random has None for recall@1 of query test/u0/3",
        ),
        (
            lambda rows: rows.with_columns(pl.lit("much").alias("recall@1")),
            "ranker random has much for recall@1 of query test/u0/3",
        ),
    ],
)
def test_values_that_are_not_whole_are_refused(tmp_path: Path, change, said: str) -> None:
    run, other = write_run(tmp_path / "one"), write_run(tmp_path / "two", seed=1)
    change(pl.read_parquet(run / VALUES)).write_parquet(run / VALUES)
    with pytest.raises(DataError, match=rf"one/per_query.parquet: {said}.*trsr run .*one"):
        compare([str(run), str(other)])


def test_a_run_that_was_stopped_or_whose_manifest_is_gone_is_refused(tmp_path: Path) -> None:
    run = write_run(tmp_path / "one")
    RunDirectory(run)._write_manifest({"evaluate": StageRecord({}, {}, {})}, ["evaluate"])
    with pytest.raises(StoreError, match="one: evaluate was stopped.*`trsr run .*one` again"):
        compare([str(run)])
    RunDirectory(run)._write_manifest({"rank": StageRecord({}, {}, {})}, [])
    with pytest.raises(StoreError, match="manifest.json does not tell of evaluate"):
        compare([str(run)])
    (run / "manifest.json").unlink()
    with pytest.raises(StoreError, match="one/manifest.json is not there.*`trsr run .*one` again"):
        compare([str(run)])


def test_lists_of_names_are_told_once(tmp_path: Path) -> None:
    run = write_run(tmp_path / "one")
    for given, metrics in ((f"{run}:zzz", ()), (str(run), ["zzz"])):
        with pytest.raises(ConfigError) as told:
            compare([given], metrics=metrics)
        assert str(told.value).count("random" if not metrics else "recall@1") == 1


def test_another_whole_catalogue_is_refused(tmp_path: Path) -> None:
    """Lists of candidates are empty at rest: what they stand for is what counts."""
    runs = {}
    for name, catalog, met in (
        ("one", "abc", ["b"]),
        ("same", "cba", ["b"]),
        ("larger", "abcd", ["b"]),
        ("seen", "abc", ["c"]),
    ):
        folder = runs[name] = write_run(tmp_path / name)
        cases = pl.read_parquet(folder / "cases.test.parquet")
        told = cases.with_columns(
            candidates=pl.Series([[]] * len(cases), dtype=pl.List(pl.String)),
            seen=pl.Series([met] * len(cases)),
        )
        told.write_parquet(folder / "cases.test.parquet")
        pl.DataFrame({"id": list(catalog)}).write_parquet(folder / "items.parquet")
    one = str(runs["one"])
    assert len(compare([one, str(runs["same"])]).results) == 2
    with pytest.raises(DataError, match="larger has other candidates .*only .*one has catalog"):
        compare([one, str(runs["larger"])])
    with pytest.raises(DataError, match=r"only .*one has \(without b\).*seen has \(without c\)"):
        compare([one, str(runs["seen"])])


def test_other_queries_are_refused_with_their_number_and_the_first(tmp_path: Path) -> None:
    one, two = write_run(tmp_path / "one"), write_run(tmp_path / "two", queries=38)
    with pytest.raises(DataError, match=r"two has other queries.*40 it lacks 2 \(first: test/u38"):
        compare([str(one), str(two)])
    with pytest.raises(DataError, match=r"than \S+two: it also has 2 \(first: test/u38"):
        compare([str(two), str(one)])
    other = write_run(tmp_path / "three", rename="x")
    with pytest.raises(DataError, match=r"lacks 40 .* and also has 40 \(first: xtest/u0/3\)"):
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
