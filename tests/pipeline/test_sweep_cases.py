"""What a sweep puts side by side: the same test cases, trainings that differ, one's own figures."""

from __future__ import annotations

import json

import polars as pl
import pytest
from pipeline_data import CHEAP, write_data

from trsr.errors import StoreError
from trsr.experiments.compare import compare
from trsr.experiments.sweep import read_plan, sweep

HEAD = 'base = "base.toml"\n[sweep]\nfolder = "out"\n'

SEARCH = HEAD + '[search]\ntrials = 8\nmetric = "auc"\nranker = "popular"\n[search.space]\n'


@pytest.fixture
def folder(tmp_path):
    write_data(tmp_path, users=20, items=40)
    (tmp_path / "base.toml").write_text(CHEAP)
    return tmp_path


def swept(folder, text, **options):
    (folder / "sweep.toml").write_text(text)
    return sweep(read_plan(folder / "sweep.toml"), **options)


def notes(found, word):
    return [note for note in found.notes() if word in note]


def test_only_the_searched_ranker_has_the_figure_on_validation_cases(folder):
    pytest.importorskip("optuna", reason="the extra `sweep` is not installed")
    found = swept(folder, SEARCH + "prompts.recent = [4, 9]\n")
    header, rows = found.table()
    ranker, valid, tested = (header.index(name) for name in ("ranker", "valid auc", "auc"))
    assert {row[ranker]: bool(row[valid]) for row in rows if row[tested]} == {
        "random": False,
        "popular": True,
    }


def test_rows_with_other_test_cases_are_named(folder):
    found = swept(folder, HEAD + "[grid]\ndata.negatives = [6, 3]\ndata.max_history = [5, 9]\n")
    (note,) = notes(found, "other test cases")
    assert note.partition("same cases: ")[2] == (
        "negatives=6, max_history=5; negatives=6, max_history=9 | "
        "negatives=3, max_history=5; negatives=3, max_history=9"
    )
    assert note in (folder / "out" / "sweep.md").read_text()
    told = json.loads((folder / "out" / "sweep.json").read_text())
    assert note in told["table"]["notes"]
    assert len({run["cases"] for run in told["runs"]}) == 2
    same = swept(folder, HEAD.replace("out", "same") + "[grid]\ndata.max_history = [5, 9]\n")
    assert not notes(same, "other test cases")


def test_what_the_runs_reports_warn_of_stands_below_the_table_once(folder):
    found = swept(folder, HEAD + "[grid]\ndata.max_history = [5, 9]\n")
    (note,) = notes(found, "Krichene and Rendle")
    assert note.startswith("Candidates are sampled (7 a query")
    assert f"- {note}" in (folder / "out" / "sweep.md").read_text("utf-8")
    told = json.loads((folder / "out" / "sweep.json").read_text("utf-8"))
    assert note in told["table"]["notes"]
    # Where the runs' candidates differ, so does what is said, and of which run it is.
    apart = swept(folder, HEAD.replace("out", "apart") + "[grid]\ndata.negatives = [6, 3]\n")
    assert [note.partition(" a query")[0] for note in notes(apart, "Krichene and Rendle")] == [
        "negatives=6: Candidates are sampled (7",
        "negatives=3: Candidates are sampled (4",
    ]


def test_a_mean_over_seeds_with_cases_of_their_own_is_told_as_one(folder):
    text = "seeds = [1, 2]\n" + HEAD + 'seed = "run.seed"\n'
    found = swept(folder, text + "[variants]\na.data.max_history = 5\nb.data.max_history = 9\n")
    (note,) = notes(found, "test cases of its own")
    assert note.endswith(": a; b")
    assert {row[2] for row in found.table()[1]} == {"2"}
    assert not notes(found, "do not compare")  # seed by seed they are the same
    one = swept(folder, text.replace("out", "one") + "[set]\ndata.seed = 3\n")
    assert not notes(one, "test cases of its own")


def test_seeds_that_draw_nothing_anew_count_once(folder):
    text = "seeds = [1, 2]\n" + HEAD
    found = swept(folder, text)  # train.seed, and nothing is trained
    assert [row[:2] for row in found.table()[1]] == [["random", "1"], ["popular", "1"]]
    assert not any("(±" in cell for row in found.table()[1] for cell in row)
    assert notes(found, "count as one")
    found = swept(folder, text.replace('"out"', '"all"\nseed = "run.seed"') + "[set]\ndata.seed=3")
    assert [row[:2] for row in found.table()[1]] == [["random", "2"], ["popular", "1"]]


def test_seeds_of_the_training_train_networks_anew(folder):
    pytest.importorskip("torch", reason="the extra `local` is not installed")
    text = (
        "seeds = [1, 2]\n"
        + HEAD
        + """[set]
rank.rankers = ["random", "popular", "sasrec"]
rank.sequential.hidden = 8
rank.sequential.max_epochs = 2
"""
    )
    found = swept(folder, text)
    counts = [["random", "1"], ["popular", "1"], ["sasrec", "2"]]
    assert [row[:2] for row in found.table()[1]] == counts
    runs = [str(path) for path in sorted((folder / "out").glob("seed=*"))]
    pooled = compare(runs, rankers=["sasrec", "popular"], metrics=["auc"], seeds=True)
    assert {one.system.rpartition(":")[2]: one.seeds for one in pooled.results} == {
        "sasrec": 2,
        "popular": 1,
    }
    assert swept(folder, text).table() == found.table()


@pytest.mark.parametrize("report", ["{}", '{"rankers', "changed"])
def test_a_report_that_somebody_changed_is_made_again(folder, report):
    text = HEAD + "[grid]\ndata.max_history = [5, 9]\n"
    before = swept(folder, text)
    path = folder / "out" / "max_history=5" / "report.json"
    whole = path.read_bytes()
    path.write_text(whole.decode().replace("0.", "0.9") if report == "changed" else report)
    after = swept(folder, text)
    assert not after.failed
    assert after.table() == before.table()
    assert path.read_bytes() == whole


def test_figures_by_query_that_are_none_are_made_again(folder):
    text = HEAD + "[grid]\ndata.max_history = [5, 9]\n"
    before = swept(folder, text)
    path = folder / "out" / "max_history=5" / "per_query.parquet"
    whole = pl.read_parquet(path)
    pl.DataFrame({"a": [1]}).write_parquet(path)
    after = swept(folder, text)
    assert not after.failed
    assert after.table() == before.table()
    assert pl.read_parquet(path).equals(whole)


def test_a_result_that_cannot_be_read_fails_its_run_alone(folder, monkeypatch):
    def unreadable(run, ranker):
        if run.folder.name == "max_history=5":
            raise StoreError("gone")
        return ""

    monkeypatch.setattr("trsr.pipeline.finished_run.FinishedRun.answers", unreadable)
    found = swept(folder, HEAD + "[grid]\ndata.max_history = [5, 9]\n")
    assert [(one.name, one.error) for one in found.failed] == [("max_history=5", "gone")]
    assert (folder / "out" / "max_history=5" / "error.txt").read_text() == "gone\n"
    assert len(found.outcomes) == 2


def test_a_search_counts_seeds_that_draw_nothing_anew_once(folder):
    pytest.importorskip("optuna", reason="the extra `sweep` is not installed")
    found = swept(folder, "seeds = [1, 2]\n" + SEARCH + "prompts.recent = [5, 9]\n")
    header, rows = found.table()
    place = header.index("valid auc")
    assert {row[header.index("seeds")] for row in rows} == {"1"}
    assert not any("(±" in row[place] for row in rows)
