"""The settings of ranking, and the table of rankers."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from trsr.neural.settings import (
    AttentionSettings,
    Bert4recSettings,
    Gru4recSettings,
)
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
        "bm25_summary": "trsr.rank.summary_text:make_bm25_summary",
        "text_summary": "trsr.rank.summary_text:make_text_summary",
        "ease": "trsr.rank.ease:make_ease",
        "sasrec": "trsr.rank.neural:make_sasrec",
        "gru4rec": "trsr.rank.neural:make_gru4rec",
        "bert4rec": "trsr.rank.neural:make_bert4rec",
        "bert4rec_text": "trsr.rank.neural:make_bert4rec_text",
        "sasrec_text": "trsr.rank.neural:make_sasrec_text",
        "blend": "trsr.rank.blend:make_blend",
        "llm": "trsr.rank.yesno:make_tuned",
        "untuned": "trsr.rank.yesno:make_untuned",
        "candidate_only": "trsr.rank.yesno:make_candidate_only",
    },
)
"""Each part is a callable that takes a `RankContext` and gives a `Ranker`."""

TRAINED = frozenset({"llm", "candidate_only"})
"""Rankers that ask the trained model."""

TOLD = frozenset({"llm", "untuned"})
"""Rankers that tell a language model of the user."""

SUMMARY_ALONE = frozenset({"bm25_summary", "text_summary"})
"""Cheap rankers that read the summary and nothing else of the user."""

SUMMARY_READERS = TOLD | SUMMARY_ALONE
"""Rankers that read the summary, where there is one."""

JUDGES = TRAINED | TOLD
"""Rankers that ask a language model; a blend may, by its members."""

NETWORKS = frozenset({"sasrec", "gru4rec", "bert4rec", "bert4rec_text", "sasrec_text"})
"""Rankers that train a network on the item sequences."""

_EMBEDDED = NETWORKS | {"text_knn", "text_summary"}
_TEXT = _EMBEDDED | {"bm25", "bm25_summary"}
_TUNED = frozenset({"bm25", "text_knn", "popular_recent", "item_knn", "item_knn_recent", "ease"})
_READ_BY = {
    "bm25": frozenset({"bm25", "bm25_summary"}),
    "text_fields": _TEXT,
    "text_words": _TEXT,
    "text_model": _EMBEDDED,
    "tune_on": _TUNED,
    "tune_cases": _TUNED | {"blend"},
    "blend": frozenset({"blend"}),
    "blend_l2": frozenset({"blend"}),
    "blend_folds": frozenset({"blend"}),
}
"""Settings that several rankers read, and which; a table named like a ranker is that ranker's."""


class ListsSettings(Settings):
    """Ranked lists that were made elsewhere."""

    files: tuple[Path, ...] = Field(
        min_length=1,
        description="a file of lists for the test queries, and as a blend's member one for the "
        "validation queries too: TREC runs, or .parquet files as trsr's rankings.parquet",
    )
    ranker: str = Field("", description="whose lists, where a .parquet file holds those of several")


class RankSettings(Settings):
    """Which rankers order the candidates."""

    rankers: tuple[str, ...] = Field(
        ("random", "popular", "untuned", "llm"),
        min_length=1,
        description="one table row each; llm is the trained model, untuned the one it started "
        "from, candidate_only the trained one without a word of the user",
    )
    split: Literal["test", "valid"] = Field(
        "test",
        description="the cases that are ranked and evaluated: with valid settings can be chosen "
        "by `trsr compare` without a look at the test cases",
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
        (), description="the text columns that the cheap rankers read, in this order; empty: all"
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
    sasrec: AttentionSettings = Field(
        AttentionSettings(), description="SASRec: attention to the items before"
    )
    gru4rec: Gru4recSettings = Field(Gru4recSettings(), description="GRU4Rec: a recurrent network")
    bert4rec: Bert4recSettings = Field(
        Bert4recSettings(), description="BERT4Rec: attention in both directions"
    )
    bert4rec_text: Bert4recSettings = Field(
        Bert4recSettings(),
        description="BERT4Rec whose items' vectors start from the main components of their texts' "
        "embeddings (LLM2BERT4Rec); start is not read",
    )
    sasrec_text: AttentionSettings = Field(
        AttentionSettings(),
        description="SASRec whose vectors are an item's own plus a learned map of its text's "
        "embedding; start is not read",
    )
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
    lists: dict[str, ListsSettings] = Field(
        {},
        description="rankers that are lists made elsewhere, by the names that they have in "
        "rank.rankers and rank.blend",
    )

    @property
    def blended(self) -> tuple[str, ...]:
        """The blend's members, where the blend is ranked by."""
        return self.blend if "blend" in self.rankers else ()

    @property
    def used(self) -> tuple[str, ...]:
        """Every ranker of a run, the blend's members included; each once."""
        return tuple(dict.fromkeys((*self.rankers, *self.blended)))

    @property
    def names(self) -> list[str]:
        """Every name that may stand in rank.rankers, sorted."""
        return sorted({*RANKERS.names(), *self.lists})

    @property
    def elsewhere(self) -> dict[str, ListsSettings]:
        """The used rankers that are lists made elsewhere."""
        return {name: self.lists[name] for name in self.used if name in self.lists}

    @property
    def embedding(self) -> tuple[str, ...]:
        """The used rankers that read embeddings of texts."""
        networks = {"sasrec": self.sasrec, "gru4rec": self.gru4rec, "bert4rec": self.bert4rec}
        reading = {name for name, one in networks.items() if one.start == "text"}
        reading |= {"text_knn", "text_summary", "bert4rec_text", "sasrec_text"}
        return tuple(name for name in self.used if name in reading)

    @property
    def learning(self) -> tuple[str, ...]:
        """The used rankers whose training may draw by lot: networks, and other packages' rankers.

        What those do is not known; that they draw is the safe guess.
        """
        return tuple(name for name in self.used if name in NETWORKS or RANKERS.added(name))

    def only(self, *rankers: str) -> RankSettings:
        """The same settings for these rankers."""
        return self.model_copy(update={"rankers": rankers})

    @property
    def unread(self) -> set[str]:
        """The settings that no used ranker reads."""
        tables = {name: frozenset({name}) for name in RANKERS.names()}
        return {name for name, by in (tables | _READ_BY).items() if not by & set(self.used)}

    def meaning(self) -> dict[str, Any]:
        """What the rankings depend on, as plain values: the used rankers' settings only."""
        apart = {"queries_per_batch", "proposals", "first_stage", "depth"}
        return self.model_dump(mode="json", exclude=self.unread | apart | {"lists"})
