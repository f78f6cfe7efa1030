"""A run's folder is taken as it is written, whatever characters are in its name."""

from __future__ import annotations

import json

import pytest
from pipeline_data import configured, write_data
from polars.testing import assert_frame_equal

from trsr.config import load_config
from trsr.pipeline import run
from trsr.pipeline.finished_run import FinishedRun

CONFIG = configured(
    summarize={"block_items": 3},
    rank={"rankers": ["random", "popular", "llm_zero_shot"], "retrieve_k": 7},
)


@pytest.mark.parametrize("candidates", ["uniform", "full"])
def test_a_run_reads_its_own_files_not_those_of_a_run_whose_name_fits(tmp_path, candidates):
    write_data(tmp_path, users=20, items=40)
    (tmp_path / "base.toml").write_text(CONFIG)
    found = {}
    for name, seed in (("r1", 1), ("r[1]", 2), ("plain", 2)):
        told = [
            f"run.folder={tmp_path / name}",
            f"run.seed={seed}",
            f"data.candidates={candidates}",
        ]
        list(run(load_config(tmp_path / "base.toml", told)))
        finished = FinishedRun(tmp_path / name)
        report = json.loads((tmp_path / name / "report.json").read_text())["metrics"]
        found[name] = (finished.values, finished.cases, report)
    assert_frame_equal(found["r[1]"][0], found["plain"][0])
    assert_frame_equal(found["r[1]"][1], found["plain"][1])
    assert found["r[1]"][2] == found["plain"][2] != found["r1"][2]
