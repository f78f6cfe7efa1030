"""Finished runs, made without a model: lists of made-up scores, evaluated as the stage does."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import polars as pl

from trsr.data.cases import SCHEMA
from trsr.metrics import evaluate
from trsr.storage.run_directory import RunDirectory, StageRecord
from trsr.types import Case, Item, Query, RankedList, UserHistory

ITEMS = [f"i{n}" for n in range(12)]


def write_run(
    folder: Path,
    *,
    queries: int = 40,
    skills: dict[str, float] | None = None,
    seed: int = 0,
    candidates: int = 6,
    settings: str = "",
    rename: str = "",
    metrics: tuple[str, ...] = ("ndcg@10", "recall@1"),
) -> Path:
    """Writes a finished run; `skills` is how far each ranker lifts the right item's score.

    Its manifest holds no hash, so that a test may alter the values.
    """
    folder.mkdir(parents=True)
    rows, cases = [], []
    skills = skills or {"random": 0.0, "llm": 1.0}
    for n in range(queries):
        names = [*ITEMS[n % 6 : n % 6 + candidates]]
        query = f"{rename}test/u{n}/3"
        rows.append((query, f"u{n}", ["i0"], [1.0], names, [names[0]]))
        history = UserHistory(f"u{n}", ())
        cases.append(Case(Query(query, history, tuple(map(Item, names))), frozenset({names[0]})))
    pl.DataFrame(rows, schema=SCHEMA, orient="row").write_parquet(folder / "cases.test.parquet")
    lists: dict[str, list[RankedList]] = {}
    for name, skill in skills.items():
        draw = np.random.default_rng([seed, len(name)])
        lists[name] = [
            RankedList.of(
                case.query, list(draw.normal(size=candidates) + skill * np.eye(candidates)[0])
            )
            for case in cases
        ]
    report = evaluate(cases, lists, metrics)
    report.per_query.write_parquet(folder / "per_query.parquet")
    (folder / "report.json").write_text(json.dumps(report.to_json()))
    text = f'[run]\nfolder = "{folder.name}"\nseed = {seed}\n{settings}'
    (folder / "config.toml").write_text(text)
    RunDirectory(folder)._write_manifest({"evaluate": StageRecord({}, {}, {})}, [])
    return folder
