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
from pathlib import Path

import polars as pl
import pytest
from command_line import trsr
from pipeline_data import CHEAP, configured, write_data

from trsr.config import load_config
from trsr.errors import ConfigError, StoreError
from trsr.experiments.compare import compare
from trsr.experiments.sweep import Swept, read_plan, sweep
from trsr.experiments.sweep.plan import Plan
from trsr.pipeline.artifacts import SUMMARIES
from trsr.progress import Silent
from trsr.storage.run_directory import RunDirectory

BASE = configured(
    summarize={"block_items": 3},
    rank={"rankers": ["random", "popular", "llm_zero_shot"]},
)

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


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The sweep of the grid, made at once by one process; no test changes its runs."""
    folder = tmp_path_factory.mktemp("whole")
    write_data(folder, users=20, items=40)
    (folder / "base.toml").write_text(BASE)
    return sweep(plan_of(folder))


@pytest.fixture
def copied(whole, tmp_path):
    """A folder with a copy of it."""
    return shutil.copytree(whole.plan.path.parent, tmp_path, dirs_exist_ok=True)


def plan_of(folder, text=GRID, name="grid.toml"):
    (folder / name).write_text(text)
    return read_plan(folder / name)


def test_a_ranker_is_charged_with_the_stages_that_it_reads(whole):
    header, rows = whole.tables()[-1]
    at = header.index("stages before")
    before = {(row[0], row[header.index("ranker")]): row[at] for row in rows}
    assert {one for (_, ranker), one in before.items() if ranker != "llm_zero_shot"} == {"0.0 s"}
    outcome = next(one for one in whole.outcomes if one.settings["summarize.strategy"] != "none")
    assert outcome.stages["llm_zero_shot"] > outcome.stages["popular"] == 0


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


def test_equal_stages_are_made_once_and_done_runs_are_left_as_they_are(whole):
    plan, folder = whole.plan, whole.plan.path.parent
    assert not whole.failed
    assert [one.taken for one in whole.outcomes] == [
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
    assert again.table() == whole.table()
    header, rows = whole.table()
    assert header == ["strategy", "recent", "ranker", "seeds", "recall@3", "auc"]
    assert len(rows) == 4 * 3
    report = json.loads((runs[0] / "report.json").read_text())
    value = json.loads((folder / "out" / "sweep.json").read_text())
    (shown,) = [one for one in value["runs"] if one["name"] == runs[0].name]
    assert shown["rankers"]["popular"]["auc"] == report["rankers"]["popular"]["metrics"]["auc"]
    assert "| strategy | recent |" in (folder / "out" / "sweep.md").read_text()


def test_a_copied_stage_equals_one_made_alone(whole, folder):
    from trsr.pipeline import run

    settings = ["summarize.strategy=recurrent", "prompts.recent=2"]
    settings += ["evaluate.metrics=['recall@3', 'auc']", f"run.folder={folder / 'alone'}"]
    list(run(load_config(folder / "base.toml", settings)))
    shared = whole.plan.folder / "strategy=recurrent,recent=2"
    for name in (*SUMMARIES, "rankings.parquet", "per_query.parquet"):
        assert pl.read_parquet(shared / name).equals(pl.read_parquet(folder / "alone" / name))


def test_a_changed_file_is_not_taken_from_another_run(copied):
    path = copied / "out" / "strategy=none,recent=1" / "interactions.parquet"
    pl.read_parquet(path).head(5).write_parquet(path)
    (copied / "grid.toml").write_text(GRID.replace("[1, 2]", "[1, 2, 3]"))
    new = "strategy=none,recent=3"
    sweep(read_plan(copied / "grid.toml"), only=[new])
    assert len(pl.read_parquet(copied / "out" / new / "interactions.parquet")) > 5


def test_runs_that_were_there_already_are_no_part_of_the_estimate(copied):
    class Told(Silent):
        def __init__(self):
            self.lines = []

        def begin(self, total, unit):
            self.lines.append((total, unit))

        def advance(self, steps=1, note=""):
            if steps:
                self.lines.append(note)

    plan = plan_of(copied)
    names = [run.name for run in plan.grid()]
    shutil.rmtree(plan.folder / names[-1])
    told = Told()
    sweep(plan, told)
    assert told.lines == [(1, "runs"), names[-1]]


def test_one_failing_run_is_reported_and_the_others_go_on(folder):
    text = GRID.replace("prompts.recent = [1, 2]", "model.context_tokens = [64, 2048]\n")
    (folder / "grid.toml").write_text(text)
    done = trsr("sweep", "grid.toml", cwd=folder, code=1)
    value = json.loads((folder / "out" / "sweep.json").read_text())
    states = {run["name"]: run["state"] for run in value["runs"]}
    failed = [name for name, state in states.items() if state == "failed"]
    assert failed
    assert all("context_tokens=64" in name for name in failed)
    assert states["strategy=recurrent,context_tokens=2048"] == "done"
    assert f"{len(failed)} of 4 runs failed" in done.stderr
    assert (folder / "out" / failed[0] / "error.txt").read_text().count("Traceback") == 1
    assert "Traceback" not in done.stderr
    listed = trsr("sweep", "grid.toml", "--dry-run", cwd=folder)
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
        sweep(plan_of(folder), only=["strategy=none,recent=1"])


def test_a_run_whose_folder_cannot_be_made_fails_alone(folder):
    plan = plan_of(folder)
    plan.folder.mkdir()
    names = ["strategy=none,recent=1", "strategy=none,recent=2"]
    (plan.folder / names[0]).write_text("a file")
    first, second = sweep(plan, only=names).outcomes
    assert "cannot be written" in first.error
    assert not second.error


def test_a_killed_sweep_goes_on_and_ends_as_an_unbroken_one(whole, folder):
    (folder / "grid.toml").write_text(GRID)
    code = "from trsr.experiments.sweep import read_plan, sweep; sweep(read_plan('grid.toml'))"
    for done_runs in range(2):
        child = subprocess.Popen([sys.executable, "-c", code], cwd=folder)
        deadline = time.monotonic() + 240  # a busy machine
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
        ours, theirs = (plan.folder / run.name for plan in (swept.plan, whole.plan))
        assert pl.read_parquet(ours / "rankings.parquet").equals(
            pl.read_parquet(theirs / "rankings.parquet")
        )


def test_seeds_draw_the_training_alone(tmp_path, small_run):
    pytest.importorskip("torch", reason="the extra `local` is not installed")
    small_run(tmp_path)
    text = 'base = "small.toml"\nseeds = [1, 2]\n[sweep]\nfolder = "out"\n'
    text += "[set]\ntrain.epochs = 1\ntrain.validate_steps = 0\ntrain.learning_rate = 0.1\n"
    text += "data.train_users = 6\ndata.test_cases = 6\n"
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

    class Edits(Silent):
        """A base that is edited meanwhile changes no trial."""

        def advance(self, steps=1, note=""):
            if steps:
                (folder / "base.toml").write_text(BASE.replace("negatives = 6", "negatives = 5"))

    plan = plan_of(folder, SEARCH.replace("trials = 6", "trials = 4"), "search.toml")
    swept = sweep(plan, Edits())
    assert not swept.failed
    *tried, best = swept.outcomes
    assert len(tried) == 4
    assert len({json.dumps(dict(one.settings)) for one in tried}) == 4
    assert all(one.trial and list(one.rankers) == ["llm_zero_shot"] for one in tried)
    found = {one.name: one.rankers["llm_zero_shot"]["auc"].mean for one in tried}
    first = max(tried, key=lambda one: found[one.name])
    assert (best.name, best.trial, best.settings) == ("best", False, first.settings)
    assert list(best.rankers) == ["random", "popular", "llm_zero_shot"]
    for one in tried:
        values = pl.read_parquet(folder / "out" / one.name / "per_query.parquet")
        cases = pl.read_parquet(folder / "out" / one.name / "cases.valid.parquet")
        assert set(values["query"]) == set(cases["query"])
        assert values["auc"].mean() == pytest.approx(found[one.name])
    header, rows = swept.table()
    assert header[:5] == ["recent", "block_items", "ranker", "seeds", "valid auc"]
    assert {row[2]: bool(row[4]) for row in rows if row[5]} == {
        "random": False,
        "popular": False,
        "llm_zero_shot": True,
    }
    assert "different settings tried: 4" in swept.notes()
    assert any("best on the validation cases" in note for note in swept.notes())
    configs = [load_config(folder / "out" / one.name) for one in swept.outcomes]
    assert {one.data.negatives for one in configs} == {6}
    again = sweep(plan)
    assert (again.outcomes, again.best) == (swept.outcomes, swept.best)


def test_a_space_that_is_tried_out_ends_the_search_and_a_wrong_trial_fails_alone(folder):
    pytest.importorskip("optuna", reason="the extra `sweep` is not installed")
    text = SEARCH.partition("[search.space]")[0].replace("llm_zero_shot", "popular")
    text += "[search.space]\nprompts.recent = [0, 2, 2, -1]\n"
    swept = sweep(plan_of(folder, text, "search.toml"))
    assert sorted(one.settings["prompts.recent"] for one in swept.outcomes if one.trial) == [
        -1,
        0,
        2,
    ]
    (failed,) = swept.failed
    assert failed.name == "recent=-1"
    assert "recent: input should be greater" in failed.error
    assert (folder / "out" / failed.name / "error.txt").read_text().startswith(failed.error)
    assert any(one.rankers for one in swept.outcomes if not one.trial)


def test_numbers_of_ranges_are_drawn_by_step_and_seed(folder):
    optuna = pytest.importorskip("optuna", reason="the extra `sweep` is not installed")
    from trsr.experiments.sweep.running import space_of

    text = SEARCH + "train.learning_rate = { low = 1e-5, high = 1e-2, log = true }\n"
    text += "train.dropout = { low = 0.1, high = 0.45, step = 0.1 }\n"
    space = space_of(plan_of(folder, text, "search.toml"))
    kinds = [type(one).__name__.removesuffix("Distribution") for one, _ in space.values()]
    assert kinds == ["Categorical", "Int", "Float", "Float"]
    assert space["prompts.recent"][1] == [0, 1, 3]
    assert optuna.distributions.FloatDistribution(1e-5, 1e-2, log=True) in [
        one for one, _ in space.values()
    ]
    assert space["train.dropout"][0].high == pytest.approx(0.4)


def test_a_recipe_of_one_run_is_no_sweep():
    with pytest.raises(ConfigError, match="demo: this is the configuration of one run"):
        read_plan("demo")


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
            'base = "base.toml"\n[grid]\ntrain.dropout = [0.5, 0.50000001]\n',
            "two runs are named dropout=0.5: .* shortened",
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
            "data.negatives may change what is measured",
        ),
        (SEARCH + "[variants.a]\nprompts.recent = 1\n", "not both"),
        (SEARCH + "[grid]\nprompts.recent = [1]\n", "not both"),
        (SEARCH.replace("high = 5", "high = 1"), "is no range"),
        (SEARCH.replace("high = 5", 'high = "b"'), "is no range"),
        (SEARCH.replace("low = 2, high = 5", 'low = "a", high = "b"'), "is no range"),
        (SEARCH.replace("high = 5", "high = inf"), "search.space: input should be a finite"),
        (SEARCH.replace("high = 5", 'high = 5, log = "no"'), "log is true"),
        (SEARCH.replace("high = 5", "high = 5, step = 0"), "is no range"),
        (SEARCH.replace("[0, 1, 3]", "[]"), "write a list of values"),
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
        (SEARCH.replace('"llm_zero_shot"', '"untunned"'), "there is no 'untunned'"),
    ],
)
def test_mistakes_are_told_before_anything_runs(folder, text, said):
    (folder / "wrong.toml").write_text(text)
    with pytest.raises(ConfigError, match=said):
        sweep(read_plan(folder / "wrong.toml"))
    assert not (folder / "out").exists()


HEAD = 'base = "base.toml"\n[sweep]\nfolder = "out"\n'
TWO = HEAD + "[grid]\ndata.max_history = [5, 9]\n"


@pytest.fixture
def cheap(folder):
    (folder / "base.toml").write_text(CHEAP)
    return folder


def swept(cheap, text, **options):
    return sweep(plan_of(cheap, text, "sweep.toml"), **options)


def notes(found, word):
    return [note for note in found.notes() if word in note]


def test_notes_below_the_table_say_what_rows_differ_in(cheap):
    found = swept(cheap, HEAD + "[grid]\ndata.negatives = [6, 3]\ndata.max_history = [5, 9]\n")
    (note,) = notes(found, "other test cases")
    assert note.partition("same cases: ")[2] == (
        "negatives=6, max_history=5; negatives=6, max_history=9 | "
        "negatives=3, max_history=5; negatives=3, max_history=9"
    )
    warned = notes(found, "Krichene and Rendle")
    assert [one.partition(" a query")[0] for one in warned] == [
        "negatives=6,max_history=5; negatives=6,max_history=9: Candidates are sampled (7",
        "negatives=3,max_history=5; negatives=3,max_history=9: Candidates are sampled (4",
    ]
    text = (cheap / "out" / "sweep.md").read_text("utf-8")
    told = json.loads((cheap / "out" / "sweep.json").read_text("utf-8"))
    for one in (note, *warned):
        assert f"- {one}" in text
        assert one in told["table"]["notes"]
    assert len({run["cases"] for run in told["runs"]}) == 2
    same = swept(cheap, TWO.replace("out", "same"))
    assert not notes(same, "other test cases")
    # What the reports of all runs warn of is said once, and of no run.
    (warned,) = notes(same, "Krichene and Rendle")
    assert warned.startswith("Candidates are sampled (7 a query")


def test_seeds_that_draw_nothing_anew_count_once(cheap):
    text = "seeds = [1, 2]\n" + HEAD
    found = swept(cheap, text)  # train.seed, and nothing is trained
    assert [row[:2] for row in found.table()[1]] == [["random", "1"], ["popular", "1"]]
    assert not any("(±" in cell for row in found.table()[1] for cell in row)
    assert notes(found, "count as one")
    found = swept(cheap, text.replace('"out"', '"all"\nseed = "run.seed"') + "[set]\ndata.seed=3")
    assert [row[:2] for row in found.table()[1]] == [["random", "2"], ["popular", "1"]]


def test_seeds_of_the_training_train_networks_anew(cheap):
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
    found = swept(cheap, text)
    counts = [["random", "1"], ["popular", "1"], ["sasrec", "2"]]
    assert [row[:2] for row in found.table()[1]] == counts
    runs = [str(path) for path in sorted((cheap / "out").glob("seed=*"))]
    pooled = compare(runs, rankers=["sasrec", "popular"], metrics=["auc"], seeds=True)
    assert {one.system.rpartition(":")[2]: one.seeds for one in pooled.results} == {
        "sasrec": 2,
        "popular": 1,
    }
    assert swept(cheap, text).table() == found.table()
    assert "of rank.sequential.max_epochs = 2 was the best" in "\n".join(found.notes())


def test_results_that_somebody_changed_are_made_again(cheap):
    before = swept(cheap, TWO)
    report, figures = (
        cheap / "out" / "max_history=5" / name for name in ("report.json", "per_query.parquet")
    )
    whole, rows = report.read_bytes(), pl.read_parquet(figures)
    for changed in ("{}", '{"rankers', whole.decode().replace("0.", "0.9")):
        report.write_text(changed)
        assert swept(cheap, TWO).table() == before.table()
        assert report.read_bytes() == whole
    pl.DataFrame({"a": [1]}).write_parquet(figures)
    assert swept(cheap, TWO).table() == before.table()
    assert pl.read_parquet(figures).equals(rows)


def test_a_result_that_cannot_be_read_fails_its_run_alone(cheap, monkeypatch):
    def unreadable(run, ranker):
        if run.folder.name == "max_history=5":
            raise StoreError("gone")
        return ""

    monkeypatch.setattr("trsr.pipeline.finished_run.FinishedRun.answers", unreadable)
    found = swept(cheap, TWO)
    assert [(one.name, one.error) for one in found.failed] == [("max_history=5", "gone")]
    assert (cheap / "out" / "max_history=5" / "error.txt").read_text() == "gone\n"
    assert len(found.outcomes) == 2


LENGTHS = """
base = "base.toml"
seeds = [1, 2]

[sweep]
folder = "out"
seed = "run.seed"

[variants.short]
data.max_history = 4

[variants.middle]
data.max_history = 6

[variants.long]
data.max_history = 9
"""


@pytest.fixture
def path(cheap):
    (cheap / "table.toml").write_text(LENGTHS)
    return cheap / "table.toml"


def names(runs):
    return [run.name for run in runs]


def made_of(path):
    return sorted(found.parent.name for found in path.parent.glob("out/*/report.json"))


def test_a_variant_names_its_runs_of_all_seeds_and_a_run_itself(path):
    plan = read_plan(path)
    assert names(plan.only(["middle"])) == ["middle,seed=1", "middle,seed=2"]
    assert names(plan.only(["long,seed=2"])) == ["long,seed=2"]
    assert names(plan.only(["long,seed=2", "short"])) == [
        "short,seed=1",
        "short,seed=2",
        "long,seed=2",
    ]
    assert names(plan.only([])) == names(plan.grid())


def test_what_is_named_is_made_and_the_parts_come_to_the_whole(path):
    text = LENGTHS.replace("[1, 2]", "[1]")
    path.write_text(text)
    part = sweep(read_plan(path), only=["middle"])
    assert made_of(path) == names(part.outcomes) == names(read_plan(path).only(["middle"]))
    note = part.notes()[-1]
    assert "not made: short" in note
    assert "middle" not in note
    assert note in (path.parent / "out" / "sweep.md").read_text()
    for variant in ("long", "short"):
        last = sweep(read_plan(path), only=[variant])
    whole = sweep(plan_of(path.parent, text.replace('"out"', '"whole"'), "whole.toml"))
    assert last.table() == whole.table()
    assert last.notes() == whole.notes()


def test_a_name_that_there_is_none_of_is_refused_with_what_was_meant(path):
    with pytest.raises(ConfigError, match="no run or variant 'midle': did you mean middle") as told:
        sweep(read_plan(path), only=["long", "midle"])
    assert str(path) in str(told.value)
    assert not made_of(path)


def test_dry_run_lists_the_named(path):
    told = trsr("sweep", path, "--only", "short", "--dry-run", cwd=path.parent).stdout.split()
    assert [line.rpartition("/")[2] for line in told] == ["short,seed=1", "short,seed=2"]


def test_dry_run_misses_the_data_that_is_not_there(path):
    path.write_text(f'{LENGTHS}[set]\ndata.items = "gone.jsonl"\n')
    found = trsr("sweep", path, "--dry-run", cwd=path.parent, code=2)
    assert "gone.jsonl: there is no such file (data.items)" in " ".join(found.stderr.split())


def test_a_search_has_no_runs_to_name(path):
    search = path.with_name("search.toml")
    search.write_text(
        'base = "base.toml"\n[search]\nranker = "popular"\n'
        "space = { 'prompts.recent' = [4, 6] }\n"
    )
    with pytest.raises(ConfigError, match="a search chooses its runs itself"):
        sweep(read_plan(search), only=["short"])


# --- Runs of a sweep in several processes: the same results, shared work, kills, one table


CODE = "from trsr.cli import main; main()"


@pytest.fixture
def plan(folder: Path) -> Plan:
    return plan_of(folder)


def begin(folder: Path, processes: int) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", CODE, "sweep", "grid.toml", "--processes", str(processes)],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "COLUMNS": "200"},
    )


def until(met: object, seconds: float = 240) -> None:
    assert callable(met)
    deadline = time.monotonic() + seconds
    while not met():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def workers(of: int) -> list[int]:
    """The processes that a process has started and that do shards."""
    if not Path("/proc/self/cmdline").exists():
        pytest.skip("the system does not tell what its processes are")
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            parent = (path / "stat").read_text().rpartition(")")[2].split()[1]
            if parent == str(of) and "spawn_main" in (path / "cmdline").read_text():
                found.append(int(path.name))
        except OSError:  # it has just ended
            continue
    return found


def assert_equal(plan: Plan, swept: Swept, single: Swept) -> None:
    """What several processes made is what one makes, and each stage is made once."""
    value = json.loads((plan.folder / "sweep.json").read_text())
    header, rows = single.table()
    assert (value["table"]["header"], value["table"]["rows"]) == (header, rows)
    assert swept.table() == single.table()
    for one in single.outcomes:
        for name in (*SUMMARIES, "rankings.parquet"):
            ours, theirs = (made.folder / one.name / name for made in (plan, single.plan))
            assert pl.read_parquet(ours).equals(pl.read_parquet(theirs))
    runs = [RunDirectory(plan.folder / one.name) for one in single.outcomes]
    for stage, kinds in (("prepare", 1), ("summarize", 2), ("train", 1)):
        made = [run for run in runs if "taken_from" not in run.records()[stage].info]
        assert len(made) == kinds, stage


def test_two_calls_of_several_processes_come_to_what_one_process_does(
    plan: Plan, whole: Swept
) -> None:
    both = [begin(plan.path.parent, processes) for processes in (1, 2)]
    said = [child.communicate(timeout=240)[1] for child in both]
    assert [child.returncode for child in both] == [0, 0], said
    assert_equal(plan, sweep(plan), whole)


def test_a_killed_workers_run_is_made_by_another(plan: Plan, whole: Swept) -> None:
    child = begin(plan.path.parent, 2)
    until(lambda: list(plan.folder.glob("*/manifest.json")))
    os.kill(workers(child.pid)[0], signal.SIGKILL)
    said = child.communicate(timeout=240)[1]
    assert child.returncode == 0, said
    assert_equal(plan, sweep(plan), whole)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_workers_end_with_the_sweep_and_it_goes_on(plan: Plan, how: signal.Signals) -> None:
    child = begin(plan.path.parent, 2)
    until(lambda: list(plan.folder.glob("*/manifest.json")))
    started = workers(child.pid)
    child.send_signal(how)
    said = child.communicate(timeout=30)[1]
    assert child.returncode != 0
    assert "Traceback" not in said
    until(lambda: not [one for one in started if Path(f"/proc/{one}").exists()], 10)
    assert not sweep(plan).failed


def test_files_that_are_edited_while_runs_are_made_change_none_of_them(plan: Plan) -> None:
    class Edits(Silent):
        def begin(self, total: int | None, unit: str) -> None:
            base, grid = plan.path.with_name("base.toml"), plan.path
            base.write_text(base.read_text().replace("min_history = 4", "min_history = 5"))
            grid.write_text(grid.read_text().replace('"auc"', '"mrr"'))

    swept = sweep(plan, Edits(), processes=2, only=[run.name for run in plan.grid()[:2]])
    assert not swept.failed
    configs = [load_config(plan.folder / one.name) for one in swept.outcomes]
    assert [one.data.min_history for one in configs] == [4, 4]
    assert [one.evaluate.metrics for one in configs] == [("recall@3", "auc")] * 2


def test_a_row_that_another_wrote_is_not_written_over(plan: Plan) -> None:
    first, *_, last = plan.grid()

    class Another(Silent):
        def begin(self, total: int | None, unit: str) -> None:
            if total == 1:
                sweep(plan, only=[last.name])

    swept = sweep(plan, Another(), only=[first.name])
    rows = json.loads((plan.folder / "sweep.json").read_text())["runs"]
    assert [one.name for one in swept.outcomes] == [first.name, last.name]
    assert [one["name"] for one in rows] == [first.name, last.name]
    assert all(one.rankers for one in swept.outcomes)


def test_a_search_shares_with_nobody_and_goes_one_by_one(
    plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trsr.experiments.sweep.running.WAIT", 0.2)
    path = plan.path.with_name("search.toml")
    path.write_text(SEARCH)
    with RunDirectory(plan.folder).locked():
        for one in (plan, read_plan(path)):
            with pytest.raises(StoreError, match=r"another trsr .* with sweep\.folder"):
                sweep(one)
    with pytest.raises(ConfigError, match=r"search\.toml: processes: 2 cannot be; a search tries"):
        sweep(read_plan(path), processes=2)
