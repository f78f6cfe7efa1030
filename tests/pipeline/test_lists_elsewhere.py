"""`rank.external`: lists made elsewhere as rows of the table and as members of the blend."""

from __future__ import annotations

import json
from pathlib import Path

import polars as pl
import pytest
from pipeline_data import CHEAP, write_data

from trsr.cli.inspect import check_all
from trsr.config import load_config
from trsr.errors import ConfigError, DataError
from trsr.experiments.audit import audit
from trsr.pipeline import run
from trsr.recommender import Recommender
from trsr.storage.run_directory import RunDirectory


@pytest.fixture
def made(tmp_path):
    write_data(tmp_path, users=30, items=60)
    (tmp_path / "mine.toml").write_text(CHEAP)

    def make(name: str, *changes: str) -> Path:
        config = load_config(
            tmp_path / "mine.toml",
            [
                f"run.folder={tmp_path / name}",
                "data.seed=3",
                "evaluate.trec=true",
                *changes,
            ],
        )
        list(run(config))
        return config.run.folder

    return make


def row(folder: Path, ranker: str) -> pl.DataFrame:
    table = pl.read_parquet(folder / "per_query.parquet")
    return table.filter(pl.col("ranker") == ranker).drop("ranker")


def lists_of(*files: Path, ranker: str = "") -> list[str]:
    named = json.dumps([str(file) for file in files])
    return [f"rank.external.theirs.files={named}", f'rank.external.theirs.ranker="{ranker}"']


def test_another_systems_lists_are_a_row_with_the_same_values(made):
    first = made("first", 'rank.rankers=["bm25"]')
    given = lists_of(first / "run.bm25.trec")
    second = made("second", *given, 'rank.rankers=["popular", "theirs"]')
    before = row(first, "bm25")
    untied = before.filter(~pl.col("tied"))  # a TREC file makes up an order for ties
    assert untied.height > 5
    same = row(second, "theirs").filter(pl.col("query").is_in(untied["query"].implode()))
    assert same.equals(untied)
    report = json.loads((second / "report.json").read_text())
    assert any("theirs: lists that were made elsewhere" in note for note in report["notes"])
    page = (second / "report.html").read_text("utf-8")
    box = page.partition('id="warnings"')[2].partition("</section>")[0]
    assert "theirs: lists that were made elsewhere" in box
    states = {check.name: check.state for check in audit(second).checks}
    assert states["external lists"] == "warning"
    assert "external lists" not in {check.name for check in audit(first).checks}


def test_a_blend_learns_from_lists_of_two_runs_as_from_the_ranker(made):
    chosen = 'rank.rankers=["bm25", "popular"]'
    test, valid = made("test", chosen), made("valid", chosen, "rank.split=valid")
    apart = (test / "rankings.parquet", valid / "rankings.parquet")
    blend = made(
        "blend",
        *lists_of(*apart, ranker="bm25"),
        'rank.rankers=["blend"]',
        'rank.blend.members=["popular", "theirs"]',
    )
    whole = made("whole", 'rank.rankers=["blend"]', 'rank.blend.members=["popular", "bm25"]')
    weights = [
        RunDirectory(folder).records()["rank"].info["chosen"]["blend"]["weights"]
        for folder in (blend, whole)
    ]
    assert list(weights[0].values()) == pytest.approx(list(weights[1].values()), abs=1e-4)
    assert row(blend, "blend").equals(row(whole, "blend"))


def test_what_is_not_the_queries_candidates_is_refused_before_anything_is_ranked(made):
    first = made("first", 'rank.rankers=["bm25"]')
    lines = (first / "run.bm25.trec").read_text().splitlines()
    query = lines[0].split()[0]
    path = first.parent / "theirs.trec"
    for kept, said in (
        (lines[1:], f"the ranker theirs: its list of query {query} leaves out 1"),
        ([*lines, f"{query} Q0 other 9 -99 x"], f"of query {query} invents 1 .first: other"),
        (
            [line for line in lines if line.split()[0] != query],
            f"no list for query {query}, among lists for 29",
        ),
    ):
        path.write_text("\n".join(kept))
        with pytest.raises(DataError, match=said):
            made("second", *lists_of(path), 'rank.rankers=["popular", "theirs"]')
        assert not (first.parent / "second" / "rankings.parquet").exists()


def test_a_blend_without_lists_for_the_validation_queries_says_so(made):
    first = made("first", 'rank.rankers=["bm25"]')
    with pytest.raises(DataError, match="as the blend's member the validation queries too"):
        made(
            "second",
            *lists_of(first / "run.bm25.trec"),
            'rank.rankers=["blend"]',
            'rank.blend.members=["popular", "theirs"]',
        )


def test_which_of_a_files_rankers_is_meant_has_to_be_said(made):
    first = made("first", 'rank.rankers=["bm25", "popular"]')
    file = first / "rankings.parquet"
    with pytest.raises(ConfigError, match=r"holds lists of bm25, popular; name one in"):
        made("second", *lists_of(file), 'rank.rankers=["theirs"]')
    with pytest.raises(ConfigError, match=r"no lists of 'bm26': did you mean bm25\?"):
        made("second", *lists_of(file, ranker="bm26"), 'rank.rankers=["theirs"]')
    with pytest.raises(DataError, match=r"has a list in another file of rank.external.theirs too"):
        made("second", *lists_of(file, file, ranker="bm25"), 'rank.rankers=["theirs"]')


def test_names_and_paths_of_lists(tmp_path):
    write_data(tmp_path)
    path = tmp_path / "mine.toml"
    path.write_text(f'{CHEAP}\n[rank.external.bm25]\nfiles = ["a.trec"]\n')
    with pytest.raises(ConfigError, match=r"rank.external: bm25 is a ranker of its own"):
        load_config(path)
    path.write_text(f'{CHEAP}\n[rank.external.theirs]\nfiles = ["a.trec"]\n')
    assert load_config(path).rank.external["theirs"].files == (tmp_path / "a.trec",)
    with pytest.raises(ConfigError, match=r"no ranker 'their': did you mean theirs"):
        load_config(path, ['rank.rankers=["their"]'])
    with pytest.raises(ConfigError, match=r"rank.external.theirs.files"):
        load_config(path, ["rank.external.theirs.files=[]"])
    assert list(check_all(path, []))  # lists that are not used are not looked for
    with pytest.raises(DataError, match=r"a.trec: cannot be read"):
        list(check_all(path, ['rank.rankers=["theirs"]']))


def test_other_lists_are_ranked_anew_and_unused_ones_change_nothing(made):
    first = made("first", 'rank.rankers=["bm25"]')
    path = first.parent / "theirs.trec"
    path.write_text((first / "run.bm25.trec").read_text())
    settings = [*lists_of(path), 'rank.rankers=["popular", "theirs"]']
    before = row(made("second", *settings), "theirs")
    lines = [line.split() for line in path.read_text().splitlines()]
    path.write_text("\n".join(f"{q} Q0 {i} {r} {-float(s)} {t}" for q, _, i, r, s, t in lines))
    assert not row(made("second", *settings), "theirs").equals(before)

    plain = made("plain")
    stamp = RunDirectory(plain).records()["rank"]
    assert RunDirectory(made("plain", *lists_of(path))).records()["rank"] == stamp


def test_lists_recommend_nothing_new(made):
    first = made("first", 'rank.rankers=["bm25"]')
    given = lists_of(first / "run.bm25.trec")
    second = made("second", *given, 'rank.rankers=["popular", "theirs"]')
    recommender = Recommender.load(second, "theirs")
    valid = list(recommender.dataset.cases("valid").queries())
    with pytest.raises(DataError, match="answer only the queries that they were made for"):
        list(recommender.rank(valid))
