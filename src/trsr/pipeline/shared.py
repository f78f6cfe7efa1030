"""The queries that several runs were all asked: `trsr compare --shared`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import reduce

import polars as pl

from trsr.errors import DataError
from trsr.evaluate.sides import AskedAlone
from trsr.pipeline.finished import FinishedRun


def shared(runs: Sequence[FinishedRun]) -> tuple[pl.DataFrame, tuple[AskedAlone, ...]]:
    """What every run was asked, and how many queries of each are none of these.

    Args:
        runs: At least one.

    Returns:
        The `query` of each, in the order of their ids; the runs, each once.

    Raises:
        DataError: If there is no such query.
    """
    once = list({run.folder.resolve(): run for run in runs}.values())
    asked = [run.asked.select("query") for run in once]
    common = reduce(lambda some, other: some.join(other, on="query", how="semi"), asked)
    if not common.height and any(frame.height for frame in asked):
        raise DataError(_nothing(once))
    found = [
        AskedAlone(str(run.folder), frame.height, frame.height - common.height)
        for run, frame in zip(once, asked, strict=True)
    ]
    return common, tuple(found)


def shared_notes(runs: Sequence[AskedAlone]) -> Iterator[str]:
    """What to say below a table of what each run was asked alone.

    Args:
        runs: All that were compared.
    """
    for one in runs:
        if one.left_out:
            yield (
                f"left out: {one.left_out:,} of the {one.queries:,} queries of {one.run}, which "
                "not all of the compared runs were asked"
            )
    if not any(one.left_out for one in runs):
        yield "all of the compared runs were asked the same queries: --shared left out none"


def _nothing(runs: Sequence[FinishedRun]) -> str:
    said = "there is no query that all of these runs were asked"
    examples = ", ".join(
        f"{run.folder} has {run.asked['query'][0] if run.asked.height else 'none'}" for run in runs
    )
    return f"{said} ({examples}): are they of the same data and split?"
