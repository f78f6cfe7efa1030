"""The file of values: what is in it, how finished runs get into it, and how it is read.

A query, and a user, is a number that was drawn when its run was added. One call numbers all of its
runs of one data set and split together, so that the same question has the same number in each; the
table of numbers is not kept. Nothing in the file is derived from a user's or an item's id.
"""

from __future__ import annotations

import os
import secrets
import subprocess
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from trsr.errors import ConfigError, DataError
from trsr.pipeline.finished_run import FinishedRun
from trsr.registry import like
from trsr.report.costs import read_costs
from trsr.report.systems import System
from trsr.storage.run_directory import RunDirectory

FILE = Path(__file__).with_name("values.parquet")

KEY = ("dataset", "split", "run", "ranker", "metric", "query")
SCHEMA = {
    **dict.fromkeys(KEY[:-1], pl.Categorical()),
    **dict.fromkeys(("query", "user"), pl.Int32()),
    "value": pl.Float64(),
    "seed": pl.Int64(),
    **dict.fromkeys(("format", "settings", "commit", "date", "machine"), pl.Categorical()),
    **dict.fromkeys(("seconds_a_query", "tokens_a_query"), pl.Float64()),
}
"""Columns of the file.

`seed`: of the training. `format`: the number format that language models ranked in, empty where
none did. `settings`: a digest of all settings but seeds, places and metrics. `commit`: of this
repository, when the run was added. `date`: the day of the ranking.
"""


def read(path: Path = FILE) -> pl.DataFrame:
    """The values, a row for each run, ranker, metric and query.

    Raises:
        DataError: If the file is missing, damaged or has other columns.
    """
    try:
        found = pl.read_parquet(path)
    except (OSError, pl.exceptions.PolarsError) as error:
        raise DataError(f"{path}: cannot be read ({error}); take it from git again") from error
    if list(found.columns) != list(SCHEMA):
        raise DataError(f"{path}: its columns are not {', '.join(SCHEMA)}; take it from git again")
    return found


def add(dataset: str, runs: Mapping[str, Path], path: Path = FILE) -> int:
    """Puts finished runs of one data set into the file; a run of the same name is replaced.

    Only runs that are added together share the numbers of their queries, and can be compared.

    Args:
        dataset: The data set's name.
        runs: Name in the file → run directory.
        path: The file; made where it is missing.

    Returns:
        How many rows were written.

    Raises:
        StoreError: If a run is missing, not finished or changed since.
        DataError: If its values are not whole.
    """
    before = read(path) if path.exists() else pl.DataFrame(schema=SCHEMA)
    mine = pl.col("dataset").cast(pl.String) == dataset
    again = mine & pl.col("run").cast(pl.String).is_in(list(runs))
    finished = {name: FinishedRun(folder) for name, folder in runs.items()}
    tables = []
    for split in sorted({run.split for run in finished.values()}):
        own = {name: run for name, run in finished.items() if run.split == split}
        known = before.filter(mine & (pl.col("split").cast(pl.String) == split))
        asked = pl.concat([_asked(run).with_columns(run=pl.lit(name)) for name, run in own.items()])
        numbered = asked.with_columns(
            _numbers(asked.select("query", "candidates", "relevant"), known["query"]),
            _numbers(asked.select("user"), known["user"]),
        )
        for name, run in own.items():
            pairs = numbered.filter(pl.col("run") == name).select("query", "number", "user_number")
            tables.append(_rows(run, pairs, {"dataset": dataset, "split": split, "run": name}))
    new = pl.concat(tables)
    whole = pl.concat([before.filter(~again), new]).sort(
        [pl.col(KEY[:-1]).cast(pl.String), "query"]
    )
    temporary = path.with_name(f".{path.name}.new")
    whole.write_parquet(temporary, compression="zstd", compression_level=19)
    os.replace(temporary, path)
    return new.height


def _asked(run: FinishedRun) -> pl.DataFrame:
    """`query`, `user` and what was asked, as text, of a run that is whole."""
    run.check()
    users = run.values.select("query", "user").unique()
    lists = pl.col("candidates", "relevant").list.join("\n")
    return run.cases.with_columns(lists).join(users, on="query", validate="1:1")


def _numbers(what: pl.DataFrame, known: pl.Series) -> pl.Series:
    """[rows] a number for each distinct row, in an order that nobody can draw again."""
    distinct = what.unique()
    start = 0 if known.is_empty() else int(known.max()) + 1  # type: ignore[arg-type]
    numbers = list(range(start, start + distinct.height))
    secrets.SystemRandom().shuffle(numbers)
    name = "user_number" if what.columns == ["user"] else "number"
    every = distinct.with_columns(pl.Series(name, numbers, dtype=pl.Int32))
    return what.join(every, on=what.columns, how="left", maintain_order="left")[name]


def _rows(run: FinishedRun, pairs: pl.DataFrame, names: Mapping[str, str]) -> pl.DataFrame:
    """A run's part of the file."""
    info = _rank_info(run.folder)
    costs = {one.ranker: one for one in read_costs(info.get("costs"))}
    made = info.get("made", {})
    words = {word for model in info.get("models", {}) for word in model.split()}
    constant = {
        **names,
        "seed": run.seeds[1],
        "format": "/".join(sorted(words & {"float32", "bfloat16", "float16"})),
        "settings": run.kind,
        "commit": _commit(),
        "date": str(made.get("at", ""))[:10],
        "machine": str(made.get("on", "")),
    }
    tables = []
    for ranker in run.rankers:
        cost = costs.get(ranker)
        own = constant | {
            "ranker": ranker,
            "seconds_a_query": cost.seconds_a_query if cost else None,
            "tokens_a_query": cost.tokens_a_query if cost else None,
        }
        long = (
            run.of(ranker)
            .unpivot(run.metrics, index="query", variable_name="metric")
            .join(pairs, on="query", validate="m:1")
            .select("metric", "value", query="number", user="user_number")
            .with_columns(pl.lit(value).alias(name) for name, value in own.items())
        )
        tables.append(long.select(pl.col(name).cast(kind) for name, kind in SCHEMA.items()))
    return pl.concat(tables)


def _rank_info(folder: Path) -> Mapping[str, Any]:
    record = RunDirectory(folder).records().get("rank")
    return record.info if record else {}


def _commit() -> str:
    """The repository's commit, with a + where files were changed; empty outside of one."""
    words = ["git", "describe", "--always", "--dirty=+", "--abbrev=7", "--exclude=*"]
    done = subprocess.run(  # noqa: S603
        words, cwd=FILE.parent, capture_output=True, text=True, check=False
    )
    return done.stdout.strip()


def rows_of(values: pl.DataFrame, name: str) -> pl.DataFrame:
    """The rows of `RUN:RANKER`; a `*` in RUN pools runs that differ by their seed.

    Raises:
        ConfigError: If there is none, or runs that a `*` covers are not of the same settings.
    """
    pattern, _, ranker = name.rpartition(":")
    runs = values["run"].cast(pl.String).unique().to_list()
    those = [one for one in runs if fnmatchcase(one, pattern)]
    found = values.filter(
        pl.col("run").cast(pl.String).is_in(those) & (pl.col("ranker").cast(pl.String) == ranker)
    )
    if not found.height:
        known = sorted(
            f"{run}:{one}" for run, one in values.select("run", "ranker").unique().iter_rows()
        )
        raise ConfigError(
            f"{name!r}: there is no such RUN:RANKER{like(name, known)}; "
            "`python -m benchmarks.results ls` names all"
        )
    if found["settings"].n_unique() > 1 or found["dataset"].n_unique() > 1:
        raise ConfigError(f"{name!r}: pools runs whose settings differ in more than the seed")
    return found


def paired(
    values: pl.DataFrame, names: Mapping[str, str], metrics: Sequence[str]
) -> tuple[list[System], list[str]]:
    """The named rows over the queries that all of them were asked, in one order.

    Args:
        values: The file's.
        names: As printed → `RUN:RANKER`.
        metrics: Which metrics.

    Returns:
        A side for each name, and the user of each query.

    Raises:
        ConfigError: If a name or a metric is unknown, or the rows share no query.
    """
    rows = {shown: rows_of(values, name) for shown, name in names.items()}
    known = [set(one["metric"].cast(pl.String).unique()) for one in rows.values()]
    shared = sorted(set.intersection(*known))
    for metric in metrics:
        if metric not in shared:
            raise ConfigError(f"metric {metric!r}: all of these have {', '.join(shared)}")
    if len({table.select("dataset", "split").row(0) for table in rows.values()}) > 1:
        raise ConfigError(f"{', '.join(names.values())}: are not of one data set and split")
    every = [set(table["query"].unique()) for table in rows.values()]
    queries = pl.DataFrame({"query": sorted(set.intersection(*every))}, schema={"query": pl.Int32})
    if queries.is_empty():
        raise ConfigError(f"{', '.join(names.values())}: were never asked the same question")
    systems = [System(shown, _values(one, queries, metrics)) for shown, one in rows.items()]
    users = queries.join(next(iter(rows.values())).unique("query"), on="query", how="left")
    return systems, [str(user) for user in users.sort("query")["user"]]


def _values(
    table: pl.DataFrame, queries: pl.DataFrame, metrics: Sequence[str]
) -> dict[str, np.ndarray[Any, np.dtype[np.float64]]]:
    """Metric → [seeds, queries]."""
    own = table.join(queries, on="query", how="semi").sort("query")
    found = {}
    for metric in metrics:
        one = own.filter(pl.col("metric").cast(pl.String) == metric)
        seeds = one.partition_by("run", maintain_order=True)
        found[metric] = np.stack([seed["value"].to_numpy() for seed in seeds])
    return found
