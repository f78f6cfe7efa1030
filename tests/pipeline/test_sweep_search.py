"""What a search draws: no settings twice, all of them where they can be counted."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from pipeline_data import CHEAP, write_data

from trsr.experiments.sweep import read_plan, sweep
from trsr.experiments.sweep.space import Range, combinations, read_choice, trials

pytest.importorskip("optuna", reason="the extra `sweep` is not installed")

SPACE = {
    "a": ["x", ["y", "z"], True, 1],
    "b": Range(2, 5, step=2),
    "c": Range(0.1, 0.45, step=0.1),
    "d": Range(1, 2, log=True),
}


def drawn(space, most, seed=0, value=lambda settings: 0.5):
    """Settings in the order drawn, each with its value set."""
    found = []
    for one in trials(space, seed, most):
        found.append(dict(one.settings))
        one.value = value(one.settings)
    return found


def texts(found):
    return [json.dumps(one) for one in found]


def test_every_setting_of_a_space_is_drawn_once():
    found = drawn(SPACE, 500)
    assert combinations(SPACE) == 4 * 2 * 4 * 2 == len(found) == len(set(texts(found)))
    assert {one["b"] for one in found} == {2, 4}
    assert {one["c"] for one in found} == {0.1, 0.2, 0.3, 0.4}
    assert {one["d"] for one in found} == {1, 2}
    assert {type(one["b"]) for one in found} == {int}


def test_settings_that_failed_are_not_drawn_again():
    found = drawn({"a": [1, 2, 3, 4]}, 4, value=lambda one: None if one["a"] % 2 else 1.0)
    assert sorted(one["a"] for one in found) == [1, 2, 3, 4]


def test_a_search_with_more_trials_begins_as_one_with_fewer():
    def value(settings):
        return settings["b"] + settings["c"]

    assert drawn(SPACE, 12, 4, value) == drawn(SPACE, 30, 4, value)[:12]
    assert drawn(SPACE, 12, 5, value) != drawn(SPACE, 12, 4, value)


def test_numbers_without_end_are_drawn_as_long_as_they_are_asked_for():
    space = {"a": Range(1e-5, 1e-2, log=True), "b": [1]}
    assert combinations(space) is None
    assert len(set(texts(drawn(space, 25)))) == 25


def test_a_value_that_is_listed_twice_is_one():
    assert read_choice("x", [1, [2], 1, [2], 3]) == [1, [2], 3]
    assert read_choice("x", [1, True, 1.0]) == [1, True, 1.0]


@pytest.mark.parametrize(
    ("most", "said"),
    [
        (2, "different settings tried: 2"),
        (8, "different settings tried: 3, all that there are (trials = 8)"),
    ],
)
def test_a_search_says_how_many_settings_it_has_tried(tmp_path: Path, most: int, said: str):
    write_data(tmp_path, users=20, items=40)
    (tmp_path / "base.toml").write_text(CHEAP)
    (tmp_path / "search.toml").write_text(
        f'base = "base.toml"\nseeds = [1, 2]\n[sweep]\nfolder = "out"\n'
        f'[search]\ntrials = {most}\nmetric = "auc"\nranker = "popular"\n'
        "[search.space]\nprompts.recent = [4, 6, 9]\n"
    )
    swept = sweep(read_plan(tmp_path / "search.toml"))
    assert len({one.settings["prompts.recent"] for one in swept.outcomes}) == min(most, 3)
    assert said in swept.notes()
    assert f"- {said}\n" in (tmp_path / "out" / "sweep.md").read_text()
