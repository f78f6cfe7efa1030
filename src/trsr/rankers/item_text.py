"""The text of an item as the text rankers read it, and its embedding."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Generic, TypeVar

import numpy as np
import polars as pl

from trsr.errors import StoreError
from trsr.models.encoders import Encoder, SentenceEncoder, Vectors, embed
from trsr.progress import Progress
from trsr.prompts.text import fold_cut
from trsr.rankers.batch import Floats, Ints
from trsr.rankers.settings import OWN_ENCODER, RankSettings
from trsr.storage import files
from trsr.types import Item

DIGITS = 12
"""Decimals of a cosine: vectors are of float32, and beyond this a sum's order shows."""

KEPT = 100_000
"""Most items outside the catalog of which something is remembered."""

T = TypeVar("T")

ENCODER = "encoder"
"""In a run directory: the encoder that the stage `encode` made."""
ITEM_VECTORS = "item_vectors.parquet"
"""In a run directory: what it makes of the catalog's texts."""


def item_text(item: Item, settings: RankSettings) -> str:
    """The values of the columns that `rank.text_fields` names, on one line; empty where none is.

    White space is folded, so texts that differ in nothing else are the same text.
    """
    known = dict(item.fields)
    fields = settings.text_fields or tuple(known)
    values = (fold_cut(known[name], settings.text_words) for name in fields if name in known)
    return ". ".join(value for value in values if value)


class Remembered(Generic[T]):
    """What is made of items outside the catalog: of each once, and of all that are new together.

    Thousands may come with every request. Threads take turns at making.

    Args:
        make: Gives one for each of some items.
    """

    def __init__(self, make: Callable[[list[Item]], Sequence[T]]) -> None:
        self._make = make
        self._kept: dict[Item, T] = {}
        self._lock = threading.Lock()

    def __call__(self, items: Sequence[Item]) -> list[T]:
        """One for each item, in their order."""
        kept = self._kept
        if any(item not in kept for item in items):
            with self._lock:
                new = [item for item in dict.fromkeys(items) if item not in self._kept]
                kept = self._kept | dict(zip(new, self._make(new) if new else (), strict=True))
                few = len(kept) <= KEPT
                self._kept = kept if few else {item: kept[item] for item in items}
        return [kept[item] for item in items]


class TextEmbedder:
    """Embeds texts by `rank.text_model`; each is computed once and kept.

    The model is opened when a text is not kept yet. Threads take turns.
    """

    def __init__(
        self,
        open_encoder: Callable[[], Encoder],
        progress: Progress | None = None,
        known: Callable[[], Mapping[str, Vectors]] = dict,
    ) -> None:
        self._open = functools.cache(open_encoder)
        self._progress = progress
        self._lock = threading.Lock()
        self._known = functools.cache(known)
        self._kept: dict[str, Floats] = {}

    @classmethod
    def of(
        cls, settings: RankSettings, progress: Progress | None = None, run: Path | None = None
    ) -> TextEmbedder:
        """By the run's embedding model.

        `run` is where `rank.text_model` names the run's own encoder.

        Raises, when it is first asked:
            ConfigError: If sentence-transformers is not installed.
            ModelError: If the embedding model cannot be had.
            StoreError: If the run's item vectors cannot be read.
        """
        if settings.text_model != OWN_ENCODER or run is None:
            return cls(lambda: SentenceEncoder(settings.text_model, progress), progress)
        return cls(
            lambda: SentenceEncoder(str(run / ENCODER), progress),
            progress,
            lambda: read_item_vectors(run / ITEM_VECTORS),
        )

    def __call__(self, texts: Sequence[str]) -> Floats:
        """[texts, width] float64, each text's the same whatever stands beside it."""
        with self._lock:
            known = self._known()
            for text in texts:
                if text in known and text not in self._kept:
                    self._kept[text] = known[text].astype(np.float64)
            missing = [text for text in dict.fromkeys(texts) if text not in self._kept]
            if missing:
                found = embed(missing, self._open(), progress=self._progress)
                self._kept |= {text: found[text].astype(np.float64) for text in missing}
            return np.stack([self._kept[text] for text in texts])


def write_item_vectors(
    path: Path, texts: Mapping[str, str], vectors: Mapping[str, Vectors], encoder: str
) -> None:
    """Writes the vectors of items.

    Items without text are left out; vectors are of one width.
    """
    items = [item for item, text in texts.items() if text]
    found = np.stack([vectors[texts[item]] for item in items])
    columns = {"item": items, "text": [texts[item] for item in items]}
    vector = pl.Series(found, dtype=pl.Array(pl.Float32, found.shape[1]))
    frame = pl.DataFrame(columns | {"vector": vector})
    files.write_parquet(frame, path, {"encoder": encoder})


def read_item_vectors(path: Path) -> dict[str, Vectors]:
    """Vectors by text; none where there is no such file.

    Raises:
        StoreError: If it is damaged, or has other columns.
    """
    if not files.exists(path):
        return {}
    try:
        frame = files.read_parquet(path).unique("text", keep="first", maintain_order=True)
        texts, vectors = frame["text"].to_list(), frame["vector"].to_numpy()
    except (pl.exceptions.PolarsError, ValueError, OSError) as error:
        raise _no_vectors(path, str(error)) from error
    if vectors.ndim != 2 or vectors.dtype.kind != "f" or not np.isfinite(vectors).all():
        raise _no_vectors(path, "vector is no array of numbers")
    return dict(zip(texts, vectors, strict=True))


def _no_vectors(path: Path, why: str) -> StoreError:
    return StoreError(
        f"{path}: no item vectors ({why}); columns are item, text and vector (an array of one "
        "width). Give `trsr run` again"
    )


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
