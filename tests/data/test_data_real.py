"""The real data sets beside the checkout, as they are."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from trsr.data import guess, inspect

Real = Callable[[str], Path]


def test_movies(bench: Any, real: Real) -> None:
    folder = real("movies")
    report, dataset = bench.prepare(
        interactions=folder / "interactions.csv", items=folder / "items.jsonl", min_rating=3.5
    )
    assert report.counts["interactions_read"] == 77_227
    assert report.counts["users"] == 671
    assert len(dataset.catalog) == 4_096
    assert dict(dataset.catalog["1"].fields)["title"] == "Toy Story (1995)"
    raw = pl.read_csv(folder / "interactions.csv").filter(pl.col("rating") >= 3.5)
    last = dict(raw.group_by("user_id").agg(pl.col("timestamp").max()).iter_rows())
    met = pl.read_csv(folder / "interactions.csv").group_by("user_id").agg("item_id")
    everything = {user: set(map(str, items)) for user, items in met.iter_rows()}
    assert len(dataset.cases("test")) > 650
    for case in dataset.cases("test"):
        user = int(case.query.history.user)
        assert case.query.history.interactions[-1].time <= last[user]
        assert not {i.id for i in case.query.candidates} & everything[user] - case.relevant


def test_industrial_by_its_own_parts(bench: Any, real: Real) -> None:
    folder = real("industrial")
    report, dataset = bench.prepare(
        interactions=folder / "sequences.jsonl",
        items=folder / "items.jsonl",
        split="given",
        columns={"split": "target_splits"},
        min_history=1,
    )
    assert report.counts["interactions"] == 22_743
    lines = (folder / "sequences.jsonl").read_text("utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    for part in ("valid", "test"):
        named = sum(
            name == part and place + len(row["items"]) - len(row["target_splits"]) >= 1
            for row in rows
            for place, name in enumerate(row["target_splits"])
        )
        assert len(dataset.cases(part)) == named
    firsts = {row["user_id"]: len(row["items"]) - len(row["target_splits"]) for row in rows}
    lengths = dict(dataset.interactions.group_by("user").len().iter_rows())
    assert lengths == {user: length for user, length in firsts.items() if length}


def test_microlens_without_a_header(bench: Any, real: Real) -> None:
    folder = real("microlens")
    found = guess(folder / "pairs.tsv", folder / "titles.csv")
    report = inspect(found.settings, seed=0)
    assert report.counts["interactions"] == 359_708
    assert report.counts["items"] == 19_220
    assert found.fields == ("title",)


def test_mind_sample_both_ways(bench: Any, real: Real) -> None:
    folder = real("mind_sample")
    chosen = {"reader": "mind", "interactions": folder, "max_unknown": 1.0, "min_history": 1}
    report, dataset = bench.prepare(**chosen, split="rows", negatives=5)
    assert report.counts["items"] == 2_000
    assert report.counts["unknown_items"] > 100_000
    assert len(dataset.cases("train")) > 500
    _, shown = bench.prepare(**chosen, split="global_time", candidates="given")
    for case in shown.cases("test"):
        assert case.relevant < {item.id for item in case.query.candidates}


@pytest.mark.parametrize("renamed", [False, True], ids=["as it is", "renamed"])
def test_movies_are_guessed(bench: Any, real: Real, renamed: bool) -> None:
    folder = real("movies")
    clicks, items = folder / "interactions.csv", folder / "items.jsonl"
    names = {"user": "user_id", "item": "item_id", "rating": "rating", "time": "timestamp"}
    titles = ("title", "genres", "keywords", "tagline", "overview")
    if renamed:
        where = bench.folder()
        frame = pl.read_csv(clicks).select(d="timestamp", a="item_id", c="rating", b="user_id")
        frame.sample(fraction=1, shuffle=True, seed=1).write_csv(where / "x.csv", separator=";")
        texts = dict(zip("pqrst", titles, strict=True))
        frame = pl.read_ndjson(items).select(**texts, z="item_id")
        frame.write_csv(where / "y.csv", separator=";")
        clicks, items = where / "x.csv", where / "y.csv"
        names = {"user": "b", "item": "a", "rating": "c", "time": "d"}
        titles = tuple("pqrst")
    found = guess(clicks, items)
    assert {role: getattr(found.settings.columns, role) for role in names} == names
    assert found.domain == "films"
    assert found.fields[0] == titles[0]
    assert found.fields[-1] == titles[-1]
    assert set(found.fields) == set(titles)
    assert inspect(found.settings, seed=0).counts["cases_test"] == 664


def test_industrial_is_guessed(real: Real) -> None:
    folder = real("industrial")
    found = guess(folder / "sequences.jsonl", folder / "items.jsonl")
    assert found.settings.columns.sequence == "items"
    assert found.settings.split == "given"
    assert (found.domain, found.fields) == ("products", ("title", "brand", "description"))
