"""Our own results: the page's tables come from the file, and runs that are added can be paired."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest
from finished_runs import write_run

from benchmarks.results.__main__ import main
from benchmarks.results.tables import means, plans, put, table
from benchmarks.results.values import SCHEMA, add, paired, read, rows_of
from trsr.errors import ConfigError, DataError

PAGE = Path(__file__).parents[2] / "docs" / "results.md"
SETTINGS = '[data]\ninteractions = "a.csv"\n'


def test_the_page_holds_the_values_of_the_file() -> None:
    page, values = PAGE.read_text("utf-8"), read()
    for plan in plans().values():
        for side in paired(values, plan.rows, plan.metrics)[0]:
            assert f"\n| {' | '.join(means(side, plan.metrics))} |" in page
    assert page.count("<!-- table ") == len(plans())


def test_a_table_is_printed_and_put_where_it_stood() -> None:
    page, plan = PAGE.read_text("utf-8"), plans()["ml-100k-rerank"]
    made = table(read(), plan)
    assert put(page, plan.name, made) == page
    with pytest.raises(ConfigError, match="no <!-- table films"):
        put("# Results", "films", made)


def test_published_values_can_be_compared_again(capsys: pytest.CaptureFixture[str]) -> None:
    names = ["ml100k_rerank:sasrec", "ml100k_rerank:popular"]
    assert main(["compare", *names]) == 0
    first, other = capsys.readouterr().out.splitlines()[1:3]
    assert first.split() == [names[0], "ndcg@10", ".110", "*", "baseline"]
    assert other.split()[:4] == [names[1], "ndcg@10", ".043", "−.067"]
    assert other.endswith("↓")
    assert main(["compare", names[0], "table_industrial/cheap:blend"]) == 2
    assert "not of one data set and split" in capsys.readouterr().err
    assert main(["compare", "table_movies/cheap:blnd"]) == 2
    assert "did you mean" in capsys.readouterr().err


def test_added_runs_are_paired_by_question_and_tell_no_id(tmp_path: Path) -> None:
    path = tmp_path / "values.parquet"
    runs = {
        name: write_run(tmp_path / name, settings=SETTINGS, seed=n)
        for n, name in enumerate(("a", "b"))
    }
    rows = add("made up", runs, path)
    values = read(path)
    assert rows == values.height
    told = {str(one) for name in values.columns for one in values[name].unique()}
    cases = pl.read_parquet(runs["a"] / "per_query.parquet")
    assert not told & {*cases["query"], *cases["user"]}

    ranker = cases["ranker"][0]
    systems, users = paired(values, {"one": f"a:{ranker}", "other": f"b:{ranker}"}, ["ndcg@10"])
    assert len(users) == cases["query"].n_unique()
    want = [
        pl.read_parquet(runs[name] / "per_query.parquet").filter(ranker=ranker).sort("query")
        for name in ("a", "b")
    ]
    pairs = zip(*(side.values["ndcg@10"][0] for side in systems), strict=True)
    assert sorted(pairs) == sorted(zip(*(one["ndcg@10"] for one in want), strict=True))

    # what is added later shares no number, so it is never paired by mistake
    add("made up", {"c": runs["a"]}, path)
    with pytest.raises(ConfigError, match="never asked the same question"):
        paired(read(path), {"one": f"a:{ranker}", "other": f"c:{ranker}"}, ["ndcg@10"])
    assert read(path).height == values.height + rows // 2
    add("made up", {"c": runs["b"]}, path)
    assert read(path).height == values.height + rows // 2


def test_only_seeds_are_pooled_and_a_damaged_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="differ in more than the seed"):
        rows_of(read(), "table_movies/*:llm")
    (tmp_path / "values.parquet").write_text("no table")
    with pytest.raises(DataError, match="cannot be read"):
        read(tmp_path / "values.parquet")
    assert set(read().schema) == set(SCHEMA)
