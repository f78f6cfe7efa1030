"""A finished run as it is read back, and whether several ranked the same."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import polars as pl

from trsr.data.cases import SEEN
from trsr.errors import DataError, StaleRunError, StoreError
from trsr.metrics.compute import MAIN
from trsr.pipeline.artifacts import cases_file
from trsr.settings import digest, toml_values
from trsr.storage import files, tables
from trsr.storage.run_directory import MANIFEST, RunDirectory

VALUES = "per_query.parquet"
FIXED = ("ranker", "query", "user", "history", "candidates", "tied", "missing")
"""The columns of `per_query.parquet` that are no metric."""

REPORT = "report.json"
_Seed = TypeVar("_Seed")


@dataclass(frozen=True)
class FinishedRun:
    """A run that was evaluated."""

    folder: Path

    @cached_property
    def values(self) -> pl.DataFrame:
        """The metrics of each ranker and query, queries in the order of their ids."""
        return read_table(self.folder / VALUES, ("ranker", "query", "user")).sort("query")

    @cached_property
    def rankers(self) -> list[str]:
        """In the report's order; of a run without queries those that its report names."""
        table = read_table(self.folder / VALUES, ("ranker",))
        if table.height:
            return table["ranker"].unique(maintain_order=True).to_list()
        return list(self.report["rankers"])

    @cached_property
    def report(self) -> Mapping[str, Any]:
        """What it came to, as its report has it.

        Raises:
            StoreError: If there is no report, or it is none that trsr wrote.
        """
        path = self.folder / REPORT
        try:
            found = files.read_json(path)
        except OSError as error:
            raise StoreError(f"{path}: no report; give `trsr run` first") from error
        except ValueError:
            found = None
        if not isinstance(found, dict) or not isinstance(found.get("rankers"), dict):
            raise StoreError(f"{path}: not a report that trsr wrote; give `trsr run` again")
        return found

    @cached_property
    def bounds(self) -> Mapping[str, frozenset[str]]:
        """Of each ranker the metrics that are lower bounds, as its lists leave out candidates."""
        found = {}
        for name in self.rankers:
            scores = self.report["rankers"].get(name)
            said = scores.get("lower_bounds") if isinstance(scores, dict) else None
            found[name] = frozenset(said if isinstance(said, list) else ())
        return found

    @property
    def metrics(self) -> list[str]:
        """The metrics that its values are of."""
        return [name for name in self.values.columns if name not in FIXED]

    def of(self, ranker: str) -> pl.DataFrame:
        """A ranker's values, queries in the order of their ids."""
        return self.values.filter(pl.col("ranker") == ranker)

    def answers(self, ranker: str, metrics: Sequence[str] = ()) -> str:
        """A digest of a ranker's metrics (default: all), query by query.

        Runs whose seeds draw nothing anew for it, or that share its training, have the same.
        """
        return digest(self.of(ranker).select("query", *(metrics or self.metrics)).write_csv())

    @property
    def main(self) -> str:
        """The ranker that the run's report is about."""
        return next((name for name in MAIN if name in self.rankers), self.rankers[-1])

    @cached_property
    def cases(self) -> pl.DataFrame:
        """`query`, and as sorted lists its `candidates` and `relevant`; ordered by query.

        Raises:
            StaleRunError: If the evaluated queries are not those of the cases any more.
        """
        columns = ("query", "candidates", "relevant")
        cases = read_table(self.folder / self.cases_file, columns)
        if set(cases["query"]) != set(self.values["query"]):
            raise StaleRunError(
                f"{self.folder}: {VALUES} is not of the queries of {self.cases_file}; give "
                f"`trsr run {self.folder}`"
            )
        if SEEN in cases.columns:
            cases = cases.with_columns(candidates=self._all_but(cases[SEEN]))
        return cases.select(*columns).with_columns(pl.col(columns[1:]).list.sort()).sort("query")

    @property
    def cases_digest(self) -> str:
        """The same for runs with the same queries, candidates and right answers."""
        lists = [pl.col(name).list.join("\n") for name in ("candidates", "relevant")]
        rows = self.cases.select(pl.concat_str("query", *lists, separator="\n\n")).to_series()
        return digest(rows.to_list())

    def _all_but(self, seen: pl.Series) -> pl.Series:
        """The candidates, where they are the full catalog: a hash of it, and what is excluded."""
        items = read_table(self.folder / "items.parquet", ("id",))["id"]
        which = f"catalog {digest(items.sort().to_list())}"
        less = pl.col(SEEN).list.eval(pl.format("(without {})", pl.element()))
        return seen.to_frame().select(pl.concat_list(pl.lit(which), less)).to_series()

    @cached_property
    def split(self) -> str:
        """The split that was ranked: test, or valid where settings are chosen."""
        return str(self._settings.get("rank", {}).get("split", "test"))

    @property
    def cases_file(self) -> str:
        """The file of the ranked cases."""
        return cases_file(self.split)

    @property
    def blended(self) -> Sequence[str]:
        """The blend's members, where it is among the rankers."""
        blend = self._settings.get("rank", {}).get("blend", {})
        # kept runs have the members alone
        members: Sequence[str] = blend.get("members", ()) if isinstance(blend, dict) else blend
        return members if "blend" in self.rankers else ()

    @cached_property
    def seeds(self) -> tuple[int, int]:
        """The seeds of its data and of its training."""
        settings = self._settings
        try:
            own = int(settings.get("run", {}).get("seed", 0))
            return own, int(settings.get("train", {}).get("seed", own))
        except (ValueError, TypeError, AttributeError) as error:
            path = self.folder / "config.toml"
            raise StoreError(f"{path}: a seed is no integer ({error})") from error

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
            found = toml_values(files.read_text(path))
        except (OSError, ValueError) as error:
            raise StoreError(f"{path}: the run's settings cannot be read ({error})") from error
        wrong = [name for name in ("rank", "run", "train") if type(found.get(name, {})) is not dict]
        if wrong:
            raise StoreError(f"{path}: {wrong[0]} is no table of settings")
        return found

    @cached_property
    def made(self) -> str:
        """A hash that runs share which copied their rankings; else empty."""
        record = RunDirectory(self.folder).records().get("rank")
        known = record is not None and record.settings and record.parents
        return digest([record.settings, record.parents]) if record and known else ""

    def check(self) -> None:
        """Refuses values that are incomplete, or that do not follow from the run's files.

        Raises:
            StoreError: If the run is not finished; StaleRunError, if its files changed since.
            DataError: If a ranker lacks a query, or has a value that is no number.
        """
        self._check_files()
        self._check_values()

    def _check_files(self) -> None:
        need_folder(self.folder)
        run = RunDirectory(self.folder)
        stopped, records = run.unfinished(), run.records()
        if stopped:
            raise StoreError(
                f"{self.folder}: {', '.join(stopped)} was stopped before its end; give "
                f"`trsr run {self.folder}` again"
            )
        if not files.is_file(self.folder / VALUES):
            raise StoreError(_lacking(self.folder, VALUES))
        record = records.get("evaluate")
        if record is None:
            why = "does not tell of evaluate" if records else "is not there"
            raise StoreError(
                f"{self.folder / MANIFEST} {why}, so nobody knows what {VALUES} was computed from; "
                f"give `trsr run {self.folder}` again"
            )
        inputs = (self.cases_file, "rankings.parquet")
        names = [name for name in inputs if name in record.parents]
        now = run.hashes([*names, VALUES, REPORT])
        changed = [name for name in names if now.get(name) != record.parents[name]]
        if changed:
            raise StaleRunError(
                f"{self.folder}: {', '.join(changed)} changed since it was evaluated; give "
                f"`trsr run {self.folder}` first"
            )
        for name in (VALUES, REPORT):
            if name in now and record.files.get(name, now[name]) != now[name]:
                raise StaleRunError(
                    f"{self.folder / name}: is not the file that evaluate wrote (its SHA-256 is "
                    f"not that of {MANIFEST}); give `trsr run {self.folder}`, which makes it "
                    "again"
                )

    def _check_values(self) -> None:
        path, queries = self.folder / VALUES, self.cases["query"]
        for (ranker,), rows in self.values.group_by("ranker", maintain_order=True):
            lacking = queries.filter(~queries.is_in(rows["query"].to_list()))
            if len(lacking):
                raise DataError(
                    f"{path}: ranker {ranker} has no value for {len(lacking):,} of "
                    f"{len(queries):,} queries (first: {lacking[0]}); {self._again}"
                )
            twice = rows["query"].filter(rows["query"].is_duplicated())
            if len(twice):
                raise DataError(
                    f"{path}: ranker {ranker} has query {twice[0]} more than once; {self._again}"
                )
            for name in self.metrics:
                wrong = rows.filter(~_finite(rows[name]))
                if wrong.height:
                    query, value = wrong.select("query", name).row(0)
                    raise DataError(
                        f"{path}: ranker {ranker} has {value} for {name} of query {query}, which "
                        f"is no number; {self._again}"
                    )

    @property
    def _again(self) -> str:
        """What makes the values anew."""
        # evaluate leaves alone what it wrote itself
        return f"delete the file, and give `trsr run {self.folder}`"


def counted(seeds: Sequence[_Seed], answers: Callable[[_Seed], object]) -> Sequence[_Seed]:
    """Of one ranker's seeds those that count: a single one, where all answered alike."""
    return seeds if len({answers(one) for one in seeds}) > 1 else seeds[:1]


def need_folder(folder: Path) -> None:
    """Refuses what is no folder.

    Raises:
        StoreError: Saying what it is.
    """
    if files.is_folder(folder):
        return
    if files.exists(folder):
        raise StoreError(f"{folder}: is a file and not a run directory; leave it out")
    raise StoreError(f"{folder}: there is no such run directory")


def _lacking(folder: Path, name: str) -> str:
    """What to say of a file that is not there."""
    if files.is_file(folder / "config.toml") or files.is_file(folder / MANIFEST):
        return f"{folder / name}: there is no such file; give `trsr run {folder}` first"
    return (
        f"{folder}: is not a run directory, as there is no {name} in it; name one that `trsr run` "
        "or `trsr sweep` made"
    )


def _finite(values: pl.Series) -> pl.Series:
    """Which values are numbers."""
    if not values.dtype.is_numeric():
        return pl.Series([False] * len(values), dtype=pl.Boolean)
    return values.is_finite().fill_null(value=False)


_FREE = ("run", "evaluate")
"""Tables of the settings in which runs that differ only by their seed may differ."""


_LISTS = {name: pl.List(pl.String()) for name in ("candidates", "relevant", SEEN)}


def read_table(path: Path, columns: Sequence[str], key: tuple[str, ...] = ()) -> pl.DataFrame:
    """A table of a run, which has these columns, and no two rows with one `key`.

    Raises:
        StoreError: If it is not there, is damaged, lacks a column, or has one of another type.
    """
    need_folder(path.parent)
    if not files.is_file(path):
        raise StoreError(_lacking(path.parent, path.name))
    types = {name: _LISTS.get(name, pl.String()) for name in columns}
    return tables.read_table(path, types, key=key, keep=True, again="give `trsr run` again")


def check_comparable(runs: Sequence[FinishedRun]) -> None:
    """Refuses runs that did not rank the same candidates of the same queries.

    Raises:
        DataError: Saying in what they differ, with an example.
    """
    first = runs[0]
    for other in {run.folder: run for run in runs[1:]}.values():
        _check_queries(first, other)
        both = first.cases.join(other.cases, on="query", suffix="_other")
        for column, what in (("candidates", "candidates"), ("relevant", "right answers")):
            differ = both.filter(pl.col(column) != pl.col(f"{column}_other"))
            if differ.height:
                raise DataError(
                    _unlike(first, other, differ.row(0, named=True), column, what)
                    + f"; {differ.height:,} of {both.height:,} queries differ so. {_HINT}"
                )


_HINT = (
    "Runs are comparable on the same data with the same [data] settings; for several training "
    "seeds set data.seed, so that run.seed changes the training only"
)


def _check_queries(first: FinishedRun, other: FinishedRun) -> None:
    ours, theirs = set(first.cases["query"]), set(other.cases["query"])
    if ours == theirs:
        return
    lacking, more = sorted(ours - theirs), sorted(theirs - ours)
    said = [
        f"{what} {len(some):,} (first: {some[0]})"
        for what, some in (("lacks", lacking), ("also has", more))
        if some
    ]
    raise DataError(
        f"{other.folder} has other queries than {first.folder}: "
        f"{f'of its {len(ours):,} ' if lacking else ''}it {' and '.join(said)}. {_HINT}"
    )


def _unlike(
    first: FinishedRun, other: FinishedRun, row: Mapping[str, Any], column: str, what: str
) -> str:
    ours, theirs = set(row[column]), set(row[f"{column}_other"])
    only = [
        f"only {folder} has {', '.join(sorted(some)[:3])}{', …' if len(some) > 3 else ''}"
        for folder, some in ((first.folder, ours - theirs), (other.folder, theirs - ours))
        if some
    ]
    return (
        f"{other.folder} has other {what} than {first.folder}: of query {row['query']} "
        f"{' and '.join(only) or 'the numbers differ'}"
    )


def notes_about(run: FinishedRun, rankers: Collection[str]) -> tuple[str, ...]:
    """The notes of a run's report that are about the run, or about one of these rankers.

    One that begins with rankers' names and a colon is about these, and about a blend of them.
    """
    known = {*run.rankers, *run.blended}
    shown = {*rankers, *(run.blended if "blend" in rankers else ())}
    found = []
    for note in run.report.get("notes") or ():
        names = set(str(note).partition(": ")[0].split(", "))
        if not names <= known or names & shown:
            found.append(str(note))
    return tuple(found)


def merged(runs: Sequence[tuple[str, Sequence[str]]]) -> Iterator[str]:
    """Each of the runs' notes once, behind the names of the runs where not all have it."""
    having: dict[str, list[str]] = {}
    for name, notes in runs:
        for note in notes:
            having.setdefault(note, []).append(name)
    for note, names in having.items():
        yield note if len(names) == len(runs) else f"{'; '.join(names)}: {note}"
