"""What a run of a sweep left in its folder: its figures, and what they are figures of."""

from __future__ import annotations

import json
from pathlib import Path

import polars as pl

from trsr.data.cases import SEEN
from trsr.errors import StoreError
from trsr.metrics.report import Estimate
from trsr.pipeline.finished_run import FinishedRun
from trsr.settings import digest

REPORT = "report.json"
"""In a run's folder: what it came to on the test cases."""


def read_report(folder: Path) -> dict[str, dict[str, Estimate]]:
    """Each ranker → metric → estimate of a run's report.

    Raises:
        StoreError: If it is not there, or not a report.
    """
    path = folder / REPORT
    try:
        value = json.loads(path.read_text("utf-8"))
        return {
            ranker: {m: Estimate(one["mean"], one["se"]) for m, one in scores["metrics"].items()}
            for ranker, scores in value["rankers"].items()
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise StoreError(
            f"{path}: not a report that trsr wrote; delete it, and give `trsr sweep` again"
        ) from error


def cases_digest(folder: Path, split: str) -> str:
    """Of a split's queries, candidates and right answers; histories are no part of it.

    Raises:
        StoreError: If the cases cannot be read.
    """
    path = folder / f"cases.{split}.parquet"
    try:
        cases = pl.read_parquet(path, glob=False)
        lists = ["candidates", "relevant", *([SEEN] if SEEN in cases.columns else [])]
        told = (pl.col(name).list.sort().list.join("\n") for name in lists)
        asked = cases.select(pl.concat_str("query", *told, separator="\n\n")).to_series()
        items: list[str] = []
        if SEEN in cases.columns:  # the candidates are the catalog
            catalog = pl.read_parquet(folder / "items.parquet", columns=["id"], glob=False)
            items = catalog["id"].sort().to_list()
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError) as error:
        raise StoreError(
            f"{path}: not the cases that trsr wrote ({error}); delete it, and give `trsr sweep` "
            "again"
        ) from error
    return digest([asked.sort().to_list(), items])


def answers(folder: Path) -> dict[str, str]:
    """Each ranker → a digest of its metrics, query by query.

    Raises:
        StoreError: If they cannot be read.
    """
    run = FinishedRun(folder)
    return {ranker: run.answers(ranker) for ranker in run.values["ranker"].unique()}
