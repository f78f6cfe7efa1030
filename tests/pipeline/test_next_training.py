"""A training that goes on from yesterday's ranker, on today's cases."""

from __future__ import annotations

import json
import shutil

import polars as pl
import pytest
from pipeline_data import FEW
from safetensors.torch import load_file

from trsr.data.service_log import EVENT_SCHEMA, hidden, write_log
from trsr.errors import ConfigError, DataError
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


@pytest.fixture(scope="module")
def clicks(load, tmp_path_factory):
    """The interactions two at a time, each second one before the last rated low, and days."""
    frame = pl.read_csv(load().data.interactions)
    left = pl.len().over("customer") - 1 - pl.int_range(pl.len()).over("customer")
    when = pl.col("when") + left - left // 2 * 2
    stars = pl.when(left % 2 == 0).then(5).otherwise(1)
    path = tmp_path_factory.mktemp("clicks") / "clicks.csv"
    frame.with_columns(when=when, stars=stars, day=pl.col("when") // 100).write_csv(path)
    return path


@pytest.fixture(scope="module")
def rows(load, clicks, tmp_path_factory):
    """A ranker that learned the last items of some users."""
    folder = tmp_path_factory.mktemp("rows") / "run"
    words = f"run.folder={folder}", f"data.interactions={clicks}", "data.split=rows"
    list(run(load(*words)))
    return folder


SEEN = r"was trained on \d+ of the targets of this run's test cases, such as user u\d+'s p\d+"


@pytest.mark.parametrize(
    "changes",
    [
        [],
        ["data.ties=step", "data.seed=2"],
        ["data.columns.rating=stars", "data.min_rating=3"],
        ["data.columns.time=", "data.k_core=2"],
        ["data.columns.time=day"],
    ],
)
def test_a_ranker_that_has_seen_the_test_is_refused(load, rows, clicks, tmp_path, changes) -> None:
    """Whatever came before the target, and whatever the clock of one of the runs."""
    own = [f"train.start={rows}", f"data.interactions={clicks}", *changes]
    with pytest.raises(ConfigError, match=SEEN):
        list(run(load(f"run.folder={tmp_path / 'today'}", *own)))


def test_what_the_starts_before_learned_is_known(load, rows, clicks, tmp_path) -> None:
    frame = pl.read_csv(clicks)
    learned = pl.read_parquet(rows / "cases.train.parquet")["user"].sort()
    frame.filter(~pl.col("customer").is_in(learned[1:].implode())).write_csv(tmp_path / "few.csv")
    few = f"data.interactions={tmp_path / 'few.csv'}"
    own = f"run.folder={tmp_path / 'between'}", f"train.start={rows}", few
    between = load(*own, "data.test_cases=1")
    list(run(between))
    words = f"train.start={between.run.folder}", f"data.interactions={clicks}"
    today = load(f"run.folder={tmp_path / 'today'}", *words)
    with pytest.raises(ConfigError, match=SEEN):
        list(run(today))
    # more test cases are no other training, and the ranker has seen their targets all the same
    with pytest.raises(ConfigError, match=SEEN):
        list(run(load(*own, "data.test_cases=12")))
    (between.run.folder / "learned.parquet").unlink()
    with pytest.raises(ConfigError, match=r"train.start: .* its learned.parquet, which .* missing"):
        list(run(today))


def test_a_start_without_its_cases_is_refused(load, yesterday, tmp_path) -> None:
    shutil.copytree(yesterday, tmp_path / "start")
    (tmp_path / "start" / "cases.train.parquet").unlink()
    with pytest.raises(DataError, match=r"start/cases.train.parquet: there is no such file"):
        list(run(load(f"run.folder={tmp_path / 'run'}", f"train.start={tmp_path / 'start'}")))


def test_an_item_again_is_another_target(load, yesterday, log, tmp_path) -> None:
    target = pl.read_parquet(yesterday / "cases.train.parquet").row(0, named=True)
    again = pl.DataFrame(
        [(target["user"], target["relevant"][0], 90_500.0, None)], EVENT_SCHEMA, orient="row"
    )
    write_log(tmp_path / "log", [again], [], [(hidden("u2"), 95_000.0)])
    today = load(
        *(f"run.folder={tmp_path / 'today'}", f"train.start={yesterday}"),
        *(f"data.service_log={tmp_path / 'log'}", "data.test_cases=12", "data.valid_cases=0"),
    )
    list(run(today))
    tested = pl.read_parquet(today.run.folder / "cases.test.parquet")
    assert target["relevant"] in tested.filter(user=target["user"])["relevant"].to_list()
    learned = pl.read_parquet(today.run.folder / "learned.parquet")
    before = pl.read_parquet(yesterday / "cases.train.parquet")["user"]
    assert set(learned["user"]) == set(before) - {"u2"}
    assert learned["time"].null_count() == 0
