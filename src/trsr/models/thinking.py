"""What a model says after its thinking, and what it leaves unsaid."""

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
"""Whatever tells thinking from answer: kept where other special tokens are dropped."""

# what stands around an answer that follows a thought
_AROUND = re.compile(
    r"</?(?:answer|response)>|<\|(?:(?:begin|end)_of_solution|(?:start|end)_response|return|end)\|>",
    re.IGNORECASE,
)


def thinks(prompt: str) -> str:
    """The mark with which a laid-out prompt opens the thinking itself; empty where it does not."""
    found = list(OPEN.finditer(prompt, max(len(prompt) - 200, 0)))[-1:]
    return found[0].group() if found and not prompt[found[0].end() :].strip() else ""


def after_thinking(text: str) -> tuple[str, bool]:
    """What a model said after it had thought.

    Args:
        text: All of it. Where the prompt itself opened the thinking, the closing mark is enough.

    Returns:
        The rest, unchanged where there is no mark of thinking; and whether the text ends within
        the thinking, so that there is no rest.
    """
    closes = list(CLOSE.finditer(text))
    rest = text[closes[-1].end() :] if closes else text
    opened = OPEN.search(rest)
    if opened:  # what was said before it thought again still counts
        rest = rest[: opened.start()]
    if not closes and not opened:
        return text, False
    rest = _AROUND.sub("", rest).strip()
    return rest, bool(opened and not rest)


class Unsaid:
    """Answers that hold no text, counted by reason."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()

    def text(self, text: str, max_tokens: int) -> str:
        """A local model's text without its thinking; empty, and counted, where that was cut."""
        rest, cut = after_thinking(text)
        if cut:
            self.still_thinking(max_tokens)
        return rest

    def still_thinking(self, max_tokens: int, finish: str = "") -> None:
        """Counts an answer that ends within the thinking."""
        why = f" (finish_reason {finish})" if finish else ""
        self.counts[f"still thinking after {max_tokens} tokens{why}"] += 1

    def tell(self, turn_off: str) -> None:
        """Says in the log what was counted, and forgets it.

        Args:
            turn_off: How to turn thinking off, with the setting's name.
        """
        said, self.counts = self.counts, Counter()
        for reason, number in said.items():
            advice = (
                f": raise summarize.sampling.max_tokens, or {turn_off}"
                if reason.startswith("still thinking")
                else ""
            )
            _log.warning("%d answers hold no text, %s%s", number, reason, advice)
