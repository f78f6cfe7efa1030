"""All settings of a run. Each package owns its table's class and defaults."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Annotated, Any, Literal

import tomli_w
from pydantic import BeforeValidator, Field, SecretStr, field_serializer
from pydantic_core import PydanticCustomError

from trsr.data.settings import DataSettings
from trsr.methods import DEFAULT, METHODS, Method
from trsr.metrics.metrics import EvaluateSettings
from trsr.models.base import Sampling
from trsr.models.settings import CompressSettings, ModelSettings
from trsr.prompts.settings import PromptSettings
from trsr.rankers.settings import RankSettings
from trsr.settings import Settings
from trsr.storage.addresses import shown
from trsr.storage.response_cache import is_database
from trsr.storage.shared_cache import without_password
from trsr.summarize.settings import DescribeSettings, SummarizeSettings
from trsr.training.settings import EncodeSettings, TrainSettings, TuneSummarizerSettings


def _cache(value: Any) -> Any:
    """A file, or a database's address, which may hold a password."""
    if not isinstance(value, str | Path | SecretStr):
        raise PydanticCustomError("secret", "give a file, or postgresql://USER@HOST/DATABASE")
    if not isinstance(value, str):
        return value
    return SecretStr(value) if is_database(value) else Path(value)


class RunSettings(Settings):
    """Where a run lives."""

    folder: Path = Field(
        Path(),
        description="the run directory, or the address of one (s3://BUCKET/…, gs://…, abfs://…); "
        "left out: runs/NAME-OF-THE-CONFIG, from here",
    )
    cache: Annotated[Path | SecretStr, BeforeValidator(_cache)] = Field(
        Path(),
        description="the language models' responses, shared by runs; left out: responses.sqlite "
        "beside the run directory; postgresql://USER@HOST/DATABASE: shared by machines",
    )

    seed: int = Field(0, ge=0, description="all random numbers of the run derive from it")
    engine: Literal["local", "ray"] = Field(
        "local",
        description="who does `summarize` and `rank`: this machine, or a Ray cluster whose "
        "machines share the folder",
    )
    address: str = Field(
        "",
        description="ray: the cluster's head, HOST:PORT; left out: the cluster that this machine "
        "is part of, or else this machine alone",
    )
    workers: int = Field(
        0,
        ge=0,
        description="processes, each with the model; left out: one, and with ray as many as there "
        "is room for",
    )
    worker_cpus: float = Field(1.0, ge=0, description="ray: CPUs of a worker; may be a fraction")
    worker_gpus: float = Field(0.0, ge=0, description="ray: GPUs of a worker; may be a fraction")
    shard_size: int = Field(
        64,
        ge=1,
        description="users or queries of a shard, where there are several workers: what is lost at "
        "most when a worker is",
    )

    @property
    def reaches(self) -> bool:
        """Whether the run needs what others share: a cluster, or a cache of many machines."""
        return self.engine != "local" or isinstance(self.cache, SecretStr)

    @field_serializer("folder", when_used="json")
    def _folder(self, folder: Path) -> str:
        return shown(folder)

    @field_serializer("cache", when_used="json")
    def _without_password(self, cache: Path | SecretStr) -> str:
        if isinstance(cache, SecretStr):
            return without_password(cache.get_secret_value())
        return str(cache)


class Config(Settings):
    """All settings of a run."""

    method: str = Field(
        DEFAULT,
        description="a published method (`trsr ls methods`): its stages, and its settings where a "
        "configuration says nothing",
    )
    run: RunSettings = Field(RunSettings(), description="where the run lives")
    data: DataSettings = Field(DataSettings(), description="the data, its splits and candidates")
    prompts: PromptSettings = Field(PromptSettings(), description="the prompts")
    model: ModelSettings = Field(ModelSettings(), description="the language model")
    describe: DescribeSettings = Field(DescribeSettings(), description="images to words")
    summarize: SummarizeSettings = Field(SummarizeSettings(), description="history to summary")
    train: TrainSettings = Field(TrainSettings(), description="LoRA fine-tuning")
    compress: CompressSettings = Field(
        CompressSettings(), description="a smaller ranking model, made after training"
    )
    encode: EncodeSettings = Field(
        EncodeSettings(), description="an item encoder made of a language model (llm2rec)"
    )
    rank: RankSettings = Field(RankSettings(), description="which rankers order the candidates")
    evaluate: EvaluateSettings = Field(EvaluateSettings(), description="which metrics")
    tune_summarizer: TuneSummarizerSettings = Field(
        TuneSummarizerSettings(), description="fine-tuning of the summarizing model"
    )

    @property
    def summarizer(self) -> ModelSettings:
        """The summarizing model's settings."""
        return (self.summarize.model or self.model).for_texts

    @property
    def summary_sampling(self) -> Sampling:
        """How summaries are generated; greedy ones keep their stored keys, whatever the seed."""
        own = self.summarize.sampling
        seed = self.run.seed if own.temperature > 0 else 0
        return Sampling.model_validate(own.model_dump() | {"seed": seed})

    @property
    def describer(self) -> ModelSettings:
        """The settings of the model that describes images."""
        return (self.describe.model or self.model).for_texts

    @property
    def summarized(self) -> bool:
        """Whether the ranking prompts show summaries."""
        return self.summarize.strategy != "none"

    def reads_summary(self, rankers: Collection[str]) -> bool:
        """Whether one of the rankers reads the summary, in its prompt or by itself."""
        reading = self.rank.those("reads_summary", rankers)
        return bool(reading) and self.summarized

    @property
    def replaced(self) -> str:
        """The method's settings that these replace, as a sentence; empty: none is."""
        method: Method = METHODS.load(self.method)
        return method.replaced(self.model_dump(mode="json"))

    @property
    def trained(self) -> bool:
        """Whether a model is trained: some ranker, or the retriever, needs it."""
        asked = self.rank.with_members(*self.rank.rankers, self.rank.retriever)
        return self.train.epochs > 0 and bool(self.rank.those("needs_training", asked))

    @property
    def titled(self) -> bool:
        """Whether a model is trained to write titles: some ranker, or the retriever, needs it."""
        asked = self.rank.with_members(*self.rank.rankers, self.rank.retriever)
        return self.train.epochs > 0 and bool(self.rank.those("writes_titles", asked))

    @property
    def data_seed(self) -> int:
        """The seed of sampled users and candidates."""
        return self.run.seed if self.data.seed is None else self.data.seed

    @property
    def train_seed(self) -> int:
        """The seed of training: of the language model, and of sequence networks."""
        return self.run.seed if self.train.seed is None else self.train.seed

    def to_toml(self) -> str:
        """The settings as resolved, as a file that gives the same run."""
        filled = self.model_copy(update={"rank": self.rank.resolved()})
        return tomli_w.dumps(_plain(filled.model_dump(mode="json", exclude_none=True)))


def _plain(value: Any) -> Any:
    """TOML has no null."""
    if isinstance(value, dict):
        return {key: _plain(one) for key, one in value.items() if one is not None}
    return value
