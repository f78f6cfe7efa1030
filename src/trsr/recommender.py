"""The method at run time: a query in, a ranked list out."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import logging
import operator
import os
import threading
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence, Set
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import polars as pl

from trsr.config import Config, load_config
from trsr.config.validation import used_parts
from trsr.data import Catalog, Dataset
from trsr.data.dataset import DESCRIPTIONS, HELD_OUT
from trsr.data.frames import FrameKind, as_kind, user_ids
from trsr.data.images import FOLDER, TABLE
from trsr.data.matching import Where, matching
from trsr.data.requests import given_histories, given_items
from trsr.errors import ConfigError, DataError, ModelError, StoreError
from trsr.explanation import Explanation, page_writer, summary_trace, title, words_of
from trsr.metrics.significance import rank_correlation
from trsr.models import LanguageModel, ModelSettings, ScoringModel, open_model
from trsr.models.base import NoModel
from trsr.models.cached import CachedModel, CachedScoringModel, cached
from trsr.progress import Progress, Silent
from trsr.prompts import PromptWriter, TitleWriter
from trsr.rankers import (
    QueryBatch,
    Ranker,
    Resources,
    ScoreBatch,
    batched,
    make_ranker,
    ranked,
    scored,
)
from trsr.rankers.batch import whole_size
from trsr.rankers.item_text import ENCODER, ITEM_VECTORS
from trsr.rankers.new_items import MOST_COLD, NewItems
from trsr.rankers.settings import RANKERS as RANKERS_BY_NAME
from trsr.registry import blamed, like
from trsr.report.costs import RunFigures, run_figures
from trsr.settings import digest
from trsr.storage import files
from trsr.storage.files import hash_file
from trsr.storage.remote_run import local
from trsr.storage.response_cache import ResponseCache
from trsr.storage.run_directory import explained
from trsr.storage.shared_cache import is_kept, open_cache
from trsr.summarize import summarize
from trsr.types import Item, Prompt, Query, RankedList, Summary, UserHistory

if TYPE_CHECKING:
    from trsr.models.hf.soft_summary import SoftSummaries

_log = logging.getLogger(__name__)

SeenItems = Mapping[str, Collection[str]]
"""The ids of what users have met beside their histories, by user."""

RECOMMENDED = pl.Schema(
    {"user": pl.String(), "item": pl.String(), "score": pl.Float64(), "rank": pl.Int64()}
)
"""The columns of a table of recommendations."""


def recommended(lists: Iterable[tuple[str, RankedList]], k: int) -> pl.DataFrame:
    """The first `k` of each user's list as one table."""
    rows = [
        (user, entry.item, entry.score, place)
        for user, one in lists
        for place, entry in enumerate(one.entries[:k], 1)
    ]
    return pl.DataFrame(rows, RECOMMENDED, orient="row")


FEW_CANDIDATES = 3
"""With fewer a correlation says nothing."""

ANSWER_TOKENS = 8
"""Room left in the ranking prompt for the answer."""


def open_cached(config: Config, settings: ModelSettings, adapter: Path | None = None) -> Any:
    """Opens a model with the run's output store around it."""
    return cached(open_model(settings, adapter), open_cache(config.run.cache))


def open_summarizer(
    config: Config, opened: Callable[[ModelSettings], LanguageModel] | None = None
) -> CachedModel:
    """The summarizing model with the response cache around it."""
    model: LanguageModel = NoModel()
    if config.summarize.uses_llm:
        model = opened(config.summarizer) if opened else open_model(config.summarizer, None)
    return cached(model, open_cache(config.run.cache))


def summary_writer(
    config: Config, model: LanguageModel, catalog: Iterable[Item] = ()
) -> PromptWriter:
    """What is said to the summarizing model."""
    reserve = config.summarize.sampling.max_tokens
    tokens = model.context_tokens
    return PromptWriter(config.prompts, model.count_tokens, tokens, reserve, catalog)


def ranking_writer(config: Config, model: LanguageModel) -> PromptWriter:
    """What is said to the ranking model; ModelError where it is shown images and takes none."""
    if config.prompts.candidate_image:
        need_eyes(model, config.model, "set prompts.candidate_image = false")
    room = (model.context_tokens, ANSWER_TOKENS)
    prompts, soft = config.prompts, config.summarize.soft or None
    if prompts.item_vectors and not reads_vectors(model):  # such as one that is not trained
        prompts = prompts.model_copy(update={"item_vectors": 0})
        soft = soft and 0
    summarized = config.summarized
    return PromptWriter(prompts, model.count_tokens, *room, summarized=summarized, soft=soft)


def innermost(model: Any) -> Any:
    """An opened model without all that is around it."""
    while hasattr(model, "inner"):
        model = model.inner
    return model


def reads_vectors(model: Any) -> bool:
    """Whether items stand in an opened model's prompts as vectors, whatever is around it."""
    return bool(getattr(innermost(model), "item_vectors", 0))


def soft_summaries(model: Any) -> SoftSummaries | None:
    """What makes an opened model's soft summaries, where it reads them."""
    return getattr(innermost(model), "summaries", None)


def open_ranking_model(
    config: Config, adapter: Path | None
) -> tuple[CachedScoringModel, PromptWriter]:
    """The ranking model and its words, tuned where an adapter is given.

    Raises:
        ModelError: If the backend gives no log-probabilities.
    """
    model = open_cached(config, config.model, adapter)
    if not isinstance(model, CachedScoringModel):
        raise ModelError(
            f"the backend {config.model.backend!r} gives no log-probabilities of answers, so it "
            "cannot rank; choose another one in [model]"
        )
    if summaries := soft_summaries(model):
        summaries.keep_in(model.store)
    return model, ranking_writer(config, model)


@dataclasses.dataclass(frozen=True, slots=True)
class SoftReading:
    """A soft summary in words.

    Attributes:
        words: The word that is nearest to each of its vectors.
        correlation: Spearman's, of the candidates' scores with the vectors and with these words in
            their place: how much of what the ranker reads the words tell. None of few candidates.
        candidates: How many.
    """

    words: tuple[str, ...]
    correlation: float | None
    candidates: int

    def __str__(self) -> str:
        said = f"{len(self.words)} vectors, nearest words: {' '.join(self.words)}"
        if self.correlation is None:
            return said
        return (
            f"{said} (with these words in their place the {self.candidates} candidates' scores "
            f"have a rank correlation of {self.correlation:.2f} with the vectors')"
        )


def need_eyes(model: Any, settings: ModelSettings, otherwise: str) -> None:
    """Refuses a model that takes no images.

    Raises:
        ModelError: Naming the model.
    """
    if not getattr(getattr(model, "inner", model), "takes_images", False):
        raise ModelError(
            f"the model {settings.name} (backend {settings.backend}) takes no images: name one "
            f"that does, or {otherwise}"
        )


def open_title_model(
    config: Config, adapter: Path | None, *, keep: bool = True
) -> tuple[Any, TitleWriter]:
    """The model that writes titles, and its prompt; tuned where an adapter is given."""
    model = open_model(config.model.for_texts, adapter)
    if keep:
        model = cached(model, open_cache(config.run.cache))
    return model, TitleWriter(config.prompts, model.count_tokens, model.context_tokens)


COMPRESSED = "compressed"
"""In a run directory: the compressed ranking model."""


def compressed_model(config: Config, run: Path) -> Config:
    """The settings, with the run's compressed model as the language model.

    Raises:
        StoreError: If there is none.
    """
    folder = run / COMPRESSED
    if not files.is_folder(folder):
        raise StoreError(
            f"{run}: there is no compressed model; set method = 'od_llm' and give `trsr run`"
        )
    changed = {"name": str(folder), "revision": None}
    return config.model_copy(update={"model": config.model.model_copy(update=changed)})


RANKERS = "rankers"
"""In a run directory: a folder for each fitted ranker."""
ITEMS = "items.parquet"
"""The catalog's file."""
TITLE_ADAPTER = "adapter_title"
"""In a run directory: the adapter that the stage `train_title` made."""
KEY = "key.json"
"""In a fitted ranker's folder: all that it depends on."""


class Recommender:
    """Ranks candidates for users and items, seen before or not.

    It fits nothing: the run's stage `rank` has fitted its rankers, and they are loaded. Several
    threads may use it at once; those that ask a language model take turns.

    Args:
        config: The run's settings.
        dataset: The run's data.
        adapter: The trained LoRA adapter; None ranks with the model as it came.
        ranker: A ranker's name; left out: the last one of `rank.rankers`.
        rankers: The folder of the fitted rankers; None: that of `dataset`'s run.

    Attributes:
        name: The ranker's name.
        kind: Whose tables `recommend` gives: polars, pandas or arrow.
        new_items: Finds the catalog's items nearest to new ones.
    """

    keeps = True
    """Whether what a model is asked goes into the response cache."""

    def __init__(
        self,
        config: Config,
        dataset: Dataset,
        adapter: Path | None = None,
        ranker: str = "",
        rankers: Path | None = None,
    ) -> None:
        self.config = config
        self.dataset = dataset
        self.name = ranker or config.rank.rankers[-1]
        self.kind: FrameKind = "polars"
        self._adapter = adapter
        self._folder = rankers or dataset.folder / RANKERS
        self._lock = threading.RLock()
        self._loaded: dict[str, Ranker] = {}
        self._models: dict[tuple[bool, bool], tuple[ScoringModel, PromptWriter]] = {}
        self._mentioned: set[str] = set()
        self.new_items = NewItems(dataset.catalog, config.rank, dataset.folder, self._cold())

    def _cold(self) -> list[int]:
        """The items that came in by a service's log, and that nobody has met; not too many.

        Others without interactions keep the scores that the run gives them: its tables compare.
        """
        if self.config.data.service_log is None:
            return []
        known = self.dataset.interactions["item"].unique().implode()
        cold = self.catalog.frame.select(~pl.col("id").is_in(known)).to_series().arg_true()
        return cold.to_list() if len(cold) <= MOST_COLD else []

    @classmethod
    def load(cls, folder: Path | str, ranker: str = "") -> Self:
        """Opens a run directory whose stages are done, or one at an address (`s3://…`).

        Raises:
            ConfigError: If there is no such ranker; near names are suggested.
            StoreError: If the folder is not a run directory, holds no prepared data, or not this
                ranker.
        """
        if not isinstance(folder, str | os.PathLike):
            raise StoreError(f"{folder!r} is no run directory: give its path, as text")
        folder = Path(os.path.expanduser(local(folder)))
        if not files.is_file(folder / "config.toml") or not files.is_file(folder / "items.parquet"):
            raise StoreError(
                f"{folder}: not a run directory with prepared data; make one with `trsr run CONFIG`"
            )
        config = load_config(folder / "config.toml")
        if ranker and ranker not in (*RANKERS_BY_NAME.names(), *config.rank.used):
            there = ", ".join(config.rank.used)
            hint = like(ranker, RANKERS_BY_NAME.names())
            raise ConfigError(f"there is no ranker {ranker!r} (this run has {there}){hint}")
        adapter = folder / "adapter"
        found = cls(
            config, Dataset.load(folder), adapter if files.is_folder(adapter) else None, ranker
        )
        found.fitted(found.name)
        return found

    @property
    def catalog(self) -> Catalog:
        """The run's items."""
        return self.dataset.catalog

    def rank(
        self, queries: Iterable[Query], progress: Progress | None = None
    ) -> Iterator[RankedList]:
        """Ranks each query's candidates, one list a query, in the queries' order.

        A query without a summary is given one first, when the run's strategy writes summaries; with
        the response cache only new steps are computed. Rankers that read no texts judge items that
        the run does not know by the catalog's nearest (`NewItems`).

        Raises:
            DataError: If something else than queries is given.
            StoreError: In a fork of the process that loaded it.
        """
        files.refuse_fork()
        summarized = self.summarized(_queries(queries), progress or Silent())
        ranker = self.fitted(self.name)
        self._mention_new_items(summarized)
        for batch in batched(summarized, self.catalog, ranker.batch_size):
            yield from ranked(batch, self._scored(self.name, batch)).lists()

    def _mention_new_items(self, queries: Sequence[Query]) -> None:
        """Says of candidates that are judged by their texts' neighbours."""
        rank = self.config.rank
        names = [one for one in rank.with_members(self.name) if not rank.members(one)]
        reading = rank.those("reads_new", names)
        blind = [one for one in names if one not in reading]
        new = self.new_items.among(item for query in queries for item in query.candidates)
        new = tuple(one for one in new if one not in self._mentioned)
        self._mentioned.update(new)
        if blind and new:
            _log.warning(
                "new items: %d, such as %r; their scores by %s come from the catalog's items "
                "nearest in text",
                len(new),
                new[0],
                ", ".join(blind),
            )

    def _scored(self, name: str, batch: QueryBatch) -> ScoreBatch:
        files.refuse_fork()
        rank = self.config.rank
        asking = rank.those("uses_llm", rank.with_members(name))
        failing = blamed(used_parts(self.config), "score")
        with failing, self._lock if asking else contextlib.nullcontext():
            return scored(self.fitted(name), batch, name)

    def summarized(self, queries: Sequence[Query], progress: Progress) -> list[Query]:
        """The queries, each with a summary where the run's strategy writes one."""
        wanted = [query for query in queries if query.summary is None]
        names = self.config.rank.with_members(self.name)
        if not wanted or not self.config.reads_summary(names):
            return list(queries)
        found = self.summaries([(query.id, query.history) for query in wanted], progress)
        return [
            dataclasses.replace(query, summary=found[query.id]) if query.id in found else query
            for query in queries
        ]

    def summaries(
        self, histories: Sequence[tuple[str, UserHistory]], progress: Progress
    ) -> dict[str, Summary]:
        """The histories' summaries, by the key given with each."""
        with blamed(used_parts(self.config), "summarize"), self._lock:
            model, writer = self._summarizer
            progress.begin(len(histories), "histories")
            return dict(
                summarize(
                    histories,
                    model=model,
                    writer=writer,
                    settings=self.config.summarize,
                    sampling=self.config.summary_sampling,
                    progress=progress,
                )
            )

    def recommend(
        self,
        users: Any,
        k: int = 10,
        progress: Progress | None = None,
        *,
        among: Any = None,
        where: Where | None = None,
    ) -> Any:
        """Items for users that they have not seen, as a table.

        What `rank.retriever` puts first of the unseen items (at least `rank.retrieve_k` of them) is
        ranked.

        Args:
            users: One user's id, or several: a list, a column, or a table with the one column, the
                column `user`, or the data's own. Of anybody: a mapping of ids to the ids of what
                each has met, oldest first (`{"new": ["i1", "i2"]}`), or `UserHistory` objects. A
                history given for a user of the run is read in the place of the run's, so that
                what the run alone has seen may come.
            k: How many items a user gets at most.
            progress: Shows how far it is.
            among: The only items to choose from, such as those in stock, by ids: a list, a
                column, a table with the column `item` or the items' own table. New items come with
                their texts: as an `Item` or a mapping with `id` and texts in a list (also of a
                history), or as rows of the table. None: the catalog.
            where: Only items with one of these values, by column: `{"genre": ["Drama", "War"]}`. A
                value is the whole text, or a part of it between commas, semicolons or bars; a
                number counts as its text.

        Returns:
            Columns `user`, `item` (text), `score` (higher is better, to be compared within a user)
            and `rank` (from 1), the users in the order given. A user has fewer than `k` rows, or
            none, where fewer items are unseen. A polars frame, or the kind of table that `trsr.fit`
            was given.

        Raises:
            DataError: If a user, an item or a field is not in the run's data; the message names it.
                If nothing matches `where`, or it is no such mapping. If `k` is no whole number from
                1 on.
        """
        k = _count(k)
        histories, seen = self._histories(users)
        items = None if among is None else self._among(among)
        if where is not None and where != {}:
            items = matching(self.catalog, where, items)
        progress = progress or Silent()
        progress.begin(len(histories), "users")
        lists = self.rank_unseen(histories, k, progress, items, seen)
        found = recommended(((query.history.user, one) for query, one in lists), k)
        return as_kind(found, self.kind)

    def _among(self, given: Any) -> tuple[Item, ...]:
        """The items to choose from, each once."""
        columns = self.config.data.columns
        what, found = "the items to choose from", dict[str, Item]()
        for item in given_items(given, self.catalog, what, columns.item_id, columns.item):
            if found.setdefault(item.id, item) != item:
                raise DataError(f"{what}: {item.id!r} comes with two texts; leave one out")
        if not found:
            raise DataError("there is no item to choose from; leave among out for the catalog")
        return tuple(found.values())

    def _histories(self, given: Any) -> tuple[list[UserHistory], SeenItems]:
        """The histories, and what their users have met beside them."""
        columns = self.config.data.columns
        given = list(given) if isinstance(given, Iterator | Set) else given
        histories = given_histories(given, self.catalog, columns.item, columns.item_id)
        if histories is not None:
            return histories, {}
        users = user_ids(given, columns.user)
        found = self.dataset.histories(users)
        missing = [user for user in users if user not in found]
        if missing:
            named = ", ".join(map(repr, missing[:5])) + (", …" if len(missing) > 5 else "")
            some = ", ".join(self.dataset.interactions["user"].unique(maintain_order=True).head(3))
            raise DataError(
                f"{len(missing):,} of {len(users):,} users are not in this run's data: {named}; "
                f"there are, say, {some}. A new user's history is given with the id: "
                "{'new': ['item', …]}, or a file HISTORY.jsonl on the command line"
            )
        return [found[user] for user in users], self.dataset.seen(users)

    def rank_unseen(
        self,
        histories: Sequence[UserHistory],
        k: int,
        progress: Progress | None = None,
        among: Sequence[Item] | None = None,
        seen: SeenItems | None = None,
    ) -> Iterator[tuple[Query, RankedList]]:
        """Proposals for histories, ranked: at least `k` where so many items are unseen.

        `among` holds the items to choose from; None: the catalog. `seen` is as for `propose`.

        Yields:
            The query and its list; histories without an unseen item are left out, and logged.
        """
        size = self.fitted(self.name).batch_size
        wanted = max(k, self.config.rank.retrieve_k)
        earlier: Counter[str] = Counter()
        for start in range(0, len(histories), size):
            some = histories[start : start + size]
            queries = []
            proposed = self._proposed(some, wanted, among, seen=seen)
            for history, items in zip(some, proposed, strict=True):
                if items:
                    name = f"recommend/{history.user}/{earlier[history.user]}"
                    queries.append(Query(name, history, items))
                    earlier[history.user] += 1
                else:
                    _log.warning("user %r has seen all items: nothing is left", history.user)
            queries = self.summarized(queries, Silent())
            yield from zip(queries, self.rank(queries), strict=True)
            if progress:
                progress.advance(len(some))

    def explain(self, user: Any, k: int = 10) -> Explanation:
        """How a user's list comes about.

        Args:
            user: The id of a user of the run, or a history of anybody, as `recommend` takes it.
            k: How many items are shown.

        Returns:
            Blocks, summaries, the prompt, and the scores of each ranker that takes part.

        Raises:
            DataError: If there is no such user, or no item that the user has not met. If `k` is no
                whole number from 1 on.
        """
        k = _count(k)
        (history, *_), seen = self._histories(user)
        query, found = next(self.rank_unseen([history], k, seen=seen), (None, None))
        if query is None or found is None:
            raise DataError(f"user {history.user} has met all items: there is nothing to rank")
        batch = QueryBatch.of([query], self.catalog)
        names = self.config.rank.with_members(self.name)
        columns = {name: ranked(batch, self._scored(name, batch)) for name in names}
        shown = pl.DataFrame({"item": [entry.item for entry in found.entries[:k]]})
        for name, one in columns.items():
            own = {"item": batch.item_ids(one.items.values), name: one.scores}
            shown = shown.join(pl.DataFrame(own), on="item", how="left", maintain_order="left")
        fields = self.config.prompts.fields
        titles = {item.id: title(item, fields=fields) for item in query.candidates}
        places = dict(zip(titles, batch.places[0].tolist(), strict=True))
        heaviest = {name: words_of(self.fitted(name), batch) for name in names}
        words = {
            name: {item: one(places[item]) for item in shown["item"]}
            for name, one in heaviest.items()
            if one is not None
        }
        scores = shown.select(
            pl.int_range(1, pl.len() + 1).alias("rank"),
            "item",
            pl.col("item").replace_strict(titles, return_dtype=pl.String).alias("title"),
            *names,
        )
        asks = self.config.rank.those("pointwise", names)
        summary, reading = query.summary, self.soft_reading(query)
        if summary is not None and self.config.summarize.soft:
            summary = dataclasses.replace(summary, text=str(reading or "vectors that nobody reads"))
        return Explanation(
            history,
            summary_trace(self.config, page_writer(self.config), history, query.summary),
            summary,
            self.prompts(query)[0] if asks else None,
            scores,
            words,
            fields,
        )

    def soft_reading(self, query: Query) -> SoftReading | None:
        """What a query's soft summary says in words; None where it has none that is read."""
        reading = self.config.rank.those("reads_summary", self.config.rank.used)
        if query.summary is None or not query.summary.text or not self.config.summarize.soft:
            return None
        if self._adapter is None or not self.config.rank.those("needs_training", reading):
            return None
        with self._lock:
            model, writer = self._rank(True)
            summaries = soft_summaries(model)
            if summaries is None:
                return None
            tokenizer = innermost(model).chat_format.tokenizer
            words = tuple(summaries.words(query.summary.text, tokenizer))
            room = (model.context_tokens, ANSWER_TOKENS)
            plain = PromptWriter(writer.settings, model.count_tokens, *room)
            said = dataclasses.replace(query.summary, text=" ".join(words))
            worded = dataclasses.replace(query, summary=said)
            found = [
                model.score(one.rank(asked), one.answers)
                for one, asked in ((writer, query), (plain, worded))
            ]
        as_vectors, as_words = (own[:, 0] - own[:, 1] for own in found)
        if len(as_vectors) < FEW_CANDIDATES:
            return SoftReading(words, None, len(as_vectors))
        return SoftReading(words, rank_correlation(as_vectors, as_words), len(as_vectors))

    @property
    def report(self) -> RunFigures:
        """The run's figures; they show themselves in a notebook.

        Raises:
            StoreError: If the run was not evaluated.
        """
        return run_figures(self.dataset.folder)

    def save(self, folder: Path | str) -> Path:
        """Copies what recommending needs into a folder of its own; `trsr.load` opens it.

        That is: items, interactions and cases, this ranker with its members and the retriever, the
        adapter, the figures, and stored texts of the cases' summaries. The run's other rankers stay
        behind, and so does a language model that the settings name by a folder.

        Args:
            folder: An empty or new folder.

        Raises:
            StoreError: If there is something in the folder, or it cannot be written.
        """
        folder = Path(files.absolute(folder))
        if files.listed(folder):
            raise StoreError(f"{folder}: there is something in it; choose an empty or new folder")
        with explained(folder, "another folder"):
            self._copy(folder)
        return folder

    def _copy(self, folder: Path) -> None:
        run, config = self.dataset.folder, self.config
        names = config.rank.with_members(self.name, config.rank.retriever)
        summaries = files.listed(run, "summaries.*.parquet")
        cases = files.listed(run, "cases.*.parquet")
        seen = (run / DESCRIPTIONS, *((run / TABLE, run / FOLDER) if self.catalog.images else ()))
        whole = (run / ITEMS, run / "interactions.parquet", run / HELD_OUT, run / "report.json")
        encoder = (run / ENCODER, run / ITEM_VECTORS) if config.rank.own_encoder else ()
        for path in (*whole, *seen, *cases, *encoder):
            if files.exists(path):
                files.copy(path, folder / path.name)
        for name in names:
            if files.is_folder(self._folder / name):
                files.copy(self._folder / name, folder / RANKERS / name)
        asked = config.rank.those("uses_llm", names)  # what was distilled asks nobody any more
        if self._adapter and config.rank.those("needs_training", asked):
            files.copy(self._adapter, folder / "adapter")
        if config.rank.those("needs_compression", names):
            files.copy(run / COMPRESSED, folder / COMPRESSED)
        if config.rank.those("writes_titles", names) and files.is_folder(run / TITLE_ADAPTER):
            files.copy(run / TITLE_ADAPTER, folder / TITLE_ADAPTER)
        if config.prompts.domain.endswith(".toml"):
            domain = Path(config.prompts.domain)
            files.copy(domain, folder / domain.name)
        files.write_text(folder / "config.toml", self.portable().to_toml())
        sources = (files.read_parquet(path)["sources"].explode() for path in summaries)
        keys = [key for own in sources for key in own.drop_nulls()]
        if keys and is_kept(config.run.cache):
            with open_cache(config.run.cache, write=False) as old:
                known, costs = old.get(keys), old.costs(keys)
            with ResponseCache(folder / "responses.sqlite") as new:
                new.put_all(known, costs)

    def portable(self) -> Config:
        """The settings with this ranker alone, and file names in the place of paths."""
        config, prompts = self.config, self.config.prompts
        if prompts.domain.endswith(".toml"):
            prompts = prompts.model_copy(update={"domain": f"./{Path(prompts.domain).name}"})
        named = {key: getattr(config.data, key) for key in ("interactions", "items", "impressions")}
        bare = {key: Path(path.name) for key, path in named.items() if path is not None}
        place = {"folder": Path(), "cache": Path("responses.sqlite")}
        return config.model_copy(
            update={
                "run": config.run.model_copy(update=place),
                "data": config.data.model_copy(update=bare),
                "prompts": prompts,
                "rank": config.rank.only(self.name),
            }
        )

    def propose(
        self,
        history: UserHistory,
        n: int = 0,
        new: Sequence[Item] = (),
        seen: Collection[str] | None = None,
        where: Where | None = None,
    ) -> tuple[Item, ...]:
        """Candidates for a user nobody gave candidates for: what `rank.retriever` puts first.

        Args:
            history: The user's history.
            n: How many of the unseen items; 0: as `rank.retrieve_k` says.
            new: Items that came after the run, to be proposed too, or have another text since.
            seen: The ids of what the user has met beside the history; None: what the run knows.
            where: As for `recommend`.
        """
        among = matching(self.catalog, where, new=new) if where else None
        beside = None if seen is None else {history.user: seen}
        wanted = n or self.config.rank.retrieve_k
        return self._proposed([history], wanted, among, new=new, seen=beside)[0]

    def _proposed(
        self,
        histories: Sequence[UserHistory],
        n: int,
        among: Sequence[Item] | None = None,
        *,
        new: Sequence[Item] = (),
        seen: SeenItems | None = None,
    ) -> list[tuple[Item, ...]]:
        """What the retriever puts first for each, without what the user has seen at any time."""
        if seen is None:
            seen = self.dataset.seen([history.user for history in histories])
        # of the catalog's own items, all are scored at once
        outside = among is not None and any(
            item.id not in self.catalog or self.catalog[item.id] != item for item in among
        )
        numbers = [] if outside else [self.catalog.number(item.id) for item in among or ()]
        found: list[tuple[Item, ...]] = []
        size = whole_size(self.catalog)
        for start in range(0, len(histories), size):
            some = histories[start : start + size]
            # ties are drawn by what the user has done: the same for everybody who has done it
            asked = [(f"propose/{_done(one)}", one, None) for one in some]
            if among is not None and outside:
                batch = QueryBatch.choosing(asked, self.catalog, among, seen)
            else:
                added = new if among is None else ()  # what is chosen from holds those that match
                batch = QueryBatch.whole(asked, self.catalog, seen, added)
                batch = batch if among is None else batch.among(numbers)
            found += self._first(batch, n)
        return found

    def _first(self, batch: QueryBatch, n: int) -> list[tuple[Item, ...]]:
        """What the retriever puts first for each query; all where they are no more than `n`."""
        if not batch.places.lengths.all():  # nothing is left for some, of which no ranker is asked
            some = np.flatnonzero(batch.places.lengths).tolist()
            found = iter(self._first(batch.select(some), n) if some else ())
            return [next(found) if count else () for count in batch.places.lengths.tolist()]
        if not batch.full and int(batch.places.lengths.max(initial=0)) <= n:
            return [
                tuple(map(batch.item, batch.columns[batch.places[row]].tolist()))
                for row in range(len(batch))
            ]
        scores = self._scored(self.config.rank.retriever, batch)
        chosen = ranked(batch, scores, n, self.config.run.seed).items
        return [
            tuple(batch.item(int(number)) for number in chosen[row]) for row in range(len(batch))
        ]

    @property
    def ranking_model(self) -> tuple[Any, PromptWriter]:
        """The run's language model for ranking, trained where it is, and its prompts."""
        return self._rank(self._adapter is not None)

    def prompts(self, query: Query) -> list[Prompt]:
        """The ranking prompts of a query, one a candidate."""
        return self.ranking_model[1].rank(query)

    def fitted(self, name: str) -> Ranker:
        """A ranker of the run, loaded once.

        Raises:
            ConfigError: If there is no such ranker; near names are suggested.
            StoreError: If the run has not fitted it, or on other items.
        """
        with self._lock:
            if name not in self._loaded:
                self._loaded[name] = self._load(name)
            return self._loaded[name]

    def _load(self, name: str) -> Ranker:
        resources = Resources(
            self.catalog,
            self.config.rank,
            self._rank,
            self.fitted,
            titles=self._titles,
            run=self.dataset.folder,
            new_items=self.new_items,
        )
        ranker = make_ranker(name, resources)
        if not ranker.learns():
            return ranker
        folder = self._folder / name
        try:
            key = files.read_json(folder / KEY)
            items = key["files"].get(ITEMS)
        except (OSError, ValueError, KeyError, AttributeError) as error:
            used = self.config.rank.used
            raise StoreError(
                f"{folder}: this run has not fitted {name} yet; give `trsr run` to finish it"
                if name in used
                else f"{folder}: this run has no ranker {name}, but {', '.join(used)}; name it in "
                "rank.rankers (or rank.retriever) and give `trsr run`"
            ) from error
        if items != hash_file(self.dataset.folder / ITEMS):
            raise StoreError(
                f"{folder}: the ranker {name} was fitted on another {ITEMS}; give `trsr run` again"
            )
        return type(ranker).load(folder, resources)

    @functools.cached_property
    def _summarizer(self) -> tuple[Any, PromptWriter]:
        model = open_summarizer(self.config)
        return model, summary_writer(self.config, model, self.dataset.catalog)

    def _rank(self, tuned: bool, compressed: bool = False) -> tuple[ScoringModel, PromptWriter]:
        if tuned and self._adapter is None:
            raise StoreError(
                "there is no trained adapter in this run; use the ranker `llm_zero_shot`"
            )
        with self._lock:
            key = tuned, compressed
            if key not in self._models:
                config = self.config
                if compressed:
                    config = compressed_model(config, self._folder.parent)
                adapter = self._adapter if tuned and not compressed else None
                self._models[key] = self._open(config, adapter)
            return self._models[key]

    def _open(self, config: Config, adapter: Path | None) -> tuple[ScoringModel, PromptWriter]:
        return open_ranking_model(config, adapter)

    @functools.cached_property
    def _title_model(self) -> tuple[LanguageModel, TitleWriter]:
        adapter = self.dataset.folder / TITLE_ADAPTER if self.config.titled else None
        return open_title_model(self.config, adapter, keep=self.keeps)

    def _titles(self) -> tuple[LanguageModel, TitleWriter]:
        with self._lock:
            return self._title_model


def _done(history: UserHistory) -> str:
    return digest([item.id for item in history.items])


def _count(k: Any) -> int:
    """How many items are asked for."""
    try:
        count = operator.index(k)
    except TypeError:
        count = 0
    if count < 1:
        raise DataError(f"k = {k!r}: ask for at least one item a user, by a whole number")
    return count


def _queries(given: Any) -> list[Query]:
    """Queries, or the one query that was given."""
    found = list(given) if isinstance(given, Iterable) and not isinstance(given, str) else [given]
    for one in found:
        if not isinstance(one, Query):
            raise DataError(
                f"{one!r} is no trsr.Query: rank orders the candidates of queries; "
                "Recommender.recommend gives items to users of the run by their ids"
            )
    return found


def load(folder: Path | str, ranker: str = "") -> Recommender:
    """As `Recommender.load`."""
    return Recommender.load(folder, ranker)
