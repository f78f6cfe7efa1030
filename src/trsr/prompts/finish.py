"""Cleans generated text to a summary: one line, complete sentences, no loop."""

from __future__ import annotations

import re

from trsr.prompts.text import fold

# A sentence's end: a mark with a space or nothing after it, not the dot of an initial or a title.
_END = re.compile(
    r"(?<!\b\w)(?<!\bMr)(?<!\bMrs)(?<!\bDr)(?<!\bvs)[.!?…][\"'”’)\]]*(?=\s|$)|[。！？]"
)
_JOINED = re.compile(r"[\s,.;:!?'’)\]]")
_LONGEST_LOOP = 12  # words
_REPEATS = 3  # more than emphasis: a loop


def finished(begun: str, text: str, sentences: int = 0) -> str:
    """Joins a begun answer and the text that the model wrote after it to a summary on one line.

    It ends after its last complete sentence, where there is one, after `sentences` of them (0:
    all), and where the model began to repeat itself. It is empty if the model wrote nothing.
    """
    body, begun = fold(text), fold(begun)
    if not body:
        return ""
    # A server that cannot continue a begun answer may begin it again itself.
    if body.casefold().startswith(begun.casefold()):
        begun = ""
    elif begun and not _JOINED.match(body):
        begun += " "
    summary = _without_loop(begun + body)
    ends = [match.end() for match in _END.finditer(summary)]
    if not ends:
        return summary
    return summary[: ends[min(sentences or len(ends), len(ends)) - 1]]


def ends_complete(text: str) -> bool:
    """Whether a summary ends with a complete sentence."""
    ends = [match.end() for match in _END.finditer(text)]
    return bool(ends) and ends[-1] == len(text)


def _without_loop(text: str) -> str:
    """The text up to where the same words come three times in a row, with them once."""
    words = text.split(" ")
    plain = [word.casefold().strip(",;.") for word in words]
    for start in range(len(words)):
        for size in range(1, _LONGEST_LOOP + 1):
            if start + size * _REPEATS > len(words):
                break
            run = plain[start : start + size]
            if plain[start : start + size * _REPEATS] == run * _REPEATS:
                return " ".join(words[: start + size]).rstrip(",;")
    return text
