"""A run directory from somebody else, or with files that trsr has not made, harms nothing."""

from __future__ import annotations

import json
import os
import shutil

import numpy as np
import polars as pl
import pytest
from pipeline_data import configured

from trsr.config import load_config
from trsr.errors import StoreError, TrsrError
from trsr.pipeline import is_finished, run, run_stage
from trsr.recommender import Recommender
from trsr.storage.run_directory import RunDirectory

CONFIG = configured(
    summarize={"block_items": 3},
    rank={"rankers": ["popular", "llm_zero_shot"]},
)


@pytest.fixture
def config(finished_copy, tmp_path):
    return finished_copy(tmp_path / "copy", CONFIG, users=8, items=20)


def _name(folder, stage, name):
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["stages"][stage]["files"][name] = "0" * 64
    path.write_text(json.dumps(manifest))


@pytest.mark.parametrize("name", ["../near.txt", "{tmp}/near.txt", "..", ".work", "a\\b", ""])
def test_a_manifest_that_names_paths_is_refused_and_nothing_is_removed(config, tmp_path, name):
    near = config.run.folder.parent / "near.txt"
    near.write_text("mine")
    _name(config.run.folder, "rank", name.format(tmp=near.parent))
    with pytest.raises(StoreError, match=r"manifest\.json: stage rank names the file .* no plain"):
        list(run(config))
    assert near.read_text() == "mine"


@pytest.mark.parametrize(
    ("info", "said"),
    [
        ({"versions": ["x"]}, r"info\.versions: input should be .*dict"),
        ({"seconds": "<b>"}, r"info\.seconds: input should be a valid number"),
        ({"costs": {"popular": {"more": 1}}}, "the recorded costs of rankers are not as trsr"),
    ],
)
def test_a_manifest_whose_notes_are_of_another_kind_is_refused(config, info, said):
    path = config.run.folder / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["stages"]["rank"]["info"] |= info
    path.write_text(json.dumps(manifest))
    (config.run.folder / "report.json").unlink()
    with pytest.raises(StoreError, match=said):
        list(run(config))


def test_a_manifest_that_names_what_a_stage_does_not_write_is_refused(config):
    _name(config.run.folder, "rank", "config.toml")
    (config.run.folder / "rankings.parquet").unlink()
    with pytest.raises(StoreError, match="stage rank names the file 'config.toml', which it does"):
        list(run(config))
    assert (config.run.folder / "config.toml").is_file()


def test_nothing_is_written_or_removed_through_links(config, tmp_path):
    outside = tmp_path / "outside"
    (outside / "rank.out").mkdir(parents=True)
    for name in ("letter.txt", "rank.out/letter.txt"):
        (outside / name).write_text("mine")
    folder = config.run.folder
    shutil.rmtree(folder / ".work", ignore_errors=True)
    (folder / ".work").symlink_to(outside)
    for name in ("manifest.json", "config.toml"):
        (folder / f".{name}.new").symlink_to(outside / "letter.txt")
    (folder / ".lock").unlink(missing_ok=True)
    (folder / ".lock").symlink_to(outside / "letter.txt")
    (folder / "rankings.parquet").unlink()
    (folder / "rankings.parquet").symlink_to(outside / "letter.txt")
    shutil.rmtree(folder / "rankers")
    (folder / "rankers").symlink_to(outside)
    (outside / "popular").mkdir()
    (outside / "popular" / "counts_.npy").write_text("mine")
    assert "rank" in [one.stage for one in run(config) if one.made]
    assert (outside / "letter.txt").read_text() == "mine"
    assert (outside / "rank.out" / "letter.txt").read_text() == "mine"
    assert (outside / "popular" / "counts_.npy").read_text() == "mine"
    assert not (folder / "rankings.parquet").is_symlink()
    assert is_finished(config)


def test_links_in_a_workspace_are_removed(tmp_path):
    run = RunDirectory(tmp_path / "run")
    (tmp_path / "letter.txt").write_text("mine")
    state = run.workspace("train") / "step-1"
    state.mkdir()
    (state / "adapter.safetensors").symlink_to(tmp_path / "letter.txt")
    (run.workspace("train") / "step-2").symlink_to(tmp_path)
    assert [path.name for path in run.workspace("train").rglob("*")] == ["step-1"]
    assert (tmp_path / "letter.txt").read_text() == "mine"


def test_a_linked_adapter_is_unlinked_and_what_it_leads_to_stays(tmp_path):
    from trsr.storage.run_directory import StageRecord

    run = RunDirectory(tmp_path / "run")
    external_lists = tmp_path / "elsewhere"
    external_lists.mkdir()
    (external_lists / "weights").write_text("mine")
    with run.writing("train") as out:
        (run / "adapter").symlink_to(external_lists)
        (out / "adapter").mkdir()
        run.publish("train", out, StageRecord({}, {}, {}), ["adapter"])
    assert not (run / "adapter").is_symlink()
    assert (external_lists / "weights").read_text() == "mine"


def test_a_run_takes_an_adapter_that_was_put_there_and_a_training_does_not_replace_it(config):
    adapter = config.run.folder / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text("{}")
    manifest = config.run.folder / "manifest.json"
    value = json.loads(manifest.read_text())
    del value["stages"]["train"]
    manifest.write_text(json.dumps(value))
    outcomes = {one.stage: one for one in run(config)}
    assert (outcomes["train"].made, outcomes["train"].why) == (
        False,
        "made outside, taken as it is",
    )
    assert is_finished(config)
    with pytest.raises(StoreError, match="train would write over adapter, which trsr has not made"):
        run_stage(config, "train", alone=True)
    assert (adapter / "adapter_config.json").read_text() == "{}"


def test_a_file_put_in_the_place_of_a_stages_own_is_not_replaced(config):
    folder = config.run.folder
    own = (folder / "cases.valid.parquet").read_bytes()
    (folder / "rankings.parquet").write_bytes(own)
    more = load_config(folder, ["rank.rankers=['popular']"])
    with pytest.raises(StoreError, match=r"rank would write over rankings\.parquet"):
        list(run(more))
    assert (folder / "rankings.parquet").read_bytes() == own


def test_a_donor_with_links_is_not_copied_from_and_one_that_names_paths_is_refused(
    config, tmp_path
):
    folder = config.run.folder
    other = load_config(folder.parent / "mine.toml", [f"run.folder={tmp_path / 'other'}"])
    donor = RunDirectory(folder)
    real = tmp_path / "items.parquet"
    shutil.move(folder / "items.parquet", real)
    (folder / "items.parquet").symlink_to(real)
    made = run_stage(other, "prepare", donors=[donor])
    assert made.made
    assert "taken_from" not in made.info
    _name(folder, "summarize", "../near.txt")
    with pytest.raises(StoreError, match="stage summarize names the file"):
        run_stage(other, "summarize", donors=[donor])


def test_a_run_is_for_its_user_alone(config):
    folder = config.run.folder
    shutil.rmtree(folder)
    config.run.cache.unlink()
    list(run(config))
    for path in (folder, *folder.rglob("*"), config.run.cache):
        assert path.stat().st_mode & 0o077 == 0, path


def _put(folder, name, change):
    path = folder / name
    change(pl.read_parquet(path)).write_parquet(path)


SUMMARIES = "summaries.test.parquet"


def test_summaries_with_columns_in_another_order_are_read_as_they_are_named(config):
    _put(config.run.folder, SUMMARIES, lambda frame: frame.select(reversed(frame.columns)))
    before = pl.read_parquet(config.run.folder / "rankings.parquet")
    assert [one.stage for one in run(config) if one.made] == ["rank", "evaluate"]
    assert pl.read_parquet(config.run.folder / "rankings.parquet").equals(before)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        (
            SUMMARIES,
            lambda f: f.with_columns(user=pl.lit("u")),
            r"query test/\S+ is of user u, and",
        ),
        (
            SUMMARIES,
            lambda f: f.with_columns(covers=99),
            "query .* covers 99 interactions, and the",
        ),
        (SUMMARIES, lambda f: f.rename({"text": "summary"}), "there is no column text, but"),
        (
            SUMMARIES,
            lambda f: f.with_columns(query=pl.format("x{}", "query")),
            "no summary for any of the 8 test queries, but 8 of others, such as x",
        ),
        (
            "cases.test.parquet",
            lambda f: f.with_columns(items=pl.lit(["ghost"])),
            "query test/.* (names the item ghost, which is not in items|: .*shorter)",
        ),
        (
            "cases.test.parquet",
            lambda f: f.with_columns(pl.col("times").list.reverse()),
            "query test/.*: the history is not oldest first",
        ),
        ("items.parquet", lambda f: pl.concat([f, f]), "two rows for id"),
        ("items.parquet", lambda f: f.head(2), "names the item .*, which is not in items.parquet"),
        (
            "interactions.parquet",
            lambda f: f.with_columns(time=pl.lit(None, pl.Float64)),
            "the column time has an empty value in row 1",
        ),
    ],
)
def test_files_put_into_a_run_that_do_not_fit_are_told(config, name, change, message):
    _put(config.run.folder, name, change)
    with pytest.raises(TrsrError, match=message) as told:
        list(run(config))
    assert name in str(told.value)


def test_queries_without_a_summary_are_counted_and_told(config):
    _put(config.run.folder, SUMMARIES, lambda frame: frame.head(5))
    outcomes = {one.stage: one for one in run(config)}
    assert outcomes["rank"].info["queries_without_summary"] == 3
    report = json.loads((config.run.folder / "report.json").read_text())
    assert any(note.startswith("3 of 8 queries have no summary") for note in report["notes"])


@pytest.mark.timeout(60)
@pytest.mark.parametrize("place", ["items.parquet", "rankers/popular/counts_.npy", "config.toml"])
def test_a_pipe_in_a_run_is_refused_and_not_waited_for(config, place):
    path = config.run.folder / place
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(TrsrError, match="is a pipe or a device|not a run directory"):
        Recommender.load(config.run.folder, "popular")


LEARNED = {
    "counts_.npy": lambda folder: np.save(folder / "counts_.npy", np.zeros(3)),
    "score": lambda folder: _state(folder, {"score": {"value": "x"}}),
    "__class__": lambda folder: _state(folder, {"__class__": {"value": 1}}),
    "no array": lambda folder: (folder / "counts_.npy").unlink(),
    "no NumPy": lambda folder: (folder / "counts_.npy").write_bytes(b"NUMPY"),
    "no object": lambda folder: (folder / "ranker.json").write_text("[]"),
}


def _state(folder, more):
    path = folder / "ranker.json"
    value = json.loads(path.read_text())
    path.write_text(json.dumps({**value, "state": {**value["state"], **more}}))


@pytest.mark.parametrize("name", LEARNED)
def test_what_a_ranker_has_not_learned_is_refused(config, name):
    LEARNED[name](config.run.folder / "rankers" / "popular")
    with pytest.raises(StoreError, match=r"rankers/popular: (not a fitted|what the) .*`trsr run`"):
        Recommender.load(config.run.folder, "popular")


def test_places_outside_a_sparse_matrix_never_reach_a_library(config):
    folder = config.run.folder
    list(run(load_config(folder, ["rank.rankers=['item_knn', 'popular']"])))
    path = folder / "rankers" / "item_knn" / "users_of_.indices.npy"
    places = np.load(path)
    places[-1] = 10**6
    np.save(path, places)
    with pytest.raises(StoreError, match="item_knn: not a fitted ranker .*indices"):
        Recommender.load(folder, "item_knn")
