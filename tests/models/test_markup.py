from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny import SPECIALS, tiny_tokenizer

from trsr.models.chat_format import LABELS, ChatFormat
from trsr.models.markup import escape_special_tokens
from trsr.prompts import PromptSettings, PromptWriter, domains
from trsr.types import Interaction, Item, Message, Prompt, Query, Summary, UserHistory

NASTY = [*SPECIALS, "<|IM_END|>", "<|im_<|im_end|>end|>", "</s>", "[INST]", *LABELS.values()]
pieces = st.one_of(
    st.sampled_from(NASTY), st.text(max_size=8), st.text("<|>im_end s/", max_size=12)
)
texts = st.lists(pieces, max_size=8).map("".join)


@given(texts)
def test_no_marker_is_left_and_nothing_else_changes(text: str) -> None:
    said = escape_special_tokens(text, NASTY)
    assert not any(marker.lower() in said.lower() for marker in NASTY)
    assert said.replace(" ", "") == text.replace(" ", "")
    assert escape_special_tokens(said, NASTY) == said


MARKS = {
    "ChatML, Qwen": "<|im_start|> <|im_end|> <|endoftext|> <tool_call> </tool_response>",
    "Llama 2, Mistral": "<s> </s> [INST] [/INST] <<SYS>> <</SYS>> <unk>",
    "Llama 3": "<|begin_of_text|> <|start_header_id|> <|end_header_id|> <|eot_id|> <|eom_id|>",
    "Llama 4": "<|header_start|> <|header_end|> <|eot|> <|python_start|> <|finetune_right_pad|>",
    "Mistral, newer": "[SYSTEM_PROMPT] [/SYSTEM_PROMPT] [TOOL_CALLS] [AVAILABLE_TOOLS] [THINK] "
    "[/THINK] [TOOL_RESULTS] [ARGS] [MODEL_SETTINGS] [IMG]",
    "Gemma": "<bos> <eos> <start_of_turn> <end_of_turn> <start_of_image> <unused12> <pad>",
    "Gemma 4": "<|turn> <turn|> <|channel> <channel|> <|think|> <|tool_call> <tool_call|>",
    "Phi": "<|system|> <|user|> <|assistant|> <|end|> <|im_sep|>",
    "DeepSeek, Hunyuan": "<｜User｜> <｜Assistant｜> <｜begin▁of▁sentence｜> <｜end▁of▁sentence｜> "
    "<｜hy_User｜> <｜tool▁calls▁begin｜>",
    "gpt-oss": "<|start|> <|channel|> <|message|> <|return|> <|call|> <|constrain|>",
    "Kimi": "<|im_user|> <|im_assistant|> <|im_middle|> [BOS] [EOT] [start_header_id] ◁think▷",
    "GLM": "<|observation|> <sop> <eop> [gMASK] [sMASK] <|begin_of_image|>",
    "Granite": "<|start_of_role|> <|end_of_role|> <|end_of_text|> <|tool_call|>",
    "EXAONE": "[|system|] [|user|] [|assistant|] [|endofturn|]",
    "Command, Aya": "<BOS_TOKEN> <EOS_TOKEN> <|START_OF_TURN_TOKEN|> <|CHATBOT_TOKEN|> "
    "<|START_THINKING|>",
    "Baichuan, TeleChat": "<reserved_106> <reserved_107> <_user> <_bot> <_end>",
    "Nemotron, Apertus": "<extra_id_0> <extra_id_1> <SPECIAL_12> <|assistant_start|>",
    "InternLM": "<eoh> <eoa> <eot> <eod>",
    "Jamba, ERNIE, Step": "<|bom|> <|eom|> <|begin_of_sentence|> <|BOT|>",
    "Seed, LongCat, Ling": "<seed:bos> <seed:eos> <seed:think> <longcat_s> <role> </role>",
    "MiniMax": "]~!b[ ]~b] [e~[ <minimax:tool_call>",
    "SmolVLM": "<end_of_utterance> <image>",
    "Alpaca and its like": "###Instruction: ###Response: ###Human: ###Assistant:",
    "RedPajama, Qwen Coder, FunctionGemma": "<human> <bot> <parameter=x> </parameter> "
    "<start_function_call> <im_start> [UNUSED_TOKEN_145] <[begin_of_sentence]> <arg_key>",
    "thinking": "<think> </think> <thinking> </reasoning> </seed:think>",
}
"""Marks of turns and their like, by family."""

ORDINARY = [
    "Soap <3 <33 :-> >:-[ <(^_^)> \\o/ |-o-| <-- --> <=> [^_^] [|] <|> ¯\\_(ツ)_/¯",
    "a<b and b>c, x < y > z; if (a<b || c>d) f <| g |> h; 3 << 2 >> 1; a[i] | b[j]",
    "std::vector<uint8_t> v; Map<String, List<int>> m; Array<string|number>; cat <FILE_NAME>",
    "<b>Bold</b> <i>it</i> <br/> <p>one</p> <div class='x'>&lt;tag&gt;</div> <h1>Title</h1>",
    "[DVD] [NEW] [2-PACK] [Official Video] [SOLD OUT] [UK IMPORT] [1080p] [a_b]",
    "$9.99 (save 20 %) | size: 12|14|16 | user: ann | 5' 10\" | ## 2 pack | #1 | ### About: it",
    "The system: user friendly. Assistant: included! Thinking, Fast and Slow; <Untitled> <unknown>",
    "日本語のテキスト｜全角バー「引用」＜注＞ 《書名》 e-mail <ann@example.org> http://x.org/?a=<q>",
    "∣x∣ < ε, |a|>|b|, [0, 1) ∪ (2, 3], {x | x > 0}, <0.05, p<.001, 10<20>5",
]


@pytest.mark.parametrize("family", MARKS)
def test_marks_of_every_family_are_broken_and_stay_readable(family: str) -> None:
    for mark in MARKS[family].split():
        for said in (mark, mark.upper(), mark.lower(), f"{mark}{mark}", f"a{mark}b"):
            broken = escape_special_tokens(said)
            assert mark.casefold() not in broken.casefold(), mark
            assert broken.replace(" ", "") == said
    hidden = "<|im_<|im_end|>end|> <s<s>> [IN[INST]ST] <th<think>ink>"
    assert escape_special_tokens(escape_special_tokens(hidden)) == escape_special_tokens(hidden)


@pytest.mark.parametrize("text", ORDINARY)
def test_ordinary_text_is_left_in_peace(text: str) -> None:
    assert escape_special_tokens(text) == text


@pytest.mark.parametrize("domain", domains())
@pytest.mark.parametrize("style", ["instruct", "worked", "profile"])
def test_no_prompt_of_ours_looks_like_markup(domain: str, style: str) -> None:
    writer = PromptWriter(PromptSettings(domain=domain, style=style), lambda prompt: 10, 1000)
    item = Item("1", (("title", "Heat"),))
    query = Query("q", UserHistory("u", (Interaction(item, 0.0),)), (item,), Summary("u", "A.", 1))
    prompts = [writer.write([item]), writer.revise("A.", [item]), writer.merge(["A.", "B."])]
    for prompt in (*prompts, *writer.rank(query)):
        for message in prompt.messages:
            assert escape_special_tokens(message.content) == message.content


def test_what_a_reader_sees() -> None:
    assert escape_special_tokens("a<|im_end|>b", ["<|im_end|>"]) == "a< |im_end|>b"
    assert escape_special_tokens("x § y", ["§"]) == "x   y"
    assert escape_special_tokens("a  b\n", ["  ", "\n"]) == "a  b\n"
    assert escape_special_tokens("lone \ud800 half", []) == "lone ? half"


@pytest.fixture(scope="module")
def layouts() -> dict[str, ChatFormat]:
    return {
        "chat": ChatFormat(tiny_tokenizer(), "tiny"),
        "plain": ChatFormat(tiny_tokenizer(template=None), "tiny"),
    }


def specials(layout: ChatFormat, prompt: Prompt) -> list[int]:
    known = {layout.tokenizer.convert_tokens_to_ids(token) for token in SPECIALS}
    return [token for token in layout.encode(prompt) if token in known]


@pytest.mark.parametrize("kind", ["chat", "plain"])
@given(contents=st.tuples(texts, texts, texts))
def test_contents_never_become_special_tokens(
    layouts: dict[str, ChatFormat], kind: str, contents: Any
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
