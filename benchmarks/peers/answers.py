"""What a peer's answers to a run's test queries are worth, beside trsr's own."""

from __future__ import annotations

import json
import math
from pathlib import Path
from statistics import fmean, stdev

import polars as pl

CUT = 10


def gain(rank: int | None) -> float:
    """NDCG@10 of a query with one relevant item at `rank`, from 1; None: it is not in the list."""
    return 1 / math.log2(rank + 1) if rank is not None and rank <= CUT else 0.0


def tell(run: Path, library: str, network: str, epochs: int, values: dict[str, float]) -> None:
    """Prints the means, and the paired difference to a ranked run; NETWORK.json keeps each query's.

    Means stand with their standard errors over queries.
    """
    print(_said(f"{library} {network}, {epochs} epochs, ndcg@{CUT}", list(values.values())))  # noqa: T201
    Path(f"{network}.json").write_text(json.dumps({"epochs": epochs, f"ndcg@{CUT}": values}))
    ranked = run / "per_query.parquet"
    if not ranked.exists():
        print(f"{run} has ranked nothing yet: nothing to compare with")  # noqa: T201
        return
    own = pl.read_parquet(ranked).filter(pl.col("ranker") == network)
    ours = dict(own.select("query", f"ndcg@{CUT}").iter_rows())
    if ours.keys() != values.keys():
        print(f"{run} answers other queries, or {network} is not among its rankers")  # noqa: T201
        return
    print(_said("trsr", list(ours.values())))  # noqa: T201
    print(_said(f"trsr above {library} by", [ours[query] - values[query] for query in values]))  # noqa: T201


def _said(name: str, values: list[float]) -> str:
    return f"{name}: {fmean(values):.4f} ±{stdev(values) / math.sqrt(len(values)):.4f}"
