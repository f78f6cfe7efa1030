"""Writes small tables, prepares them, and finds the real data beside the checkout."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest

from trsr.data import DataReport, Dataset, DataSettings, prepare
from trsr.progress import Silent

Prepared = tuple[DataReport, Dataset]
Prepare = Callable[..., Prepared]


class Bench:
    """Makes files in fresh folders and prepares them."""

    def __init__(self, factory: pytest.TempPathFactory) -> None:
        self._factory = factory

    def folder(self) -> Path:
        return self._factory.mktemp("data")

    def table(
        self,
        name: str,
        header: Iterable[str],
        rows: Iterable[Iterable[object]],
        separator: str = ",",
    ) -> Path:
        path = self.folder() / name
        with path.open("w", encoding="utf-8", newline="") as stream:
            writer = csv.writer(stream, delimiter=separator, lineterminator="\n")
            if header:
                writer.writerow(header)
            writer.writerows(rows)
        return path

    def raw(self, name: str, content: bytes | str) -> Path:
        path = self.folder() / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    def lines(self, name: str, rows: Iterable[Mapping[str, object]]) -> Path:
        return self.raw(name, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))

    def clicks(self, rows: Iterable[tuple[object, object, object]]) -> Path:
        return self.table("clicks.csv", ("user_id", "item_id", "timestamp"), rows)

    def goods(self, n: int) -> Path:
        rows = ((f"i{k}", f"Thing number {k}", "Acme") for k in range(n))
        return self.table("goods.csv", ("item_id", "title", "brand"), rows)

    def prepare(self, *, seed: int = 1, **settings: Any) -> Prepared:
        out = self.folder()
        report = prepare(DataSettings(**settings), out, seed=seed, progress=Silent())
        return report, Dataset.load(out)


@pytest.fixture(scope="session")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(tmp_path_factory)


@pytest.fixture(scope="session")
def real() -> Callable[[str], Path]:
    """A folder of the real data beside the checkout; skips where it is absent."""
    beside = Path(__file__).resolve().parents[2].parent / "shared" / "data"
    root = Path(os.environ.get("TRSR_TEST_DATA") or beside)

    def find(name: str) -> Path:
        if not (root / name).is_dir():
            pytest.skip(f"the real data {name!r} is not in {root}")
        return root / name

    return find
