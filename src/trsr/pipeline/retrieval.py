"""Full-catalog ranking: who ranks all candidates, who orders the first stage's proposals."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from trsr.config import Config
from trsr.data import Cases, Catalog
from trsr.errors import DataError
from trsr.metrics.report import Estimate
from trsr.metrics.tables import number
from trsr.rankers import Ranker, case_batches, ranked, scored
from trsr.storage import files
from trsr.storage.tables import read_table

RETRIEVED = "retrieved.parquet"
"""Columns `query` and `items`, best first: what the first stage proposed."""


@dataclass
class Retriever:
    """Proposes candidates to the rankers that are too costly to rank the full catalog.

    The proposals are what the first stage's ranker puts first; the answer is never among them
    unless it is found. They are made once, when they are first needed.

    Attributes:
        config: All settings.
        cases: The test cases.
        catalog: The items.
        make: Gives a fitted ranker by its name.
        report: Called after each batch of queries that is done.
    """

    config: Config
    cases: Cases
    catalog: Catalog
    make: Callable[[str], Ranker]
    report: Callable[[str], None]
    _made: dict[str, list[str]] | None = None

    @property
    def used(self) -> bool:
        """Whether any ranker needs proposals."""
        return self._made is not None

    def write(self, path: Path) -> None:
        """Writes what was proposed."""
        found = self.retrieve_k()
        schema = {"query": pl.String(), "items": pl.List(pl.String())}
        files.write_parquet(pl.DataFrame([list(found), list(found.values())], schema=schema), path)

    def retrieve_k(self) -> dict[str, list[str]]:
        """Item ids by query id, best first."""
        if self._made is None:
            size, seed = self.config.rank.retrieve_k, self.config.run.seed
            found: dict[str, list[str]] = {}
            ranker = self.make(self.config.rank.retriever)
            for batch in case_batches(self.cases, self.catalog, {}):
                for one in ranked(batch, scored(ranker, batch), size, seed).lists():
                    found[one.query] = [entry.item for entry in one]
                self.report(f"retriever {len(found)}/{len(self.cases)}")
            self._made = found
        return self._made


def read_retrieved(path: Path) -> dict[str, list[str]]:
    """What the first stage proposed, best first, by query id.

    Raises:
        StoreError: If the file is damaged.
    """
    columns = {"query": pl.String(), "items": pl.List(pl.String())}
    found = read_table(path, columns, again="give `trsr rank` again")
    return dict(found.iter_rows())


def retriever_report(path: Path, cases: Cases, config: Config) -> dict[str, Any] | None:
    """The retriever's recall, None where no ranker needs proposals.

    Raises:
        DataError: If the file's queries are not the cases.
        StoreError: If the file is damaged.
    """
    if not files.exists(path) or not cases.full:
        return None
    proposed = read_retrieved(path)
    found = []
    for query, relevant in cases.frame.select("query", "relevant").iter_rows():
        if query not in proposed:
            raise DataError(f"{path}: there are no proposals for query {query}; rank again")
        found.append(len(set(relevant) & set(proposed[query])) / len(relevant))
    values = pl.Series(found, dtype=pl.Float64)
    spread = values.std() if len(values) > 1 else None
    return {
        "ranker": config.rank.retriever,
        "retrieve_k": config.rank.retrieve_k,
        "recall": values.mean(),
        "se": float(str(spread)) / math.sqrt(len(values)) if spread is not None else None,
        "queries": len(values),
    }


def full_notes(config: Config, first: Mapping[str, Any] | None) -> tuple[str, ...]:
    """What a reader of full-catalog figures must know."""
    notes = [
        "Candidates are the whole catalog except what the user had seen. A target that a ranker's "
        "list leaves out counts as not found, and as last in auc; lists keep "
        f"{config.rank.depth:,} places, so auc is a lower bound in larger catalogs. Training and "
        "validation cases have sampled negatives."
    ]
    if config.rank.those("learns_weights"):
        notes.append("blend: its weights are fitted on validation cases with sampled negatives.")
    if first is not None:
        recall = number(Estimate(first["recall"], first["se"]))
        notes.append(
            f"Rankers with a language model order {first['retrieve_k']:,} proposals of "
            f"{first['ranker']}, whose recall@{first['retrieve_k']} is {recall}: no such "
            "ranker can find more."
        )
    return tuple(notes)
