"""Data that is another is noticed, also where both its files have one name."""

from __future__ import annotations

import json
import os
import re

import polars as pl
import pytest
from pipeline_data import write_data

from trsr.config import load_config
from trsr.errors import StaleRunError
from trsr.experiments.sweep import read_plan, sweep
from trsr.pipeline import run, run_stage
from trsr.pipeline.runner import fingerprint

CONFIG = """
[data]
interactions = "clicks/data.csv"
items = "items/data.csv"
min_history = 4
negatives = 6
columns = { user = "customer", item = "sku", time = "when", item_id = "sku" }

[model]
backend = "scripted"
name = "scripted"

[summarize]
strategy = "none"

[train]
epochs = 0

[rank]
rankers = ["popular"]
"""
SWEEP = """
base = "base.toml"

[sweep]
folder = "out"

[grid]
data.interactions = ["clicks/data.csv", "half/data.csv"]
"""


@pytest.fixture
def folder(tmp_path):
    write_data(tmp_path, users=20)
    for name in ("clicks", "half", "items"):
        (tmp_path / name).mkdir()
    clicks = (tmp_path / "clicks.csv").read_text().splitlines(keepends=True)
    (tmp_path / "clicks" / "data.csv").write_text("".join(clicks))
    (tmp_path / "half" / "data.csv").write_text("".join(clicks[: len(clicks) // 2]))
    rows = map(json.loads, (tmp_path / "products.jsonl").read_text().splitlines())
    items = "".join(f"{row['sku']},{row['title']}\n" for row in rows)
    (tmp_path / "items" / "data.csv").write_text("sku,title\n" + items)
    (tmp_path / "base.toml").write_text(CONFIG)
    return tmp_path


@pytest.mark.parametrize("changed", ["clicks", "items"])
def test_changed_data_is_prepared_again_where_both_files_have_one_name(folder, changed):
    config = load_config(folder / "base.toml", [f"run.folder={folder / 'run'}"])
    assert run_stage(config, "prepare").made
    assert not run_stage(config, "prepare").made
    path = folder / changed / "data.csv"
    path.write_text(path.read_text().replace("u0,", "u99,").replace("hinge", "door hinge"))
    again = run_stage(config, "prepare")
    role = {"clicks": "interactions", "items": "items"}[changed]
    assert f"source files.{role}:data.csv: another size or time of change" in again.why


def test_a_finished_run_is_evaluated_again_whatever_became_of_its_source(folder):
    words = [f"run.folder={folder / 'run'}"]
    list(run(load_config(folder / "base.toml", words)))
    os.utime(folder / "clicks" / "data.csv", ns=(7, 7))
    config = load_config(folder / "base.toml", [*words, 'evaluate.metrics=["auc"]'])
    with pytest.raises(StaleRunError, match="data.csv: another size or time of change"):
        run_stage(config, "rank")
    assert run_stage(config, "evaluate").made
    assert pl.read_parquet(folder / "run" / "per_query.parquet")["auc"].len()
    before = (folder / "run" / "per_query.parquet").read_bytes()
    # a whole run reads the source anew, and says why
    assert next(iter(run(config))).made
    assert (folder / "run" / "per_query.parquet").read_bytes() == before


def test_the_report_tells_of_no_model_that_was_not_asked(folder):
    words = [f"run.folder={folder / 'run'}", 'rank.rankers=["random", "popular"]']
    list(run(load_config(folder / "base.toml", words)))
    text = (folder / "run" / "report.md").read_text("utf-8")
    assert "no language model was used" in text
    page = (folder / "run" / "report.html").read_text("utf-8")
    assert "none summaries" not in text + page
    # the users that it shows have the lists of the ranker that the report is about
    assert set(re.findall(r"Candidates, as (\w+) ranked them", page)) == {"popular"}


def test_a_sweep_over_files_of_one_name_prepares_each(folder):
    (folder / "sweep.toml").write_text(SWEEP)
    done = sweep(read_plan(folder / "sweep.toml"))
    assert not [one.error for one in done.outcomes if one.error]
    read = [
        json.loads((folder / "out" / one.name / "prepare.json").read_text())["counts"]
        for one in done.outcomes
    ]
    assert len({counts["interactions_read"] for counts in read}) == 2


def test_a_name_that_one_file_has_is_a_key_as_it_was(folder):
    (folder / "items" / "more.csv").write_text("")
    os.utime(folder / "items" / "more.csv", ns=(5, 5))
    clicks, items = folder / "clicks" / "data.csv", folder / "items"
    found = fingerprint({"interactions": clicks, "items": items})
    assert set(found) == {"interactions:data.csv", "items:data.csv", "more.csv"}
    assert found["more.csv"] == [0, 5]
    assert set(fingerprint({"interactions": items, "items": items})) == {"data.csv", "more.csv"}
    assert fingerprint({"interactions": None, "items": folder / "gone"}) == {}
