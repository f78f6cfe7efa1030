"""Ranks by the title that a language model would write next (LLMSeqPrompt, arXiv:2309.09261)."""

from __future__ import annotations

import dataclasses
import functools
import logging
import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
from pydantic import Field

from trsr.errors import ConfigError
from trsr.models import LanguageModel, Sampling, TextScoringModel
from trsr.prompts import Titles, TitleWriter
from trsr.prompts.text import fold
from trsr.prompts.titles import title_key, title_of
from trsr.rankers.base import FitData, FitOptions, Ranker
from trsr.rankers.baselines.text_knn import EMBEDDINGS
from trsr.rankers.batch import Floats, Ints, QueryBatch, ScoreBatch
from trsr.rankers.item_text import DIGITS, TextEmbedder, text_vectors, unit
from trsr.rankers.settings import RankerConfig, Traits
from trsr.rankers.tuning import tune
from trsr.settings import derive_seed

if TYPE_CHECKING:
    from trsr.types import Prompt

_log = logging.getLogger(__name__)

_ASKING = threading.RLock()
"""Threads of a service take turns: the model that writes titles reads for one at a time."""


class TitleSearchConfig(RankerConfig):
    """Beam search among the candidates' titles."""

    beams: int = Field(
        20, ge=1, description="begun titles kept at each token; no more titles are found"
    )


class TitleSampledConfig(RankerConfig):
    """Votes of the titles that the model writes freely."""

    samples: int = Field(10, ge=1, description="titles that are written for a query")
    temperature: float = Field(0.7, gt=0, description="the temperature of sampling")


@dataclass(frozen=True)
class _Columns:
    """The titles of a batch's columns: the texts, and each column's place in them (−1: none)."""

    texts: Sequence[str]
    places: Ints

    def of(self, batch: QueryBatch, row: int) -> list[str]:
        """The titles of a query's candidates, each once."""
        own = np.unique(self.places[batch.places[row]])
        return [self.texts[place] for place in own.tolist() if place >= 0]

    def fill(self, batch: QueryBatch, scores: Sequence[Mapping[str, float]]) -> ScoreBatch:
        """[queries, columns] the scores of the columns' titles; those that have none tie below."""
        found = batch.blank()
        for row, own in enumerate(scores):
            lowest = min(own.values(), default=0.0) - 1.0
            values = np.full(len(self.texts) + 1, lowest)  # the last one for no title
            for place in np.unique(self.places[batch.places[row]]).tolist():
                if place >= 0:
                    values[place] = own.get(self.texts[place], lowest)
            at = batch.places[row]
            found[row, at] = values[self.places[at]]
        return ScoreBatch(found)


class _TitleRanker(Ranker):
    """What the rankers of titles share: the model, its prompts, the catalog's titles."""

    @functools.cached_property
    def _opened(self) -> tuple[LanguageModel, TitleWriter]:
        return self.resources.titles()

    @functools.cached_property
    def titles(self) -> Titles:
        """The catalog's titles."""
        return Titles(self.resources.catalog, self._opened[1].settings)

    def fit(self, data: FitData, options: FitOptions) -> None:
        """Reads the catalog's titles.

        Raises:
            DataError: If too many items have none.
        """
        for note in self.titles.notes():
            _log.warning("%s: %s", self.name, note)

    @property
    def _model(self) -> TextScoringModel:
        model = self._opened[0]
        if not isinstance(model, TextScoringModel):
            raise ConfigError(
                f"the ranker {self.name}: the model {model.identity} gives no log-probabilities "
                "of texts; use title_sampled, or model.backend = 'transformers'"
            )
        return model

    def _prompts(self, batch: QueryBatch) -> list[Prompt]:
        writer = self._opened[1]
        return [
            writer.prompt([batch.item(int(number)) for number in batch.histories[row]])
            for row in range(len(batch))
        ]

    def _columns(self, batch: QueryBatch) -> _Columns:
        titles = self.titles
        inside = batch.columns < len(batch.catalog)
        places = np.full(len(batch.columns), -1)
        places[inside] = np.array(titles.rows, np.int64)[batch.columns[inside]]
        texts = list(titles.texts)
        for at in np.flatnonzero(~inside).tolist():
            text = title_of(batch.item(int(batch.columns[at])), self._opened[1].settings)
            places[at] = titles.place(text)
            if text and places[at] < 0:
                places[at] = len(texts)
                texts.append(text)
        return _Columns(texts, places)


class TitleRanker(_TitleRanker):
    """|t|^−α Σ log p(token of title t | the user's titles) − β · the same without the user.

    The last token is the end of the answer. (α, β) is `total` (0, 0), `mean` (1, 0), `gain` (0, 1)
    or `mean_gain` (1, 1), chosen on the validation cases. Nothing is drawn and nothing mapped.
    Candidates of one title tie; those without a title tie below.

    Attributes:
        SCORES: The four; without validation cases the first one is taken.
        mode_: Which of them.
    """

    traits = Traits(uses_llm=True, writes_titles=True, tuned=True)
    SCORES: ClassVar[tuple[str, ...]] = ("mean_gain", "gain", "mean", "total")
    mode_: str

    def fit(self, data: FitData, options: FitOptions) -> None:
        """Chooses the score on the validation cases; raises as `score`."""
        super().fit(data, options)
        settings = [{"score": score} for score in self.SCORES]
        tune(self, data, options, settings, self.with_score)

    def with_score(self, score: str) -> Self:
        """The same by another score."""
        return self.altered(mode_=score)

    def score(self, batch: QueryBatch) -> ScoreBatch:
        """[queries, columns] scores in nats.

        Raises:
            ConfigError: If the model gives no log-probabilities.
            PromptError: If a title does not fit the context.
        """
        columns = self._columns(batch)
        texts = [columns.of(batch, row) for row in range(len(batch))]
        with _ASKING:
            found = self._asked(self._prompts(batch), texts)
            known: dict[str, float] = {}
            if self.mode_ in ("gain", "mean_gain"):
                every = sorted({text for own in texts for text in own})
                (alone,) = self._asked([self._opened[1].prompt(())], [every])
                known = dict(zip(every, alone.tolist(), strict=True))
        scores = [
            {text: value - known.get(text, 0.0) for text, value in zip(own, values, strict=True)}
            for own, values in zip(texts, found, strict=True)
        ]
        return columns.fill(batch, scores)

    def _asked(self, prompts: Sequence[Prompt], texts: Sequence[Sequence[str]]) -> list[Floats]:
        tables = self._model.score_texts(prompts, texts)
        whole = self.mode_ in ("total", "gain")
        return [table[:, 0] / (1.0 if whole else table[:, 1]) for table in tables]


class TitleSearchRanker(_TitleRanker):
    """The log-probability of a title, for the titles that a beam search finds.

    The search goes through the tree of the tokens of the candidates' titles, so that no other can
    be written. With as many beams as titles it scores as `title` by `total`. Candidates that it
    does not find tie below.
    """

    traits = Traits(uses_llm=True, writes_titles=True, proposes=True)
    config: TitleSearchConfig

    def score(self, batch: QueryBatch) -> ScoreBatch:
        """[queries, columns] log-probabilities in nats.

        Raises:
            ConfigError: If the model gives no log-probabilities.
            PromptError: If a title does not fit the context.
        """
        columns = self._columns(batch)
        texts = [columns.of(batch, row) for row in range(len(batch))]
        with _ASKING:
            found = self._model.search_texts(self._prompts(batch), texts, self.config.beams)
        scores = [
            {text: float(one) for text, one in zip(own, row, strict=True) if np.isfinite(one)}
            for own, row in zip(texts, found, strict=True)
        ]
        return columns.fill(batch, scores)


TOKENS = 64
"""Most tokens of a title that is written freely."""
FLOOR = 0.5
"""Least cosine at which a written text that is no title counts for the nearest one: a title with a
slip or in other words is above it. Below, the nearest one says little of what was written."""
_EXAMPLES = 20


class TitleSampledRanker(_TitleRanker):
    """Votes of the titles that the model writes, as in the paper; then the likeness to them.

    A text that is a title of the catalog, but for case, spaces and compatible characters, votes for
    it (exact). Another one votes for the title with the nearest embedding (near), where their
    cosine reaches `FLOOR`; else it is lost, as an empty one is. The items of a title share its
    vote. Between equal votes decides the cosine to the mean of what was voted for. So a text with
    one wrong letter counts as much as a right one; the paper ranks it behind all others.

    Attributes:
        vectors_: [titles, width] float32 unit vectors of the catalog's titles.
        seed_: Of the draws.
    """

    traits = Traits(
        uses_llm=True,
        writes_titles=True,
        proposes=True,
        reads_scores=False,
        embeds_text=True,
        extras=EMBEDDINGS,
    )
    config: TitleSampledConfig
    vectors_: Any
    seed_: int

    @functools.cached_property
    def _embed(self) -> TextEmbedder:
        return self.resources.embedder()

    @functools.cached_property
    def _counts(self) -> Counter[str]:
        return Counter()

    def fit(self, data: FitData, options: FitOptions) -> None:
        """Embeds the catalog's titles.

        Raises:
            ConfigError: If sentence-transformers is not installed.
            DataError: If too many items have no title.
            ModelError: If the embedding model cannot be had.
        """
        super().fit(data, options)
        self.vectors_ = text_vectors(self.titles.texts, self._embed).astype(np.float32)
        self.seed_ = derive_seed(options.seed, "title_sampled")
        self.chosen = {"why": "nothing to choose"}

    def score(self, batch: QueryBatch) -> ScoreBatch:
        """[queries, columns] votes, and between equal ones a part of the likeness.

        Raises:
            ModelError: If the model fails.
            PromptError: If a prompt leaves no room for a title.
        """
        columns = self._columns(batch)
        with _ASKING:
            written = self._written(batch)
        votes = [self._votes(batch.ids[row], own) for row, own in enumerate(written)]
        sizes = Counter(self.titles.rows)
        found = batch.blank()
        vectors = self._vectors(columns)
        for row, own in enumerate(votes):
            at = batch.places[row]
            places = columns.places[at]
            shares = np.array([own.get(place, 0.0) / max(sizes[place], 1) for place in places])
            profile = np.zeros(vectors.shape[1])
            for place, count in own.items():
                profile += count * self.vectors_[place].astype(np.float64)
            likeness = np.round(vectors[places] @ unit(profile[None])[0], DIGITS)
            found[row, at] = shares + _between(shares) * (1 + likeness) / 2
        self._note()
        return ScoreBatch(found)

    def _written(self, batch: QueryBatch) -> list[list[str]]:
        model, samples = self._opened[0], self.config.samples
        prompts = self._prompts(batch)
        sampling = Sampling(max_tokens=TOKENS, temperature=self.config.temperature, seed=self.seed_)
        drawn = (
            dataclasses.replace(prompt, draw=draw) for prompt in prompts for draw in range(samples)
        )
        found = [[""] * samples for _ in prompts]
        for position, text in model.generate(drawn, sampling):
            found[position // samples][position % samples] = text
        return found

    def _votes(self, query: str, written: Sequence[str]) -> dict[int, float]:
        """Votes by a title's place; counts what became of each text."""
        found: dict[int, float] = {}
        texts = [fold(text) for text in written]
        keys = [title_key(text) for text in texts]
        self._counts["written"] += len(written)
        self._counts["duplicates"] += len(keys) - len(set(keys))
        sizes = Counter(self.titles.rows)
        for text in texts:
            how, places, cosine = self._meant(text)
            self._counts[how] += 1
            self._counts["several"] += how == "exact" and sizes[places[0]] > 1
            for place in places:
                found[place] = found.get(place, 0.0) + 1 / len(places)
            self._example(query, text, how, places, cosine)
        return found

    def _meant(self, text: str) -> tuple[str, list[int], float]:
        """Whether a written text is exact, near or lost, the titles' places, and their cosine."""
        place = self.titles.place(text)
        if place >= 0:
            return "exact", [place], 1.0
        if not text or not len(self.vectors_):
            return "lost", [], 0.0
        vector = text_vectors([text], self._embed)[0]
        cosines = np.round(self.vectors_.astype(np.float64) @ vector, DIGITS)
        nearest = float(cosines.max())
        if nearest < FLOOR:
            return "lost", [], nearest
        return "near", np.flatnonzero(cosines == nearest).tolist(), nearest

    def _vectors(self, columns: _Columns) -> Floats:
        """[texts + 1, width] the vectors of a batch's titles; zeros at the end, for none."""
        more = text_vectors(columns.texts[len(self.titles.texts) :], self._embed)
        own = self.vectors_.astype(np.float64)
        width = max(own.shape[1], more.shape[1])
        parts = [part for part in (own, more) if part.shape[1] == width]
        return np.concatenate([*parts, np.zeros((1, width))])

    def _example(
        self, query: str, text: str, how: str, places: Sequence[int], cosine: float
    ) -> None:
        known = self.notes.setdefault("examples", [])
        if len(known) < _EXAMPLES:
            meant = self.titles.texts[places[0]] if places else ""
            own = {"query": query, "written": text, "how": how, "title": meant}
            known.append(own | {"cosine": round(cosine, 3)})

    def _note(self) -> None:
        count = self._counts
        shares = {
            name: round(count[name] / max(count["written"], 1), 4)
            for name in ("exact", "near", "lost", "duplicates", "several")
        }
        self.notes |= {"written": count["written"], **shares}
        self.notes["note"] = (
            f"of {count['written']:,} written texts {shares['exact']:.0%} are titles of the "
            f"catalog, {shares['near']:.0%} count for the nearest one, {shares['lost']:.0%} are "
            f"lost; {shares['duplicates']:.0%} repeat another of their query, "
            f"{shares['several']:.0%} are titles of several items"
        )


def _between(shares: Floats) -> float:
    """What can be added to votes without passing another one."""
    steps = np.diff(np.unique(np.round(shares, 9)))
    return float(min([1e-3, *(steps / 2)]))
