"""The fitted rankers of a run: each is made once, kept on disk, and loaded where it still holds."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trsr.config import Config
from trsr.data import Dataset
from trsr.data.dataset import DESCRIPTIONS
from trsr.data.images import FOLDER as IMAGES
from trsr.data.images import TABLE
from trsr.errors import StoreError
from trsr.metrics import tuning_quality
from trsr.models import LanguageModel, ScoringModel
from trsr.pipeline.artifacts import cases_file, summaries_file
from trsr.progress import Progress, Silent
from trsr.prompts import PromptWriter, TitleWriter, load_domain
from trsr.prompts.titles import title_words
from trsr.rankers import FitData, FitOptions, Ranker, Resources, make_ranker
from trsr.rankers.item_text import ENCODER, ITEM_VECTORS
from trsr.rankers.settings import RANKERS, ranker_class
from trsr.recommender import COMPRESSED, ITEMS, KEY, TITLE_ADAPTER
from trsr.recommender import RANKERS as FOLDER
from trsr.storage import files
from trsr.storage.run_directory import RunDirectory, readable
from trsr.types import Case


def ranking_prompt_settings(config: Config) -> dict[str, Any]:
    """What the ranking model is, and what is said to it."""
    excluded = {"summary_item_words", "summary_numbers", "summary_words"}
    domain = load_domain(config.prompts.domain)
    seen = {"no_image": domain.no_image} if config.prompts.candidate_image else {}
    own = config.summarize
    soft = {"vectors": own.soft} if own.soft else {}
    plain = [] if config.summarized else [turn.model_dump() for turn in domain.rank_plain]
    return (
        seen
        | ({"rank_plain": plain} if plain else {})
        | ({"summarize": soft} if soft else {})
        | {
            "words": domain.digest(config.prompts.style),
            "prompts": config.prompts.meaning(excluded),
            "model": config.model.meaning(),
            "run": {"seed": config.run.seed},
        }
    )


def title_prompt_settings(config: Config) -> dict[str, Any]:
    """What the model that writes titles is, whether it is tuned, and what is said to it."""
    return {
        "words": title_words(config.prompts),
        "model": config.model.meaning(),
        "tuned": config.titled,
    }


@dataclass
class FittedRankers:
    """Gives the rankers of a run, fitted.

    A ranker is loaded where its folder says that all it depends on is as it was; else it is fitted
    and written into `work`, so that a stage that was stopped goes on behind the last one. Those
    that are fitted lie in `work` until the stage is done. Cases have summaries where there are any.
    """

    config: Config
    run: RunDirectory
    dataset: Dataset
    work: Path
    open_ranking_model: Callable[..., tuple[ScoringModel, PromptWriter]]
    open_titles: Callable[[], tuple[LanguageModel, TitleWriter]]
    training: Callable[[], Iterable[Case]]
    validation: Callable[[], Iterable[Case]]
    progress: Progress = field(default_factory=Silent)
    _members: dict[str, Ranker] = field(default_factory=dict)

    def get(self, name: str) -> Ranker:
        """A ranker by its name; those that others ask are kept, the others made anew each time.

        Raises:
            ConfigError: If there is no such ranker, or it cannot be fitted.
            DataError: If it cannot be fitted on this data.
        """
        if name in self._members:
            return self._members[name]
        ranker = self._found(name) or self._fitted(name)
        if name in self.config.rank.asked:
            self._members[name] = ranker
        return ranker

    def forget(self) -> None:
        """Lets go of what is kept: rankers and what opens models for them know each other."""
        self._members.clear()

    def write(self, out: Path, names: Sequence[str]) -> None:
        """Puts the named rankers' folders, which must be made, into `out`."""
        for name in names:
            source = self._folder(name)
            if source is None:
                self.get(name)
                source = self.work / name
            files.copy(source, out / FOLDER / name)

    def key(self, name: str) -> dict[str, Any]:
        """All that a fitted ranker depends on, as plain values."""
        config, rank = self.config, self.config.rank.only(name)
        read = [ITEMS, DESCRIPTIONS, "interactions.parquet"]
        if rank.traits(name).validates or any(rank.traits(one).validates for one in rank.used):
            read.append(cases_file("valid"))
        if any(map(RANKERS.added, rank.used)):  # what other packages' rankers look at is not known
            read += [cases_file("train"), cases_file("valid")]
        found: dict[str, Any] = {
            "classes": {one: _class_of(one) for one in rank.used if one not in rank.external},
            "settings": rank.meaning(),
            "seed": config.run.seed,
        }
        if rank.learning:
            found["train seed"] = config.train_seed
        if rank.external_lists:
            found["lists"] = {
                other: {
                    "ranker": one.ranker,
                    "files": [[str(path), *files.stamp(path)] for path in one.files],
                }
                for other, one in rank.external_lists.items()
            }
        if config.reads_summary(rank.used):
            read.append(summaries_file("valid"))
        if rank.those("writes_titles"):
            found["titles"] = title_prompt_settings(config) | {"scorer": config.model.scorer}
            read.append(TITLE_ADAPTER)
        taught = rank.those("distills")
        read += [cases_file("train"), summaries_file("train")] if taught else []
        if taught or rank.those("pointwise"):
            found["model"] = ranking_prompt_settings(config) | {"scorer": config.model.scorer}
            read += [TABLE, IMAGES] if config.prompts.candidate_image else []
        if rank.those("needs_training"):
            read.append("adapter")
        if rank.those("needs_compression"):
            read.append(COMPRESSED)
        read += [ENCODER, ITEM_VECTORS] if rank.own_encoder else []
        found["files"] = self.run.hashes(sorted(set(read)))
        plain: dict[str, Any] = json.loads(json.dumps(found, default=str))
        return plain

    def _folder(self, name: str) -> Path | None:
        """Where the ranker lies, fitted as it is asked for; None: nowhere."""
        wanted = self.key(name)
        for folder in (self.work / name, self.run / FOLDER / name):
            with contextlib.suppress(OSError, ValueError):
                if files.read_json(folder / KEY) == wanted and readable(folder):
                    return folder
        return None

    def _found(self, name: str) -> Ranker | None:
        folder = self._folder(name)
        if folder is None:
            return None
        with contextlib.suppress(StoreError):  # damaged: it is fitted again
            made = make_ranker(name, self._resources())
            return type(made).load(folder, self._resources())
        return None

    def _fitted(self, name: str) -> Ranker:
        config = self.config
        ranker = make_ranker(name, self._resources())
        data = FitData(
            self.dataset.catalog,
            self.dataset.interactions,
            training=self.training,
            validation=self.validation,
        )
        options = FitOptions(config.run.seed, config.train_seed, tuning_quality, self.progress)
        with RANKERS.blamed(name, "fit"):
            ranker.fit(data, options)
        unfinished = self.work / f".{name}.new"
        files.empty_folder(unfinished)
        ranker.save(unfinished)
        files.write_json(unfinished / KEY, self.key(name))
        files.move(unfinished, self.work / name)
        return ranker

    def _resources(self) -> Resources:
        return Resources(
            self.dataset.catalog,
            self.config.rank,
            self.open_ranking_model,
            self.get,
            self.progress,
            self.open_titles,
            self.dataset.folder,
        )


def _class_of(name: str) -> str:
    found = ranker_class(name)
    return f"{found.__module__}:{found.__qualname__}"
