"""Keywords set a history apart from the catalog."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from trsr.prompts import PromptSettings, PromptWriter
from trsr.prompts.text import Keywords
from trsr.types import Item

CATALOG = [
    "The lighthouse keeper; drama",
    "The island war; drama, war",
    "The detective; crime, drama",
    "The clown; comedy",
    "The wedding; comedy",
    "The heist; crime",
]


def test_what_many_items_of_the_history_and_few_of_the_rest_have_stands_first() -> None:
    keywords = Keywords(CATALOG)
    history = ["The detective; crime, drama", "The heist; crime", "The clown; comedy, crime"]
    # "the" stands in all of the history, and in all of the catalog.
    assert keywords.of(history, 20) == ["crime"]
    assert keywords.of(CATALOG[:3], 20) == ["drama"]
    # A film alone is told by what few others have.
    assert keywords.of(["The heist; crime"], 20) == ["heist", "crime"]
    assert keywords.of([], 20) == keywords.of(["1999"], 20) == []


def test_a_word_is_written_as_it_mostly_stands() -> None:
    found = Keywords(CATALOG).of(["detectives at sea", "a detective", "one detective"], 1)
    assert found == ["detective"]


@given(st.lists(st.text(max_size=30), max_size=8), st.integers(1, 5))
def test_words_are_few_each_once_and_in_no_order_of_the_texts(texts: list[str], most: int) -> None:
    found = Keywords(CATALOG).of(texts, most)
    assert len(found) <= most
    assert len({one[:5] for one in found}) == len(found)
    assert Keywords(CATALOG[::-1]).of(texts[::-1], most) == found


def test_the_writer_counts_the_words_of_its_prompts() -> None:
    def item(name: str, genres: str, plot: str) -> Item:
        return Item(name, (("genres", genres), ("plot", plot), ("secret", "zebra")))

    catalog = [
        item("a", "drama", "one two three four war"),
        item("b", "drama", "six seven eight"),
        item("c", "comedy", "a clown"),
    ]
    settings = PromptSettings(domain="films", fields=["genres", "plot"], summary_item_words=3)
    writer = PromptWriter(settings, lambda prompt: 1, 1000, catalog=catalog)
    found = writer.keywords(catalog[:1], 20).split(", ")
    assert set(found) == {"drama", "one", "two", "three"}
    assert "war" not in found  # beyond the words of a field
    assert writer.keywords(catalog[:2], 5) == "drama"
