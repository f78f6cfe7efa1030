"""The settings of ranking, and the table of rankers."""

from __future__ import annotations

from pydantic import Field

from trsr.plugins import PluginTable
from trsr.settings import Settings

RANKERS = PluginTable(
    "ranker",
    "trsr.rankers",
    {
        "random": "trsr.rank.simple:make_random",
        "popular": "trsr.rank.simple:make_popular",
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
        description="how many items the first stage proposes",
    )
    first_stage: str = Field(
        "popular",
        description="the ranker that proposes unseen items where there are no candidates: to "
        "`recommend`, and with data.candidates = full to rankers with a language model (the others "
        "rank the whole catalogue)",
    )
    depth: int = Field(
        1000,
        ge=1,
        description="data.candidates = full: places kept of each list; metrics may cut off at most "
        "there",
    )
