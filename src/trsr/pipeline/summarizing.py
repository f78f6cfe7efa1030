"""Writes the summaries of histories, all in this process or users by users in several."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

import polars as pl

from trsr.config import Config
from trsr.data import Cases, Catalog, Dataset
from trsr.engine import held
from trsr.pipeline.artifacts import framed_summaries, summary_frame, used_splits
from trsr.pipeline.runner import Job
from trsr.pipeline.sharding import StageShard, cut, do_shards, plus
from trsr.progress import Progress
from trsr.recommender import open_summarizer, summary_writer
from trsr.storage.run_directory import RunDirectory
from trsr.summarize import summarize
from trsr.types import Summary, UserHistory


class Summarizer:
    """The opened model and its words."""

    def __init__(self, config: Config, catalog: Catalog) -> None:
        self._settings, self._sampling = config.summarize, config.summary_sampling
        self._model = open_summarizer(config)
        self._writer = summary_writer(config, self._model, catalog)

    def run(
        self, histories: Iterable[tuple[str, UserHistory]], progress: Progress
    ) -> tuple[dict[str, Summary], dict[str, Any]]:
        """Summaries by query id, and what they took."""
        before = self._counts()
        found = summarize(
            histories,
            model=self._model,
            writer=self._writer,
            settings=self._settings,
            sampling=self._sampling,
            progress=progress,
        )
        return dict(found), plus(self._counts(), before, -1)

    def _counts(self) -> dict[str, Any]:
        model, counts = self._model, self._model.counts
        return {
            "model": model.identity,
            "asked": counts.asked,
            "from_store": counts.hits,
            "cached_seconds": round(counts.cached_seconds, 6),
            "cached_tokens": counts.cached_tokens,
            "cached_unknown": counts.cached_unknown,
            "shortened": self._writer.shortened,
            "prompts": self._writer.digest,
        } | (_usage(model) or {"tokens": counts.tokens})


def _usage(model: Any) -> dict[str, Any]:
    """What an endpoint's answers came to, where the model is one."""
    usage = getattr(getattr(model, "inner", model), "usage", None)
    return {"usage": dataclasses.asdict(usage)} if dataclasses.is_dataclass(usage) else {}  # type: ignore[arg-type]


def summarized_in_shards(
    job: Job, tables: Mapping[str, Cases]
) -> tuple[dict[str, Summary], dict[str, Any]]:
    """As `Summarizer.run`, in shards of users: all histories of a user begin alike."""
    shards = cut(job, users := len(_users(tables)))
    job.progress.begin(users, "users")
    waited = do_shards(job, _summarize_shard, shards)
    found: dict[str, Summary] = {}
    info: dict[str, Any] = {}
    for shard in shards:
        frame, facts = shard.read()
        found |= framed_summaries(frame)
        info = plus(info, facts)
    return found, info | waited


def _users(tables: Mapping[str, Cases]) -> pl.Series:
    return pl.concat([table.frame["user"] for table in tables.values()]).unique(maintain_order=True)


class _Opened:
    """What a worker keeps: the model and all histories."""

    def __init__(self, config: Config) -> None:
        dataset = Dataset.load(RunDirectory(config.run.folder).folder)
        self.tables = {split: dataset.cases(split) for split in used_splits(config)}
        self.users = _users(self.tables)
        self.summarizer = Summarizer(config, dataset.catalog)


def _summarize_shard(shard: StageShard, progress: Progress) -> int:
    opened = held(shard.whole, lambda: _Opened(shard.own_config()))
    users = opened.users[shard.start : shard.stop]
    own = [table.only(pl.col("user").is_in(users.implode())) for table in opened.tables.values()]
    histories = (history for table in own for history in table.histories())
    found, facts = opened.summarizer.run(histories, progress)
    shard.write(summary_frame(found), facts)
    return int(facts.get("tokens") or facts.get("usage", {}).get("prompt_tokens", 0))
