"""Separates a model's answer from its thinking, and counts answers without a text."""

from __future__ import annotations

import logging
import re
from collections import Counter

from trsr.models.markup import THINKING

_log = logging.getLogger(__name__)

_NAMED = rf"(?:{THINKING}|begin_of_thought|start_thinking|inner_prefix)"
_BAR = "[|｜]"

OPEN = re.compile(
    rf"<{THINKING}>|\[think\]|◁{THINKING}▷|<{_BAR}{_NAMED}{_BAR}>"
    # gpt-oss and Gemma 4 think in a channel
    r"|<\|channel\|>(?:analysis|commentary)\b[^<]{0,80}<\|message\|>|<\|channel>thought\b",
    re.IGNORECASE,
)
CLOSE = re.compile(
    rf"</{THINKING}>|\[/think\]|◁/{THINKING}▷"
    rf"|<{_BAR}(?:/{THINKING}|end_of_thought|end_thinking|inner_suffix){_BAR}>"
    r"|<\|channel\|>final\b[^<]{0,80}<\|message\|>|<channel\|>",
    re.IGNORECASE,
)
MARK = re.compile(
    rf"{OPEN.pattern}|{CLOSE.pattern}|<\|(?:channel|message|start)\|?>|<channel\|>", re.IGNORECASE
)
"""The marks that separate thinking from answer, which decoding keeps."""

# marks around an answer that follows thinking
_ANSWER_MARKS = re.compile(
    r"</?(?:answer|response)>|<\|(?:(?:begin|end)_of_solution|(?:start|end)_response|return|end)\|>",
    re.IGNORECASE,
)


def thinks(prompt: str) -> str:
    """The mark with which a formatted prompt opens the thinking itself; empty without one."""
    found = list(OPEN.finditer(prompt, max(len(prompt) - 200, 0)))[-1:]
    return found[0].group() if found and not prompt[found[0].end() :].strip() else ""


def after_thinking(text: str) -> tuple[str, bool]:
    """The answer after the thinking, and whether the text ends within the thinking.

    A text without marks of thinking stays as it is. Where the prompt itself opened the thinking,
    the closing mark is enough.
    """
    closes = list(CLOSE.finditer(text))
    rest = text[closes[-1].end() :] if closes else text
    opened = OPEN.search(rest)
    if opened:  # text before it thinks again still counts
        rest = rest[: opened.start()]
    if not closes and not opened:
        return text, False
    rest = _ANSWER_MARKS.sub("", rest).strip()
    return rest, bool(opened and not rest)


class MissingTexts:
    """Counts answers without a text by their reason."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()

    def text(self, text: str, max_tokens: int) -> str:
        """A local model's text without its thinking; empty and counted if that was cut."""
        rest, cut = after_thinking(text)
        if cut:
            self.still_thinking(max_tokens)
        return rest

    def still_thinking(self, max_tokens: int, finish: str = "") -> None:
        """Counts an answer that ends within the thinking."""
        why = f" (finish_reason {finish})" if finish else ""
        self.counts[f"still thinking after {max_tokens} tokens{why}"] += 1

    def log(self, turn_off: str) -> None:
        """Logs the counts, with the advice how to turn thinking off, and resets them."""
        counts, self.counts = self.counts, Counter()
        for reason, number in counts.items():
            advice = (
                f": raise summarize.sampling.max_tokens, or {turn_off}"
                if reason.startswith("still thinking")
                else ""
            )
            _log.warning("%d answers hold no text, %s%s", number, reason, advice)
