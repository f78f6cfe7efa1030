"""The settings of ranking, and the table of rankers."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from trsr.neural.settings import (
    AttentionSettings,
    Bert4recSettings,
    Gru4recSettings,
)
from trsr.plugins import PluginTable
from trsr.settings import Settings

RANKERS = PluginTable(
    "ranker",
    "trsr.rankers",
    {
        "random": "trsr.rank.simple:make_random",
        "popular": "trsr.rank.simple:make_popular",
        "sasrec": "trsr.rank.neural:make_sasrec",
        "gru4rec": "trsr.rank.neural:make_gru4rec",
        "bert4rec": "trsr.rank.neural:make_bert4rec",
        "sasrec_text": "trsr.rank.neural:make_sasrec_text",
        "llm": "trsr.rank.yesno:make_tuned",
        "untuned": "trsr.rank.yesno:make_untuned",
    },
)
"""Each part is a callable that takes a `RankContext` and gives a `Ranker`."""


class RankSettings(Settings):
    """Which rankers order the candidates."""

    rankers: tuple[str, ...] = Field(
        ("random", "popular", "untuned", "llm"),
        min_length=1,
        description="one table row each; llm is the trained model, untuned the one it started from",
    )
    queries_per_batch: int = Field(
        8, ge=1, description="queries whose prompts go to the model together"
    )
    proposals: int = Field(
        50,
        ge=1,
        description="recommend without candidates: how many popular unseen items are ranked",
    )
    sasrec: AttentionSettings = Field(
        AttentionSettings(), description="SASRec: attention to the items before"
    )
    gru4rec: Gru4recSettings = Field(Gru4recSettings(), description="GRU4Rec: a recurrent network")
    bert4rec: Bert4recSettings = Field(
        Bert4recSettings(), description="BERT4Rec: attention in both directions"
    )
    sasrec_text: AttentionSettings = Field(
        AttentionSettings(), description="SASRec with the items' texts; start is not read"
    )

    def meaning(self) -> dict[str, Any]:
        """What the rankings depend on, as plain values: the rankers and the tables named so."""
        return self.model_dump(mode="json", include={"rankers", *self.rankers})
