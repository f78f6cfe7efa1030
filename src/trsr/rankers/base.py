"""What a ranker is, what it is fitted on, and going on past a query that cannot be asked."""

from __future__ import annotations

import abc
import copy
import functools
import inspect
import sys
import types
import typing
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Self

import numpy as np
import polars as pl

from trsr.data import Catalog
from trsr.errors import ConfigError, DataError, PluginError, PromptError, StoreError
from trsr.progress import Progress, Silent
from trsr.rankers.batch import (
    ASKED,
    FEW,
    Floats,
    QueryBatch,
    RankedBatch,
    ScoreBatch,
    batched,
    ranked,
)
from trsr.rankers.item_text import TextEmbedder
from trsr.rankers.settings import RANKERS, RankSettings, Traits, ranker_class
from trsr.registry import optional
from trsr.settings import Settings
from trsr.storage import files
from trsr.types import Case, Interaction, Query, RankedList, UserHistory

if TYPE_CHECKING:
    from trsr.models import LanguageModel, ScoringModel
    from trsr.prompts import PromptWriter, TitleWriter
    from trsr.rankers.new_items import NewItems

STATE = "ranker.json"
"""In a ranker's folder: its name, its settings and what it learned that is no array."""

_NO_ITEMS = Catalog(pl.DataFrame({"id": pl.Series([], dtype=pl.String)}))


def _no_model(tuned: bool, compressed: bool = False) -> tuple[ScoringModel, PromptWriter]:
    raise AssertionError("no language model is given")


def _no_titles() -> tuple[LanguageModel, TitleWriter]:
    raise AssertionError("no model that writes titles is given")


def _no_ranker(name: str) -> Ranker:
    raise AssertionError(f"no ranker {name} is given")


@dataclass(frozen=True)
class Resources:
    """What every ranker of a run may use, when it is fitted and when it is loaded.

    Attributes:
        catalog: The items with their texts.
        settings: The settings of ranking that rankers share, such as `rank.text_fields`.
        model: Opens the language model and its prompts; the first argument asks for the trained
            one, a second one for that one's compressed form.
        ranker: Another ranker by its name, fitted: a member of a blend.
        progress: Shows long preparations.
        titles: Opens the model that writes titles, trained where it is, and its prompt.
        run: The run directory, for the encoder that is its own.
        new_items: Judges items that came after the run, for rankers that know ids alone. None:
            such rankers see what they see.
    """

    catalog: Catalog = _NO_ITEMS
    settings: RankSettings = field(default_factory=RankSettings)
    model: Callable[..., tuple[ScoringModel, PromptWriter]] = _no_model
    ranker: Callable[[str], Ranker] = _no_ranker
    progress: Progress = field(default_factory=Silent)
    titles: Callable[[], tuple[LanguageModel, TitleWriter]] = _no_titles
    run: Path | None = None
    new_items: NewItems | None = None

    def embedder(self) -> TextEmbedder:
        """Embeds texts by `rank.text_model`."""
        return TextEmbedder.of(self.settings, self.progress, self.run)


@dataclass(frozen=True)
class FitData:
    """What a ranker may be fitted on: no test case is in it.

    Attributes:
        catalog: The items with their texts.
        interactions: Columns `user`, `item` (str) and `time` (f64; seconds since 1970 where the
            data has dates, the place in the history where it has no times): only what happened
            before every validation and test target.
        training: The training cases; each targets an earlier interaction of its user.
        validation: The validation cases, whose answers may decide between settings.
    """

    catalog: Catalog
    interactions: pl.DataFrame
    training: Callable[[], Iterable[Case]] = tuple
    validation: Callable[[], Iterable[Case]] = tuple


@dataclass(frozen=True)
class FitOptions:
    """How rankers are fitted.

    Attributes:
        seed: The run's seed.
        train_seed: The seed of what a training draws, such as a network's weights; other draws
            follow from `seed`. None: that one.
        quality: Judges lists of validation cases: metric → mean, the most
            important first. None: nothing is tuned.
        progress: Shows long preparations.
    """

    seed: int = 0
    train_seed: int | None = None
    quality: Callable[[Sequence[Case], Sequence[RankedList]], Mapping[str, float]] | None = None
    progress: Progress = field(default_factory=Silent)


class Part(NamedTuple):
    """What something adds to scores: a member of a blend, or a word.

    Attributes:
        added: [queries, columns] what it adds.
        scores: [queries, columns] of a member, its own scores.
    """

    added: Floats
    scores: Floats | None = None


_DAMAGED = (OSError, ValueError, LookupError, TypeError, AttributeError, MemoryError)
"""What a file that is not as it was written may raise."""

_PARTS = ("data", "indices", "indptr")
"""The arrays of a sparse matrix."""


class Ranker(abc.ABC):
    """Scores candidates. It is given queries, which hold no answer, and nothing else.

    A ranker is a class of its own, named in the entry points `trsr.rankers`:

    - `config`: its annotation is the class of the ranker's settings, the table `[rank.NAME]`.
    - `shares`: the name of the table, where several rankers share one.
    - `traits`: what the run must know of it.
    - `fit` learns. What it learns stands in attributes whose names end with an underscore (as in
      scikit-learn): arrays, sparse matrices and plain values. `save` and `load` keep just these; a
      ranker with other state overrides both.
    - `score` gives scores, of any batch the same for the same query. Several threads may call it at
      once, unless it asks a language model.

    Args:
        config: Its settings; None: the defaults.
        resources: What it may use.
        name: The name in `rank.rankers`, for messages and draws.

    Attributes:
        chosen: The settings that it works with and how they were chosen, for the manifest.
        notes: What a reader of its figures must know, found while it scored.
    """

    traits: ClassVar[Traits] = Traits()
    shares: ClassVar[str] = ""
    config: Settings

    def __init__(
        self,
        config: Settings | None = None,
        resources: Resources | None = None,
        name: str = "",
    ) -> None:
        self.config = config if config is not None else self.config_class()()
        self.resources = resources or Resources()
        self.name = name or type(self).__name__
        self.chosen: dict[str, Any] = {}
        self.notes: dict[str, Any] = {}

    @classmethod
    @functools.cache  # settings are asked thousands of times a run
    def config_class(cls) -> type[Settings]:
        """The class of its settings, by the annotation of `config`.

        Raises:
            ConfigError: If the annotation names no class that its module knows.
        """
        owner = next(one for one in cls.__mro__ if "config" in inspect.get_annotations(one))
        annotation = inspect.get_annotations(owner)["config"]
        holder = types.SimpleNamespace(__annotations__={"config": annotation})
        try:
            scope = vars(sys.modules[owner.__module__])
            found: type[Settings] = typing.get_type_hints(holder, scope)["config"]
        except NameError as error:
            raise ConfigError(
                f"the ranker {cls.__name__}: {error}, the class of its settings; import it in "
                f"{owner.__module__} at run time too"
            ) from error
        return found

    @classmethod
    def traits_of(cls, config: Any) -> Traits:
        """Its traits with these settings."""
        return cls.traits

    @classmethod
    def members(cls, config: Any) -> tuple[str, ...]:
        """The names of the rankers that it asks with these settings."""
        return ()

    @classmethod
    def learns(cls) -> bool:
        """Whether `fit` does anything: without, a ranker can be used unfitted."""
        return cls.fit is not Ranker.fit

    def fit(self, data: FitData, options: FitOptions) -> None:  # noqa: B027
        """Learns from training data; here: nothing."""

    @abc.abstractmethod
    def score(self, batch: QueryBatch) -> ScoreBatch:
        """One score a query and column.

        Raises:
            PromptError: If a query's prompt cannot be made to fit.
        """

    def parts(self, batch: QueryBatch) -> dict[str, Part]:
        """What the scores are sums of, by name; here: it does not say."""
        return {}

    def rank(self, queries: Iterable[Query]) -> Iterator[RankedList]:
        """One list a query, lazily, in the queries' order: `score` for query objects.

        Raises:
            PromptError: If a query's prompt cannot be made to fit.
            DataError: If a score is not a number.
        """
        for batch in batched(queries, self.resources.catalog, self.batch_size):
            yield from ranked(batch, scored(self, batch)).lists()

    def altered(self, **state: Any) -> Self:
        """A copy with other values of some attributes; the others are shared."""
        found = copy.copy(self)
        vars(found).update(state)
        return found

    @property
    def batch_size(self) -> int:
        """How many queries it is asked about at once, where each has its own candidates."""
        return ASKED if self.traits_of(self.config).uses_llm else FEW

    def save(self, folder: Path) -> None:
        """Writes what was learned into an empty folder."""
        plain = {}
        for key, value in vars(self).items():
            if not key.endswith("_"):
                continue
            if isinstance(value, np.ndarray):
                np.save(folder / f"{key}.npy", value, allow_pickle=False)
            elif hasattr(value, "indptr"):
                for part in _PARTS:
                    path = folder / f"{key}.{part}.npy"
                    np.save(path, getattr(value, part), allow_pickle=False)
                plain[key] = {"sparse": list(value.shape)}
            else:
                plain[key] = {"value": value}
        self.write_state(folder, plain)

    def write_state(self, folder: Path, plain: Mapping[str, Any]) -> None:
        """Writes the name, the settings, what was chosen, and plain values."""
        value = {
            "ranker": self.name,
            "package": RANKERS.package(self.name),
            "config": self.config.model_dump(mode="json"),
            "chosen": self.chosen,
            "state": plain,
        }
        files.write_json(folder / STATE, value)

    @classmethod
    def load(cls, folder: Path, resources: Resources) -> Self:
        """Opens what `save` wrote; arrays are read as they are needed.

        Raises:
            StoreError: If the folder holds no such ranker, or a file is damaged.
        """
        try:
            ranker = cls._loaded(folder, resources)
            _try(ranker, resources)
        except (*_DAMAGED, PluginError) as error:
            raise StoreError(
                f"{folder}: not a fitted ranker ({error}); give `trsr run` again"
            ) from error
        return ranker

    @classmethod
    def _loaded(cls, folder: Path, resources: Resources) -> Self:
        value, ranker = cls.read_state(folder, resources)
        for path in files.listed(folder, "*_.npy"):
            setattr(ranker, cls._learned(path.stem), files.read_array(path))
        for key, one in value["state"].items():
            found = _sparse(folder, key, one) if "sparse" in one else one["value"]
            setattr(ranker, cls._learned(key), found)
        return ranker

    @classmethod
    def _learned(cls, name: str) -> str:
        """The name, if it can be of something learned: the files may come from somebody else."""
        if name.startswith("_") or not name.endswith("_"):
            raise ValueError(f"{name!r} is the name of nothing learned")
        return name

    @classmethod
    def read_state(cls, folder: Path, resources: Resources) -> tuple[dict[str, Any], Self]:
        """What `write_state` wrote, and a ranker with its name and settings."""
        value = files.read_json(folder / STATE)
        config = cls.config_class().model_validate(value["config"])
        ranker = cls(config, resources, value["ranker"])
        if not isinstance(value["chosen"], dict):
            raise TypeError(f"{STATE}: chosen is no table")
        ranker.chosen = value["chosen"]
        return value, ranker


def _try(ranker: Ranker, resources: Resources) -> None:
    """Scores one short history: what was learned may be from another run, or from elsewhere."""
    catalog, settings = resources.catalog, resources.settings
    used = settings.with_members(ranker.name)
    # a language model costs too much, and lists made elsewhere know no such query
    if not len(catalog) or settings.those("uses_llm", used) or {*used} & {*settings.external}:
        return
    ends = (catalog.at(0), catalog.at(len(catalog) - 1))
    history = UserHistory("", tuple(Interaction(item, 0.0) for item in ends))
    scored(ranker, QueryBatch.whole([("", history, None)], catalog), ranker.name)


def _sparse(folder: Path, key: str, plain: Mapping[str, Any]) -> Any:
    sparse = optional("scipy.sparse", "baselines", "a fitted ranker")
    parts = [files.read_array(folder / f"{key}.{part}.npy") for part in _PARTS]
    found = sparse.csr_array(tuple(parts), shape=tuple(plain["sparse"]))
    # scipy takes places outside the matrix for granted, and reads memory that is not its own
    found.check_format(full_check=True)
    return found


def make_ranker(name: str, resources: Resources) -> Ranker:
    """A ranker by its name in `RANKERS` or in `rank.external`, not yet fitted.

    Raises:
        ConfigError: If there is no such ranker; near names are suggested.
    """
    if name in resources.settings.external:
        from trsr.rankers.external import ExternalRanker

        return ExternalRanker(resources.settings.external[name], resources, name)
    found: Ranker = ranker_class(name)(resources.settings.table(name), resources, name)
    return found


def scored(ranker: Ranker, batch: QueryBatch, name: str = "") -> ScoreBatch:
    """Scores a batch, and refuses what is not one number a candidate.

    Raises:
        PromptError: If a query's prompt cannot be made to fit.
        DataError: If the shape is another one, or a candidate's score is not a number.
    """
    name = name or ranker.name
    new = ranker.resources.new_items
    with RANKERS.blamed(ranker.name, "score"):
        if new is not None and new.judges(ranker, batch):
            found = new.scores(ranker, batch)
        else:
            found = ranker.score(batch)
    if not isinstance(found, ScoreBatch):
        raise DataError(f"the ranker {name} gave {type(found).__name__} where a ScoreBatch was due")
    shape = (len(batch), len(batch.columns))
    if found.scores.shape != shape:
        raise DataError(
            f"the ranker {name} gave scores of the shape {found.scores.shape} where {shape} was "
            f"due, from query {batch.ids[0]} on: one row a query, one column an item of "
            "batch.columns"
        )
    unknown = np.isnan(found.scores)
    if unknown.any():
        rows = batch.places.rows
        bad = rows[unknown[rows, batch.places.values]]
        if len(bad):
            raise DataError(
                f"the ranker {name}: query {batch.ids[bad[0]]}: a score is not a number"
            )
    return found


def score_what_fits(
    ranker: Ranker,
    batches: Iterable[QueryBatch],
    skipped: Callable[[Query, PromptError], None],
    name: str = "",
) -> Iterator[tuple[QueryBatch, ScoreBatch]]:
    """Scores on past queries whose prompt cannot be made to fit.

    When a batch fails, its queries are asked one by one, so only those that fail alone are left
    out. `skipped` gets each query that is left out, and why.

    Yields:
        The batches with their scores, in order, without the queries that were left out.

    Raises:
        DataError: As `scored` does.
    """
    for batch in batches:
        alone: list[QueryBatch] = []
        try:
            found = scored(ranker, batch, name)
        except PromptError:
            # Outside the handler: the errors of single queries are their own.
            alone = [batch.select([row]) for row in range(len(batch))]
        else:
            yield batch, found
        waiting = deque(alone)
        while waiting:
            one = waiting.popleft()
            try:
                found = scored(ranker, one, name)
            except PromptError as error:
                skipped(next(one.queries()), error)
            else:
                yield one, found


def rank_what_fits(
    ranker: Ranker,
    queries: Iterable[Query],
    skipped: Callable[[Query, PromptError], None],
    name: str = "",
) -> Iterator[RankedList]:
    """The lists of query objects, as `score_what_fits` goes on past those that do not fit."""
    batches = batched(queries, ranker.resources.catalog, ranker.batch_size)
    for batch, found in score_what_fits(ranker, batches, skipped, name):
        yield from ranked(batch, found).lists()


def rank_batches(
    ranker: Ranker,
    batches: Iterable[QueryBatch],
    skipped: Callable[[Query, PromptError], None],
    *,
    depth: int | None = None,
    seed: int = 0,
) -> Iterator[RankedBatch]:
    """The ranked items of batches; arguments as of `score_what_fits` and `ranked`."""
    for batch, found in score_what_fits(ranker, batches, skipped):
        yield ranked(batch, found, depth, seed)
