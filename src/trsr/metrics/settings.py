"""The settings of evaluation."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from trsr.settings import Settings

Lengths = tuple[Annotated[int, Field(ge=1)], ...]
"""Lengths of history at which a new group begins, in any order."""


class EvaluateSettings(Settings):
    """Which metrics are computed on the ranked queries, and what is written of them."""

    metrics: tuple[str, ...] = Field(
        (
            "recall@3",
            "recall@5",
            "recall@10",
            "mrr@3",
            "mrr@5",
            "mrr@10",
            "ndcg@10",
            "auc",
        ),
        min_length=1,
        description="see `trsr ls metrics`; any cut-off may follow the @",
    )
    history_bins: Lengths = Field(
        (),
        description="quality by length of history: the lengths at which a new group begins; empty: "
        "quartiles",
    )
    trec: bool = Field(False, description="write run.RANKER.trec and qrels.trec for other tools")
