"""Which items of a history are nearest to a candidate in words (after ReLLa: Lin et al., WWW 2024).

ReLLa tells the behaviours most like the candidate in place of the latest ones, by embeddings of a
language model. Here words decide, so that no other model is needed: the cosine of the texts' words
(see `stems`), weighted by how rare they are among the query's own texts.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence

from trsr.prompts.stems import stems


class Nearest:
    """Finds items of one history by their words.

    Args:
        history: The items' texts, oldest first.
        candidates: The candidates' texts: what all texts have tells none of them apart.
    """

    def __init__(self, history: Sequence[str], candidates: Iterable[str]) -> None:
        self._history = [_words(text) for text in history]
        texts = [*self._history, *map(_words, candidates)]
        found = Counter(word for words in texts for word in words)
        self._weight = {word: math.log(len(texts) / n) for word, n in found.items()}
        self._length = [self._norm(words) for words in self._history]

    def to(self, text: str, most: int) -> list[int]:
        """Places in the history of the items nearest to a candidate, the nearest first.

        Items that share no word with it but those that all texts have are left out; of equally near
        ones the later comes first.

        Args:
            text: The candidate's text, one of those given.
            most: How many at most.
        """
        words = _words(text)
        own = self._norm(words)
        near = []
        for place, (others, length) in enumerate(zip(self._history, self._length, strict=True)):
            shared = sum(self._weight[word] ** 2 for word in sorted(words & others))
            if shared > 0:
                near.append((-shared / (own * length), -place))
        return [-place for _, place in sorted(near)[:most]]

    def _norm(self, words: frozenset[str]) -> float:
        return math.sqrt(sum(self._weight[word] ** 2 for word in sorted(words)))


def _words(text: str) -> frozenset[str]:
    return frozenset(stems(text))
