"""An item's text: one clean line, bounded in words and characters whatever it holds."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
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
    own_words: Mapping[str, int],
    empty: str,
    *,
    numbers: bool = True,
) -> Line:
    """An item as a prompt shows it: its text, never its id.

    Args:
        item: The item.
        fields: The columns to show, in this order, as far as the item has them; empty: all.
        words: Most words of a value.
        own_words: Columns with a limit of their own instead.
        empty: What stands for an item without any text.
        numbers: Whether to show words with digits.
    """
    known = dict(item.fields)
    pairs = [(name, known[name]) for name in fields if name in known] if fields else item.fields
    folded = (
        (
            fold_cut(name, _COLUMN_WORDS),
            fold_cut(value, own_words.get(name, words), numbers=numbers),
        )
        for name, value in pairs
    )
    return Line(tuple((name, value) for name, value in folded if value), empty)
