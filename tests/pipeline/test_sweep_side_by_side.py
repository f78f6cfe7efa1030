"""Runs of a sweep in processes side by side: the same results, shared work, kills."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import polars as pl
import pytest
from pipeline_data import write_data
from test_sweep import BASE, GRID, SEARCH

from trsr.config import load_config
from trsr.errors import ConfigError
from trsr.machine import cores
from trsr.pipeline.artifacts import SUMMARIES
from trsr.progress import Silent
from trsr.store.rundir import RunDirectory
from trsr.sweep import read_plan, sweep
from trsr.sweep.side_by_side import shares

TWO = GRID.replace("[1, 2]", "[1]")

CODE = "from trsr.cli import main; main()"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_data(tmp_path, users=20, items=40)
    (tmp_path / "base.toml").write_text(BASE)
    (tmp_path / "grid.toml").write_text(TWO)
    return tmp_path


def begin(folder: Path, jobs: int = 2) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", CODE, "sweep", "grid.toml", "--jobs", str(jobs)],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "COLUMNS": "200"},
    )


def workers(folder: Path) -> list[int]:
    """The processes that make a run of this folder's sweep."""
    if not Path("/proc/self/cmdline").exists():
        pytest.skip("the system does not tell what its processes are")
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_text().split("\0")
        except OSError:  # it has just ended
            continue
        if "trsr.sweep.worker" in words and str(folder / "out") in words:
            found.append(int(path.parent.name))
    return found


def until(met: object, seconds: float = 60) -> None:
    assert callable(met)
    deadline = time.monotonic() + seconds
    while not met():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_runs_side_by_side_come_to_what_they_do_one_by_one(folder: Path) -> None:
    (folder / "grid.toml").write_text(GRID)
    (folder / "alone.toml").write_text(GRID.replace('"out"', '"alone"'))
    alone = sweep(read_plan(folder / "alone.toml"))
    swept = sweep(read_plan(folder / "grid.toml"), jobs=3)
    assert not swept.failed
    assert swept.table() == alone.table()
    assert [one.name for one in swept.outcomes] == [one.name for one in alone.outcomes]
    for one in alone.outcomes:
        for name in (*SUMMARIES, "rankings.parquet"):
            ours, theirs = (folder / kind / one.name / name for kind in ("out", "alone"))
            assert pl.read_parquet(ours).equals(pl.read_parquet(theirs))
    # each of what is equal is made once, whoever comes first
    for stage, kinds in (("prepare", 1), ("summarize", 2), ("train", 1)):
        runs = [RunDirectory(folder / "out" / one.name) for one in swept.outcomes]
        made = [run for run in runs if "taken_from" not in run.records()[stage].info]
        assert len(made) == kinds, stage
    assert not (folder / "out" / ".making").exists()
    assert sweep(read_plan(folder / "grid.toml"), jobs=3).table() == alone.table()


@pytest.mark.parametrize("edited", ["base.toml", "grid.toml"])
def test_a_file_that_is_edited_while_runs_are_made_changes_none_of_them(
    folder: Path, edited: str
) -> None:
    class Edits(Silent):
        def begin(self, total: int | None, unit: str) -> None:
            told = (folder / edited).read_text()
            told = told.replace("min_history = 4", "min_history = 5").replace('"auc"', '"mrr"')
            (folder / edited).write_text(told)

    swept = sweep(read_plan(folder / "grid.toml"), Edits(), jobs=2)
    assert not swept.failed
    configs = [load_config(folder / "out" / one.name) for one in swept.outcomes]
    assert [one.data.min_history for one in configs] == [4, 4]
    assert [one.evaluate.metrics for one in configs] == [("recall@3", "auc")] * 2


def test_a_killed_worker_is_told_and_the_others_go_on(folder: Path) -> None:
    child = begin(folder)
    until(lambda: workers(folder))
    os.kill(workers(folder)[0], signal.SIGKILL)
    said = child.communicate(timeout=120)[1]
    assert child.returncode == 1
    assert "1 of 2 runs failed" in said
    value = json.loads((folder / "out" / "sweep.json").read_text())
    (failed,) = [run for run in value["runs"] if run["state"] == "failed"]
    assert "killed by signal 9" in failed["error"]
    assert "signal 9" in (folder / "out" / failed["name"] / "error.txt").read_text()
    again = begin(folder)
    assert "failed" not in again.communicate(timeout=120)[1]
    assert again.returncode == 0


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_workers_end_with_the_sweep_and_it_goes_on(folder: Path, how: signal.Signals) -> None:
    child = begin(folder)
    until(lambda: list((folder / "out").glob("*/manifest.json")))
    child.send_signal(how)
    said = child.communicate(timeout=30)[1]
    assert child.returncode != 0
    assert "Traceback" not in said
    until(lambda: not workers(folder), 10)
    swept = sweep(read_plan(folder / "grid.toml"))
    assert [one.error for one in swept.outcomes] == ["", ""]


def test_each_has_its_share_of_cores_and_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OMP_NUM_THREADS", "POLARS_MAX_THREADS", "RAYON_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    told = shares(3, ["0", "1"])
    assert [one.environment["CUDA_VISIBLE_DEVICES"] for one in told] == ["0", "1", "0"]
    each = max(1, cores() // 3)
    assert {one.environment["OMP_NUM_THREADS"] for one in told} == {str(each)}
    if hasattr(os, "sched_getaffinity"):
        mine = os.sched_getaffinity(0)
        assert all(len(one.cores) == each and mine.issuperset(one.cores) for one in told)
        assert len({core for one in told for core in one.cores}) == min(len(mine), 3 * each)
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    (own,) = shares(1, [])
    assert "OMP_NUM_THREADS" not in own.environment
    assert "CUDA_VISIBLE_DEVICES" not in own.environment


def test_a_search_goes_one_by_one(folder: Path) -> None:
    (folder / "search.toml").write_text(SEARCH)
    with pytest.raises(ConfigError, match=r"search\.toml: jobs: 2 cannot be; a search tries one"):
        sweep(read_plan(folder / "search.toml"), jobs=2)
