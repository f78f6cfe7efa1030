"""A finished run as it is read back: its values by query, and what its rankers were asked."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import polars as pl

from trsr.data.cases import MET
from trsr.errors import StaleRunError, StoreError
from trsr.settings import digest
from trsr.store.rundir import RunDirectory

CASES = "cases.test.parquet"
VALUES = "per_query.parquet"
FIXED = ("ranker", "query", "user", "history", "candidates", "tied", "missing")
"""The columns of `per_query.parquet` that are no metric."""


@dataclass(frozen=True)
class FinishedRun:
    """A run that was evaluated.

    Attributes:
        folder: Its directory.
    """

    folder: Path

    @cached_property
    def values(self) -> pl.DataFrame:
        """The metrics of each ranker and query, queries in the order of their ids."""
        return _read(self.folder / VALUES, ("ranker", "query", "user")).sort("query")

    @cached_property
    def rankers(self) -> list[str]:
        """In the report's order; of a run without queries those that its report names."""
        table = _read(self.folder / VALUES, ("ranker",))
        if table.height:
            return table["ranker"].unique(maintain_order=True).to_list()
        path = self.folder / "report.json"
        try:
            return list(json.loads(path.read_text("utf-8"))["rankers"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise StoreError(f"{path}: no report; give `trsr evaluate` first") from error

    @property
    def main(self) -> str:
        """The ranker that the run's report is about."""
        return "llm" if "llm" in self.rankers else self.rankers[-1]

    @cached_property
    def asked(self) -> pl.DataFrame:
        """`query`, and as sorted lists its `candidates` and `relevant`; ordered by query.

        Raises:
            StaleRunError: If the evaluated queries are not those of the cases any more.
        """
        columns = ("query", "candidates", "relevant")
        cases = _read(self.folder / CASES, columns)
        if set(cases["query"]) != set(self.values["query"]):
            raise StaleRunError(
                f"{self.folder}: {VALUES} is not of the queries of {CASES}; give `trsr run` with "
                "the run's own settings"
            )
        if MET in cases.columns:
            cases = cases.with_columns(candidates=self._all_but(cases[MET]))
        return cases.select(*columns).with_columns(pl.col(columns[1:]).list.sort()).sort("query")

    def _all_but(self, met: pl.Series) -> pl.Series:
        """The candidates, where they are a whole catalogue: which one, and what is none."""
        items = _read(self.folder / "items.parquet", ("id",))["id"]
        which = f"catalogue {digest(items.sort().to_list())}"
        less = pl.col(MET).list.eval(pl.format("(without {})", pl.element()))
        return met.to_frame().select(pl.concat_list(pl.lit(which), less)).to_series()

    @cached_property
    def seeds(self) -> tuple[int, int]:
        """What its data and what its training was drawn with."""
        settings = self._settings
        own = int(settings.get("run", {}).get("seed", 0))
        return own, int(settings.get("train", {}).get("seed", own))

    @cached_property
    def kind(self) -> str:
        """The same for runs whose settings differ by nothing that a result depends on but seeds."""
        settings = self._settings
        train = {key: one for key, one in settings.get("train", {}).items() if key != "seed"}
        kept = {name: table for name, table in settings.items() if name not in _FREE}
        return digest(kept | ({"train": train} if "train" in kept else {}))

    @cached_property
    def _settings(self) -> dict[str, Any]:
        path = self.folder / "config.toml"
        try:
            found: dict[str, Any] = tomllib.loads(path.read_text("utf-8"))
        except (OSError, tomllib.TOMLDecodeError) as error:
            raise StoreError(f"{path}: the run's settings cannot be read ({error})") from error
        return found

    def check_fresh(self) -> None:
        """Refuses values that were computed from other files than are there now.

        Raises:
            StaleRunError: Naming the files.
        """
        run = RunDirectory(self.folder)
        record = run.records().get("evaluate")
        if record is None:
            return
        names = [name for name in (CASES, "rankings.parquet") if name in record.parents]
        now = run.hashes(names)
        changed = [name for name in names if now.get(name) != record.parents[name]]
        if changed:
            raise StaleRunError(
                f"{self.folder}: {', '.join(changed)} changed since it was evaluated; give "
                "`trsr evaluate` with the run's settings first"
            )


_FREE = ("run", "evaluate")
"""Tables of the settings in which runs that differ only by their seed may differ."""


def _read(path: Path, columns: Sequence[str]) -> pl.DataFrame:
    if not path.parent.is_dir():
        raise StoreError(f"{path.parent}: there is no such run directory")
    if not path.is_file():
        raise StoreError(f"{path}: there is no such file; give `trsr run` for this run first")
    try:
        frame = pl.read_parquet(path, glob=False)
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError) as error:
        raise StoreError(f"{path}: is damaged ({error}); give `trsr run` again") from error
    missing = [name for name in columns if name not in frame.columns]
    if missing:
        raise StoreError(f"{path}: there is no column {missing[0]}; give `trsr evaluate` again")
    return frame
