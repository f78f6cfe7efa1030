"""The method at run time: a query in, a ranked list out."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from trsr.config import Config, load_config
from trsr.data import Catalog, Dataset
from trsr.errors import ConfigError, ModelError, StoreError
from trsr.evaluate import evaluate
from trsr.llm import LanguageModel, ModelSettings, ScoringModel, open_model
from trsr.llm.stored import StoredScoringModel, stored
from trsr.progress import Progress, Silent
from trsr.prompts import PromptWriter
from trsr.rank import RankContext, Ranker, checked, make_ranker, top
from trsr.rank.prior import Prior
from trsr.store.outputs import OutputStore
from trsr.summarize import summarize
from trsr.types import Case, Item, Prompt, Query, RankedList, Summary, UserHistory

ANSWER_TOKENS = 8
"""Room left in the judge prompt for the answer."""


def open_stored(config: Config, settings: ModelSettings, adapter: Path | None = None) -> Any:
    """Opens a model with the run's output store around it."""
    return stored(open_model(settings, adapter), OutputStore(config.run.outputs))


def summary_writer(
    config: Config, model: LanguageModel, catalog: Iterable[Item] = ()
) -> PromptWriter:
    """What is said to the summarizing model."""
    reserve = config.summarize.sampling.max_tokens
    tokens = model.context_tokens
    return PromptWriter(config.prompts, model.count_tokens, tokens, reserve, catalog)


def judge_writer(config: Config, model: LanguageModel) -> PromptWriter:
    """What is said to the ranking model."""
    room = (model.context_tokens, ANSWER_TOKENS)
    return PromptWriter(config.prompts, model.count_tokens, *room, summarized=config.summarized)


def judge(config: Config, adapter: Path | None) -> tuple[StoredScoringModel, PromptWriter]:
    """The ranking model and its words, tuned where an adapter is given.

    Raises:
        ModelError: If the backend gives no log-probabilities.
        StoreError: If the adapter was trained beside another prior than the settings name.
    """
    if adapter is not None:
        _check_prior(config, adapter)
    model = open_stored(config, config.model, adapter)
    if not isinstance(model, StoredScoringModel):
        raise ModelError(
            f"the backend {config.model.backend!r} gives no log-probabilities of answers, so it "
            "cannot rank; choose another one in [model]"
        )
    return model, judge_writer(config, model)


def _check_prior(config: Config, adapter: Path) -> None:
    """An adapter made elsewhere may have been trained otherwise than the settings say."""
    found = Prior.read(adapter)
    made, asked = found.ranker if found else "", config.train.prior
    if made != asked:
        raise StoreError(
            f"{adapter}: trained with {f'the prior {made}' if made else 'no prior'}, but "
            f"train.prior is {asked!r}; set it to {made!r}, or train again"
        )


def rank_context(
    config: Config,
    dataset: Dataset,
    open_judge: Callable[[bool], tuple[ScoringModel, PromptWriter]],
    *,
    validation: Callable[[], Iterable[Case]],
    progress: Progress | None = None,
    adapter: Path | None = None,
) -> RankContext:
    """What the rankers of a run are made of, in a stage or at run time.

    Args:
        config: The run's settings.
        dataset: Its data.
        open_judge: Opens the language model; the argument asks for the tuned one.
        validation: The validation cases.
        progress: Told about long preparations.
        adapter: The trained model's, whose prior is then added to its scores.
    """

    def quality(cases: Sequence[Case], lists: Sequence[RankedList]) -> Mapping[str, float]:
        report = evaluate(cases, {"tuned": lists}, config.rank.tune_on)
        return report.means("tuned")

    return RankContext(
        dataset.catalog,
        dataset.interactions,
        config.run.seed,
        open_judge,
        config.rank.queries_per_batch,
        training=lambda: dataset.cases("train"),
        validation=validation,
        settings=config.rank,
        quality=quality,
        progress=progress or Silent(),
        prior=Prior.read(adapter),
        train_seed=config.train_seed,
    )


class Recommender:
    """Ranks candidates for users and items, seen before or not.

    Args:
        config: The run's settings.
        dataset: The run's catalogue and the interactions that popularity is counted on.
        adapter: The trained LoRA adapter; None ranks with the model as it came.
        ranker: A ranker's name; left out: `llm` where there is an adapter, else `untuned`.
    """

    def __init__(
        self, config: Config, dataset: Dataset, adapter: Path | None = None, ranker: str = ""
    ) -> None:
        self.config = config
        self.dataset = dataset
        self._adapter = adapter
        self._name = ranker or ("llm" if adapter else "untuned")

    @classmethod
    def load(cls, folder: Path | str, ranker: str = "") -> Recommender:
        """Opens a run directory whose stages are done.

        Raises:
            StoreError: If the folder is not a run directory, or holds no prepared data.
        """
        folder = Path(folder)
        if not (folder / "config.toml").is_file() or not (folder / "items.parquet").is_file():
            raise StoreError(
                f"{folder}: not a run directory with prepared data; make one with `trsr run CONFIG`"
            )
        config = load_config(folder / "config.toml")
        adapter = folder / "adapter"
        return cls(config, Dataset.load(folder), adapter if adapter.is_dir() else None, ranker)

    @property
    def catalog(self) -> Catalog:
        """The run's items."""
        return self.dataset.catalog

    def recommend(
        self, queries: Iterable[Query], progress: Progress | None = None
    ) -> Iterator[RankedList]:
        """Ranks each query's candidates, one list a query, in the queries' order.

        A query without a summary is given one first, when the run's strategy writes summaries; with
        the output store only the steps never asked before are asked.
        """
        asked = self.summarized(list(queries), progress or Silent())
        return checked(self._ranker, asked, self._name)

    def summarized(self, queries: Sequence[Query], progress: Progress) -> list[Query]:
        """The queries, each with a summary where the run's strategy writes one.

        Raises:
            ConfigError: If the run tells other users' summaries: a query alone has no other user.
        """
        wanted = [query for query in queries if query.summary is None]
        names = self.config.rank.blend if self._name == "blend" else (self._name,)
        if not wanted or not self.config.reads_summary(names):
            return list(queries)
        if self.config.prompts.summary_of == "another":
            raise ConfigError(
                "prompts.summary_of: this run tells other users' summaries, as a control; it "
                "cannot recommend; use a run with own ones"
            )
        found = self.summaries([(query.id, query.history) for query in wanted], progress)
        return [
            dataclasses.replace(query, summary=found[query.id]) if query.id in found else query
            for query in queries
        ]

    def summaries(
        self, histories: Sequence[tuple[str, UserHistory]], progress: Progress
    ) -> dict[str, Summary]:
        """The histories' summaries, by the key given with each."""
        model, writer = self._summarizer
        progress.begin(len(histories), "histories")
        return dict(
            summarize(
                histories,
                model=model,
                writer=writer,
                settings=self.config.summarize,
                progress=progress,
            )
        )

    def propose(self, history: UserHistory, n: int = 0) -> tuple[Item, ...]:
        """Candidates for a user nobody gave candidates for: what `rank.first_stage` puts first.

        Args:
            history: The user's history.
            n: How many of the unseen items; 0: as `rank.proposals` says.
        """
        seen = {item.id for item in history.items}
        wanted = n or self.config.rank.proposals
        if self.config.rank.first_stage == "popular":
            unseen = (item for item in self._by_popularity if item not in seen)
            return tuple(self.catalog[item] for item, _ in zip(unseen, range(wanted), strict=False))
        candidates = tuple(item for item in self.catalog.all if item.id not in seen)
        query = Query(f"propose/{history.user}", history, candidates)
        (ranked,) = checked(self._first_stage, [query], self.config.rank.first_stage)
        chosen = top(ranked, wanted, self.config.run.seed)
        return tuple(self.catalog[entry.item] for entry in chosen)

    def prompts(self, query: Query) -> list[Prompt]:
        """The judge prompts of a query, one a candidate."""
        return self._judge(self._adapter is not None)[1].judge(query)

    @functools.cached_property
    def _by_popularity(self) -> list[str]:
        counts = self.dataset.interactions["item"].value_counts(sort=True)
        ranked = counts.sort(["count", "item"], descending=[True, False])["item"].to_list()
        known = set(ranked)
        return ranked + [item for item in self.catalog.ids if item not in known]

    @functools.cached_property
    def _summarizer(self) -> tuple[Any, PromptWriter]:
        model = open_stored(self.config, self.config.summarizer)
        return model, summary_writer(self.config, model, self.dataset.catalog)

    @functools.cached_property
    def _ranker(self) -> Ranker:
        return make_ranker(self._name, self._context)

    @functools.cached_property
    def _first_stage(self) -> Ranker:
        return make_ranker(self.config.rank.first_stage, self._context)

    @functools.cached_property
    def _context(self) -> RankContext:
        return rank_context(
            self.config,
            self.dataset,
            self._judge,
            validation=self._validation,
            adapter=self._adapter,
        )

    def _validation(self) -> Iterator[Case]:
        """The validation cases, with summaries where what is tuned on them is told summaries."""
        if self._name != "blend":  # a cheap ranker: the first stage's, or the prior's
            yield from self.dataset.cases("valid")
            return
        for case in self.dataset.cases("valid"):
            (query,) = self.summarized([case.query], Silent())
            yield Case(query, case.relevant)

    def _judge(self, tuned: bool) -> tuple[ScoringModel, PromptWriter]:
        if tuned and self._adapter is None:
            raise StoreError("there is no trained adapter in this run; use the ranker `untuned`")
        return self._judges(self._adapter if tuned else None)

    @functools.cache  # noqa: B019 - a recommender lives as long as its models
    def _judges(self, adapter: Path | None) -> tuple[ScoringModel, PromptWriter]:
        return judge(self.config, adapter)
