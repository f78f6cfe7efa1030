"""The work of the stage `train`: in this process, or data-parallel in several."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

from trsr.config import Config, load_config
from trsr.data import Dataset
from trsr.data.service_log import ServiceLog, hidden
from trsr.errors import ConfigError, ModelError
from trsr.explanation import page_writer
from trsr.metrics import evaluate as compute
from trsr.models import LanguageModel, ScoringModel
from trsr.pipeline.artifacts import adapter_of, cases_file, run_summaries, with_summaries
from trsr.pipeline.runner import Job
from trsr.pipeline.sharding import engine_of, waited
from trsr.progress import Progress, Silent
from trsr.prompts import PromptWriter
from trsr.rankers import PointwiseLLMRanker, rank_what_fits
from trsr.recommender import ranking_writer
from trsr.storage import files
from trsr.storage.addresses import shown
from trsr.storage.run_directory import RunDirectory, need_run
from trsr.storage.tables import read_table
from trsr.summarize.settings import GRADIENT_BLOCKS
from trsr.training import TrainResult, train
from trsr.training.settings import SELECTED_ON

if TYPE_CHECKING:
    from trsr.training.group import Group
    from trsr.training.vectors import Start

ATTEMPTS = 5
"""Times in a row that the workers may be lost without a step in between."""


def trained(
    config: Config,
    run: RunDirectory,
    out: Path,
    state: Path,
    progress: Progress,
    group: Group | None = None,
) -> dict[str, Any]:
    """Trains the adapter; what it took.

    What it makes lies in `out/adapter`; a stopped training goes on from `state`. Without a group
    this process trains alone.
    """
    dataset = Dataset.load(run.folder)
    used = config.train.validate_steps
    splits = ("train", "valid") if used else ("train",)
    summaries, fit = run_summaries(dataset, splits, needed=config.summarized)
    valid = list(with_summaries(dataset.cases("valid"), summaries)) if used else []
    writers: list[PromptWriter] = []

    def words(model: LanguageModel) -> PromptWriter:
        writers.append(ranking_writer(config, model))
        return writers[-1]

    def validate(model: ScoringModel) -> dict[str, float]:
        ranker = PointwiseLLMRanker(model, ranking_writer(config, model))
        queries = (case.query for case in valid)
        ranked = list(rank_what_fits(ranker, queries, lambda query, error: None, "llm"))
        report = compute(valid, {"llm": ranked}, SELECTED_ON)
        return report.means("llm")

    start = config.train.start and config.train.start / "adapter"
    training: Callable[..., TrainResult] = functools.partial(train, group=group, start=start)
    if config.prompts.item_vectors:
        from trsr.training.vectors import train_vectors

        shown = page_writer(config)
        every = (shown.item_text(item, config.prompts.words) for item in dataset.catalog)
        texts = list(dict.fromkeys(every))
        training = functools.partial(
            train_vectors,
            texts=texts,
            count=config.prompts.item_vectors,
            summary=config.summarize.soft,
            reach=GRADIENT_BLOCKS,
            start=_start(config, run),
        )
    result = training(
        list(with_summaries(dataset.cases("train"), summaries)),
        model=config.model,
        words=words,
        settings=config.train,
        seed=config.train_seed,
        out=out / "adapter",
        state=state,
        validate=validate if valid else None,
        progress=progress,
    )
    return dataclasses.asdict(result) | {"prompts": writers[-1].digest} | fit.to_json()


ALIKE = ("rank", "alpha", "targets", "upper_layers")
"""Settings of `[train]` that say which weights LoRA has."""


def refuse_own_start(config: Config) -> None:
    """Refuses a training that would go on from what it writes over.

    Raises:
        ConfigError: If `train.start` names the run itself.
    """
    folder = config.train.start
    if folder is not None and folder.resolve() == config.run.folder.resolve():
        raise ConfigError(
            f"train.start: {shown(folder)} is this run itself: name another one, or set run.folder"
        )


def start_config(config: Config) -> Config | None:
    """The settings of the run that `train.start` names, where it names one.

    Raises:
        ConfigError: If the run holds no trained ranker, or one with other weights.
        StoreError: If it is no run directory.
    """
    folder = config.train.start
    if folder is None:
        return None
    name = f"train.start: {shown(folder)}"
    refuse_own_start(config)
    need_run(folder)
    own = load_config(folder)
    if adapter_of(RunDirectory(folder)) is None:
        raise ConfigError(f"{name} holds no trained ranker: make it by `trsr run` first")
    pairs = {f"train.{key}": (getattr(own.train, key), getattr(config.train, key)) for key in ALIKE}
    pairs["model.name"] = own.model.name, config.model.name
    pairs["model.revision"] = own.model.revision, config.model.revision
    if own.prompts.item_vectors or not config.prompts.item_vectors:
        pairs["prompts.item_vectors"] = own.prompts.item_vectors, config.prompts.item_vectors
    for key, (there, here) in pairs.items():
        if there != here:
            raise ConfigError(f"{name} has {key} = {there}, and this run {here}: make them equal")
    return own


LEARNED = "learned.parquet"
"""In a run directory: the targets that its ranker had learned before its own training."""

_TARGET = pl.Schema({"user": pl.String(), "item": pl.String(), "time": pl.Float64()})
"""A target: the interaction's own time, null where it is not known."""


def learned_before(config: Config, dataset: Dataset) -> pl.DataFrame | None:
    """The targets that the ranker of `train.start` has learned, in its own and earlier trainings.

    Those of the very cases that this run trains on are left out.

    Returns:
        Columns of `_TARGET`, times by this run's clock; None where nothing is gone on from.

    Raises:
        ConfigError: If this run validates or tests by one, or what was learned is not known.
    """
    own, folder = start_config(config), config.train.start
    if own is None or folder is None:
        return None
    frames = [pl.DataFrame(schema=_TARGET)]
    if not _same_training(folder, dataset.folder):
        frames.append(_targets(Dataset.load(folder), "train"))
    if own.train.start is not None:
        if not files.is_file(folder / LEARNED):
            raise ConfigError(
                f"train.start: {shown(folder)} went on from another run, and its {LEARNED}, which "
                "says what that one had learned, is missing: make it again, or leave it out"
            )
        frames.append(_read_learned(folder))
    learned = pl.concat(frames)
    rows = _timed_rows(dataset, learned)
    if not dataset.timed or learned.join(rows, on=_TARGET.names(), how="semi").is_empty():
        # no interaction in common: the times may be of another kind, such as days for seconds
        learned = learned.with_columns(time=pl.lit(None, pl.Float64))
    refuse_learned(config, dataset, learned)
    return _undeleted(learned, config).unique(maintain_order=True)


def refuse_learned(config: Config, dataset: Dataset, learned: pl.DataFrame | None = None) -> None:
    """Refuses targets of validation and test that the ranker learned before its own training.

    A user's item counts as learned, unless both times are known and differ.

    Args:
        config: All settings.
        dataset: The run's data.
        learned: As of `learned_before`; None: as the run holds it.

    Raises:
        ConfigError: If there are such targets.
    """
    if learned is None:
        if not files.is_file(dataset.folder / LEARNED):
            return
        learned = _read_learned(dataset.folder)
    start = config.train.start or dataset.folder
    for split in ("valid", "test"):
        pairs = _targets(dataset, split).join(learned, on=["user", "item"], suffix="_then")
        both = pairs.filter((pl.col("time") == pl.col("time_then")).fill_null(True))
        if len(both):
            count = both.select("user", "item", "time").n_unique()
            raise ConfigError(
                f"train.start: the ranker of {shown(start)} was trained on {count:,} of the "
                f"targets of this run's {split} cases, such as user {both['user'][0]}'s "
                f"{both['item'][0]}: give all its runs the same data.split and data.seed, or leave "
                "it out"
            )


def _read_learned(folder: Path) -> pl.DataFrame:
    known = {name: _TARGET[name] for name in ("user", "item")}
    further = {"time": _TARGET["time"]}
    return read_table(folder / LEARNED, known, again="make the run again", key=(), further=further)


def _undeleted(learned: pl.DataFrame, config: Config) -> pl.DataFrame:
    """Without what users did before the service deleted them."""
    if config.data.service_log is None:
        return learned
    deleted = ServiceLog.read(config.data.service_log).deleted
    until = [deleted.get(hidden(user)) for user in learned["user"]]
    kept = pl.col("until").is_null() | (pl.col("time") > pl.col("until")).fill_null(False)
    frame = learned.with_columns(until=pl.Series(until, dtype=pl.Float64))
    return frame.filter(kept).drop("until")


def _targets(dataset: Dataset, split: str) -> pl.DataFrame:
    """A row a target of the cases; columns of `_TARGET`."""
    # a query's id ends with the target's place among its user's interactions
    place = pl.col("query").str.extract("/([0-9]+)$").cast(pl.Int64, strict=False)
    frame = dataset.cases(split).frame.select("user", place.alias("place"), item="relevant")
    targets = frame.explode("item")
    rows = _timed_rows(dataset, targets)
    at = rows.select("user", "time", place=pl.int_range(pl.len()).over("user"))
    found = targets.join(at, on=["user", "place"], how="left", maintain_order="left")
    # given lists have targets that are no interactions
    sure = rows.unique().with_columns(sure=True)
    found = found.join(sure, on=_TARGET.names(), how="left", maintain_order="left")
    time = pl.when(pl.col("sure") & dataset.timed).then("time").alias("time")
    return found.select("user", "item", time)


def _timed_rows(dataset: Dataset, targets: pl.DataFrame) -> pl.DataFrame:
    """The interactions of the targets' users that count, fitted on or held out; oldest first."""
    rows = pl.concat([dataset.interactions, dataset.held_out.drop_nulls("time")])
    return rows.join(targets, on="user", how="semi").sort("user", "time", maintain_order=True)


def _same_training(one: Path, other: Path) -> bool:
    paths = [folder / cases_file("train") for folder in (one, other)]
    return all(map(files.is_file, paths)) and len(set(map(files.hash_file, paths))) == 1


def _start(config: Config, run: RunDirectory) -> Start | None:
    from trsr.training.vectors import Start

    own, folder = start_config(config), config.train.start
    if own is None or folder is None:
        return None
    if not _same_training(folder, run.folder):
        raise ConfigError(
            f"train.start: {shown(folder)} was trained on other cases: give both runs the same "
            "[data] and run.seed"
        )
    dataset = Dataset.load(folder)
    summaries, _ = run_summaries(dataset, ("train",), needed=own.summarized)
    cases = list(with_summaries(dataset.cases("train"), summaries))
    words = functools.partial(ranking_writer, own)
    return Start(folder / "adapter", cases, words, bool(own.prompts.item_vectors))


@dataclass(frozen=True)
class TrainShard:
    """One worker's part of a training.

    Attributes:
        rank: The worker's number.
        size: How many there are.
        config: All settings.
        out: Gets the folder `adapter`.
        state: Where the training goes on from.
        meeting: A new file by which the workers find each other.
    """

    rank: int
    size: int
    config: Config
    out: Path
    state: Path
    meeting: Path

    @property
    def name(self) -> str:
        """For people."""
        return f"train, worker {self.rank + 1} of {self.size}"

    @property
    def key(self) -> str:
        """No other attempt has the same: a worker is of use to its own group alone."""
        return f"{self.meeting.name}.{self.rank}"

    def is_done(self) -> bool:
        """Never before all of it is."""
        return False


def trained_together(job: Job) -> dict[str, Any]:
    """As `trained`, by several workers; where one is lost, all go on from the last state.

    Raises:
        ConfigError: If the cluster cannot be used.
        ModelError: If the training fails, or workers are lost again and again.
    """
    engine, resources = engine_of(job)
    notes = _Notes(job)

    def shards(workers: int) -> Sequence[TrainShard]:
        for old in (*files.listed(job.work, "meeting-*"), *files.listed(job.work, "worker-*")):
            files.remove(old)
        meeting = job.work / f"meeting-{uuid.uuid4().hex}"
        return [
            TrainShard(rank, workers, job.config, job.out, job.work, meeting)
            for rank in range(workers)
        ]

    failed = 0
    while failed < ATTEMPTS:
        before = notes.done
        found = engine.gang(
            _train_shard, shards, job.config.train.cases_per_step, resources, notes.show
        )
        notes.show()
        wrong = [one for one in found if one.error]
        if found and not wrong:
            info = next(one.value for one in found if one.shard.rank == 0)
            return {**info, **waited(engine)}
        if any(not _lost(one.error) for one in wrong):
            raise ModelError(f"{wrong[-1].shard.name}: {wrong[-1].error}")
        failed = 0 if notes.done > before else failed + 1
    raise ModelError(
        f"train: its workers were lost {ATTEMPTS} times in a row without a step; the last: "
        f"{wrong[-1].error if wrong else 'there was no room for them'}. The same command goes on "
        "from the last state"
    )


def _lost(error: str) -> bool:
    """Whether a worker was lost, and the work is not to blame."""
    from trsr.training.group import LOST

    return LOST in error or "its process was killed" in error or "its worker was lost" in error


def _train_shard(shard: TrainShard, progress: Progress) -> dict[str, Any]:
    from trsr.training.group import joined

    notes = FileProgress(shard.state / _STEPS) if shard.rank == 0 else Silent()
    run = RunDirectory(shard.config.run.folder)
    with joined(shard.rank, shard.size, shard.meeting) as group:
        return trained(shard.config, run, shard.out, shard.state, notes, group)


_STEPS = "steps.json"


class FileProgress:
    """Progress as a file, for a reader on another machine."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._state: dict[str, Any] = {"total": 0, "done": 0, "note": "", "unit": ""}
        self._written = 0.0

    def begin(self, total: int | None, unit: str) -> None:
        """The job has so many steps."""
        self._state = {"total": total or 0, "done": 0, "note": "", "unit": unit}
        self._write()

    def advance(self, steps: int = 1, note: str = "") -> None:
        """Some steps are done."""
        self._state |= {"done": self._state["done"] + steps, "note": note}
        last = self._state["done"] == self._state["total"]
        if last or time.monotonic() - self._written > 0.5:
            self._write()

    def _write(self) -> None:
        self._written = time.monotonic()
        with contextlib.suppress(OSError):  # a bar is not worth a training
            files.write_text(self._path, json.dumps(self._state))


class _Notes:
    """Shows what the leading worker's file says."""

    def __init__(self, job: Job) -> None:
        self._path, self._progress = job.work / _STEPS, job.progress
        self.done = 0
        self._begun = False

    def show(self) -> None:
        try:
            state = files.read_json(self._path)
        except (OSError, ValueError):
            return
        if not self._begun:
            self._begun = True
            self._progress.begin(state["total"] or None, state["unit"])
        # after a loss some steps are made again
        self._progress.advance(max(state["done"] - self.done, 0), state["note"])
        self.done = max(state["done"], self.done)
