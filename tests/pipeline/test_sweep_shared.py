"""Several processes at one sweep: each run is made by one of them, and all write one table."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from pipeline_data import write_data
from test_sweep import BASE, GRID, SEARCH, plan_of
from test_sweep_side_by_side import begin

from trsr.errors import StoreError
from trsr.progress import Progress, Silent
from trsr.store.rundir import RunDirectory
from trsr.sweep import Swept, read_plan, sweep
from trsr.sweep.claims import Claims, failed
from trsr.sweep.plan import Plan, Planned
from trsr.sweep.table import Outcome


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    write_data(tmp_path, users=20, items=40)
    (tmp_path / "base.toml").write_text(BASE)
    return plan_of(tmp_path)


def while_another_makes(plan: Plan, run: Planned, progress: Progress) -> Swept:
    """The sweep, made while somebody else is making one of its runs."""
    found: list[Swept] = []

    def made() -> Outcome:
        found.append(sweep(plan, progress))
        return Outcome(run.name, run.settings, run.seed)

    assert Claims(plan.folder).make(run, made) is not None
    return found[0]


def record(plan: Plan) -> list[str]:
    return [one["name"] for one in json.loads((plan.folder / "sweep.json").read_text())["runs"]]


@pytest.mark.parametrize("jobs", [1, 2])
def test_two_processes_share_the_runs_and_come_to_what_one_does(plan: Plan, jobs: int) -> None:
    both = [begin(plan.path.parent, jobs) for _ in range(2)]
    said = [child.communicate(timeout=240)[1] for child in both]
    assert [child.returncode for child in both] == [0, 0], said
    alone = plan.path.with_name("alone.toml")
    alone.write_text(GRID.replace('"out"', '"alone"'))
    sweep(read_plan(alone))
    table, single = (
        json.loads((plan.path.parent / name / "sweep.json").read_text())["table"]
        for name in ("out", "alone")
    )
    assert table == single
    runs = [RunDirectory(plan.folder / run.name) for run in plan.grid()]
    for stage, kinds in (("prepare", 1), ("summarize", 2), ("train", 1)):
        made = [run for run in runs if "taken_from" not in run.records()[stage].info]
        assert len(made) == kinds, stage
    assert not (plan.folder / ".making").exists()


def test_a_run_that_another_makes_is_left_to_it_and_told(plan: Plan) -> None:
    theirs, *ours = plan.grid()
    counted: list[str] = []

    class Counts(Silent):
        def advance(self, steps: int = 1, note: str = "") -> None:
            counted.extend([note] * steps)

    swept = while_another_makes(plan, theirs, Counts())
    assert counted == [run.name for run in ours]  # else the estimate would go by what took no time
    assert [one.name for one in swept.outcomes] == [run.name for run in ours] == record(plan)
    assert swept.notes()[-1] == f"another trsr is making: {theirs.name}"
    assert not swept.left
    assert not (plan.folder / theirs.name / "manifest.json").exists()
    # it did not come to anything: nobody makes it any more
    assert len(sweep(plan).outcomes) == len(plan.grid()) == len(record(plan))
    assert not (plan.folder / ".making").exists()


def test_a_row_that_another_wrote_is_not_written_over(plan: Plan) -> None:
    first, *_, last = plan.grid()

    class Another(Silent):
        def begin(self, total: int | None, unit: str) -> None:
            sweep(plan, only=[last.name])

    swept = sweep(plan, Another(), only=[first.name])
    assert [one.name for one in swept.outcomes] == [first.name, last.name] == record(plan)
    assert all(one.rankers for one in swept.outcomes)


def test_what_another_failed_to_make_is_told_and_not_tried_again(plan: Plan) -> None:
    theirs = plan.grid()[2]
    folder = plan.folder / theirs.name
    failed(Outcome(theirs.name, {}, None, error="of an earlier call"), folder)

    class Another(Silent):
        def begin(self, total: int | None, unit: str) -> None:
            outcome = Outcome(theirs.name, theirs.settings, None, error="no memory:\n  40 GB")
            failed(outcome, folder, "Traceback (most recent call last):\n  …")

    swept = sweep(plan, Another())
    (told,) = swept.failed
    assert (told.name, told.error) == (theirs.name, "no memory:\n  40 GB")
    assert not (folder / "manifest.json").exists()
    assert not sweep(plan).failed  # given again, it is tried again


def test_a_search_shares_with_nobody(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trsr.sweep.claims.WAIT", 0.2)
    path = plan.path.with_name("search.toml")
    path.write_text(SEARCH)
    search = read_plan(path)
    with (
        Claims(search.folder).alone(),
        pytest.raises(StoreError, match=r"another trsr .* with sweep\.folder"),
    ):
        sweep(search)
    assert search.folder == plan.folder
    with (
        Claims(plan.folder).alone(),
        pytest.raises(StoreError, match=r"another trsr .* with sweep\.folder"),
    ):
        sweep(plan)

    def made() -> Outcome:
        with pytest.raises(StoreError, match=r"another trsr is making runs .* with sweep\.folder"):
            sweep(search)
        return Outcome("", {}, None)

    Claims(plan.folder).make(plan.grid()[0], made)
