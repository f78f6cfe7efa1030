"""The files of a run, read back: cases, summaries, the adapter."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Mapping
from pathlib import Path

import polars as pl

from trsr.errors import StoreError
from trsr.store.rundir import RunDirectory
from trsr.types import Case, Query, Summary


def cases_file(split: str) -> str:
    """The file of a split's cases in a run directory."""
    return f"cases.{split}.parquet"


def summaries_file(split: str) -> str:
    """The file of a split's summaries in a run directory.

    One a split, so that no stage depends on summaries that it does not read: those of validation
    cases, say, which a blend asks for later, leave a training as it is.
    """
    return f"summaries.{split}.parquet"


SPLITS = ("train", "valid", "test")
"""The splits that have cases."""

CASES = tuple(map(cases_file, SPLITS))
"""The files of the three splits' cases."""

SUMMARIES = tuple(map(summaries_file, SPLITS))
"""The files of the three splits' summaries."""

SUMMARY_FORMAT = 2
"""1 was one file for all splits. Runs from then can be read, but the stages below `prepare` are
made again: summaries from the store, trainings not."""

_ONE_FILE = "summaries.parquet"

SUMMARY_COLUMNS = pl.Schema(
    {
        "query": pl.String(),
        "user": pl.String(),
        "text": pl.String(),
        "covers": pl.Int64(),
        "sources": pl.List(pl.String()),
    }
)
"""The columns of a file of summaries; one made elsewhere has the same."""

ENDS = "ends"
"""A further column where blocks are cut by tokens: the interactions up to each block's end."""


def read_summaries(folder: Path, splits: Iterable[str] = SPLITS) -> dict[str, Summary]:
    """The summaries of a run's splits by query id; empty where there are none.

    A run from when all splits stood in one file is read from there, whole.

    Raises:
        StoreError: If a file is damaged.
    """
    if not any((folder / name).exists() for name in SUMMARIES):
        return _read(folder / _ONE_FILE)
    found: dict[str, Summary] = {}
    for split in splits:
        found |= _read(folder / summaries_file(split))
    return found


def _read(path: Path) -> dict[str, Summary]:
    if not path.exists():
        return {}
    try:
        frame = pl.read_parquet(path, glob=False)
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError) as error:
        raise StoreError(f"{path}: is damaged ({error}); give `trsr summarize` again") from error
    ends = frame[ENDS].to_list() if ENDS in frame.columns else itertools.repeat(())
    rows = frame.drop(ENDS, strict=False).iter_rows()
    return {
        query: Summary(user, text, covers, tuple(of), tuple(cut or ()))
        for (query, user, text, covers, of), cut in zip(rows, ends, strict=False)
    }


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
