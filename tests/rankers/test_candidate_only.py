"""The trained model without the user: what it is told, and what it costs."""

from __future__ import annotations

import hashlib
import math

import numpy as np
import polars as pl
from fitting import given

from trsr.data import Catalog
from trsr.models.cached import CachedScoringModel
from trsr.prompts import PromptSettings, PromptWriter
from trsr.rankers import make_ranker
from trsr.storage.response_cache import ResponseCache
from trsr.types import Interaction, Item, Query, Summary, UserHistory

FILMS = [Item(f"i{n}", (("title", f"film number {n}"),)) for n in range(9)]


class Judge:
    """Its answer hangs on every word of the prompt."""

    identity = "rank"
    context_tokens = 4096

    def __init__(self) -> None:
        self.asked: list[str] = []

    def count_tokens(self, prompt):
        return sum(len(message.content.split()) for message in prompt.messages)

    def score(self, prompts, answers):
        texts = ["\n".join(message.content for message in one.messages) for one in prompts]
        self.asked += texts
        drawn = [hashlib.sha256(text.encode()).digest()[0] / 256 for text in texts]
        return np.array([[math.log(p + 0.01), math.log(1.01 - p)] for p in drawn])


def query(name: str, user: str, seen: list[int], candidates: list[int], text: str) -> Query:
    history = UserHistory(user, tuple(Interaction(FILMS[n], float(n)) for n in sorted(seen)))
    return Query(
        name, history, tuple(FILMS[n] for n in candidates), Summary(user, text, len(history))
    )


def rankers(model, **chosen):
    prompts = PromptSettings(domain="films", fields=("title",), **chosen)
    writer = PromptWriter(prompts, model.count_tokens, 4096)
    catalog = Catalog(pl.DataFrame({"id": [one.id for one in FILMS[:4]]}))
    resources = given(catalog, model=lambda tuned, compressed=False: (model, writer))
    return make_ranker("llm", resources), make_ranker("llm_item_only", resources)


def scores(ranker, queries):
    return [{entry.item: entry.score for entry in one} for one in ranker.rank(queries)]


def test_a_score_hangs_on_the_candidate_alone():
    told, alone = rankers(Judge())
    one = query("a", "u", [0, 1, 2], [5, 6, 7], "The user likes war films.")
    other = query("b", "v", [3, 4], [7, 6, 8], "The user likes songs.")
    first, second = scores(alone, [one, other])
    assert {item: first[item] for item in ("i6", "i7")} == {i: second[i] for i in ("i6", "i7")}
    with_first, with_second = scores(told, [one, other])
    assert with_first["i6"] != with_second["i6"]


def test_no_word_of_the_user_is_said_and_each_item_is_asked_about_once(tmp_path):
    model = Judge()
    with ResponseCache(tmp_path / "out.sqlite") as store:
        _, alone = rankers(CachedScoringModel(model, store))
        queries = [
            query(f"q{n}", f"u{n}", [n % 3], [4, 5, 6 + n % 3], "The user likes war films.")
            for n in range(20)
        ]
        list(alone.rank(queries))
    assert not any("war films" in text for text in model.asked)
    assert not any(f"number {n}" in text for n in range(3) for text in model.asked)
    assert len(model.asked) == len(set(model.asked)) == 5
