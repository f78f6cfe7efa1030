"""Items of the history nearest to a candidate: which they are, and how they are told."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trsr.prompts import PromptSettings, PromptWriter
from trsr.prompts.nearest import Nearest
from trsr.types import Interaction, Item, Query, UserHistory

HISTORY = (
    "Steel rivets, 500 pieces",
    "Safety glasses, clear",
    "Rivet gun, black",
    "Steel wool",
    "Glass cutter",
)
CANDIDATES = ("Rivet nut gun", "Welding glasses", "Paint")


def writer_of(most: int = 2, tokens: int = 10_000, **settings) -> PromptWriter:
    chosen = PromptSettings(domain="products", nearest=most, recent=1, **settings)
    return PromptWriter(chosen, lambda prompt: sum(len(m.content) for m in prompt.messages), tokens)


def query_of(history=HISTORY, candidates=CANDIDATES) -> Query:
    taken = tuple(
        Interaction(Item(f"h{n}", (("title", text),)), float(n)) for n, text in enumerate(history)
    )
    offered = tuple(Item(f"c{n}", (("title", text),)) for n, text in enumerate(candidates))
    return Query("q", UserHistory("u", taken), offered)


def said(prompt) -> str:
    return prompt.messages[-1].content


def test_the_nearest_items_share_the_rarest_words_and_the_later_of_equals_comes_first():
    nearest = Nearest(["red bolt", "blue bolt", "blue bolt", "paint"], ["blue bolt m4", "glue"])
    assert nearest.to("blue bolt m4", 2) == [2, 1]
    assert nearest.to("blue bolt m4", 9) == [2, 1, 0]
    assert nearest.to("glue", 3) == []


def test_a_word_that_all_texts_have_brings_none_near():
    assert Nearest(["title: bolt", "title: nut"], ["title: glue"]).to("title: glue", 3) == []


def test_they_stand_behind_their_candidate_and_the_shared_part_stays_as_it_was():
    plain = [said(prompt) for prompt in writer_of(0).judge(query_of())]
    found = [said(prompt) for prompt in writer_of(2).judge(query_of())]
    for before, after in zip(plain, found, strict=True):
        assert after.startswith(before)
    assert found[0].splitlines()[-4:] == [
        "Next product: title: Rivet nut gun",
        "Bought before, most like it:",
        "- title: Rivet gun, black",
        "- title: Steel rivets, 500 pieces",
    ]
    assert found[1].splitlines()[-1] == "- title: Safety glasses, clear"
    assert found[2].splitlines()[-1] == "Bought before, most like it: none"


def test_no_nearest_items_means_the_same_prompts_and_digest_as_ever():
    assert writer_of(0).digest == writer_of(0).digest != writer_of(1).digest != writer_of(2).digest
    assert "most like it" not in said(writer_of(0).judge(query_of())[0])


def test_they_count_to_the_budget():
    longest = max(writer_of(2).judge(query_of()), key=lambda prompt: len(said(prompt)))
    room = sum(len(message.content) for message in longest.messages) - 1
    tight = writer_of(2, room)
    for prompt in tight.judge(query_of()):
        assert sum(len(message.content) for message in prompt.messages) <= room
    assert tight.shortened == len(CANDIDATES)


def test_an_own_domain_without_the_words_has_them_by_default(tmp_path):
    source = Path(__file__).parents[2] / "src" / "trsr" / "prompts" / "domains" / "products.toml"
    text = "\n".join(
        line for line in source.read_text("utf-8").splitlines() if not line.startswith("nearest")
    )
    (tmp_path / "mine.toml").write_text(text, "utf-8")
    settings = PromptSettings(domain=os.fspath(tmp_path / "mine.toml"), nearest=1)
    prompts = PromptWriter(settings, lambda prompt: 10, 1000).judge(query_of())
    assert "Most like it so far:" in said(prompts[0])


TEXTS = st.text(alphabet="abc d電", max_size=12)


@given(st.lists(TEXTS, max_size=6), st.lists(TEXTS, min_size=1, max_size=4), st.integers(1, 4))
def test_they_are_different_items_of_the_history_whatever_the_order_of_candidates(
    history, candidates, most
):
    one, other = Nearest(history, candidates), Nearest(history, candidates[::-1])
    for text in candidates:
        found = one.to(text, most)
        assert len(found) <= most
        assert len(set(found)) == len(found)
        assert all(0 <= place < len(history) for place in found)
        assert found == other.to(text, most)


@pytest.mark.parametrize("layout", ["recent", "chain"])
def test_an_empty_history_has_none(layout):
    prompts = writer_of(2, layout=layout).judge(query_of(()))
    assert said(prompts[0]).endswith("most like it: none")
