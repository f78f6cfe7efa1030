"""Texts are cut into tokens piece by piece, and the pieces' tokens are the whole text's."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny import CHATML, TEXTS

from trsr.models.chat_format import ChatFormat

UNKNOWN = "<unk>"
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", UNKNOWN]
GREEDY = "<sep>"
"""A special token that takes in the space before it."""
KINDS = {
    "bytes": "byte-level BPE, as GPT-2 and SmolLM2 have",
    "first": "Metaspace that puts a space before the text's first word",
    "always": "Metaspace that puts one before every piece",
    "legacy": "a normalizer that puts one before every piece, as Llama 2 has",
}


def tokenizer_of(kind: str) -> Any:
    """A small tokenizer of this kind, trained here."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, trainers
    from tokenizers import pre_tokenizers as pre
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE(unk_token=UNKNOWN))
    if kind == "bytes":
        tokenizer.pre_tokenizer = pre.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
    elif kind == "legacy":
        tokenizer.normalizer = normalizers.Sequence(
            [normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")]
        )
    else:
        tokenizer.pre_tokenizer = pre.Metaspace(prepend_scheme=kind)
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=SPECIAL, initial_alphabet=pre.ByteLevel.alphabet()
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    tokenizer.add_special_tokens([AddedToken(GREEDY, lstrip=True, rstrip=True, special=True)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, chat_template=CHATML, unk_token=UNKNOWN, eos_token=SPECIAL[2]
    )


@pytest.fixture(scope="module", params=KINDS)
def layout(request: pytest.FixtureRequest) -> ChatFormat:
    return ChatFormat(tokenizer_of(request.param), request.param)


WORDS = "user| likes|\n|  | |quiet films.|\u00e9|\u732b|x|- |-|12|,|.\n|_|\n\n|\r\n|'s|/"
words = st.sampled_from([*WORDS.split("|"), "<|im", "|>"])
text = st.lists(st.one_of(words, st.sampled_from([*SPECIAL, GREEDY])), max_size=12).map("".join)


@given(texts=st.lists(text, max_size=6))
def test_pieces_make_the_whole(layout: ChatFormat, texts: list[str]) -> None:
    whole = [layout.tokenizer.encode(one, add_special_tokens=False) for one in texts]
    assert [list(tokens) for tokens in layout._tokens(texts)] == whole


def test_what_prompts_share_is_encoded_once(
    layout: ChatFormat, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    plain = layout.tokenizer

    def watched(texts: list[str], **more: Any) -> Any:
        asked.extend(texts)
        return plain(texts, **more)

    monkeypatch.setattr(layout, "tokenizer", watched)
    turns = ["<|im_start|>system\nAnswer.<|im_end|>\n", "<|im_start|>assistant\n"]
    layout._tokens([f"{turns[0]}<|im_start|>user\n{n}{turns[1]}Yes" for n in range(20)])
    assert len(asked) == len(set(asked)) < 30
