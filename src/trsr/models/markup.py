"""Escapes special tokens, so that chat markup inside a message's text stays text.

We cannot know the marks of each endpoint and template, so we find them by the shapes that today's
families of models use. A local tokenizer's own special tokens come on top.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Collection

_BAR = r"[|｜│∣]"
_OPEN, _CLOSE = "[<＜]", "[>＞]"  # SentencePiece may read the full-width form as the plain one

THINKING = r"(?:\w{1,16}[:_])?(?:think|thinking|thought|thoughts|reasoning|reflection|cot)"
"""The names of marks around a model's thinking, such as `<think>` and `<seed:think>`."""

SHAPES = (
    # <|im_end|>, <|"|>, <｜User｜>, [|user|]: nothing else is written so, blanks never stand within
    rf"{_OPEN}{_BAR}[^\s|｜│∣<>＜＞]{{1,64}}{_BAR}{_CLOSE}",
    rf"\[{_BAR}[^\s|｜│∣\[\]]{{1,64}}{_BAR}\]",
    # <|turn> and <turn|>
    rf"{_OPEN}{_BAR}/?[^\W\d]\w{{0,39}}{_CLOSE}",
    rf"{_OPEN}/?[^\W\d]\w{{0,39}}{_BAR}{_CLOSE}",
    # <start_of_turn>, <end_of_utterance>, <reserved_106>, <extra_id_1>, <BOS_TOKEN>, <_user>
    rf"{_OPEN}/?(?:start|end|begin|im)_\w{{1,40}}{_CLOSE}",
    rf"{_OPEN}(?:special|extra(?:_id)?|reserved(?:_special)?(?:_token)?|(?:tokens_)?unused)_?\d{{1,6}}{_CLOSE}",
    rf"{_OPEN}\[[^\W\d]\w{{0,39}}\]{_CLOSE}",
    rf"{_OPEN}\w{{1,20}}_token{_CLOSE}",
    rf"{_OPEN}_\w{{1,20}}{_CLOSE}",
    # <s>, <pad>, <eos>, <eot>, <sop>: the ends of sequences
    rf"{_OPEN}/?(?:s|bos|eos|pad|unk|mask|sep|cls|sop|eop|eo[adhmt]|im_patch|image){_CLOSE}",
    # <user>, <seed:bos>, <longcat_s>, <role>, and what stands around thinking and tools
    rf"{_OPEN}/?(?:seed|minimax|longcat|xai)[:_]\w{{1,40}}{_CLOSE}",
    rf"{_OPEN}/?(?:{THINKING}|role|user|assistant|system|human|bot|tools|tool_\w{{1,20}}|function_\w{{1,20}}|"
    rf"arg_key|arg_value|invoke){_CLOSE}",
    rf"{_OPEN}/?(?:function|parameter|tool_call)(?:[=:][^<>\s]{{0,64}})?{_CLOSE}",
    rf"◁/?{THINKING}▷",
    # <<SYS>>; [INST] and its like by name: [DVD] and [NEW] are words
    r"<</?sys>>",
    r"\[/?(?:inst|think|args|img|img_break|img_end|[gs]mask|bos|eo[stm](?:_id)?|call_id|system_prompt|prefix|"
    r"middle|suffix|model_settings|available_tools|tool_\w{1,20}|"
    r"extra_id_\d{1,6}|unused_token_\d{1,6}|(?:start|end)_(?:of|header)_\w{1,20})\]",
    r"\]~!?b[\[\]]|\[e~\[",
    # the labels of models that were taught by plain text
    r"\#\#\#\ ?(?:system|user|human|assistant|instruction|input|response)s?\ ?:",
)
"""The shapes of chat markup, whatever their case."""


def escape_special_tokens(text: str, specials: Collection[str] = ()) -> str:
    """Breaks up whatever has one of the `SHAPES`, and the markers in `specials`, in any case.

    A space goes in after the first character (`<|im_end|>` becomes `< |im_end|>`), so that people
    and models still see what stood there. A marker of one character becomes a space; one of white
    space alone stays. Lone surrogates, which no tokenizer takes, become `?`.
    """
    text = text.encode("utf-8", "replace").decode("utf-8")
    pattern = _pattern(frozenset(specials))
    # a broken marker may hold another one: go on until none is left
    while pattern.search(text):
        text = pattern.sub(_break, text)
    return text


def _break(found: re.Match[str]) -> str:
    marker = found.group()
    return f"{marker[0]} {marker[1:]}" if len(marker) > 1 else " "


@functools.lru_cache(maxsize=64)
def _pattern(specials: frozenset[str]) -> re.Pattern[str]:
    markers = sorted((s for s in specials if s.strip()), key=lambda s: (-len(s), s))
    return re.compile("|".join([*map(re.escape, markers), *SHAPES]), re.IGNORECASE)
