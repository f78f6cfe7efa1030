"""The settings of evaluation."""

from __future__ import annotations

from pydantic import Field

from trsr.settings import Settings


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
    trec: bool = Field(False, description="write run.RANKER.trec and qrels.trec for other tools")
