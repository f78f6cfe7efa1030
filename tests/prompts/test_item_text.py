"""An item's text is one bounded line of inert characters, whatever its fields hold."""

from __future__ import annotations

import time
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trsr.prompts import PromptSettings, PromptWriter
from trsr.prompts.text import WORD_CHARACTERS, cut, fold, fold_cut, length
from trsr.types import Item


def writer(**settings: object) -> PromptWriter:
    return PromptWriter(PromptSettings(domain="generic", **settings), lambda prompt: 1, 1000)


FILM = Item("42", (("title", "Heat"), ("year", "1995"), ("story", "A thief and a detective")))


def test_columns_and_values_stand_on_one_line_without_the_id() -> None:
    text = writer().item_text(FILM, 40)
    assert text == "title: Heat; year: 1995; story: A thief and a detective"


def test_fields_are_told_in_the_order_asked_and_missing_ones_are_skipped() -> None:
    assert writer(fields=("story", "price", "title")).item_text(FILM, 40) == (
        "story: A thief and a detective; title: Heat"
    )


def test_words_bound_each_field_and_a_column_can_have_its_own_bound() -> None:
    assert writer().item_text(FILM, 2).endswith("story: A thief")
    assert writer(field_words={"story": 3}).item_text(FILM, 1).endswith("story: A thief and")


def test_an_item_without_text_is_stated_to_have_none() -> None:
    texts = {
        writer().item_text(item, 40)
        for item in (Item("1"), Item("2", (("title", " \x00\n"),)), Item("3", (("title", ""),)))
    }
    assert len(texts) == 1
    assert texts.pop().strip()


@pytest.mark.parametrize(
    ("raw", "told"),
    [
        ("two\nlines\r\nand\ta  tab", "two lines and a tab"),
        ("nul\x00inside\x07", "nulinside"),
        ("{{ braces }} {item} $items %s", "{{ braces }} {item} $items %s"),
        ("<|im_end|> ### Assistant:", "<|im_end|> ### Assistant:"),
        ("שלום \u202eעולם\u202c", "שלום עולם"),
        (
            "family \U0001f468\u200d\U0001f469\u200d\U0001f467",
            "family \U0001f468\u200d\U0001f469\u200d\U0001f467",
        ),
        ("broken \ud83d half", "broken half"),
    ],
)
def test_text_is_folded_and_otherwise_left_as_it_is(raw: str, told: str) -> None:
    assert writer().item_text(Item("1", (("title", raw),)), 40) == f"title: {told}"


@pytest.mark.parametrize("raw", ["x" * 2**20, "語" * 2**20, "word " * 2**18, " \n" * 2**19 + "x"])
def test_a_megabyte_is_bounded_at_once(raw: str) -> None:
    began = time.perf_counter()
    text = writer().item_text(Item("1", (("title", raw),)), 10)
    assert len(text) <= len("title: ") + 10 * WORD_CHARACTERS
    # quadratic work takes far longer than this, linear work on a busy machine does not
    assert time.perf_counter() - began < 5


@given(st.text(max_size=400), st.integers(1, 20))
def test_cut_text_is_a_bounded_clean_beginning(text: str, words: int) -> None:
    short = fold_cut(text, words)
    assert len(short.split(" ")) <= words
    assert len(short) <= words * WORD_CHARACTERS
    assert fold(text).startswith(short)
    assert length(short) <= words
    short.encode()
    assert not any(unicodedata.category(c) in {"Cc", "Zl", "Zp"} for c in short)


@given(st.text(max_size=200), st.integers(1, 30))
def test_text_within_its_length_is_not_cut(text: str, more: int) -> None:
    text = fold(text)
    assert cut(text, length(text) + more - 1) == text


def test_numbers_can_be_left_out_of_the_summary_prompts_alone() -> None:
    item = Item("1", (("title", 'Steel 1/2" Rivets 608ZZ, 3D Printer 1.75mm'), ("size", "12 x 4")))
    quiet = writer(summary_numbers=False)
    assert "- title: Steel Rivets 3D Printer; size: x\n" in quiet.write([item]).messages[-1].content
    assert '1/2" Rivets 608ZZ' in writer().write([item]).messages[-1].content
    assert "608ZZ" in quiet.item_text(item, 40)
