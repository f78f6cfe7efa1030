"""A stage killed at any moment goes on where it was, and ends as if it had not been killed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from trsr.pipeline import STAGE_NAMES

pytest.importorskip("torch", reason="the extra `local` is not installed")


@pytest.mark.timeout(900)
def test_each_stage_killed_twenty_times_ends_like_an_unbroken_run(tmp_path, small_run):
    config = small_run(tmp_path)
    driver = Path(__file__).with_name("killing.py")
    done = subprocess.run(
        [sys.executable, str(driver), str(config), str(tmp_path), "11"],
        capture_output=True,
        text=True,
        timeout=880,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert set(json.loads(done.stdout).values()) == {20}
    whole = tmp_path / "whole"
    compared = set()
    for stage in STAGE_NAMES:
        broken = tmp_path / stage
        for path in broken.glob("*.parquet"):
            assert_frame_equal(pl.read_parquet(path), pl.read_parquet(whole / path.name))
            compared.add(path.name)
        assert not (broken / ".work" / stage).exists()
    assert compared >= {"rankings.parquet", "summaries.test.parquet", "per_query.parquet"}
    weights = "adapter/adapter_model.safetensors"
    assert (whole / weights).read_bytes() == (tmp_path / "train" / weights).read_bytes()
    folders = (whole, tmp_path / "evaluate")
    first, second = (json.loads((folder / "report.json").read_text()) for folder in folders)
    assert first["metrics"] == second["metrics"]
