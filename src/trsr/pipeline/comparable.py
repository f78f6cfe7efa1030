"""Whether runs ranked the same queries and candidates, and which queries all of them have."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

import polars as pl

from trsr.errors import DataError
from trsr.metrics.report import on_errors, on_ties
from trsr.pipeline.finished_run import FinishedRun


def check_comparable(runs: Sequence[FinishedRun], among: pl.DataFrame | None = None) -> None:
    """Refuses runs that did not rank the same candidates of the same queries.

    Args:
        runs: At least one.
        among: Only these `query` count, which all runs have; else all, which must be the same.

    Raises:
        DataError: Saying in what they differ, with an example.
    """
    first = runs[0]
    for other in {run.folder: run for run in runs[1:]}.values():
        if among is None:
            _check_queries(first, other)
        both = first.cases.join(other.cases, on="query", suffix="_other")
        both = both if among is None else both.join(among, on="query", how="semi")
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
        + (
            "; `trsr compare --shared` leaves out queries that some run lacks"
            if ours & theirs
            else ""
        )
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


def common_queries(runs: Sequence[FinishedRun]) -> tuple[pl.DataFrame, dict[str, int]]:
    """The queries that every run has, by their ids; and how many others each has.

    Raises:
        DataError: If there is no such query.
    """
    once = list({run.folder.resolve(): run for run in runs}.values())
    frames = [run.cases.select("query") for run in once]
    common = reduce(lambda some, other: some.join(other, on="query", how="semi"), frames)
    if not common.height and any(frame.height for frame in frames):
        raise DataError(_nothing(once))
    pairs = zip(once, frames, strict=True)
    return common, {str(run.folder): frame.height - common.height for run, frame in pairs}


def left_out_notes(runs: Mapping[str, int], common: int) -> Iterator[str]:
    """What to say below a table of common queries."""
    for run, left_out in runs.items():
        if left_out:
            yield (
                f"left out: {left_out:,} of the {left_out + common:,} queries of {run}, which "
                "not all of the compared runs have"
            )
    if runs and not any(runs.values()):
        yield "all of the compared runs have the same queries: --shared left out none"


def _nothing(runs: Sequence[FinishedRun]) -> str:
    said = "there is no query that all of these runs have"
    examples = ", ".join(
        f"{run.folder} has {run.cases['query'][0] if run.cases.height else 'none'}" for run in runs
    )
    return f"{said} ({examples}): are they of the same data and split?"


@dataclass(frozen=True, slots=True)
class ReadNote:
    """A note of a run's report, read back.

    Attributes:
        subject: The rankers that it begins with, as it has them; empty: it is about the run.
        text: What it says of them.
        rankers: Which of the run's rankers it concerns; empty: all.
    """

    subject: str
    text: str
    rankers: frozenset[str]

    @property
    def on_errors(self) -> bool:
        """Whether it is about standard errors over queries."""
        return on_errors(self.text)

    @property
    def on_ties(self) -> bool:
        """Whether it is about a ranker's ties."""
        return on_ties(self.text)


@dataclass(frozen=True, slots=True)
class RunNotes:
    """A run in a table.

    Attributes:
        run: What names it among the table's runs.
        rankers: Which of its rankers stand in the table.
        notes: Its report's notes.
    """

    run: str
    rankers: Collection[str]
    notes: Sequence[ReadNote]


def run_notes(run: FinishedRun) -> tuple[ReadNote, ...]:
    """The notes of a run's report.

    One that begins with rankers' names and a colon is about these, and about a blend that has any
    of them for a member.
    """
    notes, found = run.report.get("notes"), []
    for note in notes if isinstance(notes, list) else ():
        said = str(note)
        subject, colon, text = said.partition(": ")
        names = set(subject.split(", "))
        if not colon or not names <= {*run.rankers, *run.blended}:
            found.append(ReadNote("", said, frozenset()))
            continue
        names |= {"blend"} if names & set(run.blended) else set()
        found.append(ReadNote(subject, text, frozenset(names & set(run.rankers))))
    return tuple(found)


def merged(runs: Sequence[RunNotes]) -> Iterator[str]:
    """The notes that concern what the table shows, each once.

    Where not all of the runs that it could be said of have a note, it names those that have it.
    """
    said: dict[tuple[str, str], tuple[set[str], list[RunNotes]]] = {}
    for one in runs:
        for note in one.notes:
            if note.rankers and not note.rankers & set(one.rankers):
                continue
            rankers, having = said.setdefault((note.subject, note.text), (set(), []))
            rankers |= note.rankers
            having.append(one)
    for (subject, text), (rankers, having) in said.items():
        able = [one for one in runs if not rankers or rankers & set(one.rankers)]
        names = "" if len(having) == len(able) else "; ".join(one.run for one in having)
        where = f"{subject} ({names})" if subject and names else subject or names
        yield f"{where}: {text}" if where else text
