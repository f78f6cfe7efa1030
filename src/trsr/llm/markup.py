"""Keeps chat markup inside a message's text from being read as chat markup."""

from __future__ import annotations

import functools
import re
from collections.abc import Collection


def inert(text: str, specials: Collection[str]) -> str:
    """Breaks up everything in a text that a tokenizer or template would read as markup.

    A space goes in behind the first character of each occurrence, whatever its case
    (`<|im_end|>` becomes `< |im_end|>`): people and models still see what stood there. A marker of
    one character becomes a space. Lone surrogates, which no tokenizer takes, become `?`.

    Args:
        text: What a message says.
        specials: The markers; those of white space alone are left in peace.

    Returns:
        A text without any of the markers; unchanged where there was none.
    """
    text = text.encode("utf-8", "replace").decode("utf-8")
    pattern = _pattern(frozenset(specials))
    # a broken marker may hold another one: go on until none is left
    while pattern is not None and pattern.search(text):
        text = pattern.sub(_break, text)
    return text


def _break(found: re.Match[str]) -> str:
    marker = found.group()
    return f"{marker[0]} {marker[1:]}" if len(marker) > 1 else " "


@functools.lru_cache(maxsize=64)
def _pattern(specials: frozenset[str]) -> re.Pattern[str] | None:
    markers = sorted((s for s in specials if s.strip()), key=lambda s: (-len(s), s))
    if not markers:
        return None
    return re.compile("|".join(map(re.escape, markers)), re.IGNORECASE)
