"""The words by which texts are compared: folded, cut to their beginnings, in any script."""

from __future__ import annotations

import re

STEM = 5
"""Letters by which words are compared: inflections of a word mostly share them."""
SHORTEST = 3
"""Letters of a word that counts: shorter ones are mostly articles, prepositions and units."""

# a sign of Chinese, Japanese or Korean is a word by itself: those texts set no blanks
_WORDS = re.compile(
    r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]|[^\W\d_\u3040-\u9fff\uac00-\ud7af]+"
)


def stems(text: str) -> list[str]:
    """A text's words, folded and cut to their first letters, in order; no numbers."""
    return [one[:STEM] for one in words(text)]


def words(text: str) -> list[str]:
    """The words that count, folded, whole and in order."""
    found = _WORDS.findall(text.casefold())
    return [one for one in found if len(one) >= SHORTEST or one >= "\u3040"]
