"""Sweeps: what runs differ in, what they share, failures, kills, and searches on validation."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time

import polars as pl
import pytest
from pipeline_data import write_data

from trsr.config import load_config
from trsr.errors import ConfigError, StoreError
from trsr.experiments.sweep import read_plan, sweep
from trsr.pipeline.artifacts import SUMMARIES
from trsr.progress import Silent
from trsr.storage.run_directory import RunDirectory

BASE = """
[data]
interactions = "clicks.csv"
items = "products.jsonl"
min_history = 4
negatives = 6

[model]
backend = "scripted"
name = "scripted"

[summarize]
block_items = 3

[train]
epochs = 0

[rank]
rankers = ["random", "popular", "llm_zero_shot"]
"""

GRID = """
base = "base.toml"

[sweep]
folder = "out"

[set]
evaluate.metrics = ["recall@3", "auc"]

[grid]
summarize.strategy = ["none", "recurrent"]
prompts.recent = [1, 2]
"""


@pytest.fixture
def folder(tmp_path):
    write_data(tmp_path, users=20, items=40)
    (tmp_path / "base.toml").write_text(BASE)
    return tmp_path


def plan_of(folder, text=GRID, name="grid.toml"):
    (folder / name).write_text(text)
    return read_plan(folder / name)


def records(folder, run):
    return RunDirectory(folder / "out" / run).records()


def test_the_runs_are_the_full_product_with_seeds_and_are_named_by_what_differs(folder):
    text = 'base = "base.toml"\nseeds = [3, 4]\n' + GRID.partition("\n\n")[2]
    text += '"rank.rankers" = [["random"], ["random", "popular"]]\n'
    runs = plan_of(folder, text).grid()
    assert len(runs) == 2 * 2 * 2 * 2
    assert runs[1].name == "strategy=none,recent=1,rankers=random,seed=4"
    assert runs[1].config.train.seed == 4
    assert runs[1].config.run.seed == 0
    assert runs[-1].config.rank.rankers == ("random", "popular")
    assert runs[-1].config.evaluate.metrics == ("recall@3", "auc")
    assert runs[0].config.data.interactions == folder / "clicks.csv"
    assert {run.config.run.cache for run in runs} == {folder / "out" / "responses.sqlite"}
    redrawn = plan_of(folder, text.replace('folder = "out"', 'seed = "run.seed"')).grid()
    assert redrawn[1].config.run.seed == 4


VARIANTS = """
base = "base.toml"
seeds = [1, 2]

[sweep]
folder = "out"

[set]
prompts.recent = 2

[variants.recent-only]
summarize.strategy = "none"

[variants.recurrent]
summarize.strategy = "recurrent"
prompts.recent = 1
"""


def test_variants_are_sets_of_settings_with_a_name(folder):
    runs = plan_of(folder, VARIANTS).grid()
    assert [run.name for run in runs] == [
        "recent-only,seed=1",
        "recent-only,seed=2",
        "recurrent,seed=1",
        "recurrent,seed=2",
    ]
    chosen = [(run.config.summarize.strategy, run.config.prompts.recent) for run in runs[::2]]
    assert chosen == [("none", 2), ("recurrent", 1)]
    both = plan_of(folder, VARIANTS + "[grid]\ntrain.epochs = [0, 1]\n").grid()
    assert len(both) == 8
    assert both[-1].name == "recurrent,epochs=1,seed=2"


def test_the_table_names_variants(folder):
    swept = sweep(plan_of(folder, VARIANTS))
    header, rows = swept.table()
    assert header[:3] == ["variant", "ranker", "seeds"]
    # nothing is trained, so that no seed changes anything: they count once
    assert {(row[0], row[2]) for row in rows} == {("recent-only", "1"), ("recurrent", "1")}


def test_equal_stages_are_made_once_and_done_runs_are_left_as_they_are(folder):
    plan = plan_of(folder)
    swept = sweep(plan)
    assert not swept.failed
    assert [one.taken for one in swept.outcomes] == [
        (),
        ("prepare", "summarize", "train"),
        ("prepare", "train"),  # nothing is trained
        ("prepare", "summarize", "train"),
    ]
    first, last = (
        records(folder, f"strategy={s},recent={n}") for s, n in (("none", 1), ("recurrent", 2))
    )
    assert first["prepare"].files == last["prepare"].files
    assert first["summarize"].files != last["summarize"].files
    # Copies, not links: a file changed in place is one run's own.
    runs = list((folder / "out").glob("strategy=*"))
    assert {(path / "items.parquet").stat().st_nlink for path in runs} == {1}
    manifests = {path: (path / "manifest.json").stat().st_mtime_ns for path in runs}
    again = sweep(plan)
    assert manifests == {path: (path / "manifest.json").stat().st_mtime_ns for path in runs}
    assert again.table() == swept.table()
    header, rows = swept.table()
    assert header == ["strategy", "recent", "ranker", "seeds", "recall@3", "auc"]
    assert len(rows) == 4 * 3
    report = json.loads((runs[0] / "report.json").read_text())
    value = json.loads((folder / "out" / "sweep.json").read_text())
    (shown,) = [one for one in value["runs"] if one["name"] == runs[0].name]
    assert shown["rankers"]["popular"]["auc"] == report["rankers"]["popular"]["metrics"]["auc"]
    assert "| strategy | recent |" in (folder / "out" / "sweep.md").read_text()


def test_a_copied_stage_equals_one_made_alone(folder):
    from trsr.pipeline import run

    sweep(plan_of(folder))
    settings = ["summarize.strategy=recurrent", "prompts.recent=2"]
    settings += ["evaluate.metrics=['recall@3', 'auc']", f"run.folder={folder / 'alone'}"]
    list(run(load_config(folder / "base.toml", settings)))
    shared = folder / "out" / "strategy=recurrent,recent=2"
    for name in (*SUMMARIES, "rankings.parquet", "per_query.parquet"):
        assert pl.read_parquet(shared / name).equals(pl.read_parquet(folder / "alone" / name))


def test_a_changed_file_is_not_taken_from_another_run(folder):
    plan = plan_of(folder)
    sweep(plan)
    path = folder / "out" / "strategy=none,recent=1" / "interactions.parquet"
    pl.read_parquet(path).head(5).write_parquet(path)
    (folder / "grid.toml").write_text(GRID.replace("[1, 2]", "[1, 2, 3]"))
    swept = sweep(read_plan(folder / "grid.toml"))
    (new,) = [one for one in swept.outcomes if one.name == "strategy=none,recent=3"]
    taken = pl.read_parquet(folder / "out" / new.name / "interactions.parquet")
    assert len(taken) > 5


def test_runs_that_were_there_already_are_no_part_of_the_estimate(folder):
    class Told(Silent):
        def __init__(self):
            self.lines = []

        def begin(self, total, unit):
            self.lines.append((total, unit))

        def advance(self, steps=1, note=""):
            if steps:
                self.lines.append(note)

    plan = plan_of(folder)
    names = [run.name for run in plan.grid()]
    sweep(plan)
    shutil.rmtree(plan.folder / names[-1])
    told = Told()
    sweep(plan, told)
    assert told.lines == [(1, "runs"), names[-1]]


def test_one_failing_run_is_reported_and_the_others_go_on(folder):
    text = GRID.replace("prompts.recent = [1, 2]", "model.context_tokens = [64, 2048]\n")
    code = "from trsr.cli import main; main()"
    (folder / "grid.toml").write_text(text)
    done = subprocess.run(
        [sys.executable, "-c", code, "sweep", "grid.toml"],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "COLUMNS": "200"},
    )
    value = json.loads((folder / "out" / "sweep.json").read_text())
    states = {run["name"]: run["state"] for run in value["runs"]}
    failed = [name for name, state in states.items() if state == "failed"]
    assert failed
    assert all("context_tokens=64" in name for name in failed)
    assert states["strategy=recurrent,context_tokens=2048"] == "done"
    assert done.returncode == 1, done.stderr
    assert f"{len(failed)} of 4 runs failed" in done.stderr
    assert (folder / "out" / failed[0] / "error.txt").read_text().count("Traceback") == 1
    assert "Traceback" not in done.stderr
    listed = subprocess.run(
        [sys.executable, "-c", code, "sweep", "grid.toml", "--dry-run"],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert len(listed.stdout.splitlines()) == 4


def test_a_folder_that_cannot_be_written_names_the_sweeps_own_setting(folder, monkeypatch):
    monkeypatch.setattr("trsr.experiments.sweep.running.WAIT", 0.2)
    plan = plan_of(folder, GRID.replace('"out"', '"clicks.csv/out"'))
    with pytest.raises(StoreError, match=r"cannot be written .* with sweep\.folder"):
        sweep(plan)
    plan = plan_of(folder)
    with (
        RunDirectory(folder / "out").locked(),
        pytest.raises(StoreError, match=r"another trsr .* with sweep\.folder"),
    ):
        sweep(plan)


def test_a_run_tells_how_long_the_stage_that_it_is_at_will_take(folder):
    notes = []

    class Watched(Silent):
        def advance(self, steps=1, note=""):
            notes.append(note)

    sweep(plan_of(folder), Watched(), only=["strategy=none,recent=1"])
    said = "strategy=none,recent=1: rank"
    assert any(re.fullmatch(rf"{said} \d+/\d+, about .* left", note) for note in notes)


def test_a_full_disk_under_the_table_is_told(folder, monkeypatch):
    def full(path, text):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("trsr.experiments.sweep.table.files.write_text", full)
    with pytest.raises(StoreError, match="the disk is full"):
        sweep(plan_of(folder))


def test_a_run_whose_folder_cannot_be_made_fails_alone(folder):
    plan = plan_of(folder)
    plan.folder.mkdir()
    (plan.folder / "strategy=none,recent=1").write_text("a file")
    swept = sweep(plan)
    (failed,) = swept.failed
    assert failed.name == "strategy=none,recent=1"
    assert "cannot be written" in failed.error


def test_a_killed_sweep_goes_on_and_ends_as_an_unbroken_one(folder):
    (folder / "whole.toml").write_text(GRID.replace('"out"', '"whole"'))
    whole = sweep(read_plan(folder / "whole.toml"))
    (folder / "grid.toml").write_text(GRID)
    code = "from trsr.experiments.sweep import read_plan, sweep; sweep(read_plan('grid.toml'))"
    for done_runs in range(3):
        child = subprocess.Popen([sys.executable, "-c", code], cwd=folder)
        deadline = time.monotonic() + 60
        # Killed in the middle of the next run: as soon as its folder is there.
        while child.poll() is None and time.monotonic() < deadline:
            found = list((folder / "out").glob("strategy=*"))
            if len(found) > done_runs:
                child.send_signal(signal.SIGKILL)
            time.sleep(0.005)
        assert child.wait(timeout=10) == -signal.SIGKILL
    swept = sweep(read_plan(folder / "grid.toml"))
    assert not swept.failed
    assert swept.table() == whole.table()
    for run in whole.outcomes:
        ours, theirs = (folder / kind / run.name for kind in ("out", "whole"))
        assert pl.read_parquet(ours / "rankings.parquet").equals(
            pl.read_parquet(theirs / "rankings.parquet")
        )


def test_seeds_draw_the_training_alone(tmp_path, small_run):
    pytest.importorskip("torch", reason="the extra `local` is not installed")
    small_run(tmp_path)
    text = 'base = "small.toml"\nseeds = [1, 2]\n[sweep]\nfolder = "out"\n'
    text += "[set]\ntrain.epochs = 1\ntrain.validate_steps = 0\n"
    swept = sweep(plan_of(tmp_path, text))
    assert not swept.failed
    assert [one.taken for one in swept.outcomes] == [(), ("prepare", "summarize")]
    weights = "adapter/adapter_model.safetensors"
    first, second = (tmp_path / "out" / f"seed={seed}" / weights for seed in (1, 2))
    assert first.read_bytes() != second.read_bytes()
    header, rows = swept.table()
    assert header[:2] == ["ranker", "seeds"]
    # What does not depend on the training counts once, and has no spread over its seeds.
    seeds = {"random": "1", "popular": "1", "llm_zero_shot": "1", "llm": "2"}
    assert [row[:2] for row in rows] == [list(one) for one in seeds.items()]
    assert not any("(±" in cell for cell in rows[0][2:])
    assert all("(±" in cell for cell in rows[3][2:])
    assert any("count as one" in note for note in swept.notes())


SEARCH = """
base = "base.toml"

[sweep]
folder = "out"

[search]
trials = 6
metric = "auc"
ranker = "llm_zero_shot"
seed = 5

[search.space]
prompts.recent = [0, 1, 3]
summarize.block_items = { low = 2, high = 5 }
"""


def test_a_search_goes_by_validation_cases_and_tests_the_best_alone(folder):
    pytest.importorskip("optuna", reason="the extra `sweep` is not installed")
    plan = plan_of(folder, SEARCH, "search.toml")
    swept = sweep(plan)
    assert not swept.failed
    assert 1 < len(swept.outcomes) <= 6
    best = max(one.validation.mean for one in swept.outcomes)
    for one in swept.outcomes:
        run = folder / "out" / one.name
        tested = dict(one.settings) == dict(swept.best)
        assert tested == bool(one.rankers) == (run / "report.json").exists()
        assert tested == (run / "rankings.parquet").exists()
        if tested:
            assert one.validation.mean == best
    again = sweep(plan)
    assert [one.name for one in again.outcomes] == [one.name for one in swept.outcomes]
    assert again.best == swept.best
    assert any("best on the validation cases" in note for note in swept.notes())


def test_a_base_that_is_edited_while_a_search_goes_on_changes_no_trial(folder):
    pytest.importorskip("optuna", reason="the extra `sweep` is not installed")

    class Edits(Silent):
        def advance(self, steps=1, note=""):
            if steps:
                (folder / "base.toml").write_text(BASE.replace("negatives = 6", "negatives = 5"))

    plan = plan_of(folder, SEARCH.replace("trials = 6", "trials = 3"), "search.toml")
    swept = sweep(plan, Edits())
    assert len(swept.outcomes) > 1
    configs = [load_config(folder / "out" / one.name) for one in swept.outcomes]
    assert {one.data.negatives for one in configs} == {6}


@pytest.mark.parametrize("damage", [b"", b'{"asked', b"{}", b"[]", b"\xff"])
def test_a_damaged_validation_value_is_measured_again(folder, damage):
    pytest.importorskip("optuna", reason="the extra `sweep` is not installed")
    plan = plan_of(folder, SEARCH.replace("trials = 6", "trials = 1"), "search.toml")
    (one,) = sweep(plan).outcomes
    path = folder / "out" / one.name / "validation.json"
    whole = path.read_bytes()
    path.write_bytes(damage)
    swept = sweep(plan)
    assert not swept.failed
    assert swept.outcomes[0].validation == one.validation
    assert path.read_bytes() == whole


def test_without_validation_cases_all_trials_fail_before_anything_dear(folder):
    pytest.importorskip("optuna", reason="the extra `sweep` is not installed")
    text = SEARCH + '[set]\ndata.split = "global_time"\ndata.valid_share = 0\n'
    swept = sweep(plan_of(folder, text.replace("trials = 6", "trials = 2"), "search.toml"))
    assert [("no validation" in one.error or "there are none" in one.error) for one in swept.failed]
    assert len(swept.failed) == 2
    assert list((folder / "out").glob("*/items.parquet"))
    assert not list((folder / "out").glob("*/summaries.*.parquet"))


def test_a_recipe_of_one_run_is_no_sweep():
    with pytest.raises(ConfigError, match="demo: this is the configuration of one run"):
        read_plan("demo")


def test_values_that_contradict_each_other_fail_their_trial_alone(folder):
    pytest.importorskip("optuna", reason="the extra `sweep` is not installed")
    text = SEARCH.partition("[search.space]")[0].replace("trials = 6", "trials = 8")
    text += "[search.space]\nrank.depth = [5, 1000]\n"
    text += 'evaluate.metrics = [["recall@3"], ["recall@10"]]\n'
    text += '[set]\ndata.candidates = "full"\n'
    swept = sweep(plan_of(folder, text, "search.toml"))
    (failed,) = swept.failed
    assert failed.name == "depth=5,metrics=recall-10"
    assert "rank.depth" in failed.error
    assert "rank.depth" in (folder / "out" / failed.name / "error.txt").read_text()
    assert any(one.rankers for one in swept.outcomes)


def test_the_validation_value_is_that_of_ranking_the_validation_cases(folder):
    pytest.importorskip("optuna", reason="the extra `sweep` is not installed")
    from fitting import fitted

    from trsr.metrics import evaluate
    from trsr.recommender import Recommender

    text = SEARCH.replace('"llm_zero_shot"', '"popular"').replace("trials = 6", "trials = 1")
    swept = sweep(plan_of(folder, text, "search.toml"))
    (one,) = swept.outcomes
    dataset = Recommender.load(folder / "out" / one.name).dataset
    ranker = fitted("popular", dataset.catalog, dataset.interactions)
    cases = list(dataset.cases("valid"))
    lists = list(ranker.rank(case.query for case in cases))
    assert one.validation.mean == evaluate(cases, {"x": lists}, ["auc"]).means("x")["auc"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('base = "nowhere.toml"\n', "no configuration file"),
        ('base = "base.toml"\n[grid]\nprompts.recent = 3\n', "write a list of values"),
        ('base = "base.toml"\n[grid]\nrun.folder = ["a"]\n', "cannot differ in a sweep"),
        ('base = "base.toml"\n[grid]\nprompts.recnt = [1]\n', "recnt: unknown setting"),
        ('base = "base.toml"\n[grid]\nprompts.recent = [1, 1]\n', "two runs are named recent=1"),
        ('base = "base.toml"\nseeds = [1, 1]\n', "two runs are named seed=1"),
        (
            'base = "base.toml"\n[grid]\nrank.bm25.k1 = [1.0, 1.00000001]\n',
            "two runs are named k1=1: .* shortened",
        ),
        (
            VARIANTS.replace("recurrent]", '"recent only"]').replace(
                "recent-only]", '"recent?only"]'
            ),
            "two runs are named recent-only",
        ),
        ('base = "base.toml"\ngrids = 1\n', "grids"),
        (
            VARIANTS + "[grid]\nprompts.recent = [1, 3]\n",
            "recurrent: prompts.recent is in the grid",
        ),
        (VARIANTS.replace("prompts.recent = 1", "train.seed = 1"), "is the sweep's own"),
        (
            SEARCH.replace("[search.space]", "[search.space]\ndata.negatives = [3, 6]"),
            "data.negatives may change the validation cases",
        ),
        (SEARCH + "[variants.a]\nprompts.recent = 1\n", "not both"),
        (SEARCH + "[grid]\nprompts.recent = [1]\n", "not both"),
        (SEARCH.replace("high = 5", "high = 1"), "is no range"),
        (SEARCH.replace("high = 5", 'high = "b"'), "is no range"),
        (SEARCH.replace("low = 2, high = 5", 'low = "a", high = "b"'), "is no range"),
        (SEARCH.replace("high = 5", "high = inf"), "search.space: input should be a finite"),
        (SEARCH.replace("high = 5", 'high = 5, log = "no"'), "is no range"),
        (SEARCH.replace("high = 5", "high = 5, step = 0"), "step is above 0"),
        (SEARCH.replace("high = 5", "high = 5, step = 9"), "step is above 0"),
        (SEARCH.replace("high = 5", "high = 5, step = 0.5"), "the step is whole"),
        (SEARCH.replace("[0, 1, 3]", "[]"), "write a list of values"),
        (SEARCH.replace("[0, 1, 3]", "[0, -1]"), "recent: input should be greater"),
        (SEARCH.replace("low = 2", "low = 0"), "block_items: input should be greater"),
        (SEARCH + 'summarize.strategy = ["none", "foo"]\n', "there is no strategy 'foo'"),
        (SEARCH.replace('ranker = "llm_zero_shot"\n', ""), "none is trained"),
        (
            SEARCH.replace('"llm_zero_shot"', '"llm"') + "[set]\ntrain.epochs = 1\n",
            "none is trained",
        ),
        (
            GRID.replace("[set]", '[set]\ndata.columns = "x"') + 'data.columns.user = ["a"]\n',
            "data.columns and data.columns.user both have a value",
        ),
        (
            "seeds = [1]\n" + GRID.replace("[set]", "[set]\ntrain = 1"),
            "train.seed both have a value",
        ),
        (VARIANTS.replace("recent-only", '".."'), "cannot be the name of a run's folder"),
        (VARIANTS.replace("recent-only", '"../a"'), "cannot be the name of a run's folder"),
        (VARIANTS.replace("recent-only", '"sweep.md"'), "'sweep.md' cannot be the name"),
        (VARIANTS.replace("recent-only", '"responses.sqlite"'), "cannot be the name of a run's"),
        (VARIANTS.replace("recent-only", '"(v)"'), r"'\(v\)' cannot be the name of a run's folder"),
        (SEARCH.replace('"auc"', '"auk"'), r"wrong\.toml: search\.metric: there is no metric"),
        (GRID.replace("base =", "bse ="), "  bse: unknown setting: did you mean base?"),
        (SEARCH.replace("trials", "trails"), r"search\.trails: unknown setting: did you mean tria"),
        (BASE, r"wrong\.toml: this is the configuration of one run, .* `trsr run .*wrong\.toml`"),
        (
            SEARCH.replace('"llm_zero_shot"', '"bm25"'),
            r"bm25 is not among rank\.rankers \(random, popular, llm_zero_shot\)",
        ),
        (SEARCH.replace('"llm_zero_shot"', '"untunned"'), "there is no 'untunned'"),
    ],
)
def test_mistakes_are_told_before_anything_runs(folder, text, said):
    (folder / "wrong.toml").write_text(text)
    with pytest.raises(ConfigError, match=said):
        sweep(read_plan(folder / "wrong.toml"))
    assert not (folder / "out").exists()
