"""Ranks by how like a candidate's text is to the history's, by their embeddings."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from trsr.llm.embeddings import Encoder, SentenceEncoder, embed
from trsr.progress import Progress
from trsr.rank.item_text import item_text
from trsr.rank.settings import RankSettings
from trsr.rank.tune import QueryRanker, tuned
from trsr.types import Item, Query

if TYPE_CHECKING:
    from trsr.rank.base import RankContext

Array = npt.NDArray[np.float64]


class ItemVectors:
    """Unit vectors of item texts, one a different text.

    Args:
        items: Those whose texts are embedded at once; others are when they are asked for.
        encoder: The model.
        settings: What of an item is its text.
        progress: Told about what must be computed.
    """

    def __init__(
        self,
        items: Iterable[Item],
        encoder: Encoder,
        settings: RankSettings,
        progress: Progress | None = None,
    ) -> None:
        self.encoder = encoder
        self._settings = settings
        self._texts = {item.id: (item, item_text(item, settings)) for item in items}
        self._vectors: dict[str, npt.NDArray[np.float32]] = {}
        self._width = 0
        self._embed((text for _, text in self._texts.values()), progress)

    def of(self, items: Sequence[Item]) -> Array:
        """Shape (items, width); zeros for an item without text."""
        texts = [self._text(item) for item in items]
        self._embed(texts, None)
        found = np.zeros((len(items), self._width))
        for row, text in enumerate(texts):
            if text:
                found[row] = self._vectors[text]
        return found

    def _text(self, item: Item) -> str:
        known = self._texts.get(item.id)
        if known is not None and (known[0] is item or known[0] == item):
            return known[1]
        return item_text(item, self._settings)

    def _embed(self, texts: Iterable[str], progress: Progress | None) -> None:
        missing = [text for text in dict.fromkeys(texts) if text and text not in self._vectors]
        if not missing:
            return
        for text, vector in embed(missing, self.encoder, progress=progress).items():
            self._vectors[text] = unit(np.asarray(vector, np.float64)).astype(np.float32)
            self._width = len(vector)


def unit(vector: Array) -> Array:
    """The vector at length 1; zeros stay zeros."""
    length = float(np.sqrt((vector * vector).sum()))
    return vector / length if length > 0 else vector


class TextKnnRanker(QueryRanker):
    """The cosine of a candidate's text and a profile of the history's texts.

    Harte et al., "Leveraging large language models for sequential recommendation" (RecSys 2023),
    LLMSeqSim. Profiles, of the unit vectors of the history's items that have text: `mean`; `last`,
    that of the history's latest item; `decayed`, Σ decayᵃ vector, a = 0 for the latest. `max3` has
    no profile: it is the mean cosine of the three history items nearest to the candidate, or of
    all where there are fewer.

    Equal texts tie. A candidate without text, and every candidate of a history without text,
    scores 0. Items outside the catalogue are embedded when they are met.

    Args:
        vectors: The items' vectors.
        profile: mean, last, decayed or max3.
        decay: For `decayed`: an item's weight against the one after it.
    """

    def __init__(self, vectors: ItemVectors, profile: str, decay: float = 1.0) -> None:
        self.vectors = vectors
        self.profile = profile
        self.decay = decay

    def scores(self, query: Query) -> Sequence[float]:
        """One cosine a candidate."""
        items = query.history.items[::-1]
        history = self.vectors.of(items[:1] if self.profile == "last" else items)
        history = history[(history != 0).any(axis=1)]
        candidates = self.vectors.of(query.candidates)
        if not len(history):
            return [0.0] * len(candidates)
        if self.profile == "max3":
            # one sum a row, not a matrix product: a score must not depend on its row's place
            cosines = np.stack([(candidates * one).sum(axis=1) for one in history])
            nearest = np.sort(cosines, axis=0)[-3:]
            found = nearest.sum(axis=0) / len(nearest)
        else:
            decay = self.decay if self.profile == "decayed" else 1.0
            weights = decay ** np.arange(len(history))
            profile = unit((weights[:, None] * history).sum(axis=0))
            found = (candidates * profile).sum(axis=1)
        # no known text, nothing known: 0, as its zero vector gives
        return [float(score) for score in found]


def item_vectors(context: RankContext) -> ItemVectors:
    """The catalogue's vectors by the embedding model of the settings.

    Raises:
        ConfigError: If sentence-transformers is not installed.
        ModelError: If the embedding model cannot be had.
    """
    encoder = SentenceEncoder(context.settings.text_model, context.progress)
    return ItemVectors(context.catalog, encoder, context.settings, context.progress)


def make_text_knn(context: RankContext) -> TextKnnRanker:
    """Likeness of texts, its profile tuned on the validation cases; raises as `item_vectors`."""
    settings = context.settings
    vectors = item_vectors(context)
    options: list[dict[str, Any]] = []
    for profile in settings.text_knn.profile:
        decays = settings.text_knn.decay if profile == "decayed" else ()
        options += [{"profile": profile, "decay": decay} for decay in decays]
        options += [] if decays else [{"profile": profile}]
    return tuned("text_knn", context, options, functools.partial(TextKnnRanker, vectors))
