"""The rankers that train a small network on the item sequences: SASRec, GRU4Rec, BERT4Rec."""

from __future__ import annotations

import dataclasses
import functools
import logging
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
import polars as pl

from trsr.errors import DataError
from trsr.rankers.base import FitData, FitOptions, Ranker, Resources
from trsr.rankers.batch import Floats, Ints, QueryBatch, ScoreBatch
from trsr.rankers.item_text import item_text
from trsr.rankers.sequential.forward import Forward
from trsr.rankers.settings import SequentialSettings, TextUse, Traits
from trsr.settings import Settings, derive_seed
from trsr.storage import files

if TYPE_CHECKING:
    from trsr.rankers.sequential.networks import Network
    from trsr.rankers.sequential.training import Held

_log = logging.getLogger(__name__)

Embed = Callable[[Sequence[str]], Floats]
"""[texts, any] embeddings of texts, each text's the same whatever stands beside it."""

_MOST_HELD = 5_000
"""Validation cases looked at after each pass."""
_LEAST_HELD = 10
_WEIGHTS = "network.safetensors"


class NetworkRanker(Ranker):
    """Scores a candidate by the log-probability that it is the user's next item.

    The probability is a softmax over the items of training. What training did not show:

    - A candidate that training lacks is scored by its text where the network reads texts
      (its score is on the same scale); else it has the lowest score of all items of training, and
      all such candidates tie.
    - A history's items that training lacks are read by their texts, or passed over.
    - With nothing left of the history, items score by their share of the training interactions.

    Attributes:
        kind: A name in `trsr.rankers.sequential.networks.NETWORKS`.
        text: What texts are used for.
        network: The trained network, where it was fitted here.
        forward: Its scores.
        numbers_: [catalog] an item's number in the network, behind its own items those that it
            knows by their texts alone; −1: not known.
        shares_: [items of training] the logarithm of their shares of the interactions.
        texts_: [items known by text alone, any] embeddings.
        embed: Embeds further texts.
    """

    kind: ClassVar[str]
    text: ClassVar[TextUse] = "none"
    shares = "sequential"
    traits = Traits(
        reads_text=True,
        ids_alone=True,
        reads_validation=True,
        learns_by_draws=True,
        extras=(("transformers", "local"),),
    )
    config: SequentialSettings
    network: Network
    forward: Forward
    numbers_: Ints
    shares_: Floats
    texts_: Floats

    def __init__(
        self,
        config: Settings | None = None,
        resources: Resources | None = None,
        name: str = "",
    ) -> None:
        super().__init__(config, resources, name)
        self.config = self.config.of(self.kind)
        self.embed: Embed = self.resources.embedder()

    def fit(self, data: FitData, options: FitOptions) -> None:
        """Trains a network on the training interactions.

        Training stops, and its settings are chosen, by NDCG@10 over all items of training on the
        validation cases (at most 5,000, drawn by the seed). Without such cases, the last
        interactions of a drawn tenth of the users are kept back for that; where that tenth is too
        few, training stops by its loss, and the first settings are taken. It takes minutes for each
        of the settings, and a run that is stopped meanwhile trains anew.

        What training draws follows from `options.train_seed`, which cases decide from
        `options.seed`.

        Raises:
            ConfigError: If texts are needed and sentence-transformers is not installed.
            DataError: If no user has two training interactions.
            ModelError: If training diverges, or the embedding model cannot be had.
        """
        from trsr.rankers.sequential.training import fit

        seed = derive_seed(options.seed, self.name)
        counts = dict(data.interactions["item"].value_counts().sort("item").iter_rows())
        numbers = {item: number for number, item in enumerate(counts)}
        sequences = _sequences(data.interactions, numbers)
        if not any(len(one) > 1 for one in sequences.values()):
            raise DataError(
                f"ranker {self.name}: no user has two training interactions, so there is no order "
                "to learn; take it out of rank.rankers"
            )
        held = _held(data, numbers, seed)
        if not held:
            sequences, held = _kept_back(sequences, seed)
            _log.info(
                "%s: no validation case; the last items of %d users instead", self.name, len(held)
            )
        use, texts = self._texts(data, list(counts))
        _log.info("%s: %d users, %d items", self.name, len(sequences), len(counts))
        fitted = fit(
            self.kind,
            list(sequences.values()),
            len(counts),
            held,
            self.config,
            seed=seed if options.train_seed is None else derive_seed(options.train_seed, self.name),
            text=use,
            texts=texts,
            progress=options.progress,
        )
        self.network = fitted.network
        self.forward = Forward(self.kind, self.config, self._weights())
        share = np.array(list(counts.values()), dtype=np.float64)
        self.shares_ = np.log(share / share.sum())
        self._number(data, numbers, use)
        self.chosen = {
            "dropout": fitted.dropout,
            "learning_rate": fitted.learning_rate,
            "passes": fitted.passes,
            "on": "ndcg@10 over all items" if held else "minus the training loss",
            "score": fitted.score,
            "cases": len(held),
            "tried": fitted.tried,
            "why": _why(self.config, len(held)),
        }
        most = self.config.max_epochs
        if fitted.passes >= most - 1:
            self.chosen["note"] = (
                f"pass {fitted.passes} of rank.sequential.max_epochs = {most} was the best, so "
                "more passes may do better"
            )
        _log.info("%s: %s", self.name, self.chosen)

    def _texts(self, data: FitData, items: Sequence[str]) -> tuple[TextUse, Floats | None]:
        """What texts are used for, and the embeddings of the items of training."""
        if self.text == "none":
            return "none", None
        text = functools.partial(item_text, settings=self.resources.settings)
        written = [text(data.catalog[item]) if item in data.catalog else "" for item in items]
        if any(written):
            return self.text, _embedded(written, self.embed)
        if self.text == "only":
            raise DataError(
                f"ranker {self.name}: no item of training has a text, and it knows items by their "
                "texts alone; take it out of rank.rankers"
            )
        _log.warning("%s: no item of training has text; it is trained without", self.name)
        return "none", None

    def _number(self, data: FitData, numbers: dict[str, int], use: TextUse) -> None:
        """Numbers the catalog's items, those that training lacks by their texts."""
        self.numbers_ = np.array([numbers.get(item, -1) for item in data.catalog.ids], np.int64)
        self.texts_ = np.zeros((0, 0))
        unmet = np.flatnonzero(self.numbers_ < 0) if use != "none" else ()
        texts = [item_text(data.catalog.at(int(n)), self.resources.settings) for n in unmet]
        described = [(number, text) for number, text in zip(unmet, texts, strict=True) if text]
        if described:
            self.texts_ = self.embed([text for _, text in described])
            places = len(numbers) + np.arange(len(described))
            self.numbers_[[number for number, _ in described]] = places

    def score(self, batch: QueryBatch) -> ScoreBatch:
        """[queries, columns] log-probabilities."""
        numbers, texts = self._placed(batch)
        seen = numbers[batch.histories.values]
        histories = [one[one >= 0] for one in np.split(seen, batch.histories.starts[1:-1])]
        scores = np.empty((len(batch), len(self.shares_) + len(texts)))
        own = scores[:, : len(self.shares_)]
        known = [row for row, history in enumerate(histories) if len(history)]
        empty = [row for row, history in enumerate(histories) if not len(history)]
        if known:
            asked = [histories[row] for row in known]
            given = texts if len(texts) else None
            scores[known] = self.forward.log_probabilities(asked, given)
        scores[empty, : len(self.shares_)] = self.shares_
        lowest = own.min(axis=1, keepdims=True)
        if empty:
            scores[empty, len(self.shares_) :] = lowest[empty]
        places = numbers[batch.columns]
        return ScoreBatch(np.where(places >= 0, scores[:, places], lowest))

    def _placed(self, batch: QueryBatch) -> tuple[Ints, Floats]:
        """The number of each item of a batch, and the embeddings behind the network's own items."""
        if not batch.outside:
            return self.numbers_, self.texts_
        numbers = batch.extended(self.numbers_, -1)
        if not self.forward.reads_texts:
            return numbers, self.texts_
        # what training had is known by its id; of the others the text counts that came with it
        start, own = len(batch.catalog), len(self.shares_)
        described = [
            (place, text)
            for place, item in enumerate(batch.outside, start)
            if not 0 <= numbers[place] < own and (text := item_text(item, self.resources.settings))
        ]
        if not described:
            return numbers, self.texts_
        more = self.embed([text for _, text in described])
        known = own + len(self.texts_)
        numbers[[place for place, _ in described]] = known + np.arange(len(described))
        return numbers, np.concatenate([self.texts_, more]) if len(self.texts_) else more

    def _weights(self) -> dict[str, Any]:
        state = self.network.state_dict()
        # of the library's own table of words, which nothing reads, nothing is kept
        return {
            name: np.ascontiguousarray(tensor.detach().cpu().numpy())
            for name, tensor in state.items()
            if not name.endswith(("wte.weight", "word_embeddings.weight"))
        }

    def save(self, folder: Path) -> None:
        """Beside the arrays, the network's weights as safetensors."""
        from safetensors.numpy import save_file

        super().save(folder)
        save_file(dict(self.forward.weights), folder / _WEIGHTS)

    @classmethod
    def _loaded(cls, folder: Path, resources: Resources) -> Self:
        from safetensors import SafetensorError
        from safetensors.numpy import load

        ranker = super()._loaded(folder, resources)
        try:
            weights = load(files.read_bytes(folder / _WEIGHTS))
        except SafetensorError as error:
            raise ValueError(f"{_WEIGHTS}: {error}") from error
        ranker.forward = Forward(cls.kind, ranker.config, weights)
        return ranker


class SasrecRanker(NetworkRanker):
    """SASRec (Kang and McAuley 2018)."""

    kind = "sasrec"


class Gru4recRanker(NetworkRanker):
    """GRU4Rec (Hidasi et al. 2016)."""

    kind = "gru4rec"


class Bert4recRanker(NetworkRanker):
    """BERT4Rec (Sun et al. 2019)."""

    kind = "bert4rec"


_READS_TEXTS = dataclasses.replace(
    NetworkRanker.traits,
    embeds_text=True,
    ids_alone=False,
    extras=(*NetworkRanker.traits.extras, ("sentence_transformers", "embeddings")),
)


class Bert4recTextRanker(Bert4recRanker):
    """BERT4Rec whose items' vectors start from their texts' embeddings.

    LLM2BERT4Rec: Harte et al. 2023, section 3.3.
    """

    text = "start"
    traits = dataclasses.replace(_READS_TEXTS, ids_alone=True)


class SasrecTextRanker(SasrecRanker):
    """SASRec whose items' vectors are their own plus a map of their texts' embeddings."""

    text = "add"
    traits = _READS_TEXTS


class SasrecLlm2recRanker(SasrecRanker):
    """SASRec whose items are a learned map of frozen text vectors (LLM2Rec, step 4)."""

    text = "only"
    traits = _READS_TEXTS


class Gru4recLlm2recRanker(Gru4recRanker):
    """GRU4Rec whose items are a learned map of frozen text vectors (LLM2Rec, step 4)."""

    text = "only"
    traits = _READS_TEXTS


def _why(settings: SequentialSettings, held: int) -> str:
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


def _held(data: FitData, numbers: dict[str, int], seed: int) -> list[Held]:
    """The validation cases that the network can be asked: at most `_MOST_HELD`, drawn by seed."""
    from trsr.rankers.sequential.training import Held

    found = []
    for case in data.validation():
        history = _numbered((item.id for item in case.query.history.items), numbers)
        relevant = _numbered(sorted(case.relevant), numbers)
        if len(history) and len(relevant):
            found.append((derive_seed(seed, "held", case.query.id), Held(history, relevant)))
    found.sort(key=lambda pair: pair[0])
    return [one for _, one in found[:_MOST_HELD]]


def _kept_back(sequences: dict[str, Ints], seed: int) -> tuple[dict[str, Ints], list[Held]]:
    """Splits off the last items of a drawn tenth of the users; none where they are too few."""
    from trsr.rankers.sequential.training import Held

    able = [user for user, items in sequences.items() if len(items) >= 3]
    most = min(len(able) // 10, _MOST_HELD)
    if most < _LEAST_HELD:
        return sequences, []
    drawn = sorted(able, key=lambda user: derive_seed(seed, "held", user))[:most]
    held = [Held(sequences[user][:-1], sequences[user][-1:]) for user in drawn]
    return sequences | {user: sequences[user][:-1] for user in drawn}, held
