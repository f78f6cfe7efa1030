"""Data without times: what rests on them says so."""

from __future__ import annotations

import json

import pytest
from pipeline_data import CHEAP, write_data

from trsr.config import load_config
from trsr.pipeline import run_evaluate, run_prepare, run_rank, run_summarize, run_train


@pytest.mark.parametrize("timed", [True, False])
def test_the_report_says_that_recent_popularity_has_no_times(tmp_path, timed: bool) -> None:
    write_data(tmp_path)
    if not timed:
        log = tmp_path / "clicks.csv"
        lines = log.read_text().splitlines()
        log.write_text("".join(f"{line.rsplit(',', 1)[0]}\n" for line in lines))
    (tmp_path / "mine.toml").write_text(CHEAP)
    run = tmp_path / "run"
    told = [f"run.folder={run}", "rank.rankers=['popular', 'popular_recent']"]
    config = load_config(tmp_path / "mine.toml", told)
    for stage in (run_prepare, run_summarize, run_train, run_rank, run_evaluate):
        stage(config)
    notes = json.loads((run / "report.json").read_text())["notes"]
    assert any("popular_recent: the data has no times" in note for note in notes) is not timed
