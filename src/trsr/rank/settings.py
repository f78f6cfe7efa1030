"""The settings of ranking, and the table of rankers."""

from __future__ import annotations

from pydantic import Field

from trsr.plugins import PluginTable
from trsr.settings import Settings

RANKERS = PluginTable(
    "ranker",
    {
        "random": "trsr.rank.simple:RandomRanker",
        "popular": "trsr.rank.simple:PopularRanker",
        "llm": "trsr.rank.yesno:YesNoRanker",
        "untuned": "trsr.rank.yesno:YesNoRanker",
    },
)


class RankSettings(Settings):
    """Which rankers order the candidates."""

    rankers: tuple[str, ...] = Field(
        ("random", "popular", "untuned", "llm"),
        min_length=1,
        description="one table row each; llm is the trained model, untuned the one it started from",
    )
    proposals: int = Field(
        50,
        ge=1,
        description="recommend without candidates: how many popular unseen items are ranked",
    )
