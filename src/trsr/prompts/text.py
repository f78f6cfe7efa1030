"""An item's text: one clean line, bounded in words and characters whatever it holds."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from trsr.types import Item

WORD_CHARACTERS = 12
"""Characters that count as one word, which bounds text without spaces (CJK, one endless word)."""

_LOOK = 8
"""A field is read up to 8 times the characters its words may have, so a megabyte costs little."""

_COLUMN_WORDS = 6

# A word with a digit is a size, a date or a part's number, unless it is a name such as 3D or 4K.
_NUMBER = re.compile(r"(?!\W*\d[A-Z](?!\w)\D*$).*\d")

# Control characters, lone surrogates (they cannot be encoded) and the invisible marks that turn
# the direction of the text after them: a cut may lose the mark that ends their effect.
_REMOVED = re.compile(
    "[\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f\u202a-\u202e\u2066-\u2069\ufeff\ud800-\udfff]"
)


def fold(text: str) -> str:
    """The text on one line: control characters removed, each run of white space one space."""
    return " ".join(_REMOVED.sub("", text).split())


def length(text: str) -> int:
    """The length of a folded text in words, as `cut` counts them."""
    return max(text.count(" ") + 1, -(-len(text) // WORD_CHARACTERS)) if text else 0


def cut(text: str, words: int) -> str:
    """The first words of a folded text: at most `words`, and at most 12 characters for each."""
    head = text[: words * WORD_CHARACTERS].split(" ", words)[:words]
    return " ".join(head).rstrip()


def fold_cut(text: str, words: int, *, numbers: bool = True) -> str:
    """`cut(fold(text), words)`, at the same cost for a megabyte as for a paragraph.

    Args:
        text: Any text.
        words: Most words that are kept.
        numbers: Whether words with a digit are kept (`3D` and its like always are).
    """
    folded = fold(text[: 4096 + words * WORD_CHARACTERS * _LOOK])
    if not numbers:
        folded = " ".join(word for word in folded.split(" ") if not _NUMBER.match(word))
    return cut(folded, words)


@dataclass(frozen=True, slots=True)
class Line:
    """One item as a prompt shows it: (column, value) pairs, cut before they are joined.

    Attributes:
        pairs: Columns and their values, folded and within the settings' word limits.
        empty: What stands for an item without any text.
    """

    pairs: tuple[tuple[str, str], ...]
    empty: str

    @property
    def longest(self) -> int:
        """The words of the longest value."""
        return max((length(value) for _, value in self.pairs), default=0)

    @property
    def values(self) -> str:
        """The values without the columns' names."""
        return " ".join(value for _, value in self.pairs)

    def text(self, most: int | None = None) -> str:
        """`column: value; column: value`, with at most `most` words of each value."""
        cut_to = self.pairs if most is None else [(c, cut(value, most)) for c, value in self.pairs]
        return "; ".join(f"{column}: {value}" for column, value in cut_to) or self.empty


def item_line(
    item: Item,
    fields: Sequence[str],
    words: int,
    empty: str,
    *,
    numbers: bool = True,
) -> Line:
    """An item as a prompt shows it: its text, never its id.

    Args:
        item: The item.
        fields: The columns to show, in this order, as far as the item has them; empty: all.
        words: Most words of a value.
        empty: What stands for an item without any text.
        numbers: Whether to show words with digits.
    """
    known = dict(item.fields)
    pairs = [(name, known[name]) for name in fields if name in known] if fields else item.fields
    folded = (
        (
            fold_cut(name, _COLUMN_WORDS),
            fold_cut(value, words, numbers=numbers),
        )
        for name, value in pairs
    )
    return Line(tuple((name, value) for name, value in folded if value), empty)


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
