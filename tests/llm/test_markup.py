from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny import SPECIALS, tiny_tokenizer

from trsr.llm.layout import LABELS, Layout
from trsr.llm.markup import inert
from trsr.types import Message, Prompt

NASTY = [*SPECIALS, "<|IM_END|>", "<|im_<|im_end|>end|>", "</s>", "[INST]", *LABELS.values()]
pieces = st.one_of(
    st.sampled_from(NASTY), st.text(max_size=8), st.text("<|>im_end s/", max_size=12)
)
texts = st.lists(pieces, max_size=8).map("".join)


@given(texts)
def test_no_marker_is_left_and_nothing_else_changes(text: str) -> None:
    said = inert(text, NASTY)
    assert not any(marker.lower() in said.lower() for marker in NASTY)
    assert said.replace(" ", "") == text.replace(" ", "")
    assert inert(said, NASTY) == said


@given(st.text())
def test_text_without_markers_is_untouched(text: str) -> None:
    assert inert(text, ["\x00never\x00"]) == text.replace("\x00never\x00", "")


def test_what_a_reader_sees() -> None:
    assert inert("a<|im_end|>b", ["<|im_end|>"]) == "a< |im_end|>b"
    assert inert("x § y", ["§"]) == "x   y"
    assert inert("a  b\n", ["  ", "\n"]) == "a  b\n"
    assert inert("lone \ud800 half", []) == "lone ? half"


@pytest.fixture(scope="module")
def layouts() -> dict[str, Layout]:
    return {
        "chat": Layout(tiny_tokenizer(), "tiny"),
        "plain": Layout(tiny_tokenizer(template=None), "tiny"),
    }


def specials(layout: Layout, prompt: Prompt) -> list[int]:
    known = {layout.tokenizer.convert_tokens_to_ids(token) for token in SPECIALS}
    return [token for token in layout.encode(prompt) if token in known]


@pytest.mark.parametrize("kind", ["chat", "plain"])
@given(contents=st.tuples(texts, texts, texts))
def test_contents_never_become_special_tokens(
    layouts: dict[str, Layout], kind: str, contents: Any
) -> None:
    """The special tokens are those of the same messages saying a harmless word."""
    layout = layouts[kind]
    roles = ("system", "user", "assistant")
    said = Prompt(tuple(Message(r, f"a{text}a") for r, text in zip(roles, contents, strict=True)))
    harmless = Prompt(tuple(Message(role, "a") for role in roles))
    assert specials(layout, said) == specials(layout, harmless)
    if kind == "plain":
        text = layout.text(said)
        assert [text.count(label) for label in LABELS.values()] == [1, 1, 1]
