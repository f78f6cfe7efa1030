"""A whole run on candidate lists of one's own."""

from __future__ import annotations

import csv
import json
import random

import polars as pl
import pytest
from pipeline_data import CHEAP, write_data

from trsr.config import load_config
from trsr.experiments.audit import audit
from trsr.pipeline import run, run_stage
from trsr.rankers import read_rankings

GIVEN = CHEAP.replace(
    "min_history = 4", 'candidates = "given"\nimpressions = "shelves.jsonl"\nmin_history = 4'
)


@pytest.fixture
def folder(tmp_path):
    """Users are shown eight items twice, before their last interaction and before the one before.

    Two of each list are taken: the interaction's item and another one.
    """
    write_data(tmp_path, users=20)
    draw = random.Random(2)
    seen: dict[str, list[tuple[str, str]]] = {}
    with (tmp_path / "clicks.csv").open() as file:
        for row in csv.DictReader(file):
            seen.setdefault(row["customer"], []).append((row["sku"], row["when"]))
    with (tmp_path / "shelves.jsonl").open("w") as file:
        for customer, rows in seen.items():
            met = {sku for sku, _ in rows}
            others = [f"p{n}" for n in range(30) if f"p{n}" not in met]
            for sku, when in rows[-2:]:
                items = [sku, *draw.sample(others, 7)]
                shelf = {"customer": customer, "when": when, "shown": items, "bought": items[:2]}
                file.write(json.dumps(shelf) + "\n")
    (tmp_path / "mine.toml").write_text(GIVEN)
    return tmp_path


def test_lists_of_ones_own_are_ranked_and_evaluated(folder):
    config = load_config(folder / "mine.toml", [f"run.folder={folder / 'run'}"])
    assert [one.made for one in run(config)] == [True] * 5
    shelves = [json.loads(line) for line in (folder / "shelves.jsonl").read_text().splitlines()]
    last = {shelf["customer"]: shelf for shelf in shelves}
    rankings = read_rankings(folder / "run" / "rankings.parquet")
    cases = pl.read_parquet(folder / "run" / "cases.test.parquet")
    for ranker in ("random", "popular"):
        lists = {one.query: [entry.item for entry in one] for one in rankings[ranker]}
        assert set(lists) == set(cases["query"])
        for query, user, relevant in cases.select("query", "user", "relevant").iter_rows():
            assert sorted(lists[query]) == sorted(last[user]["shown"])
            assert sorted(relevant) == sorted(last[user]["bought"])
    report = json.loads((folder / "run" / "report.json").read_text())
    assert report["queries"] == 20
    # what popular ranks by: no interaction at or after a user's first held-out list
    fitted = pl.read_parquet(folder / "run" / "interactions.parquet")
    first = {shelf["customer"]: float(shelf["when"]) for shelf in reversed(shelves)}
    assert all(time < first[user] for user, time in fitted.select("user", "time").iter_rows())
    findings = [check.name for check in audit(folder / "run").findings]
    assert findings == []


def test_other_lists_are_prepared_again(folder):
    config = load_config(folder / "mine.toml", [f"run.folder={folder / 'run'}"])
    assert run_stage(config, "prepare").made
    assert not run_stage(config, "prepare").made
    path = folder / "shelves.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))
    assert "shelves.jsonl: another size or time of change" in run_stage(config, "prepare").why
