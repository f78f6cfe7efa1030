"""The settings of ranking, the table of rankers, and what a run must know of one."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import ConfigDict, Field, GetPydanticSchema, field_validator, model_validator
from pydantic_core import PydanticCustomError, PydanticKnownError, core_schema

from trsr.errors import ConfigError
from trsr.registry import PluginTable
from trsr.settings import Settings

if TYPE_CHECKING:
    from trsr.rankers.base import Ranker

Dropout = Annotated[float, Field(ge=0, lt=1)]
TextUse = Literal["none", "start", "add", "only"]
"""What texts are used for: nothing, where vectors start, what is added to them, or all of them."""
Rate = Annotated[float, Field(gt=0)]

HEADS = 2
"""Attention heads, as in both papers; they divide `hidden`."""
# BERT4Rec learns from a fifth of the items a pass, so its validation is noisy and rises for long:
# a single pass's luck is not to be taken for the best.
_OWN: dict[str, dict[str, Any]] = {
    "sasrec": {"layers": 2, "patience": 10, "average_decay": 0.0},
    "gru4rec": {"layers": 1, "patience": 10, "average_decay": 0.0},
    "bert4rec": {"layers": 2, "patience": 20, "average_decay": 0.85},
}


class SequentialSettings(Settings):
    """Networks that predict a user's next item (SASRec, GRU4Rec, BERT4Rec), and their training.

    Where a list is given, a network is trained with each of its values, and validation chooses.
    """

    hidden: int = Field(
        64, ge=2, multiple_of=2, description="length of an item's vector and of a state; even"
    )
    layers: int = Field(
        0, ge=0, description="layers of the network; 0: 1 for gru4rec, 2 for the others"
    )
    max_length: int = Field(50, ge=1, description="the latest items of a history that it reads")
    dropout: tuple[Dropout, ...] = Field(
        (0.2,),
        min_length=1,
        description="candidates for the dropout of vectors and layers; a number alone is one",
    )
    learning_rate: tuple[Rate, ...] = Field(
        (1e-3,),
        min_length=1,
        description="candidates for AdamW's rate; a number alone is one. Each is trained with each "
        "dropout, which takes as many times as long",
    )
    average_decay: float | None = Field(
        None,
        ge=0,
        lt=1,
        description="what is validated and kept is a moving average of the weights, which keeps "
        "this share of itself a pass; 0: the weights themselves; left out: 0.85 for bert4rec, 0 "
        "for others",
    )
    batch_size: int = Field(32, ge=1, description="sequences an optimizer step")
    max_epochs: int = Field(200, ge=1, description="most passes over the training sequences")
    patience: int = Field(
        0,
        ge=0,
        description="stop after this many passes without a better validation NDCG@10; 0: 20 for "
        "bert4rec, 10 for the others",
    )

    @field_validator("dropout", "learning_rate", mode="before")
    @classmethod
    def _listed(cls, value: Any) -> Any:
        """A number alone is a list of one."""
        return (value,) if isinstance(value, int | float | str) else value

    @property
    def candidates(self) -> list[tuple[float, float]]:
        """Every dropout with every learning rate, the first of both lists first."""
        return list(itertools.product(self.dropout, self.learning_rate))

    def of(self, kind: str) -> Self:
        """The same with a kind's own values where none is given."""
        fields = type(self).model_fields
        own = {
            key: value
            for key, value in _OWN[kind].items()
            if getattr(self, key) == fields[key].default
        }
        return self.model_copy(update=own)


RANKERS = PluginTable(
    "ranker",
    "trsr.rankers",
    {
        "random": "trsr.rankers.baselines.simple:RandomRanker",
        "popular": "trsr.rankers.baselines.simple:PopularRanker",
        "popular_recent": "trsr.rankers.baselines.simple:PopularRecentRanker",
        "bm25": "trsr.rankers.baselines.bm25:Bm25Ranker",
        "item_knn": "trsr.rankers.baselines.item_knn:ItemKnnRanker",
        "item_knn_recent": "trsr.rankers.baselines.item_knn:ItemKnnRecentRanker",
        "text_knn": "trsr.rankers.baselines.text_knn:TextKnnRanker",
        "ease": "trsr.rankers.baselines.item_knn:EaseRanker",
        "sasrec": "trsr.rankers.sequential.ranker:SasrecRanker",
        "gru4rec": "trsr.rankers.sequential.ranker:Gru4recRanker",
        "bert4rec": "trsr.rankers.sequential.ranker:Bert4recRanker",
        "bert4rec_text": "trsr.rankers.sequential.ranker:Bert4recTextRanker",
        "sasrec_text": "trsr.rankers.sequential.ranker:SasrecTextRanker",
        "sasrec_llm2rec": "trsr.rankers.sequential.ranker:SasrecLlm2recRanker",
        "gru4rec_llm2rec": "trsr.rankers.sequential.ranker:Gru4recLlm2recRanker",
        "distilled": "trsr.rankers.distilled:DistilledRanker",
        "blend": "trsr.rankers.blend:BlendRanker",
        "llm": "trsr.rankers.llm:TunedLLMRanker",
        "llm_zero_shot": "trsr.rankers.llm:ZeroShotLLMRanker",
        "llm_item_only": "trsr.rankers.llm:ItemOnlyLLMRanker",
        "llm_compressed": "trsr.rankers.llm:CompressedLLMRanker",
        "title": "trsr.rankers.titles:TitleRanker",
        "title_search": "trsr.rankers.titles:TitleSearchRanker",
        "title_sampled": "trsr.rankers.titles:TitleSampledRanker",
    },
)
"""Each part is a subclass of `trsr.rankers.Ranker`."""


OWN_ENCODER = "run"
"""In `rank.text_model`: the encoder that the run's stage `encode` makes."""


@dataclass(frozen=True)
class Traits:
    """What a run must know of a ranker.

    Attributes:
        uses_llm: Asks the ranking model: in full-catalog ranking it orders proposals.
        writes_titles: Asks the model that writes the next title, by the stage `train_title`.
        proposes: Though it asks a model, it ranks the whole catalog itself.
        reads_scores: Asks for log-probabilities; where not, an endpoint can be asked.
        needs_training: Asks the trained model, or learns from it, so that a model is trained.
        needs_compression: Asks the compressed form of the trained model.
        distills: Fitting it asks the trained model about training cases; scoring asks none.
        log_odds: Its score is log p(yes) − log p(no).
        reads_summary: Reads the user's summary, in its prompt or by itself.
        reads_text: Reads item texts as `rank.text_fields` and `rank.text_words` say.
        embeds_text: Reads embeddings of texts by `rank.text_model`.
        ids_alone: Once fitted it knows items by their ids alone, whatever it read before.
        tuned: Chooses between its settings on validation cases.
        learns_weights: Cannot do without validation cases: it learns on them.
        reads_validation: Looks at validation cases in any other way.
        learns_by_draws: Its training draws by `train.seed`.
        extras: (module, extra of trsr that brings it) pairs without which it cannot work.
    """

    uses_llm: bool = False
    writes_titles: bool = False
    proposes: bool = False
    reads_scores: bool = True
    needs_training: bool = False
    needs_compression: bool = False
    distills: bool = False
    log_odds: bool = False
    reads_summary: bool = False
    reads_text: bool = False
    embeds_text: bool = False
    ids_alone: bool = False
    tuned: bool = False
    learns_weights: bool = False
    reads_validation: bool = False
    learns_by_draws: bool = False
    extras: tuple[tuple[str, str], ...] = ()

    @property
    def pointwise(self) -> bool:
        """Whether it asks the ranking model about each candidate: yes or no."""
        return self.uses_llm and not self.writes_titles

    @property
    def validates(self) -> bool:
        """Whether its fitting looks at validation cases."""
        return self.tuned or self.learns_weights or self.reads_validation

    @property
    def reads_new(self) -> bool:
        """Whether it scores items that came after the run by their texts."""
        return (self.reads_text or self.uses_llm) and not self.ids_alone


def ranker_class(name: str) -> type[Ranker]:
    """The class of a ranker.

    Raises:
        ConfigError: If there is none of this name, or what another package names is no ranker.
    """
    return _classed(name, RANKERS.load(name))


@functools.cache
def _classed(name: str, found: Any) -> type[Ranker]:
    from trsr.rankers.base import Ranker

    if not (isinstance(found, type) and issubclass(found, Ranker)):
        raise ConfigError(
            f"the ranker {name}: {found!r} is no subclass of trsr.rankers.Ranker; mend the package "
            "that adds it"
        )
    return found


class RankerConfig(Settings):
    """The settings of a ranker that has none; each ranker's own class is derived from it."""


class ExternalSettings(RankerConfig):
    """Ranked lists that were made elsewhere."""

    files: tuple[Path, ...] = Field(
        min_length=1,
        description="a file of lists for the test queries, and as a blend's member one for the "
        "validation queries too: TREC runs, tables (.csv, .tsv, .jsonl, .parquet) with query or "
        "user, item, and score or rank, or .parquet files as trsr's rankings.parquet",
    )
    ranker: str = Field("", description="whose lists, where a .parquet file holds those of several")


@dataclass(frozen=True)
class _Named:
    """A ranker's table with its name, on its way to the ranker's own class of settings."""

    name: str
    value: Any


def _own_settings(given: Any) -> Any:
    if not isinstance(given, _Named):
        return given
    if given.name not in RANKERS:
        raise PydanticKnownError("extra_forbidden")
    owner = ranker_class(given.name)
    if owner.shares not in ("", given.name):
        raise PydanticCustomError(
            "shared",
            "{name} reads the settings of [rank.{table}]; set them there",
            {"name": given.name, "table": owner.shares},
        )
    config = owner.config_class()
    # an error in it is given with the place of the table before its own
    return given.value if isinstance(given.value, config) else config.model_validate(given.value)


_Table = Annotated[
    Any,
    GetPydanticSchema(
        lambda _, __: core_schema.no_info_plain_validator_function(_own_settings),
    ),
]


class RankSettings(Settings):
    """Which rankers order the candidates."""

    model_config = ConfigDict(extra="allow", frozen=True, validate_default=True)
    __pydantic_extra__: dict[str, _Table]

    rankers: tuple[str, ...] = Field(
        ("random", "popular", "llm_zero_shot", "llm"),
        min_length=1,
        description="one table row each; llm is the fine-tuned model, llm_zero_shot the model "
        "before that, llm_item_only the fine-tuned one without the user, llm_compressed the "
        "smaller one of the method od_llm, distilled what learned to rank as llm does",
    )
    split: Literal["test", "valid"] = Field(
        "test",
        description="the cases that are ranked and evaluated: with valid settings can be chosen "
        "by `trsr compare` without a look at the test cases",
    )
    retrieve_k: int = Field(
        50,
        ge=1,
        description="how many items the first stage proposes",
    )
    retriever: str = Field(
        "popular",
        description="the ranker that proposes unseen items where there are no candidates: to "
        "`recommend`, and with data.candidates = full to rankers with a language model (the others "
        "and title_search rank the whole catalog)",
    )
    depth: int = Field(
        1000,
        ge=1,
        description="data.candidates = full: places kept of each list; metrics may cut off at most "
        "there",
    )
    text_fields: tuple[str, ...] = Field(
        (), description="the text columns that the cheap rankers read, in this order; empty: all"
    )
    text_words: int = Field(64, ge=1, description="most words of each column that they read")
    text_model: str = Field(
        "minilm",
        description="the embedding model: minilm (see `trsr get`), a folder or a hub id, in the "
        "format of sentence-transformers; run: the encoder of the run's own stage encode",
    )
    sequential: SequentialSettings = Field(
        SequentialSettings(),
        description="the rankers sasrec, gru4rec and bert4rec, also with texts",
    )
    external: dict[str, ExternalSettings] = Field(
        {},
        description="rankers that are lists made elsewhere, by the names that they have in "
        "rank.rankers and rank.blend.members",
    )

    @model_validator(mode="before")
    @classmethod
    def _named(cls, values: Any) -> Any:
        """Says of each ranker's table whose it is."""
        if not isinstance(values, Mapping):
            return values
        fields = cls.model_fields
        return {
            key: one if key in fields or isinstance(one, _Named) else _Named(key, one)
            for key, one in values.items()
        }

    def table(self, name: str) -> Settings:
        """A ranker's own settings: its table, or their defaults.

        Raises:
            ConfigError: If there is no such ranker.
        """
        if name in self.external:
            return self.external[name]
        owner = ranker_class(name)
        place = owner.shares or name
        if place in type(self).model_fields:
            return getattr(self, place)  # type: ignore[no-any-return]
        given: Settings | None = (self.__pydantic_extra__ or {}).get(place)
        return owner.config_class()() if given is None else given

    def traits(self, name: str) -> Traits:
        """What a run must know of a ranker; of one that there is not, nothing."""
        if name in self.external or name not in RANKERS:
            return Traits()
        return ranker_class(name).traits_of(self.table(name))

    def members(self, name: str) -> tuple[str, ...]:
        """The rankers that a ranker asks; none for one that there is not."""
        if name in self.external or name not in RANKERS:
            return ()
        return ranker_class(name).members(self.table(name))

    def with_members(self, *names: str) -> tuple[str, ...]:
        """Rankers and all that they ask; each once."""
        found = dict.fromkeys(names)
        waiting = list(names)
        while waiting:
            more = [one for one in self.members(waiting.pop(0)) if one not in found]
            found |= dict.fromkeys(more)
            waiting += more
        return tuple(found)

    def those(self, trait: str, names: Iterable[str] | None = None) -> tuple[str, ...]:
        """Rankers that have a trait."""
        asked = self.used if names is None else names
        return tuple(name for name in asked if getattr(self.traits(name), trait))

    def orders(self, name: str) -> tuple[str, ...]:
        """A ranker's members, itself included, that only order what a retriever proposes."""
        asking = self.those("uses_llm", self.with_members(name))
        return tuple(one for one in asking if not self.traits(one).proposes)

    @property
    def used(self) -> tuple[str, ...]:
        """Every ranker of the table, with those that it asks; each once."""
        return self.with_members(*self.rankers)

    @property
    def asked(self) -> tuple[str, ...]:
        """The used rankers that are asked by others, such as a blend's members."""
        return tuple(dict.fromkeys(one for name in self.used for one in self.members(name)))

    @property
    def external_lists(self) -> dict[str, ExternalSettings]:
        """The used rankers that are lists made elsewhere."""
        return {name: self.external[name] for name in self.used if name in self.external}

    @property
    def embedding(self) -> tuple[str, ...]:
        """The used rankers that read embeddings of texts."""
        return self.those("embeds_text")

    @property
    def own_encoder(self) -> bool:
        """Whether a used ranker or the retriever reads the run's own encoder."""
        used = self.with_members(*self.rankers, self.retriever)
        return self.text_model == OWN_ENCODER and bool(self.those("embeds_text", used))

    @property
    def learning(self) -> tuple[str, ...]:
        """The used rankers whose training is random."""
        return self.those("learns_by_draws")

    def only(self, *rankers: str) -> RankSettings:
        """The same settings for these rankers."""
        return self.model_copy(update={"rankers": rankers})

    def meaning(self) -> dict[str, Any]:
        """What the rankings depend on, as plain values: the used rankers' settings only."""
        read = {"rankers"} | ({"split"} if self.split != "test" else set())
        for name in self.used:
            traits = self.traits(name)
            read |= {"text_fields", "text_words"} if traits.reads_text else set()
            read |= {"text_model"} if traits.embeds_text else set()
        own = self.model_dump(mode="json", include=read)
        tables = {name: self.table(name) for name in self.used if name not in self.external}
        return own | {
            name: one.model_dump(mode="json")
            for name, one in tables.items()
            if type(one).model_fields
        }

    def resolved(self) -> RankSettings:
        """The same settings with a table for each used ranker that has settings."""
        tables = {
            ranker_class(name).shares or name: self.table(name)
            for name in self.used
            if name in RANKERS
        }
        return self.model_copy(
            update={name: one for name, one in tables.items() if type(one).model_fields}
        )
