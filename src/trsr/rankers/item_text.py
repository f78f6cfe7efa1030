"""The text of an item as the text rankers read it, and its embedding."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from trsr.models.encoders import Encoder, SentenceEncoder, embed
from trsr.progress import Progress
from trsr.prompts.text import fold_cut
from trsr.rankers.batch import Floats, Ints
from trsr.rankers.settings import RankSettings
from trsr.types import Item

DIGITS = 12
"""Decimals of a cosine: vectors are of float32, and beyond this a sum's order shows."""


def item_text(item: Item, settings: RankSettings) -> str:
    """The values of the columns that `rank.text_fields` names, on one line; empty where none is.

    White space is folded, so texts that differ in nothing else are the same text.
    """
    known = dict(item.fields)
    fields = settings.text_fields or tuple(known)
    values = (fold_cut(known[name], settings.text_words) for name in fields if name in known)
    return ". ".join(value for value in values if value)


class TextEmbedder:
    """Embeds texts by `rank.text_model`; each is computed once and kept.

    The model is opened when a text is not kept yet. Threads take turns.

    Args:
        open_encoder: Opens the model.
        progress: Shows what must be computed.
    """

    def __init__(
        self, open_encoder: Callable[[], Encoder], progress: Progress | None = None
    ) -> None:
        self._open = functools.cache(open_encoder)
        self._progress = progress
        self._lock = threading.Lock()
        self._kept: dict[str, Floats] = {}

    @classmethod
    def of(cls, settings: RankSettings, progress: Progress | None = None) -> TextEmbedder:
        """By the run's embedding model.

        Raises, when it is first asked:
            ConfigError: If sentence-transformers is not installed.
            ModelError: If the embedding model cannot be had.
        """
        return cls(lambda: SentenceEncoder(settings.text_model, progress), progress)

    def __call__(self, texts: Sequence[str]) -> Floats:
        """[texts, width] float64, each text's the same whatever stands beside it."""
        with self._lock:
            missing = [text for text in dict.fromkeys(texts) if text not in self._kept]
            if missing:
                found = embed(missing, self._open(), progress=self._progress)
                self._kept |= {text: found[text].astype(np.float64) for text in missing}
            return np.stack([self._kept[text] for text in texts])


def unit(vectors: Floats) -> Floats:
    """[rows, width] at length 1; zeros stay zeros."""
    length = np.sqrt((vectors * vectors).sum(axis=1, keepdims=True))
    found: Floats = np.divide(vectors, length, out=np.zeros_like(vectors), where=length > 0)
    return found


def text_vectors(texts: Iterable[str], embed: Callable[[Sequence[str]], Floats]) -> Floats:
    """[texts, width] unit vectors, rounded to float32; zeros for an empty text."""
    asked = list(texts)
    there = [text for text in asked if text]
    if not there:
        return np.zeros((len(asked), 0))
    vectors = unit(embed(there)).astype(np.float32).astype(np.float64)
    found = np.zeros((len(asked), vectors.shape[1]))
    found[[bool(text) for text in asked]] = vectors
    return found


def distinct(vectors: Floats) -> tuple[Floats, Ints]:
    """The different rows, and which of them each row is: what is equal is computed once."""
    seen: dict[bytes, int] = {}
    rows = np.array([seen.setdefault(row.tobytes(), len(seen)) for row in vectors], np.int64)
    _, first = np.unique(rows, return_index=True)
    return vectors[first], rows
