"""Keywords: the words by which some items stand out from the catalog."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence

STEM = 5
"""Letters of a stem: inflections of a word mostly share them."""
SHORTEST = 3
"""Letters of a word that counts: shorter ones are mostly articles, prepositions and units."""

# a character of Chinese, Japanese or Korean is a word: those texts have no spaces
_WORDS = re.compile(
    r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]|[^\W\d_\u3040-\u9fff\uac00-\ud7af]+"
)


class Keywords:
    """Finds the words that some texts have more often than the catalog.

    A word's weight is k log((k/n) / (d/N)), where k of n texts and d of the catalog's N have it:
    its part in the divergence of the two, and the main part of Dunning's log-likelihood ratio
    ("Accurate methods for the statistics of surprise and coincidence", 1993). Words that are as
    frequent everywhere, such as articles, weigh nothing. Words are compared by their stems.

    Args:
        catalog: The texts of all items.
    """

    def __init__(self, catalog: Iterable[str]) -> None:
        self._texts = 0
        self._having: Counter[str] = Counter()
        for text in catalog:
            self._texts += 1
            self._having.update(set(stems(text)))

    def of(self, texts: Sequence[str], most: int) -> list[str]:
        """At most `most` keywords of the texts, the strongest first, ties in alphabetical order.

        Words of a single text come in only where no word is in two.
        """
        found = Counter(stem for text in texts for stem in set(stems(text)))
        counts = Counter(word for text in texts for word in words(text))
        spelled: dict[str, str] = {}
        for word in sorted(counts, key=lambda word: (-counts[word], word)):
            spelled.setdefault(word[:STEM], word)
        weight = {stem: self._weight(stem, k, len(texts)) for stem, k in found.items()}
        shared = [stem for stem in found if found[stem] > 1] or list(found)
        ordered = sorted(shared, key=lambda stem: (-weight[stem], stem))
        return [spelled[stem] for stem in ordered[:most] if weight[stem] > 0]

    def _weight(self, stem: str, found: int, texts: int) -> float:
        expected = (self._having[stem] + 1) / (
            self._texts + 1
        )  # no zero for words that no item has
        return found * math.log(found / texts / expected)


def stems(text: str) -> list[str]:
    """The stems of a text's words, in order."""
    return [one[:STEM] for one in words(text)]


def words(text: str) -> list[str]:
    """A text's words, folded and in order, without numbers and short words."""
    found = _WORDS.findall(text.casefold())
    return [one for one in found if len(one) >= SHORTEST or one >= "\u3040"]
