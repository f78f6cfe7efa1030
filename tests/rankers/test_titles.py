"""The rankers of titles: what is asked, what a written text counts for, what is refused."""

from __future__ import annotations

import math
import re

import numpy as np
import polars as pl
import pytest
from fitting import Author, ScoringAuthor, draw, fitted, given, titles

from trsr.data import Catalog
from trsr.errors import ConfigError, DataError
from trsr.prompts import PromptSettings, Titles, TitleWriter
from trsr.rankers import RankSettings, make_ranker
from trsr.types import Interaction, Query, UserHistory

NAMES = ["Alien", "ALIEN ", "Babe", "Chinatown", "Gandhi", "The Third Man", "Clueless"]
LOG = pl.DataFrame({"user": ["u"], "item": ["i0"], "time": [1.0]})


def catalog(names=tuple(NAMES)) -> Catalog:
    return Catalog(pl.DataFrame({"id": [f"i{n}" for n in range(len(names))], "title": names}))


def ranker(name: str, model, items: Catalog | None = None, valid=(), **table):
    settings = RankSettings(**{name: table} if table else {})
    return fitted(name, items or catalog(), LOG, settings, titles=titles(model), valid=valid)


def query(items: Catalog, *seen: int, candidates=()) -> Query:
    history = tuple(Interaction(items.at(n), float(place)) for place, n in enumerate(seen))
    chosen = [items.at(n) for n in candidates or range(len(items))]
    return Query("q", UserHistory("u", history), tuple(chosen))


def scores(one, asked: Query) -> dict[str, float]:
    (found,) = one.rank([asked])
    return {entry.item: entry.score for entry in found}


def test_the_prompt_numbers_the_latest_titles_and_says_when_there_are_none():
    model = ScoringAuthor()
    writer = titles(model, history=2)()[1]
    items = catalog()
    asked = writer.prompt([items.at(n) for n in (2, 3, 4)])
    assert asked.messages[-1].content == "1. Chinatown\n2. Gandhi"
    assert "first visit" in writer.prompt(()).messages[-1].content
    assert writer.counts.written == 2


def test_titles_go_until_the_prompt_fits():
    model = ScoringAuthor()
    writer = TitleWriter(PromptSettings(recent=10), model.count_tokens, 2 * 30)
    asked = writer.prompt([catalog().at(n) for n in (2, 3, 4, 5, 6)])
    assert asked.messages[-1].content.endswith("Clueless")
    assert not asked.messages[-1].content.startswith("1. Babe")
    assert writer.counts.shortened == 1


@pytest.mark.parametrize("name", ["title", "title_search"])
def test_items_of_one_title_tie_and_a_shuffled_catalog_changes_no_score(name):
    items, turned = catalog(), catalog(tuple(reversed(NAMES)))
    own = {} if name == "title" else {"beams": 4}
    first = scores(ranker(name, ScoringAuthor(), items, **own), query(items, 2))
    assert first["i0"] == first["i1"]
    again = scores(ranker(name, ScoringAuthor(), turned, **own), query(turned, 4))
    assert {NAMES[int(i[1:])]: s for i, s in first.items()} == {
        turned[i].fields[0][1]: s for i, s in again.items()
    }


def test_the_four_scores_are_what_they_say():
    items = catalog()
    asked = query(items, 2)
    found = ranker("title", ScoringAuthor(), items)
    got = [
        scores(found.with_score(one), asked)["i5"] for one in ("total", "mean", "gain", "mean_gain")
    ]
    assert found.mode_ == "mean_gain"  # nothing to choose on
    with_user, alone = (
        draw("1. Babe", "The Third Man"),
        draw("none: this is the first visit", "The Third Man"),
    )
    expected = (with_user, with_user / 3, with_user - alone, (with_user - alone) / 3)
    assert got == pytest.approx(expected)


def test_the_beams_bound_what_is_found_and_the_rest_ties_below():
    found = scores(ranker("title_search", ScoringAuthor(), beams=2), query(catalog(), 2))
    values = sorted(set(found.values()), reverse=True)
    assert len(values) == 3
    assert min(found.values()) == values[1] - 1


def test_items_without_a_title_tie_below_and_too_many_are_refused():
    names = [f"film {n}" for n in range(39)]
    some = catalog((*names, None))
    model = ScoringAuthor()
    found = scores(ranker("title", model, some), query(some, 1))
    assert found["i39"] < min(score for item, score in found.items() if item != "i39")
    with pytest.raises(DataError, match=r"2 of 6 items have no title, the first is i1; .*title or"):
        ranker("title", model, catalog(("a", None, "b", " ", "c", "d")))
    bare = Catalog(pl.DataFrame({"id": ["i0"], "brand": ["Ajax"]}))
    with pytest.raises(DataError, match="there are brand: name the column so"):
        ranker("title_search", model, bare)


def test_shared_and_cut_titles_are_said():
    items = Titles(catalog(), PromptSettings(words=2))
    assert items.notes() == [
        "2 of 7 items share their title with others, and tie: these are figures of titles",
        "1 titles are cut to prompts.words",
    ]


# ---- written freely


def near(texts):
    """[texts, letters] unit vectors of the letters in a text: a word more changes little."""
    rows = [
        [text.casefold().count(letter) for letter in "abcdefghijklmnopqrstuvwxyz"] for text in texts
    ]
    vectors = np.array(rows, np.float64) + 1e-6
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@pytest.fixture(autouse=True)
def letters(monkeypatch):
    class Letters:
        identity = "letters"

        def __init__(self, *_):
            pass

        def encode(self, texts):
            return near(texts).astype(np.float32)

    monkeypatch.setattr("trsr.rankers.item_text.SentenceEncoder", Letters)


def test_a_text_is_its_title_but_for_case_and_spaces_or_the_nearest_or_lost():
    written = ["  chinatown ", "ＧＡＮＤＨＩ", "Chinatown film", "xxxxzzzzqqqq", ""]
    one = ranker("title_sampled", Author(written), samples=5)
    found = scores(one, query(catalog(), 2, candidates=(2, 3, 4, 5)))
    assert [found[item] for item in ("i3", "i4")] == pytest.approx([2, 1], abs=1e-3)
    assert max(found["i2"], found["i5"]) < 0.1
    shares = {how: one.notes[how] for how in ("exact", "near", "lost")}
    assert shares == {"exact": 0.4, "near": 0.2, "lost": 0.4}
    assert one.notes["written"] == 5
    assert sum(shares.values()) == pytest.approx(1)
    assert "40% are titles of the catalog, 20% count for the nearest one" in one.notes["note"]
    example = one.notes["examples"][2]
    assert 0.8 < example.pop("cosine") < 1
    assert example == {
        "query": "q",
        "written": "Chinatown film",
        "how": "near",
        "title": "Chinatown",
    }


def test_the_items_of_a_title_share_its_vote_and_likeness_decides_between_equal_votes():
    one = ranker("title_sampled", Author(["alien", "Alien", "Babe"]), samples=3)
    found = scores(one, query(catalog(), 3))
    assert found["i0"] == found["i1"]
    assert math.floor(found["i0"]) == math.floor(found["i2"]) == 1
    assert found["i2"] != found["i0"]
    assert max(found[item] for item in ("i3", "i4", "i5", "i6")) < 0.01
    assert len({found[item] for item in ("i3", "i4", "i5", "i6")}) == 4
    assert one.notes["duplicates"] == pytest.approx(1 / 3, abs=1e-3)
    assert one.notes["several"] == pytest.approx(2 / 3, abs=1e-3)


def test_a_shuffled_catalog_changes_no_votes():
    turned = catalog(tuple(reversed(NAMES)))
    written = ["Babe", "a third man", "Aliens"]
    first = scores(ranker("title_sampled", Author(written), samples=3), query(catalog(), 3))
    again = scores(ranker("title_sampled", Author(written), turned, samples=3), query(turned, 3))
    assert {NAMES[int(i[1:])]: s for i, s in first.items()} == pytest.approx(
        {turned[i].fields[0][1]: s for i, s in again.items()}
    )


def test_a_model_without_scores_writes_and_cannot_be_asked_for_scores():
    model = Author(["Babe"])
    assert scores(ranker("title_sampled", model, samples=1), query(catalog(), 3))["i2"] >= 1
    one = make_ranker("title_search", given(catalog(), titles=titles(model)))
    with pytest.raises(ConfigError, match="gives no log-probabilities.*use title_sampled"):
        list(one.rank([query(catalog(), 3)]))


def test_each_draw_asks_with_the_same_words():
    model = Author(["Babe", "Alien"])
    scores(ranker("title_sampled", model, samples=2), query(catalog(), 3))
    assert len(model.asked) == 2
    assert re.fullmatch(r"1\. Chinatown", model.asked[0])
    assert set(model.asked) == {model.asked[0]}
