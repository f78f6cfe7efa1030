"""Prepared data read back."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

import trsr.data
from trsr.data import Dataset, DataSettings, inspect
from trsr.errors import DataError
from trsr.types import Item


def rows(users: int = 3, length: int = 6) -> list[tuple[str, str, int]]:
    return [(f"u{u}", f"i{u + k}", 10 * k) for u in range(users) for k in range(length)]


def test_the_catalog_is_in_the_order_of_ids_and_makes_items_when_asked(bench: Any) -> None:
    _, dataset = bench.prepare(interactions=bench.clicks(rows()), items=bench.goods(30))
    catalog = dataset.catalog
    assert len(catalog) == 30
    assert catalog.ids == sorted(f"i{k}" for k in range(30))
    assert catalog["i7"] == Item("i7", (("title", "Thing number 7"), ("brand", "Acme")))
    assert "i7" in catalog
    assert "i99" not in catalog
    assert [item.id for item in catalog] == catalog.ids
    assert catalog.frame.columns == ["id", "title", "brand"]
    with pytest.raises(KeyError):
        catalog["i99"]


def test_queries_are_the_cases_without_answers(bench: Any) -> None:
    _, dataset = bench.prepare(interactions=bench.clicks(rows()), items=bench.goods(30))
    cases = dataset.cases("test")
    assert [case.query for case in cases] == list(cases.queries())
    assert len(cases) == len(list(cases)) == 3
    assert cases.frame.columns == ["query", "user", "items", "times", "candidates", "relevant"]


def test_cases_are_made_one_at_a_time(bench: Any) -> None:
    _, dataset = bench.prepare(interactions=bench.clicks(rows()), items=bench.goods(30))
    frame = dataset.cases("test").frame
    broken = trsr.data.Cases(
        frame.with_columns(candidates=frame["candidates"].list.set_difference(["i5", "i6", "i7"])),
        dataset.catalog,
    )
    queries = broken.queries()
    assert next(queries).id == "test/u0/5"
    with pytest.raises(DataError, match="test/u0/5: .* not candidates"):
        next(iter(broken))


def test_a_users_history_is_all_that_is_known(bench: Any) -> None:
    some = [*rows(), ("short", "i1", 1), ("short", "i2", 2)]
    _, dataset = bench.prepare(
        interactions=bench.clicks(some), items=bench.goods(30), max_history=4
    )
    history = dataset.history("u1")
    assert [item.id for item in history.items] == ["i2", "i3", "i4", "i5", "i6"]
    assert [item.id for item in dataset.history("short").items] == ["i1", "i2"]
    assert dataset.history("nobody") is None


def test_inspect_reports_the_same_and_writes_nothing(bench: Any) -> None:
    chosen = {"interactions": bench.clicks(rows()), "items": bench.goods(30)}
    report, dataset = bench.prepare(**chosen)
    before = sorted(chosen["items"].parent.iterdir())
    assert inspect(DataSettings(**chosen), seed=1) == report
    assert sorted(chosen["items"].parent.iterdir()) == before
    assert sorted(path.name for path in dataset.folder.iterdir()) == [
        "cases.test.parquet",
        "cases.train.parquet",
        "cases.valid.parquet",
        "interactions.parquet",
        "items.parquet",
    ]


def test_the_report_reads_well(bench: Any) -> None:
    report, _ = bench.prepare(interactions=bench.clicks(rows()), items=bench.goods(30))
    lines = report.lines()
    assert lines[0].split(maxsplit=1) == ["18", "interactions read"]
    assert any(line.endswith("test cases") for line in lines)
    assert not any("NUL" in line or line.strip().startswith("0  left out") for line in lines)
    assert report.counts["cases_test"] == 3
    assert report.counts["train_interactions"] == 12


def test_missing_and_damaged_files_are_named(bench: Any) -> None:
    folder = bench.folder()
    with pytest.raises(DataError, match=r"items\.parquet: there is no such file; run `trsr prep"):
        Dataset.load(folder)
    (folder / "items.parquet").write_bytes(b"not parquet at all")
    with pytest.raises(DataError, match=r"items\.parquet: is damaged"):
        Dataset.load(folder)
    _, dataset = bench.prepare(interactions=bench.clicks(rows()), items=bench.goods(30))
    with pytest.raises(DataError, match=r"cases\.tests\.parquet: there is no such file"):
        dataset.cases("tests")


def test_names_come_from_the_package_and_settings_load_no_heavy_library() -> None:
    for name in trsr.data.__all__:
        assert getattr(trsr.data, name) is getattr(trsr.data, name)
    assert callable(trsr.data.prepare)
    assert callable(trsr.data.guess)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = trsr.data.nothing
    code = "import sys, trsr.data.settings; sys.exit(bool({'polars', 'numpy'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
