"""Rankers fitted in memory, as a run fits them."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import Any

import polars as pl

from trsr.data import Catalog
from trsr.progress import Silent
from trsr.rankers import FitData, FitOptions, Ranker, RankSettings, Resources, make_ranker
from trsr.types import Case


def no_model(tuned: bool) -> Any:
    raise AssertionError("no language model is asked for")


def given(
    catalog: Catalog,
    settings: RankSettings | None = None,
    model: Callable[[bool], Any] = no_model,
    ranker: Callable[[str], Ranker] | None = None,
) -> Resources:
    return Resources(catalog, settings or RankSettings(), model, ranker or (lambda name: None))


def fitted(
    name: str,
    catalog: Catalog,
    log: pl.DataFrame,
    settings: RankSettings | None = None,
    *,
    valid: Iterable[Case] = (),
    model: Callable[[bool], Any] = no_model,
    members: dict[str, Ranker] | None = None,
    progress: Any = None,
    **options: Any,
) -> Any:
    """A ranker and the members that it asks; `members` stand for those of their names."""
    cases = list(valid)
    data = FitData(catalog, log, validation=lambda: cases)
    how = FitOptions(progress=progress or Silent(), **options)

    @functools.cache
    def one(name: str) -> Ranker:
        if members and name in members:
            return members[name]
        ranker = make_ranker(name, given(catalog, settings, model, one))
        ranker.fit(data, how)
        return ranker

    return one(name)
