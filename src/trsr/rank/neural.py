"""The rankers that train a small network on the item sequences: SASRec, GRU4Rec, BERT4Rec."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt
import polars as pl

from trsr.errors import DataError
from trsr.llm.embeddings import SentenceEncoder
from trsr.llm.embeddings import embed as embed_kept
from trsr.rank.item_text import item_text
from trsr.rank.tune import ends_told
from trsr.settings import derive_seed
from trsr.types import Item, Query, RankedList

if TYPE_CHECKING:
    from trsr.neural.fit import Held
    from trsr.neural.networks import Network
    from trsr.neural.settings import NetworkSettings
    from trsr.rank.base import RankContext

_log = logging.getLogger(__name__)

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Embed = Callable[[Sequence[str]], Floats]
"""[texts, any] embeddings of texts, each text's the same whatever stands beside it."""

_MOST_HELD = 5_000
"""Validation cases looked at after each pass."""
_LEAST_HELD = 10


class NeuralRanker:
    """Scores a candidate by the log-probability that it is the user's next item.

    The probability is a softmax over the items met in training. What training did not show:

    - A candidate that training did not meet is scored by its text where the network reads texts
      (its score is on the same scale); else it has the lowest score of all items of training, and
      all such candidates tie.
    - A history's items that training did not meet are read by their texts, or passed over.
    - With nothing left of the history, items score by their share of the training interactions.

    Args:
        network: The trained network.
        counts: item → number of training interactions, in the order of the network's numbers.
        embed: Embeds texts; None where the network reads none.
        text: An item's text; empty where it has none.
        queries_per_batch: How many queries are scored together.

    Attributes:
        chosen: The settings that were chosen, when training was stopped, and by what; for the
            manifest.
    """

    chosen: Mapping[str, Any]

    def __init__(
        self,
        network: Network,
        counts: dict[str, int],
        embed: Embed | None = None,
        text: Callable[[Item], str] | None = None,
        queries_per_batch: int = 8,
    ) -> None:
        self.chosen = {}
        self.network = network
        self.queries_per_batch = queries_per_batch
        self._numbers = {item: number for number, item in enumerate(counts)}
        share = np.array(list(counts.values()), dtype=np.float64)
        self._shares = np.log(share / share.sum())
        self._embed = embed
        self._text = text
        self._embedded: dict[str, Floats] = {}

    def rank(self, queries: Iterable[Query]) -> Iterator[RankedList]:
        """Yields one list a query, in their order; reads at most one batch ahead."""
        source = iter(queries)
        while batch := list(islice(source, self.queries_per_batch)):
            yield from self._rank_batch(batch)

    def _rank_batch(self, batch: list[Query]) -> Iterator[RankedList]:
        new, texts = self._new(batch)
        numbers = self._numbers | new if new else self._numbers
        histories = [_numbered((item.id for item in one.history.items), numbers) for one in batch]
        known = [history for history in histories if len(history)]
        scored = iter(self.network.log_probabilities(known, texts) if known else ())
        for query, history in zip(batch, histories, strict=True):
            scores = next(scored) if len(history) else self._shares
            lowest = scores[: len(self._numbers)].min()
            places = [numbers.get(item.id, len(scores)) for item in query.candidates]
            yield RankedList.of(
                query, [float(scores[n] if n < len(scores) else lowest) for n in places]
            )

    def _new(self, batch: list[Query]) -> tuple[dict[str, int], Floats | None]:
        """Numbers and embedded texts of the batch's items that training did not meet."""
        if self._embed is None or self._text is None:
            return {}, None
        read = (
            item
            for query in batch
            for item in (*query.candidates, *query.history.recent(self.network.max_length))
            if item.id not in self._numbers
        )
        texts = {item.id: text for item in read if (text := self._text(item))}
        if not texts:
            return {}, None
        # Kept by text: the same id may come with another text.
        missing = sorted({text for text in texts.values() if text not in self._embedded})
        if missing:
            self._embedded.update(zip(missing, self._embed(missing), strict=True))
        found = np.stack([self._embedded[text] for text in texts.values()])
        start = len(self._numbers)
        return {item: start + n for n, item in enumerate(texts)}, found


def fit_neural(
    kind: str,
    context: RankContext,
    settings: NetworkSettings,
    *,
    name: str = "",
    add_text: bool = False,
    embed: Embed | None = None,
) -> NeuralRanker:
    """Trains a network on the training interactions and makes its ranker.

    Training stops, and its settings are chosen, by NDCG@10 over all items of training on the
    validation cases (at most 5,000, drawn by the seed). Without such cases, the last interactions
    of a drawn tenth of the users are kept back for that; where that tenth is too few, training
    stops by its loss, and the first settings are taken. It takes minutes for each of the settings,
    and a run that is stopped meanwhile trains anew.

    What training draws follows from `train_seed` of the context, which cases decide from `seed`.

    Args:
        kind: sasrec, gru4rec or bert4rec.
        context: What it is fitted on.
        settings: Of the network and its training, with the candidates to choose from.
        name: The ranker's name, for its messages and draws; left out: the kind.
        add_text: Add a learned map of the text's embedding to each item's vector.
        embed: Embeds texts; left out: by the run's embedding model, where texts are needed.

    Raises:
        ConfigError: If texts are needed and sentence-transformers is not installed.
        DataError: If no user has two training interactions.
        ModelError: If training diverges, or the embedding model cannot be had.
    """
    from trsr.neural.fit import fit

    name = name or kind
    seed = derive_seed(context.seed, name)
    counts = dict(context.interactions["item"].value_counts().sort("item").iter_rows())
    numbers = {item: number for number, item in enumerate(counts)}
    sequences = _sequences(context.interactions, numbers)
    if not any(len(one) > 1 for one in sequences.values()):
        raise DataError(
            f"ranker {name}: no user has two training interactions, so there is no order to learn; "
            "take it out of rank.rankers"
        )
    held = _held(context, numbers, seed)
    if not held:
        sequences, held = _kept_back(sequences, seed)
        _log.info("%s: no validation case; the last items of %d users instead", name, len(held))
    use: Literal["none", "start", "add"] = (
        "add" if add_text else "start" if settings.start == "text" else "none"
    )
    text = functools.partial(item_text, settings=context.settings)
    written = [text(context.catalog[item]) if item in context.catalog else "" for item in counts]
    if use != "none" and not any(written):
        _log.warning("%s: no item of training has text; it is trained without", name)
        use = "none"
    texts = None
    if use == "none":
        embed = None
    else:
        embed = embed or text_embedder(context)
        texts = _embedded(written, embed)
    _log.info("%s: %d users, %d items", name, len(sequences), len(counts))
    fitted = fit(
        kind,
        list(sequences.values()),
        len(counts),
        held,
        settings,
        seed=seed if context.train_seed is None else derive_seed(context.train_seed, name),
        text=use,
        texts=texts,
        progress=context.progress,
    )
    ranker = NeuralRanker(fitted.network, counts, embed, text, context.queries_per_batch)
    chosen: dict[str, Any] = {
        "dropout": fitted.dropout,
        "learning_rate": fitted.learning_rate,
        "passes": fitted.passes,
        "on": "ndcg@10 over all items" if held else "minus the training loss",
        "score": fitted.score,
        "cases": len(held),
        "tried": fitted.tried,
        "why": _why(settings, len(held)),
    }
    if fitted.tried > 1:
        tried = [{"dropout": d, "learning_rate": r} for d, r in settings.candidates]
        chosen |= ends_told(name, chosen, tried)
    _log.info("%s: %s", name, chosen)
    ranker.chosen = chosen
    return ranker


def text_embedder(context: RankContext) -> Embed:
    """Embeds texts by the run's embedding model; each is computed once and kept.

    Raises:
        ConfigError: If sentence-transformers is not installed.
        ModelError: If the embedding model cannot be had.
    """
    encoder = SentenceEncoder(context.settings.text_model, context.progress)

    def embed(texts: Sequence[str]) -> Floats:
        found = embed_kept(texts, encoder, progress=context.progress)
        return np.stack([found[text] for text in texts]).astype(np.float64)

    return embed


def make_sasrec(context: RankContext) -> NeuralRanker:
    """SASRec, fitted."""
    return fit_neural("sasrec", context, context.settings.sasrec)


def make_gru4rec(context: RankContext) -> NeuralRanker:
    """GRU4Rec, fitted."""
    return fit_neural("gru4rec", context, context.settings.gru4rec)


def make_bert4rec(context: RankContext) -> NeuralRanker:
    """BERT4Rec, fitted."""
    return fit_neural("bert4rec", context, context.settings.bert4rec)


def make_bert4rec_text(context: RankContext) -> NeuralRanker:
    """BERT4Rec whose items' vectors start from their texts' embeddings, fitted.

    LLM2BERT4Rec: Harte et al. 2023, section 3.3.
    """
    settings = context.settings.bert4rec_text.model_copy(update={"start": "text"})
    return fit_neural("bert4rec", context, settings, name="bert4rec_text")


def make_sasrec_text(context: RankContext) -> NeuralRanker:
    """SASRec whose items' vectors are their own plus a map of their texts' embeddings, fitted."""
    settings = context.settings.sasrec_text
    return fit_neural("sasrec", context, settings, name="sasrec_text", add_text=True)


def _why(settings: NetworkSettings, held: int) -> str:
    """How the dropout and the learning rate were chosen."""
    if len(settings.candidates) == 1:
        return "the only setting"
    if held:
        return f"best of {len(settings.candidates)} on {held} cases"
    return "no validation cases, and too few users to keep any back: the first setting"


def _numbered(items: Iterable[str], numbers: dict[str, int]) -> Ints:
    return np.array([numbers[item] for item in items if item in numbers], dtype=np.int64)


def _embedded(texts: Sequence[str], embed: Embed) -> Floats:
    """[texts, any] embeddings; the mean of the others where there is no text."""
    there = np.array([bool(text) for text in texts])
    found = embed([text for text in texts if text])
    result = np.broadcast_to(found.mean(axis=0), (len(texts), found.shape[1])).copy()
    result[there] = found
    return result


def _sequences(interactions: pl.DataFrame, numbers: dict[str, int]) -> dict[str, Ints]:
    """User → item numbers, oldest first; users in the order of their ids."""
    rows = (
        interactions.sort("user", "time", maintain_order=True)
        .group_by("user", maintain_order=True)
        .agg("item")
        .iter_rows()
    )
    return {user: _numbered(items, numbers) for user, items in rows}


def _held(context: RankContext, numbers: dict[str, int], seed: int) -> list[Held]:
    """The validation cases that the network can be asked: at most `_MOST_HELD`, drawn by seed."""
    from trsr.neural.fit import Held

    found = []
    for case in context.validation():
        history = _numbered((item.id for item in case.query.history.items), numbers)
        relevant = _numbered(sorted(case.relevant), numbers)
        if len(history) and len(relevant):
            found.append((derive_seed(seed, "held", case.query.id), Held(history, relevant)))
    found.sort(key=lambda pair: pair[0])
    return [one for _, one in found[:_MOST_HELD]]


def _kept_back(sequences: dict[str, Ints], seed: int) -> tuple[dict[str, Ints], list[Held]]:
    """Splits off the last items of a drawn tenth of the users; none where they are too few."""
    from trsr.neural.fit import Held

    able = [user for user, items in sequences.items() if len(items) >= 3]
    most = min(len(able) // 10, _MOST_HELD)
    if most < _LEAST_HELD:
        return sequences, []
    drawn = sorted(able, key=lambda user: derive_seed(seed, "held", user))[:most]
    held = [Held(sequences[user][:-1], sequences[user][-1:]) for user in drawn]
    return sequences | {user: sequences[user][:-1] for user in drawn}, held
