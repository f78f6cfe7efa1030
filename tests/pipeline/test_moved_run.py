"""A run directory is the run, wherever it was moved or copied to since it was made."""

from __future__ import annotations

import shutil

import pytest
from pipeline_data import SCRIPTED, write_data

from benchmarks.queries import config_for
from trsr.config import load_config
from trsr.errors import StoreError
from trsr.experiments.compare import compare
from trsr.pipeline import run, run_stage

READS = "rank.rankers=['random', 'llm_zero_shot']"
"""Else no summary is written, and no response is stored."""


@pytest.fixture
def made(tmp_path):
    """A finished run in a folder `runs`."""
    write_data(tmp_path)
    text = SCRIPTED.replace('strategy = "none"', 'strategy = "recurrent"\nblock_items = 3')
    (tmp_path / "mine.toml").write_text(text)
    folder = tmp_path / "runs" / "mine"
    list(run(load_config(tmp_path / "mine.toml", [f"run.folder={folder}", READS])))
    return folder


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
    with pytest.raises(StoreError, match=f"trsr evaluate {copy}"):
        compare([str(copy)])
    assert run_stage(load_config(copy), "evaluate").made
    assert (copy / "per_query.parquet").read_bytes() == whole
    assert compare([str(copy)]).queries
    assert files(made) == before
    assert load_config(copy / "config.toml").run.folder == copy


def test_a_moved_run_is_up_to_date_and_its_old_place_stays_empty(made, tmp_path):
    moved = tmp_path / "elsewhere" / "moved"
    moved.parent.mkdir()
    made.rename(moved)
    assert [(one.stage, one.why) for one in run(load_config(moved)) if one.made] == []
    assert not made.exists()


def test_a_folder_that_the_command_line_names_is_another_run_with_the_same_settings(made, tmp_path):
    copy, other = tmp_path / "copy", tmp_path / "other"
    shutil.copytree(made, copy)
    config = load_config(copy, [f"run.folder={other}", "data.negatives=5"])
    assert config.run.folder == other
    assert config.data.negatives == 5
    assert config.summarize.strategy == "recurrent"
    assert config.run.cache == made.parent / "responses.sqlite"


def test_paths_in_a_runs_settings_keep_their_meaning(made, tmp_path):
    moved = tmp_path / "elsewhere" / "moved"
    moved.parent.mkdir()
    made.rename(moved)
    assert load_config(moved).data.interactions == tmp_path / "clicks.csv"
    text = (moved / "config.toml").read_text()
    text = text.replace(str(tmp_path / "clicks.csv"), "../../clicks.csv")
    (moved / "config.toml").write_text(text)
    assert load_config(moved).data.interactions == tmp_path / "clicks.csv"


def test_the_store_of_outputs_is_the_one_that_is_there(made, tmp_path):
    own = made.parent / "responses.sqlite"
    assert own.exists()
    copy = tmp_path / "elsewhere" / "copy"
    shutil.copytree(made, copy)
    assert load_config(copy).run.cache == own
    made.parent.rename(tmp_path / "moved")
    assert load_config(tmp_path / "moved" / "mine").run.cache == tmp_path / "moved" / own.name
    assert load_config(copy).run.cache == copy.parent / own.name


def test_a_store_of_outputs_that_was_named_stays_named(made, tmp_path):
    named = tmp_path / "store" / "shared.sqlite"
    run_stage(load_config(made, [f"run.cache={named}"]), "prepare")
    made.rename(tmp_path / "moved")
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
