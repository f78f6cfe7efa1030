"""`trsr sweep --only`: some runs of a sweep now, the others later."""

from __future__ import annotations

import json

import pytest
from pipeline_data import CHEAP, write_data

from trsr.errors import ConfigError
from trsr.experiments.sweep import read_plan, sweep

VARIANTS = """
base = "base.toml"
seeds = [1, 2]

[sweep]
folder = "out"
seed = "run.seed"

[variants.short]
data.max_history = 4

[variants.middle]
data.max_history = 6

[variants.long]
data.max_history = 9
"""


@pytest.fixture
def path(tmp_path):
    write_data(tmp_path, users=20, items=40)
    (tmp_path / "base.toml").write_text(CHEAP)
    (tmp_path / "table.toml").write_text(VARIANTS)
    return tmp_path / "table.toml"


def names(runs):
    return [run.name for run in runs]


def made(path):
    return sorted(found.parent.name for found in path.parent.glob("out/*/report.json"))


def test_a_variant_names_its_runs_of_all_seeds_and_a_run_itself(path):
    plan = read_plan(path)
    assert names(plan.only(["middle"])) == ["middle,seed=1", "middle,seed=2"]
    assert names(plan.only(["long,seed=2"])) == ["long,seed=2"]
    assert names(plan.only(["long,seed=2", "short"])) == [
        "short,seed=1",
        "short,seed=2",
        "long,seed=2",
    ]
    assert names(plan.only([])) == names(plan.grid())


def test_what_is_named_is_made_and_the_rest_is_told(path):
    swept = sweep(read_plan(path), only=["middle"])
    assert made(path) == ["middle,seed=1", "middle,seed=2"] == names(swept.outcomes)
    note = swept.notes()[-1]
    assert "not made: short,seed=1" in note
    assert "middle" not in note
    assert note in (path.parent / "out" / "sweep.md").read_text()


def test_the_table_keeps_what_an_earlier_call_made(path):
    first = sweep(read_plan(path), only=["long"])
    second = sweep(read_plan(path), only=["short,seed=1"])
    told = [one["name"] for one in json.loads((path.parent / "out/sweep.json").read_text())["runs"]]
    assert told == ["short,seed=1", "long,seed=1", "long,seed=2"]
    assert {one.name: one.rankers for one in first.outcomes} == {
        one.name: one.rankers for one in second.outcomes if one.name.startswith("long")
    }


def test_in_parts_the_sweep_comes_to_what_it_comes_to_at_once(path):
    parts = path.with_name("parts.toml")
    parts.write_text(VARIANTS.replace('"out"', '"apart"'))
    for variant in ("long", "short", "middle"):
        last = sweep(read_plan(parts), only=[variant])
    whole = sweep(read_plan(path))
    assert last.table() == whole.table()
    assert last.notes() == whole.notes()


def test_a_name_that_there_is_none_of_is_refused_with_what_was_meant(path):
    with pytest.raises(ConfigError, match="no run or variant 'midle': did you mean middle") as told:
        sweep(read_plan(path), only=["long", "midle"])
    assert str(path) in str(told.value)
    assert not made(path)


def test_dry_run_lists_the_named(path, capsys):
    from trsr.cli.app import app

    app(["sweep", str(path), "--only", "short", "--dry-run"], standalone_mode=False)
    told = capsys.readouterr().out.split()
    assert [line.rpartition("/")[2] for line in told] == ["short,seed=1", "short,seed=2"]


def test_a_search_has_no_runs_to_name(path):
    search = path.with_name("search.toml")
    search.write_text(
        'base = "base.toml"\n[search]\nranker = "popular"\n'
        "space = { 'prompts.recent' = [4, 6] }\n"
    )
    with pytest.raises(ConfigError, match="a search chooses its runs itself"):
        sweep(read_plan(search), only=["short"])
