"""Runs of a sweep in several processes: the same results, shared work, kills, one table."""

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
from test_sweep import BASE, GRID, SEARCH, plan_of

from trsr.config import load_config
from trsr.errors import ConfigError, StoreError
from trsr.experiments.sweep import Swept, read_plan, sweep
from trsr.experiments.sweep.plan import Plan
from trsr.pipeline.artifacts import SUMMARIES
from trsr.progress import Silent
from trsr.storage.run_directory import RunDirectory

CODE = "from trsr.cli import main; main()"


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    write_data(tmp_path, users=20, items=40)
    (tmp_path / "base.toml").write_text(BASE)
    return plan_of(tmp_path)


def begin(folder: Path, processes: int) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", CODE, "sweep", "grid.toml", "--processes", str(processes)],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "COLUMNS": "200"},
    )


def until(met: object, seconds: float = 60) -> None:
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


def assert_equal(plan: Plan, swept: Swept) -> None:
    """What several processes made is what one makes, and each stage is made once."""
    path = plan.path.with_name("alone.toml")
    path.write_text(GRID.replace('"out"', '"alone"'))
    single = sweep(read_plan(path))
    value = json.loads((plan.folder / "sweep.json").read_text())
    header, rows = single.table()
    assert (value["table"]["header"], value["table"]["rows"]) == (header, rows)
    assert swept.table() == single.table()
    for one in single.outcomes:
        for name in (*SUMMARIES, "rankings.parquet"):
            ours, theirs = (path.parent / kind / one.name / name for kind in ("out", "alone"))
            assert pl.read_parquet(ours).equals(pl.read_parquet(theirs))
    runs = [RunDirectory(plan.folder / one.name) for one in single.outcomes]
    for stage, kinds in (("prepare", 1), ("summarize", 2), ("train", 1)):
        made = [run for run in runs if "taken_from" not in run.records()[stage].info]
        assert len(made) == kinds, stage


def test_two_calls_of_several_processes_come_to_what_one_process_does(plan: Plan) -> None:
    both = [begin(plan.path.parent, processes) for processes in (1, 2)]
    said = [child.communicate(timeout=240)[1] for child in both]
    assert [child.returncode for child in both] == [0, 0], said
    assert_equal(plan, sweep(plan))


def test_a_killed_workers_run_is_made_by_another(plan: Plan) -> None:
    child = begin(plan.path.parent, 2)
    until(lambda: list(plan.folder.glob("*/manifest.json")))
    os.kill(workers(child.pid)[0], signal.SIGKILL)
    said = child.communicate(timeout=240)[1]
    assert child.returncode == 0, said
    assert_equal(plan, sweep(plan))


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


@pytest.mark.parametrize("edited", ["base.toml", "grid.toml"])
def test_a_file_that_is_edited_while_runs_are_made_changes_none_of_them(
    plan: Plan, edited: str
) -> None:
    class Edits(Silent):
        def begin(self, total: int | None, unit: str) -> None:
            path = plan.path.with_name(edited)
            text = path.read_text().replace("min_history = 4", "min_history = 5")
            path.write_text(text.replace('"auc"', '"mrr"'))

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
