"""Whether runs ranked the same queries and candidates, and what their reports warn of."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import polars as pl

from trsr.errors import DataError
from trsr.pipeline.finished_run import FinishedRun


def check_comparable(runs: Sequence[FinishedRun]) -> None:
    """Refuses runs that did not rank the same candidates of the same queries.

    Args:
        runs: At least one.

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
