"""A training that goes on from yesterday's ranker, on today's cases."""

from __future__ import annotations

import json

import polars as pl
import pytest
from pipeline_data import FEW
from safetensors.torch import load_file

from trsr.data.service_log import EVENT_SCHEMA, write_log
from trsr.errors import ConfigError
from trsr.pipeline import is_finished, run

CONFIG = f"""{FEW}
[summarize]
strategy = "none"

[train]
learning_rate = 1e-2

[rank]
rankers = ["popular", "llm"]
"""

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def load(tiny_loader, one_thread):
    return tiny_loader(CONFIG)


@pytest.fixture(scope="module")
def yesterday(load):
    list(run(load()))
    return load().run.folder


@pytest.fixture(scope="module")
def log(tmp_path_factory):
    folder = tmp_path_factory.mktemp("log")
    events = [(f"u{n}", f"p{(7 * n) % 30}", 90_000.0 + n, None) for n in range(8)]
    write_log(folder, [pl.DataFrame(events, EVENT_SCHEMA, orient="row")], [], [])
    return folder


def adapter(folder):
    return load_file(folder / "adapter" / "adapter_model.safetensors")


def distance(one, other):
    return sum(float((one[name] - other[name]).abs().sum()) for name in one)


def test_todays_training_begins_where_yesterdays_ended(load, yesterday, log, tmp_path) -> None:
    # steps too small to go anywhere: what is written is what was begun with
    today = [f"data.service_log={log}", "train.learning_rate=1e-9"]
    goes_on = load(f"run.folder={tmp_path / 'on'}", f"train.start={yesterday}", *today)
    anew = load(f"run.folder={tmp_path / 'anew'}", *today)
    list(run(goes_on))
    list(run(anew))
    assert distance(adapter(goes_on.run.folder), adapter(yesterday)) < 1e-4
    assert distance(adapter(anew.run.folder), adapter(yesterday)) > 1
    info = json.loads((goes_on.run.folder / "manifest.json").read_text())["stages"]["train"]["info"]
    assert info["steps"] > 0
    assert is_finished(goes_on)
    # another start is another training
    assert not is_finished(load(f"run.folder={tmp_path / 'on'}", *today))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (["train.rank=4"], "has train.rank = 8, and this run 4: make them equal"),
        (["train.start=nothing"], "not a run directory"),
    ],
)
def test_a_start_that_would_be_wrong_is_refused(load, yesterday, tmp_path, changes, said) -> None:
    words = [f"run.folder={tmp_path / 'run'}", f"train.start={yesterday}", *changes]
    with pytest.raises(Exception, match=said) as found:
        list(run(load(*words)))
    assert isinstance(found.value, ConfigError) or "run directory" in said


def test_a_ranker_that_has_seen_the_test_is_refused(load, tmp_path) -> None:
    """Its users' last items were targets of its training, and are those of today's test."""
    rows = load(f"run.folder={tmp_path / 'rows'}", "data.split=rows")
    list(run(rows))
    today = load(f"run.folder={tmp_path / 'today'}", f"train.start={rows.run.folder}")
    said = r"was trained on \d+ of the targets of this run's test cases, such as user u\d+'s p\d+"
    with pytest.raises(ConfigError, match=said):
        list(run(today))
