"""The settings of ranking, and the table of rankers."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from trsr.plugins import PluginTable
from trsr.rank.baseline_settings import (
    Bm25Settings,
    EaseSettings,
    ItemKnnRecentSettings,
    ItemKnnSettings,
    NotNegative,
    PopularRecentSettings,
    TextKnnSettings,
)
from trsr.settings import Settings

RANKERS = PluginTable(
    "ranker",
    "trsr.rankers",
    {
        "random": "trsr.rank.simple:make_random",
        "popular": "trsr.rank.simple:make_popular",
        "popular_recent": "trsr.rank.popular_recent:make_popular_recent",
        "bm25": "trsr.rank.bm25:make_bm25",
        "item_knn": "trsr.rank.item_knn:make_item_knn",
        "item_knn_recent": "trsr.rank.item_knn:make_item_knn_recent",
        "text_knn": "trsr.rank.text_knn:make_text_knn",
        "ease": "trsr.rank.ease:make_ease",
        "blend": "trsr.rank.blend:make_blend",
        "llm": "trsr.rank.yesno:make_tuned",
        "untuned": "trsr.rank.yesno:make_untuned",
    },
)
"""Each part is a callable that takes a `RankContext` and gives a `Ranker`."""

_TEXT = frozenset({"bm25", "text_knn"})
_TUNED = _TEXT | {"popular_recent", "item_knn", "item_knn_recent", "ease"}
_READ_BY = {
    "text_fields": _TEXT,
    "text_words": _TEXT,
    "text_model": frozenset({"text_knn"}),
    "tune_on": _TUNED,
    "tune_cases": _TUNED | {"blend"},
    "blend": frozenset({"blend"}),
    "blend_l2": frozenset({"blend"}),
    "blend_folds": frozenset({"blend"}),
}
"""Settings that several rankers read, and which; a table named like a ranker is that ranker's."""


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
    tune_on: tuple[str, ...] = Field(
        ("ndcg@10", "auc"),
        min_length=1,
        description="a cheap ranker's settings are those with the highest first metric on the "
        "validation cases; the next metrics decide between equals, then the lists' order. Without "
        "validation cases each list's first value is taken",
    )
    tune_cases: int = Field(
        2000, ge=0, description="most validation cases to choose on, drawn by seed; 0: all"
    )
    text_fields: tuple[str, ...] = Field(
        (), description="the text columns that bm25 and text_knn read, in this order; empty: all"
    )
    text_words: int = Field(64, ge=1, description="most words of each column that they read")
    text_model: str = Field(
        "minilm",
        description="the embedding model: minilm (see `trsr get`), a folder or a hub id, in the "
        "format of sentence-transformers",
    )
    popular_recent: PopularRecentSettings = Field(
        PopularRecentSettings(), description="popularity in a window of time"
    )
    bm25: Bm25Settings = Field(Bm25Settings(), description="BM25 on item texts")
    item_knn: ItemKnnSettings = Field(ItemKnnSettings(), description="items met by the same users")
    item_knn_recent: ItemKnnRecentSettings = Field(
        ItemKnnRecentSettings(), description="the same for the last items only"
    )
    text_knn: TextKnnSettings = Field(TextKnnSettings(), description="embeddings of item texts")
    ease: EaseSettings = Field(EaseSettings(), description="the closed-form linear item model")
    blend: tuple[str, ...] = Field(
        ("popular_recent", "item_knn", "bm25"),
        min_length=1,
        description="blend: the rankers whose scores are added, with weights learned on the "
        "validation cases",
    )
    blend_l2: tuple[NotNegative, ...] = Field(
        (0.01, 0.001, 0.1, 1.0),
        min_length=1,
        description="blend: candidates for the L2 penalty on the weights, chosen by "
        "cross-validation over validation users",
    )
    blend_folds: int = Field(5, ge=2, description="blend: folds of that cross-validation")

    @property
    def blended(self) -> tuple[str, ...]:
        """The blend's members, where the blend is ranked by."""
        return self.blend if "blend" in self.rankers else ()

    @property
    def used(self) -> tuple[str, ...]:
        """Every ranker of a run, the blend's members included; each once."""
        return tuple(dict.fromkeys((*self.rankers, *self.blended)))

    def meaning(self) -> dict[str, Any]:
        """What the rankings depend on, as plain values: the used rankers' settings only."""
        tables = {name: frozenset({name}) for name in RANKERS.names()}
        unread = {name for name, by in (tables | _READ_BY).items() if not by & set(self.used)}
        unread |= {"queries_per_batch", "proposals", "first_stage", "depth"}
        return self.model_dump(mode="json", exclude=unread)
