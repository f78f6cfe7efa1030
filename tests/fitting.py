"""Rankers fitted in memory, as a run fits them."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import polars as pl

from trsr.data import Catalog
from trsr.progress import Silent
from trsr.prompts import PromptSettings, TitleWriter
from trsr.rankers import FitData, FitOptions, Ranker, RankSettings, Resources, make_ranker
from trsr.types import Case


def no_model(tuned: bool, compressed: bool = False) -> Any:
    raise AssertionError("no language model is asked for")


def given(
    catalog: Catalog,
    settings: RankSettings | None = None,
    model: Callable[..., Any] = no_model,
    ranker: Callable[[str], Ranker] | None = None,
    titles: Callable[[], Any] = lambda: no_model(True),
) -> Resources:
    own = {"ranker": ranker or (lambda name: None), "titles": titles}
    return Resources(catalog, settings or RankSettings(), model, **own)


def fitted(
    name: str,
    catalog: Catalog,
    log: pl.DataFrame,
    settings: RankSettings | None = None,
    *,
    train: Iterable[Case] = (),
    valid: Iterable[Case] = (),
    model: Callable[..., Any] = no_model,
    titles: Callable[[], Any] = lambda: no_model(True),
    members: dict[str, Ranker] | None = None,
    progress: Any = None,
    **options: Any,
) -> Any:
    """A ranker and the members that it asks; `members` stand for those of their names."""
    cases, training = list(valid), list(train)
    data = FitData(catalog, log, training=lambda: training, validation=lambda: cases)
    how = FitOptions(progress=progress or Silent(), **options)

    @functools.cache
    def one(name: str) -> Ranker:
        if members and name in members:
            return members[name]
        ranker = make_ranker(name, given(catalog, settings, model, one, titles))
        ranker.fit(data, how)
        return ranker

    return one(name)


def draw(*parts: str) -> float:
    return -hashlib.sha256("\x1f".join(parts).encode()).digest()[0] / 16 - 0.1


class Author:
    """Its scores hang on the whole prompt and the text; what it writes, a test says."""

    identity = "author"
    context_tokens = 4096

    def __init__(self, written=()) -> None:
        self.asked: list[str] = []
        self.written = list(written)

    def count_tokens(self, prompt):
        return sum(len(message.content.split()) for message in prompt.messages)

    def generate(self, prompts, sampling):
        for position, prompt in enumerate(prompts):
            self.asked.append(prompt.messages[-1].content)
            yield position, self.written[prompt.draw]


class ScoringAuthor(Author):
    def score(self, prompts, answers):
        raise AssertionError("nobody asks for yes or no")

    def score_texts(self, prompts, texts):
        self.asked += [one.messages[-1].content for one in prompts]
        return [
            np.array([[draw(one.messages[-1].content, text), len(text.split())] for text in own])
            for one, own in zip(prompts, texts, strict=True)
        ]

    def search_texts(self, prompts, texts, beams):
        found = []
        for table in self.score_texts(prompts, texts):
            least = np.sort(table[:, 0])[::-1][min(beams, len(table)) - 1]
            found.append(np.where(table[:, 0] >= least, table[:, 0], -np.inf))
        return found


def titles(model, history: int = 10):
    writer = TitleWriter(PromptSettings(recent=history), model.count_tokens, model.context_tokens)
    return lambda: (model, writer)
