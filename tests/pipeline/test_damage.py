"""A stage whose files were damaged is made again; one that was put there by hand is left.

A report is nobody else's: it is made again where it is not as it was written.
"""

from __future__ import annotations

import json

import polars as pl
import pytest
from pipeline_data import configured, write_data

from trsr.config import load_config
from trsr.errors import StaleRunError, StoreError
from trsr.pipeline import is_finished, run, run_stage
from trsr.pipeline.ranking import read_retrieved

CONFIG = configured(
    data={"candidates": "full"},
    summarize={"block_items": 3},
    rank={"rankers": ["random", "popular", "llm_zero_shot"], "retrieve_k": 7},
)


@pytest.fixture
def config(tmp_path):
    write_data(tmp_path, users=12, items=30)
    (tmp_path / "base.toml").write_text(CONFIG)
    config = load_config(tmp_path / "base.toml", [f"run.folder={tmp_path / 'run'}"])
    list(run(config))
    return config


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
@pytest.mark.parametrize("damage", ["cut off", "gone"])
def test_a_damaged_file_is_made_again_by_its_own_stage_alone(config, stage, name, damage):
    path = config.run.folder / name
    whole = path.read_bytes()
    path.write_bytes(whole[:100]) if damage == "cut off" else path.unlink()
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


@pytest.mark.parametrize(
    ("name", "alter"),
    [
        ("report.json", _better),
        ("report.html", lambda path: path.write_text(path.read_text().replace("0.", "1."))),
        (
            "per_query.parquet",
            lambda path: pl.read_parquet(path).with_columns(auc=1.0).write_parquet(path),
        ),
        ("table.tex", lambda path: path.write_text("")),
    ],
)
def test_a_file_of_the_last_stage_that_was_changed_is_made_again(config, name, alter):
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
    with pytest.raises(StoreError, match="(?s)retrieved.parquet: is damaged.*give `trsr rank`"):
        read_retrieved(path)
