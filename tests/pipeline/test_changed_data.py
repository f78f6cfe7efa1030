"""Data that is another is noticed, also where both its files have one name."""

from __future__ import annotations

import json
import os
import re
import shutil

import polars as pl
import pytest
from pipeline_data import SCRIPTED, configured, write_data
from polars.testing import assert_frame_equal

from benchmarks.score import config_for
from trsr.config import load_config
from trsr.errors import StaleRunError, StoreError
from trsr.experiments.compare import compare
from trsr.experiments.sweep import read_plan, sweep
from trsr.pipeline import is_finished, run, run_stage
from trsr.pipeline.finished_run import FinishedRun
from trsr.pipeline.ranking import read_retrieved
from trsr.pipeline.runner import fingerprint

CONFIG = configured(
    data={
        "interactions": "clicks/data.csv",
        "items": "items/data.csv",
        "columns": {"user": "customer", "item": "sku", "time": "when", "item_id": "sku"},
    },
    summarize={"strategy": "none"},
    rank={"rankers": ["popular"]},
)
SWEEP = """
base = "base.toml"

[sweep]
folder = "out"

[grid]
data.interactions = ["clicks/data.csv", "half/data.csv"]
"""


@pytest.fixture
def folder(tmp_path):
    write_data(tmp_path, users=20)
    for name in ("clicks", "half", "items"):
        (tmp_path / name).mkdir()
    clicks = (tmp_path / "clicks.csv").read_text().splitlines(keepends=True)
    (tmp_path / "clicks" / "data.csv").write_text("".join(clicks))
    (tmp_path / "half" / "data.csv").write_text("".join(clicks[: len(clicks) // 2]))
    rows = map(json.loads, (tmp_path / "products.jsonl").read_text().splitlines())
    items = "".join(f"{row['sku']},{row['title']}\n" for row in rows)
    (tmp_path / "items" / "data.csv").write_text("sku,title\n" + items)
    (tmp_path / "base.toml").write_text(CONFIG)
    return tmp_path


@pytest.mark.parametrize("changed", ["clicks", "items"])
def test_changed_data_is_prepared_again_where_both_files_have_one_name(folder, changed):
    config = load_config(folder / "base.toml", [f"run.folder={folder / 'run'}"])
    assert run_stage(config, "prepare").made
    assert not run_stage(config, "prepare").made
    path = folder / changed / "data.csv"
    path.write_text(path.read_text().replace("u0,", "u99,").replace("hinge", "door hinge"))
    again = run_stage(config, "prepare")
    role = {"clicks": "interactions", "items": "items"}[changed]
    assert f"source files.{role}:data.csv: another size or time of change" in again.why


def test_a_folder_of_files_is_prepared_again_for_each_change_of_its_data_alone(folder):
    lines = (folder / "clicks" / "data.csv").read_text().splitlines(keepends=True)
    for day, rows in enumerate((lines[1:60], lines[60:])):
        (folder / "days" / f"day={day}").mkdir(parents=True)
        (folder / "days" / f"day={day}" / "data.csv").write_text("".join([lines[0], *rows]))
    words = [f"run.folder={folder / 'run'}", f"data.interactions={folder / 'days'}"]
    config = load_config(folder / "base.toml", words)
    assert run_stage(config, "prepare").made
    for beside in ("_SUCCESS", "day=0/.data.csv.crc", "day=2"):
        (folder / "days" / beside).mkdir() if beside == "day=2" else (
            folder / "days" / beside
        ).write_text("x")
        assert not run_stage(config, "prepare").made
    for change, why in (
        (lambda path: os.utime(path, ns=(7, 7)), "another size or time of change"),
        (lambda path: path.rename(path.with_name("part.csv")), "gone"),
    ):
        change(folder / "days" / "day=1" / "data.csv")
        assert f"source files.day=1/data.csv: {why}" in run_stage(config, "prepare").why
    shutil.copy(folder / "days" / "day=0" / "data.csv", folder / "days" / "day=2" / "data.csv")
    assert "source files.day=2/data.csv: new" in run_stage(config, "prepare").why
    pattern = load_config(
        folder / "base.toml", [*words, f"data.interactions={folder}/days/day=[01]/*"]
    )
    assert "source files.day=2/data.csv: gone" in run_stage(pattern, "prepare").why


def test_a_finished_run_is_evaluated_again_whatever_became_of_its_source(folder):
    words = [f"run.folder={folder / 'run'}"]
    list(run(load_config(folder / "base.toml", words)))
    os.utime(folder / "clicks" / "data.csv", ns=(7, 7))
    config = load_config(folder / "base.toml", [*words, 'evaluate.metrics=["auc"]'])
    with pytest.raises(StaleRunError, match="data.csv: another size or time of change"):
        run_stage(config, "rank")
    assert run_stage(config, "evaluate").made
    assert pl.read_parquet(folder / "run" / "per_query.parquet")["auc"].len()
    before = (folder / "run" / "per_query.parquet").read_bytes()
    # a whole run reads the source anew, and says why
    assert next(iter(run(config))).made
    assert (folder / "run" / "per_query.parquet").read_bytes() == before


def test_the_report_tells_of_no_model_that_was_not_asked(folder):
    words = [f"run.folder={folder / 'run'}", 'rank.rankers=["random", "popular"]']
    list(run(load_config(folder / "base.toml", words)))
    text = (folder / "run" / "report.md").read_text("utf-8")
    assert "no language model was used" in text
    page = (folder / "run" / "report.html").read_text("utf-8")
    assert "none summaries" not in text + page
    # the users that it shows have the lists of the ranker that the report is about
    assert set(re.findall(r"Candidates, as (\w+) ranked them", page)) == {"popular"}


def test_a_sweep_over_files_of_one_name_prepares_each(folder):
    (folder / "sweep.toml").write_text(SWEEP)
    done = sweep(read_plan(folder / "sweep.toml"))
    assert not [one.error for one in done.outcomes if one.error]
    read = [
        json.loads((folder / "out" / one.name / "prepare.json").read_text())["counts"]
        for one in done.outcomes
    ]
    assert len({counts["interactions_read"] for counts in read}) == 2


def test_a_name_that_one_file_has_is_a_key_as_it_was(folder):
    (folder / "items" / "more.csv").write_text("")
    os.utime(folder / "items" / "more.csv", ns=(5, 5))
    clicks, items = folder / "clicks" / "data.csv", folder / "items"
    found = fingerprint({"interactions": clicks, "items": items})
    assert set(found) == {"interactions:data.csv", "items:data.csv", "more.csv"}
    assert found["more.csv"] == [0, 5]
    assert set(fingerprint({"interactions": items, "items": items})) == {"data.csv", "more.csv"}
    assert fingerprint({"interactions": None, "items": folder / "gone"}) == {}


# --- A stage whose files were damaged is made again; one that was put there by hand is left


CONFIG_DAMAGE = configured(
    data={"candidates": "full"},
    summarize={"block_items": 3},
    rank={"rankers": ["random", "popular", "llm_zero_shot"], "retrieve_k": 7},
)


@pytest.fixture
def config(finished_copy, tmp_path):
    return finished_copy(tmp_path, CONFIG_DAMAGE, users=12)


@pytest.mark.parametrize(
    ("stage", "name"),
    [
        ("prepare", "cases.test.parquet"),
        ("summarize", "summaries.test.parquet"),
        ("rank", "rankings.parquet"),
        ("rank", "retrieved.parquet"),
        ("evaluate", "per_query.parquet"),
        ("evaluate", "report.json"),
    ],
)
def test_a_damaged_file_is_made_again_by_its_own_stage_alone(config, stage, name):
    path = config.run.folder / name
    whole = path.read_bytes()
    for damage in (lambda: path.write_bytes(whole[:100]), path.unlink):
        damage()
        made = {one.stage: one.why for one in run(config) if one.made}
        assert made == {stage: f"gone or damaged: {name}"}
        if name.endswith(".parquet"):
            assert path.read_bytes() == whole


def test_a_later_stage_names_the_damaged_file(config):
    path = config.run.folder / "rankings.parquet"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(StaleRunError, match=r"rank \(gone or damaged: rankings\.parquet\)"):
        run_stage(config, "evaluate")


def test_a_file_put_in_the_place_of_a_stages_own_is_left_as_it_is(config):
    path = config.run.folder / "rankings.parquet"
    own = pl.read_parquet(path).filter(pl.col("ranker") != "random")
    own.write_parquet(path)
    assert [one.stage for one in run(config) if one.made] == ["evaluate"]
    assert pl.read_parquet(path).equals(own)


def _better(path):
    """A report that tells a better figure, as somebody could write it."""
    report = json.loads(path.read_text())
    report["rankers"]["popular"]["metrics"]["auc"]["mean"] = 0.999
    path.write_text(json.dumps(report))


ALTERED = {
    "report.json": _better,
    "report.html": lambda path: path.write_text(path.read_text().replace("0.", "1.")),
    "per_query.parquet": lambda path: (
        pl.read_parquet(path).with_columns(auc=1.0).write_parquet(path)
    ),
    "table.tex": lambda path: path.write_text(""),
}


def test_a_file_of_the_last_stage_that_was_changed_is_made_again(config):
    (config.run.folder / "report.json").unlink()
    run_stage(config, "evaluate")  # the page of the copy tells its own place
    for name, alter in ALTERED.items():
        path = config.run.folder / name
        whole = path.read_bytes()
        alter(path)
        assert path.read_bytes() != whole
        assert not is_finished(config)
        made = {one.stage: one.why for one in run(config) if one.made}
        assert made == {"evaluate": f"changed since it was written: {name}"}
        assert path.read_bytes() == whole
        assert is_finished(config)


def test_damaged_proposals_are_told_with_what_to_do(config):
    path = config.run.folder / "retrieved.parquet"
    assert all(len(items) == 7 for items in read_retrieved(path).values())
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(StoreError, match="(?s)retrieved.parquet: is damaged.*give `trsr run`"):
        read_retrieved(path)


# --- A run directory is the run, wherever it was moved or copied to since it was made


READS = "rank.rankers=['random', 'llm_zero_shot']"
"""Else no summary is written, and no response is stored."""


def make_run(folder):
    """Makes a run in a folder `runs` of this one."""
    write_data(folder)
    text = SCRIPTED.replace('strategy = "none"', 'strategy = "recurrent"\nblock_items = 3')
    (folder / "mine.toml").write_text(text)
    made = folder / "runs" / "mine"
    list(run(load_config(folder / "mine.toml", [f"run.folder={made}", READS])))
    return made


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A finished run, which no test changes or moves."""
    return make_run(tmp_path_factory.mktemp("made"))


def files(folder):
    """Name → content and time of change of a folder's files, the lock and the settings apart."""
    return {
        path.name: (path.read_bytes(), path.stat().st_mtime_ns)
        for path in folder.iterdir()
        if path.is_file() and path.name not in (".lock", "config.toml")
    }


def test_a_copy_is_mended_in_its_own_place(made, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(made, copy)
    whole = (copy / "per_query.parquet").read_bytes()
    (copy / "per_query.parquet").write_bytes(whole[:100])
    before = files(made)
    with pytest.raises(StoreError, match=f"trsr run {copy}"):
        compare([str(copy)])
    assert run_stage(load_config(copy), "evaluate").made
    assert (copy / "per_query.parquet").read_bytes() == whole
    assert compare([str(copy)]).queries
    assert files(made) == before
    assert load_config(copy / "config.toml").run.folder == copy


def test_a_moved_run_is_up_to_date_and_finds_its_store_and_its_data(tmp_path):
    made = make_run(tmp_path)
    own = made.parent / "responses.sqlite"
    assert own.exists()
    copy, moved = tmp_path / "elsewhere" / "copy", tmp_path / "moved" / "mine"
    shutil.copytree(made, copy)
    assert load_config(copy).run.cache == own
    made.parent.rename(moved.parent)
    assert load_config(moved).run.cache == moved.parent / own.name
    assert load_config(copy).run.cache == copy.parent / own.name
    assert [(one.stage, one.why) for one in run(load_config(moved)) if one.made] == []
    assert not made.exists()  # its old place stays empty
    assert load_config(moved).data.interactions == tmp_path / "clicks.csv"
    text = (moved / "config.toml").read_text()
    text = text.replace(str(tmp_path / "clicks.csv"), "../../clicks.csv")
    (moved / "config.toml").write_text(text)
    assert load_config(moved).data.interactions == tmp_path / "clicks.csv"


def test_a_folder_that_the_command_line_names_is_another_run_with_the_same_settings(made, tmp_path):
    copy, other = tmp_path / "copy", tmp_path / "other"
    shutil.copytree(made, copy)
    config = load_config(copy, [f"run.folder={other}", "data.negatives=5"])
    assert config.run.folder == other
    assert config.data.negatives == 5
    assert config.summarize.strategy == "recurrent"
    assert config.run.cache == made.parent / "responses.sqlite"


def test_a_store_of_outputs_that_was_named_stays_named(made, tmp_path):
    named, copy = tmp_path / "store" / "shared.sqlite", tmp_path / "copy"
    shutil.copytree(made, copy)
    run_stage(load_config(copy, [f"run.cache={named}"]), "prepare")
    copy.rename(tmp_path / "moved")
    assert load_config(tmp_path / "moved").run.cache == named


def test_a_settings_file_in_no_runs_folder_names_the_folder_itself(made, tmp_path):
    project = tmp_path / "project"
    project.mkdir()
    shutil.copy(made / "config.toml", project)
    assert load_config(project).run.folder == made
    (project / ".work").mkdir()  # as where a first stage was stopped
    assert load_config(project).run.folder == project


def test_a_bench_reads_the_copys_summaries(made, tmp_path):
    shutil.copytree(made, tmp_path / "copy")
    name, config = config_for(tmp_path / "copy")
    assert (name, config.run.folder) == ("copy", tmp_path / "copy")


# --- A run's folder is taken as it is written, whatever characters are in its name


CONFIG_FOLDER_NAMES = configured(
    summarize={"block_items": 3},
    rank={"rankers": ["random", "popular", "llm_zero_shot"], "retrieve_k": 7},
)


def test_a_run_reads_its_own_files_not_those_of_a_run_whose_name_fits(tmp_path):
    write_data(tmp_path, users=20, items=40)
    (tmp_path / "base.toml").write_text(CONFIG_FOLDER_NAMES)
    found = {}
    for name, seed in (("r1", 1), ("r[1]", 2), ("plain", 2)):
        told = [f"run.folder={tmp_path / name}", f"run.seed={seed}", "data.candidates=full"]
        list(run(load_config(tmp_path / "base.toml", told)))
        finished = FinishedRun(tmp_path / name)
        report = json.loads((tmp_path / name / "report.json").read_text())["metrics"]
        found[name] = (finished.values, finished.cases, report)
    assert_frame_equal(found["r[1]"][0], found["plain"][0])
    assert_frame_equal(found["r[1]"][1], found["plain"][1])
    assert found["r[1]"][2] == found["plain"][2] != found["r1"][2]
