"""Makes a summary of what a model wrote: one line, whole sentences, no loop."""

from __future__ import annotations

import re

from trsr.prompts.text import fold

# A sentence's end: a mark with a space or nothing after it, not the dot of an initial or a title.
_END = re.compile(
    r"(?<!\b\w)(?<!\bMr)(?<!\bMrs)(?<!\bDr)(?<!\bvs)[.!?…][\"'”’)\]]*(?=\s|$)|[。！？]"
)
_JOINED = re.compile(r"[\s,.;:!?'’)\]]")
_LONGEST_LOOP = 12  # words
_TURNS = 3  # said so often in a row, words are a loop and not emphasis


def finished(begun: str, text: str, sentences: int = 0) -> str:
    """Joins a begun answer and the text that follows it.

    Args:
        begun: The answer as it was begun; empty where it was not.
        text: What the model wrote after it.
        sentences: How many of its sentences to keep; 0: all.

    Returns:
        The summary on one line, cut after its last whole sentence where there is one, and where
        the model began to repeat itself; empty if the model wrote nothing.
    """
    body, begun = fold(text), fold(begun)
    if not body:
        return ""
    # A server that cannot continue a begun answer may begin it again itself.
    if body.casefold().startswith(begun.casefold()):
        begun = ""
    elif begun and not _JOINED.match(body):
        begun += " "
    whole = _without_loop(begun + body)
    ends = [match.end() for match in _END.finditer(whole)]
    if not ends:
        return whole
    return whole[: ends[min(sentences or len(ends), len(ends)) - 1]]


def ends_whole(text: str) -> bool:
    """Whether a finished text ends with a whole sentence."""
    ends = [match.end() for match in _END.finditer(text)]
    return bool(ends) and ends[-1] == len(text)


def _without_loop(text: str) -> str:
    """The text up to where the same words come three times in a row, saying them once."""
    words = text.split(" ")
    plain = [word.casefold().strip(",;.") for word in words]
    for start in range(len(words)):
        for size in range(1, _LONGEST_LOOP + 1):
            if start + size * _TURNS > len(words):
                break
            turn = plain[start : start + size]
            if plain[start : start + size * _TURNS] == turn * _TURNS:
                return " ".join(words[: start + size]).rstrip(",;")
    return text
