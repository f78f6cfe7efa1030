"""The queries that other runs were not asked: `trsr compare --unseen-by`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import polars as pl

from trsr.data.records import Mask
from trsr.errors import ConfigError, DataError, StaleRunError, StoreError
from trsr.evaluate.sides import AskedBefore, Unseen
from trsr.pipeline.artifacts import cases_file
from trsr.pipeline.finished import FinishedRun, read_table
from trsr.store.rundir import RunDirectory


def unseen(
    run: FinishedRun, others: Sequence[str], among: pl.DataFrame
) -> tuple[pl.DataFrame, Unseen]:
    """Which queries of a run none of the other runs was asked, and what those were asked.

    A query is known by its id, `SPLIT/USER/N`: with other candidates it was looked at, too.

    Args:
        run: The compared run; its split's cases of the others count, whatever those ranked.
        others: Run directories that hold cases; they need not be ranked or evaluated.
        among: The `query` of each of its queries that count.

    Returns:
        The `query` of each that stays, in the order of their ids; what is left out.

    Raises:
        ConfigError: If an empty name is given.
        StoreError: If a run is not there, its data was not prepared to the end, or its cases cannot
            be read; StaleRunError, if its cases are others than those it ranked.
        DataError: If no query is left.
    """
    folders = _folders(others)
    users_of = run.values.select("query", "user").unique()
    own = users_of.join(among, on="query", how="semi").sort("query")
    before = [_asked(folder, run.split) for folder in folders]
    shared = [own["query"].is_in(asked["query"].implode()).to_numpy() for asked in before]
    seen: Mask = np.logical_or.reduce(shared)
    users = [own["user"].is_in(asked["user"].implode()).to_numpy() for asked in before]
    found = tuple(
        AskedBefore(str(folder), int(part.sum()), int((theirs & ~seen).sum()))
        for folder, part, theirs in zip(folders, shared, users, strict=True)
    )
    if own.height and seen.all():
        told = " and ".join(f"{one.run} was asked {one.queries:,}" for one in found if one.queries)
        raise DataError(
            f"no query is left to compare on: of {own.height:,} queries {told}; leave out of "
            "--unseen-by what chose nothing, or compare runs with more queries (data.test_cases)"
        )
    stay = among.sort("query").filter(~seen)
    return stay, Unseen(int(seen.sum()), found)


def unseen_notes(report: Unseen, queries: int) -> Iterator[str]:
    """What to say below a table of how many queries were left out, and by which run.

    Args:
        report: What was left out.
        queries: How many are left.
    """
    whole = queries + report.left_out
    for one in report.runs:
        said = f"left out: {one.queries:,} of {whole:,} queries"
        if one.queries or one.users:
            said += f", which {one.run} was asked"
        else:
            said += f": {one.run} has no query and no user of these"
        if one.users:
            few = "1 is" if one.users == 1 else f"{one.users:,} are"
            said += f"; of those left {few} of users about whom it was asked another query"
        yield said
    if len(report.runs) > 1:
        yield f"left out together: {report.left_out:,} of {whole:,} queries"


def _folders(others: Sequence[str]) -> list[Path]:
    """Each once, however it was spelled."""
    found: dict[Path, Path] = {}
    for text in others:
        if not text.strip():
            raise ConfigError("--unseen-by names no run: write a run directory, such as runs/demo")
        found.setdefault(Path(text).resolve(), Path(text))
    return list(found.values())


def _asked(folder: Path, split: str) -> pl.DataFrame:
    """`query` and `user` of a split's cases."""
    name = cases_file(split)
    cases = read_table(folder / name, ("query", "user"), key=("query",)).select("query", "user")
    _check_whole(folder, name)
    return cases


def _check_whole(folder: Path, name: str) -> None:
    """Refuses cases that are not what the run was asked."""
    directory = RunDirectory(folder)
    if "prepare" in directory.unfinished():
        raise StoreError(
            f"{folder}: prepare was stopped before its end; give `trsr prepare {folder}` again"
        )
    record = directory.records().get("rank")
    before = record.parents.get(name) if record else None
    if before not in (None, directory.hashes([name])[name]):
        raise StaleRunError(
            f"{folder / name}: changed since the run was ranked, so they are not what it was "
            "asked; name a folder with its cases as they were: `trsr prepare` with its settings of "
            "then makes one"
        )
