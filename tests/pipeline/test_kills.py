"""A stage killed at any moment goes on where it was, and ends as if it had not been killed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest
from polars.testing import assert_frame_equal

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
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    tables = sorted(path.name for path in whole.glob("*.parquet"))
    assert "rankings.parquet" in tables
    assert "summaries.test.parquet" in tables
    for name in tables:
        assert_frame_equal(pl.read_parquet(whole / name), pl.read_parquet(broken / name))
    weights = "adapter/adapter_model.safetensors"
    assert (whole / weights).read_bytes() == (broken / weights).read_bytes()
    first, second = (json.loads((f / "report.json").read_text()) for f in (whole, broken))
    assert first["metrics"] == second["metrics"]
    assert not (broken / ".work" / "train").exists()
