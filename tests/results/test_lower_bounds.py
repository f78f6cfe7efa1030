"""auc of lists that leave out candidates is a lower bound: marked wherever read, tested nowhere."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from finished_runs import write_run
from pipeline_data import write_data

from trsr.evaluate.table import BOUND, LEAST, LOWER
from trsr.pipeline.compare import compare
from trsr.pipeline.finished import FinishedRun
from trsr.results import keep_runs, read_plan, write_results
from trsr.sweep import read_plan as read_sweep
from trsr.sweep import sweep

BASE = """
[data]
interactions = "clicks.csv"
items = "products.jsonl"
min_history = 4
candidates = "full"

[model]
backend = "scripted"
name = "scripted"

[train]
epochs = 0

[rank]
rankers = ["random", "popular", "untuned"]
proposals = 7

[evaluate]
metrics = ["ndcg@10", "auc"]
"""

GRID = """
base = "base.toml"

[sweep]
folder = "runs"

[variants.whole]
rank.depth = 1000

[variants.cut]
rank.depth = 20
"""

BOUNDS = {
    "whole": {"random": set(), "popular": set(), "untuned": {"auc"}},
    "cut": {"random": {"auc"}, "popular": {"auc"}, "untuned": {"auc"}},
}
"""A model orders 7 proposals; lists of 20 places leave out candidates, lists of 1,000 none."""


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bounds")
    write_data(folder, users=30, items=60)
    (folder / "base.toml").write_text(BASE)
    (folder / "grid.toml").write_text(GRID)
    found = sweep(read_sweep(folder / "grid.toml"))
    assert not found.failed
    return found


@pytest.fixture(scope="module")
def runs(swept) -> Path:
    return swept.plan.folder


def test_a_bound_on_either_side_gives_no_test(runs):
    found = compare([str(runs / "whole")], metrics=["auc", "ndcg@10"], baseline="popular")
    sides = {(one.side, one.metric): one for one in found.results}
    assert {key for key, one in sides.items() if one.bound} == {("untuned", "auc")}
    assert {key for key, one in sides.items() if one.compared} == {
        ("random", "auc"),
        ("random", "ndcg@10"),
        ("untuned", "ndcg@10"),
    }
    assert sides["untuned", "auc"].p_holm is None
    # With the bound for the baseline nothing is compared by it, and Holm counts the rest alone.
    turned = compare([str(runs / "whole")], metrics=["auc", "ndcg@10"], baseline="untuned")
    assert {one.metric for one in turned.results if one.compared} == {"ndcg@10"}
    assert any("for the 2 comparisons" in note for note in turned.notes)
    alone = compare([str(runs / "whole")], metrics=["ndcg@10"], baseline="untuned")
    assert [one for one in turned.results if one.metric == "ndcg@10"] == list(alone.results)


def test_the_table_and_json_of_compare_say_which_values_are_bounds(runs):
    found = compare([str(runs / "whole")], metrics=["auc", "ndcg@10"], baseline="popular")
    header, rows, notes = found.table()
    cells = {tuple(row[:2]): dict(zip(header, row, strict=True)) for row in rows}
    untuned = cells["untuned", "auc"]
    assert untuned["mean"].startswith(LEAST)
    assert [untuned[name] for name in header[3:-1]] == ["–"] * 5
    assert untuned[""] == ""
    means = [cells[name, "auc"]["mean"] for name in ("random", "popular")]
    assert not any(LEAST in mean for mean in means)
    # Of a bound nobody knows whether it is the highest.
    assert not any(one["mean"].endswith("*") for key, one in cells.items() if key[1] == "auc")
    assert any(one["mean"].endswith("*") for key, one in cells.items() if key[1] == "ndcg@10")
    assert notes.count(BOUND) == 1
    told = {(one["name"], one["metric"]): one for one in found.to_json()["comparisons"]}
    assert told["untuned", "auc"]["lower_bound"] is True
    assert told["untuned", "auc"]["mean"] > 0
    assert told["untuned", "auc"]["difference"] is told["untuned", "auc"]["p"] is None
    assert told["popular", "auc"]["lower_bound"] is False
    assert BOUND not in compare([str(runs / "whole")], metrics=["ndcg@10"]).notes


def test_seeds_of_which_one_is_a_bound_are_a_bound(tmp_path):
    made = [str(write_run(tmp_path / f"s{n}", seed=n)) for n in range(2)]
    rival = str(write_run(tmp_path / "rival", seed=9, settings="[train]\nrank = 9"))
    assert compare([*made, rival], seeds=True).results[1].compared
    path = tmp_path / "s1" / "report.json"
    report = json.loads(path.read_text())
    report["rankers"]["llm"]["lower_bounds"] = ["ndcg@10"]
    path.write_text(json.dumps(report))
    pooled, other = compare([*made, rival], seeds=True).results
    assert (pooled.seeds, pooled.bound, other.bound, other.compared) == (2, True, False, False)


PAGE = """
[sections.one]
title = "One"
command = "trsr sweep grid.toml"
runs = ["whole", "cut"]
baseline = "popular, depth=1000"
metrics = ["auc", "ndcg@10"]
compare = ["auc", "ndcg@10"]
history_bins = [6]
"""


def page_of(folder: Path, runs: Path, text: str = PAGE) -> tuple[str, list[list[list[str]]]]:
    (folder / "results.toml").write_text(text)
    write_results(read_plan(folder / "results.toml", runs), folder / "results.md")
    page = (folder / "results.md").read_text("utf-8")
    parts = [part.splitlines() for part in page.split("\n\n") if part.startswith("|")]
    return page, [
        [[cell.strip() for cell in line[1:-1].split(" | ")] for line in part if "---" not in line]
        for part in parts
    ]


def test_the_page_marks_bounds_and_tests_none(tmp_path, runs):
    page, (main, differences, groups, *_) = page_of(tmp_path, runs)
    auc, ndcg = (main[0].index(name) for name in ("auc", "ndcg@10"))
    bounded = {row[0] for row in main if row[auc].startswith(LEAST)}
    assert bounded == {"random, depth=20", "popular, depth=20", "untuned"}
    assert {row[0]: row[auc] for row in main}["chance"] == "–"
    assert {row[0]: row[ndcg] for row in main}["chance"].startswith(".")
    assert not any("**" in row[auc] for row in main)
    assert any("**" in row[ndcg] for row in main)
    assert [row[0] for row in differences if row[1] == "auc"] == ["random, depth=1000"]
    ndcgs = [row[0] for row in differences if row[1] == "ndcg@10"]
    assert len(ndcgs) == len(main) - 3  # but for the header, the baseline and chance
    assert page.count(BOUND) == 1
    lengths = {row[0]: row[1] for row in groups[1:]}
    assert lengths["untuned"].startswith(LEAST)
    assert ";" in lengths["random, depth=1000"]
    assert ";" not in lengths["untuned"] + lengths["random, depth=20"]


def test_where_the_baseline_is_a_bound_the_next_metric_is_told_by_length(tmp_path, runs):
    text = PAGE.replace("popular, depth=1000", "untuned")
    page, (_, differences, *_) = page_of(tmp_path, runs, text)
    assert {row[1] for row in differences[1:]} == {"ndcg@10"}
    assert "ndcg@10 by length of history" in page
    # By bounds alone nothing is compared, and there is no table to say how.
    alone = text.replace('compare = ["auc", "ndcg@10"]', 'compare = ["auc"]')
    page, _ = page_of(tmp_path, runs, alone)
    assert "| difference |" not in page
    assert "Differences to" not in page
    assert "auc by length of history" in page


def test_kept_copies_know_their_bounds(tmp_path, runs):
    kept = keep_runs([runs / "whole", runs / "cut"], tmp_path, lambda path, why: None)
    for folder in kept:
        assert FinishedRun(folder).bounds == BOUNDS[folder.name]
        assert FinishedRun(runs / folder.name).bounds == BOUNDS[folder.name]
    whole, (main, *_) = page_of(tmp_path, runs)
    again, (same, *_) = page_of(tmp_path, tmp_path)
    assert main == same
    assert again.count(LEAST) == whole.count(LEAST)


def test_what_an_older_trsr_kept_of_a_whole_catalogue_is_taken_for_a_bound(tmp_path, runs):
    (full,) = keep_runs([runs / "whole"], tmp_path, lambda path, why: None)
    sampled = write_run(tmp_path / "sampled", metrics=("ndcg@10", "auc"))
    for folder in (full, sampled):
        report = json.loads((folder / "report.json").read_text())
        old = report | {"rankers": dict.fromkeys(report["rankers"])}
        (folder / "report.json").write_text(json.dumps(old))
    assert set(FinishedRun(full).bounds.values()) == {frozenset({"auc"})}
    assert set(FinishedRun(sampled).bounds.values()) == {frozenset()}


def test_the_sweeps_table_marks_bounds(swept, runs):
    header, rows = swept.table()
    auc, ranker = header.index("auc"), header.index("ranker")
    marked = {(row[0], row[ranker]) for row in rows if row[auc].startswith(LEAST)}
    depths = {"1000": "whole", "20": "cut"}
    assert {(depths.get(name, name), one) for name, one in marked} == {
        (name, one) for name, each in BOUNDS.items() for one, bounds in each.items() if bounds
    }
    assert not any(LEAST in row[header.index("ndcg@10")] for row in rows)
    assert swept.notes().count(LOWER) == 1
    assert f"- {LOWER}" in (runs / "sweep.md").read_text("utf-8")
    told = json.loads((runs / "sweep.json").read_text("utf-8"))["runs"]
    assert told[0]["lower_bounds"] == {"random": [], "popular": [], "untuned": ["auc"]}


def test_of_the_published_runs_no_auc_of_a_whole_catalogue_is_tested():
    published = Path(__file__).parents[2] / "docs" / "runs"
    for name in ("ml100k_rerank", "ml100k_full"):
        found = compare([str(published / name)], metrics=["auc"])
        assert len(found.results) > 4
        assert all(one.bound for one in found.results)
        assert not any(one.compared for one in found.results)
