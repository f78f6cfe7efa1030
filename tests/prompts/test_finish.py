"""What becomes of a model's text: one line of whole sentences, once."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trsr.prompts import PromptSettings, PromptWriter
from trsr.prompts.text import finished
from trsr.types import Item

BEGUN = "The user likes"


@pytest.mark.parametrize(
    ("text", "summary"),
    [
        (" quiet films.", "The user likes quiet films."),
        ("quiet films.", "The user likes quiet films."),
        (", above all, tea.", "The user likes, above all, tea."),
        ("The user likes tea.", "The user likes tea."),
        ("the user likes tea.", "the user likes tea."),
        (" tea. They also lik", "The user likes tea."),
        (" tea and", "The user likes tea and"),
        (" tea\n\n- and\n- cake.", "The user likes tea - and - cake."),
        (" films by J. Ford, Mr. Tati, e.g. comedies! And", "The user likes films by J. Ford, "
         "Mr. Tati, e.g. comedies!"),
        (" 1.5 litre bottles", "The user likes 1.5 litre bottles"),
        (' "quiet" films." And', 'The user likes "quiet" films."'),
        (" 静かな映画。そして", "The user likes 静かな映画。"),
        (" tea, tea, tea, tea", "The user likes tea"),
        (" the rich girl, the rich girl, the rich girl, the", "The user likes the rich girl"),
        (" very, very good tea.", "The user likes very, very good tea."),
        ("", ""),
        (" \n\x00 ", ""),
    ],
)  # fmt: skip
def test_a_begun_answer_is_joined_and_cut_at_its_last_whole_sentence(
    text: str, summary: str
) -> None:
    assert finished(BEGUN, text) == summary


def test_an_answer_that_was_not_begun_stands_alone() -> None:
    assert finished("", " A reader of news. And") == "A reader of news."


def test_so_many_sentences_are_kept_as_the_style_says() -> None:
    text = " tea. They like cake. They like"
    assert finished(BEGUN, text, 1) == "The user likes tea."
    assert finished(BEGUN, text, 5) == "The user likes tea. They like cake."
    item = [Item("1", (("title", "Tea"),))]
    for style, kept in (("worked", "tea."), ("instruct", "tea. They like cake.")):
        writer = PromptWriter(PromptSettings(style=style), lambda p: 1, 1000)
        assert writer.finish(writer.write(item), text).endswith(kept)


@given(st.text(alphabet="ab .,!\n。", max_size=200), st.integers(0, 3))
def test_a_finished_text_is_finished(text: str, sentences: int) -> None:
    once = finished("", text, sentences)
    assert finished("", once, sentences) == once
    assert once == " ".join(once.split())


def test_a_summary_is_told_again_without_the_words_that_begin_the_answer() -> None:
    writer = PromptWriter(PromptSettings(domain="films", style="worked"), lambda p: 1, 1000)
    begun = writer.merge(["x"]).begun
    for prompt in (
        writer.merge([f"{begun} quiet films.", "Loud ones."]),
        writer.revise(f"{begun} quiet films.", [Item("1")]),
    ):
        asked = prompt.messages[-2].content
        assert "quiet films." in asked
        assert begun not in asked
