"""The files of a run, read back: cases, summaries, the adapter."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import polars as pl

from trsr.errors import StoreError
from trsr.store.rundir import RunDirectory
from trsr.types import Case, Query, Summary

CASES = tuple(f"cases.{split}.parquet" for split in ("train", "valid", "test"))
"""The files of the three splits' cases."""

SUMMARIES = pl.Schema(
    {
        "query": pl.String(),
        "user": pl.String(),
        "text": pl.String(),
        "covers": pl.Int64(),
        "sources": pl.List(pl.String()),
    }
)
"""The columns of `summaries.parquet`; a file made elsewhere has the same."""


def read_summaries(path: Path) -> dict[str, Summary]:
    """The summaries of a run by query id; empty where there are none.

    Raises:
        StoreError: If the file is damaged.
    """
    if not path.exists():
        return {}
    try:
        rows = pl.read_parquet(path, glob=False).iter_rows()
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError) as error:
        raise StoreError(f"{path}: is damaged ({error}); give `trsr summarize` again") from error
    return {q: Summary(user, text, covers, tuple(of)) for q, user, text, covers, of in rows}


def with_summary(case: Case, summaries: Mapping[str, Summary]) -> Case:
    """The case with its query's summary, where there is one."""
    summary = summaries.get(case.query.id)
    return case if summary is None else Case(summarized(case.query, summary), case.relevant)


def summarized(query: Query, summary: Summary) -> Query:
    """The query with this summary."""
    return dataclasses.replace(query, summary=summary)


def adapter_of(run: RunDirectory) -> Path | None:
    """The trained adapter, where there is one."""
    return run / "adapter" if (run / "adapter").is_dir() else None


def needed_adapter(run: RunDirectory) -> Path:
    """The trained adapter.

    Raises:
        StoreError: If there is none.
    """
    found = adapter_of(run)
    if found is None:
        raise StoreError(f"{run.folder}: there is no adapter; give `trsr train` first")
    return found
