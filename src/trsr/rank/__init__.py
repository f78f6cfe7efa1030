"""Orders the candidates of queries: the LLM's yes/no ranker and the simple ones beside it.

Names are imported when asked for, so that reading settings loads no data library.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from trsr.rank.base import RankContext, Ranker, checked, make_ranker, rank_what_fits
    from trsr.rank.cut import top
    from trsr.rank.neural import NeuralRanker, fit_neural
    from trsr.rank.rankings import Rankings, read_rankings, write_rankings
    from trsr.rank.settings import RANKERS, RankSettings
    from trsr.rank.simple import PopularRanker, RandomRanker, popularity
    from trsr.rank.yesno import YesNoRanker, p_yes

__all__ = [
    "RANKERS",
    "NeuralRanker",
    "PopularRanker",
    "RandomRanker",
    "RankContext",
    "RankSettings",
    "Ranker",
    "Rankings",
    "YesNoRanker",
    "checked",
    "fit_neural",
    "make_ranker",
    "p_yes",
    "popularity",
    "rank_what_fits",
    "read_rankings",
    "top",
    "write_rankings",
]

_HOMES = {
    "base": ("RankContext", "Ranker", "checked", "make_ranker", "rank_what_fits"),
    "cut": ("top",),
    "neural": ("NeuralRanker", "fit_neural"),
    "rankings": ("Rankings", "read_rankings", "write_rankings"),
    "settings": ("RANKERS", "RankSettings"),
    "simple": ("PopularRanker", "RandomRanker", "popularity"),
    "yesno": ("YesNoRanker", "p_yes"),
}


def __getattr__(name: str) -> object:
    for module, names in _HOMES.items():
        if name in names:
            return getattr(importlib.import_module(f"{__name__}.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
