"""The files of a run, read back: cases, summaries, the adapter."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from trsr.config import Config
from trsr.config.schema import RunSettings
from trsr.data import Dataset
from trsr.errors import StoreError
from trsr.settings import digest
from trsr.storage import files
from trsr.storage.run_directory import RunDirectory
from trsr.storage.tables import read_table
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
"""Counted up when these columns become others."""

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


PLAN = "plan.json"
"""What `trsr plan` said before the run's first model was asked."""


def plan_digest(config: Config) -> str:
    """What a plan depends on; where the run lies, and its metrics, are no part of it."""
    whole = config.model_copy(update={"run": RunSettings(seed=config.run.seed)})
    return digest(whole.model_dump(mode="json", exclude={"evaluate"}))


def planned_stages(config: Config) -> dict[str, dict[str, float]]:
    """By stage the `seconds` and `tokens` that were planned; empty without a plan of this run."""
    try:
        found = files.read_json(config.run.folder / PLAN)
        if found["settings"] != plan_digest(config):
            return {}
        return {
            name: {key: one[key] for key in ("seconds", "tokens") if type(one[key]) in (int, float)}
            for name, one in found["stages"].items()
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def summary_frame(summaries: Mapping[str, Summary]) -> pl.DataFrame:
    """Summaries by query id as a table."""
    rows = [
        (query, one.user, one.text, one.covers, list(one.sources))
        for query, one in summaries.items()
    ]
    return pl.DataFrame(rows, schema=SUMMARY_COLUMNS, orient="row")


def framed_summaries(frame: pl.DataFrame) -> dict[str, Summary]:
    """Summaries by query id of a table."""
    return {
        query: Summary(user, text, covers, tuple(of))
        for query, user, text, covers, of in frame.iter_rows()
    }


@dataclass(frozen=True, slots=True)
class SummaryCounts:
    """How a run's summaries fit its cases.

    Attributes:
        without: Queries that have none.
        unknown: Summaries of other queries, which nothing reads.
    """

    without: int = 0
    unknown: int = 0

    def to_json(self) -> dict[str, int]:
        """Those that are not 0, by the name that the manifest gives them."""
        named = {"queries_without_summary": self.without, "summaries_unread": self.unknown}
        return {name: count for name, count in named.items() if count}


def read_summaries(folder: Path, splits: Iterable[str] = SPLITS) -> dict[str, Summary]:
    """The summaries of a run's splits by query id; empty where there are none.

    Raises:
        StoreError: If a file is damaged, or a column is missing or of another type.
    """
    found: dict[str, Summary] = {}
    for split in splits:
        found |= _read(folder / summaries_file(split))
    return found


def run_summaries(
    dataset: Dataset, splits: Iterable[str], *, needed: bool
) -> tuple[dict[str, Summary], SummaryCounts]:
    """The summaries of a run's splits by query id, held to its cases.

    Where they are to be read, queries without one are counted.

    Raises:
        StoreError: If a file is damaged; if a summary is of another user than the query, or has
            read more than the query's history holds; or if they are needed, and of a whole split
            there is none.
    """
    found: dict[str, Summary] = {}
    without = unknown = 0
    for split in splits:
        path = dataset.folder / summaries_file(split)
        own = _read(path)
        cases = dataset.cases(split).frame.select("query", "user", pl.col("items").list.len())
        known = 0
        for query, user, length in cases.iter_rows():
            if query in own:
                known += 1
                _check(path, query, own[query], user, length)
        if needed and len(cases) and not known:
            there = f", but {len(own):,} of others, such as {next(iter(own))}" if own else ""
            raise StoreError(
                f"{path}: there is no summary for any of the {len(cases):,} {split} queries"
                f"{there}; give `trsr run` again, or set summarize.strategy to none"
            )
        without += len(cases) - known if needed else 0
        unknown += len(own) - known
        found |= own
    return found, SummaryCounts(without, unknown)


def _check(path: Path, query: str, summary: Summary, user: str, length: int) -> None:
    if summary.user != user:
        wrong = f"is of user {summary.user}, and the query of user {user}"
    elif not 0 <= summary.covers <= length:
        wrong = f"covers {summary.covers} interactions, and the history holds {length}"
    else:
        return
    raise StoreError(f"{path}: the summary of query {query} {wrong}; give `trsr run` again")


def _read(path: Path) -> dict[str, Summary]:
    if not files.exists(path):
        return {}
    return framed_summaries(read_table(path, SUMMARY_COLUMNS, again="give `trsr run` again"))


def used_splits(config: Config) -> list[str]:
    """The splits whose summaries some later stage reads."""
    train = ["train"] if config.trained else []
    blended = config.rank.those("reads_summary", config.rank.asked)
    ranked = config.rank.split if config.rank.those("reads_summary") else ""
    valid = blended or (train and config.train.validate_steps) or ranked == "valid"
    return [*train, *(["valid"] if valid else []), *(["test"] if ranked == "test" else [])]


def ranked_splits(config: Config) -> list[str]:
    """The splits whose summaries ranking reads."""
    return [split for split in used_splits(config) if split != "train"]


def with_summary(case: Case, summaries: Mapping[str, Summary]) -> Case:
    """The case with its query's summary, where there is one."""
    summary = summaries.get(case.query.id)
    return case if summary is None else Case(summarized(case.query, summary), case.relevant)


def with_summaries(cases: Iterable[Case], summaries: Mapping[str, Summary]) -> Iterator[Case]:
    """The cases, made one at a time, each with its query's summary, where there is one."""
    return (with_summary(case, summaries) for case in cases)


def summarized(query: Query, summary: Summary) -> Query:
    """The query with this summary."""
    return dataclasses.replace(query, summary=summary)


def adapter_of(run: RunDirectory) -> Path | None:
    """The trained adapter, where there is one."""
    return run / "adapter" if files.is_folder(run / "adapter") else None


def needed_adapter(run: RunDirectory, name: str = "adapter") -> Path:
    """A trained adapter.

    Raises:
        StoreError: If there is none.
    """
    if not files.is_folder(run / name):
        raise StoreError(f"{run.folder}: there is no {name}; give `trsr run` first")
    return run / name
