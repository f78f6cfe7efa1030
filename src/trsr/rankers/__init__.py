"""Orders the candidates of queries: the LLM's pointwise ranker, baselines and sequential networks.

Names are imported when asked for, so that reading settings loads no data library.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from trsr.rankers.base import (
        FitData,
        FitOptions,
        Ranker,
        Resources,
        make_ranker,
        rank_batches,
        rank_what_fits,
        score_what_fits,
        scored,
    )
    from trsr.rankers.baselines.simple import PopularRanker, RandomRanker
    from trsr.rankers.batch import (
        QueryBatch,
        RankedBatch,
        ScoreBatch,
        batched,
        case_batches,
        ranked,
    )
    from trsr.rankers.llm import PointwiseLLMRanker, p_yes
    from trsr.rankers.rankings import Rankings, read_rankings, write_rankings
    from trsr.rankers.settings import RANKERS, RankerConfig, RankSettings, Traits
    from trsr.rankers.tuning import tune

_HOMES = {
    "base": (
        *("FitData", "FitOptions", "Ranker", "Resources", "make_ranker", "rank_batches"),
        *("rank_what_fits", "score_what_fits", "scored"),
    ),
    "batch": ("QueryBatch", "RankedBatch", "ScoreBatch", "batched", "case_batches", "ranked"),
    "rankings": ("Rankings", "read_rankings", "write_rankings"),
    "settings": ("RANKERS", "RankSettings", "RankerConfig", "Traits"),
    "baselines.simple": ("PopularRanker", "RandomRanker"),
    "llm": ("PointwiseLLMRanker", "p_yes"),
    "tuning": ("tune",),
}

__all__ = [
    "RANKERS",
    "FitData",
    "FitOptions",
    "PointwiseLLMRanker",
    "PopularRanker",
    "QueryBatch",
    "RandomRanker",
    "RankSettings",
    "RankedBatch",
    "Ranker",
    "RankerConfig",
    "Rankings",
    "Resources",
    "ScoreBatch",
    "Traits",
    "batched",
    "case_batches",
    "make_ranker",
    "p_yes",
    "rank_batches",
    "rank_what_fits",
    "ranked",
    "read_rankings",
    "score_what_fits",
    "scored",
    "tune",
    "write_rankings",
]


def __getattr__(name: str) -> object:
    for module, names in _HOMES.items():
        if name in names:
            return getattr(importlib.import_module(f"{__name__}.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
