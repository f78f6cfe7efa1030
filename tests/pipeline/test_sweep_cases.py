"""What a sweep puts side by side: the same test cases, trainings that differ, one's own figures."""

from __future__ import annotations

import json

import polars as pl
import pytest
from pipeline_data import CHEAP, write_data

from trsr.errors import ConfigError, StoreError
from trsr.pipeline.compare import compare
from trsr.progress import Silent
from trsr.sweep import read_plan, sweep

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


@pytest.mark.parametrize(
    ("space", "said"),
    [
        ("data.negatives = [6, 3]\n", "data.negatives = 3 has other .* than data.negatives = 6"),
        ("data.negatives = { low = 3, high = 6 }\n", "give data.negatives one value in .set."),
        (
            "data.max_history = [5, 9]\ndata.valid_cases = [0, 7]\n",
            "data.valid_cases = 7 has other .* than data.valid_cases = 0: .* the easiest cases",
        ),
    ],
)
def test_a_search_that_would_change_the_cases_is_refused_before_its_trials(folder, space, said):
    pytest.importorskip("optuna", reason="the extra `sweep` is not installed")
    with pytest.raises(ConfigError, match=said):
        swept(folder, SEARCH + space)
    assert [path for path in (folder / "out").iterdir() if path.is_dir()] == []


def test_a_trial_whose_cases_differ_ends_the_search_before_it_is_trained(folder, monkeypatch):
    pytest.importorskip("optuna", reason="the extra `sweep` is not installed")
    # as where every value alone changes nothing, or the middle of a range does
    monkeypatch.setattr("trsr.sweep.same_cases.SameCases.look_ahead", lambda self: None)
    with pytest.raises(ConfigError) as told:
        swept(folder, SEARCH + "data.negatives = [6, 3]\n")
    first, other = (f"negatives={n}" for n in (6, 3))
    made = {
        path.name
        for path in (folder / "out").iterdir()
        if (path / "summaries.test.parquet").exists()
    }
    assert len(made) == 1
    last = first if made == {other} else other
    assert f"the trial {last} (data.{last.replace('=', ' = ')}) has other" in str(told.value)
    assert f"than the trial {made.pop()} (data." in str(told.value)


def test_data_that_changes_while_a_search_goes_on_ends_it(folder):
    pytest.importorskip("optuna", reason="the extra `sweep` is not installed")

    class Edits(Silent):
        def advance(self, steps=1, note=""):
            if steps:
                write_data(folder, users=16, items=40)

    with pytest.raises(ConfigError, match="by no setting: the data has changed"):
        swept(folder, SEARCH + "evaluate.trec = [false, true]\n", progress=Edits())


def test_settings_that_leave_the_cases_alone_may_be_searched(folder):
    pytest.importorskip("optuna", reason="the extra `sweep` is not installed")
    found = swept(folder, SEARCH + "data.max_history = [4, 6, 9]\n")
    assert not found.failed
    assert found.best
    assert {path.name for path in (folder / "out").iterdir() if path.is_dir()} == {
        one.name for one in found.outcomes
    }


def test_only_the_searched_ranker_has_the_figure_on_validation_cases(folder):
    pytest.importorskip("optuna", reason="the extra `sweep` is not installed")
    found = swept(folder, SEARCH + "data.max_history = [4, 9]\n")
    header, rows = found.table()
    ranker, valid, tested = (header.index(name) for name in ("ranker", "valid auc", "auc"))
    assert {row[ranker]: bool(row[valid]) for row in rows if row[tested]} == {
        "random": False,
        "popular": True,
    }


def test_rows_with_other_test_cases_are_named(folder):
    found = swept(folder, HEAD + "[grid]\ndata.negatives = [6, 3]\ndata.max_history = [5, 9]\n")
    (note,) = notes(found, "other test cases")
    first, _, others = note.partition(", so these do not compare with it: ")
    assert first == "other test cases than negatives=6, max_history=5 has"
    assert others == "negatives=3, max_history=5; negatives=3, max_history=9"
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
rank.sasrec.hidden = 8
rank.sasrec.max_epochs = 2
"""
    )
    found = swept(folder, text)
    counts = [["random", "1"], ["popular", "1"], ["sasrec", "2"]]
    assert [row[:2] for row in found.table()[1]] == counts
    runs = [str(path) for path in sorted((folder / "out").iterdir()) if path.is_dir()]
    pooled = compare(runs, rankers=["sasrec", "popular"], metrics=["auc"], seeds=True)
    assert {one.side.rpartition(":")[2]: one.seeds for one in pooled.results} == {
        "sasrec": 2,
        "popular": 1,
    }
    assert swept(folder, text).table() == found.table()


@pytest.mark.parametrize(
    ("report", "jobs"),
    [("{}", 1), ("[]", 1), ('{"rankers": {"random": 1}}', 1), ('{"rankers', 1), ("{}", 2)],
)
def test_a_report_that_is_none_is_made_again(folder, report, jobs):
    text = HEAD + "[grid]\ndata.max_history = [5, 9]\n"
    before = swept(folder, text)
    path = folder / "out" / "max_history=5" / "report.json"
    whole = path.read_bytes()
    path.write_text(report)
    after = swept(folder, text, jobs=jobs)
    assert not after.failed
    assert after.table() == before.table()
    assert path.read_bytes() == whole


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_report_that_somebody_changed_is_made_again_and_told(folder, jobs):
    text = HEAD + "[grid]\ndata.max_history = [5, 9]\n"
    before = swept(folder, text)
    assert not notes(before, "changed")
    path = folder / "out" / "max_history=5" / "report.json"
    whole = path.read_bytes()
    value = json.loads(whole)
    value["rankers"]["popular"]["metrics"]["auc"]["mean"] = 0.999
    path.write_text(json.dumps(value))
    after = swept(folder, text, jobs=jobs)
    assert after.table() == before.table()
    assert path.read_bytes() == whole
    (note,) = notes(after, "changed")
    assert note == "changed since trsr wrote it, and made again: max_history=5/report.json"
    assert ".999" not in (folder / "out" / "sweep.md").read_text()
    assert note in (folder / "out" / "sweep.md").read_text()
    assert not notes(swept(folder, text), "changed")


def test_a_report_that_the_best_run_of_a_search_did_not_write_is_made_again(folder):
    pytest.importorskip("optuna", reason="the extra `sweep` is not installed")
    text = SEARCH + "data.max_history = [5, 9]\n"
    before = swept(folder, text)
    (best,) = (folder / "out").glob("*/report.json")
    value = json.loads(best.read_bytes())
    value["rankers"]["popular"]["metrics"]["auc"]["mean"] = 0.999
    best.write_text(json.dumps(value))
    after = swept(folder, text)
    assert after.table() == before.table()
    assert notes(after, f"{best.parent.name}/report.json")


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
    def unreadable(folder):
        if folder.name == "max_history=5":
            raise StoreError("gone")
        return {}

    monkeypatch.setattr("trsr.sweep.running.answers", unreadable)
    found = swept(folder, HEAD + "[grid]\ndata.max_history = [5, 9]\n")
    assert [(one.name, one.error) for one in found.failed] == [("max_history=5", "gone")]
    assert (folder / "out" / "max_history=5" / "error.txt").read_text() == "gone\n"
    assert len(found.outcomes) == 2


def test_a_search_counts_seeds_that_draw_nothing_anew_once(folder):
    pytest.importorskip("optuna", reason="the extra `sweep` is not installed")
    found = swept(folder, "seeds = [1, 2]\n" + SEARCH + "data.max_history = [5, 9]\n")
    header, rows = found.table()
    place = header.index("valid auc")
    assert {row[header.index("seeds")] for row in rows} == {"1"}
    assert not any("(±" in row[place] for row in rows)
