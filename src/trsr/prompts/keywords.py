"""The words that tell some items from the rest of the catalog, without a language model."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence

from trsr.prompts.stems import STEM, stems, words


class Keywords:
    """Finds what stands out in texts against those of a catalog.

    A word's weight is k log((k/n) / (d/N)), where k of n texts and d of the catalog's N have it:
    its part in the divergence of the two, and the main part of Dunning's log-likelihood ratio
    ("Accurate methods for the statistics of surprise and coincidence", 1993). What stands as often
    everywhere, such as articles, weighs nothing. Words are compared by their beginnings (see
    `stems`).

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
        """The words that stand out, the strongest first; of equally strong ones by the alphabet.

        Words of a single text are told only where no word stands in two.

        Args:
            texts: Those of the items.
            most: How many words at most.
        """
        found = Counter(stem for text in texts for stem in set(stems(text)))
        whole = Counter(word for text in texts for word in words(text))
        written: dict[str, str] = {}
        for word in sorted(whole, key=lambda word: (-whole[word], word)):
            written.setdefault(word[:STEM], word)
        weight = {stem: self._weight(stem, k, len(texts)) for stem, k in found.items()}
        shared = [stem for stem in found if found[stem] > 1] or list(found)
        ordered = sorted(shared, key=lambda stem: (-weight[stem], stem))
        return [written[stem] for stem in ordered[:most] if weight[stem] > 0]

    def _weight(self, stem: str, found: int, texts: int) -> float:
        expected = (self._having[stem] + 1) / (self._texts + 1)  # 1: of words that no item has
        return found * math.log(found / texts / expected)
