"""Finished runs: which are, what they differ in, and which are the same but for their seed."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import polars as pl

from trsr.config import Config, load_config
from trsr.errors import ConfigError, StoreError, TrsrError
from trsr.evaluate.costs import RankerCost, read_costs
from trsr.markdown import without_paths
from trsr.pipeline.finished import FIXED, REPORT, FinishedRun
from trsr.store.rundir import MANIFEST, RunDirectory, StageRecord
from trsr.sweep.plan import flat, short_keys, value_text

_PLACES = ("run", "evaluate")
"""Tables of settings that no ranking depends on, the seed apart."""

_FORMATS = frozenset({"float32", "bfloat16", "float16"})
"""As a model's identity names them: figures of one are not those of another."""

_APART = frozenset(
    {"data.interactions", "data.items", "data.impressions"}
    | {"rank.rankers", "data.seed", "train.seed"}
)
"""Settings that tell no two ways of ranking apart: which files, which rows, and the seeds."""


@dataclass(frozen=True)
class Run:
    """A finished run, with what the page tells of it.

    Attributes:
        finished: Its values by query.
        config: Its settings.
        records: Its stages, by name; empty where it was made elsewhere.
        report: Its `report.json`.
        written: When its last stage was finished (ISO); empty where that is not known.
    """

    finished: FinishedRun
    config: Config
    records: Mapping[str, StageRecord]
    report: Mapping[str, Any]
    written: str

    @property
    def folder(self) -> Path:
        """Its directory."""
        return self.finished.folder

    @property
    def seed(self) -> int:
        """What its training was drawn with."""
        return self.config.train_seed

    @property
    def made(self) -> Mapping[str, Any]:
        """When and on what it ranked, as recorded (see `trsr.machine`); else empty."""
        record = self.records.get("rank")
        found: Mapping[str, Any] = record.info.get("made", {}) if record else {}
        return found

    @property
    def date(self) -> str:
        """The day on which it ranked, else on which it was finished; empty where not known."""
        return str(self.made.get("at", self.written))[:10]

    @cached_property
    def formats(self) -> frozenset[str]:
        """The number formats that its language models ranked in, as their identities name them."""
        record = self.records.get("rank")
        models = record.info.get("models", {}) if record else {}
        return frozenset(word for model in models for word in model.split() if word in _FORMATS)

    @cached_property
    def costs(self) -> Mapping[str, RankerCost]:
        """What its rankers took, where that is recorded."""
        record = self.records.get("rank")
        try:
            found = read_costs(record.info.get("costs") if record else None)
        except (TypeError, AttributeError, ValueError) as error:
            path = self.folder / MANIFEST
            raise StoreError(f"{path}: costs that trsr did not write ({error})") from error
        return {one.ranker: one for one in found}

    @cached_property
    def settings(self) -> Mapping[str, Any]:
        """`section.key` → value of all that a ranking depends on, the data's files apart."""
        values = self.config.model_dump(mode="json", exclude=set(_PLACES))
        values["rank"] = self.config.rank.meaning() | self.config.rank.model_dump(
            mode="json", include={"queries_per_batch", "proposals", "first_stage", "depth", "lists"}
        )
        values["model"] = self.config.model.meaning() | {"scorer": self.config.model.scorer}
        values["summarize"]["model"] = self.config.summarizer.meaning()
        found = flat(values, leaves=False)
        return {key: value for key, value in found.items() if key not in _APART}


@dataclass(frozen=True)
class Variant:
    """Runs that differ by their seed only, or by which rankers they ran.

    Attributes:
        label: The settings in which they differ from other runs; empty where there are none.
        runs: At least one; rankers that two of one seed have in common gave the same in both.
    """

    label: str
    runs: tuple[Run, ...]


def open_runs(folders: Sequence[Path], missed: Callable[[Path, str], None]) -> list[Run]:
    """Opens finished runs.

    Args:
        folders: Run directories.
        missed: Is told each one that is not there, not finished or stale, and why.
    """
    found = []
    for folder in folders:
        try:
            found.append(open_run(folder))
        except TrsrError as error:
            missed(folder, str(error))
    return found


def open_run(folder: Path) -> Run:
    """Opens a finished run.

    Raises:
        StoreError: If it is missing, not finished, or has no query; StaleRunError, if its files
            changed since it was evaluated.
        DataError: If its values are not whole.
    """
    finished = FinishedRun(folder)
    finished.check()
    directory = RunDirectory(folder)
    if not finished.rankers or not len(finished.asked):
        raise StoreError(f"{folder}: it has no query, so there is nothing to show")
    return Run(
        finished,
        load_config(folder / "config.toml"),
        directory.records(),
        _report(finished),
        directory.written,
    )


def _report(run: FinishedRun) -> Mapping[str, Any]:
    try:
        chance, candidates = run.report["chance"], run.report["candidates"]
        sizes = [candidates["fewest"], candidates["most"]]
        known = isinstance(chance, dict) and all(isinstance(one, int) for one in sizes)
    except (KeyError, TypeError):
        known = False
    if not known:
        raise StoreError(
            f"{run.folder / REPORT}: not a report that trsr wrote; give `trsr evaluate` again"
        )
    return run.report


def variants(runs: Sequence[Run], labels: Mapping[Path, str] | None = None) -> list[Variant]:
    """Puts runs that differ by nothing but seed or rankers together; names what others differ in.

    Args:
        runs: The runs.
        labels: Run directory → name, where the sweep that made them names them.

    Raises:
        ConfigError: If two runs of the same settings and seed have the same rankers, or other
            values of a ranker.
    """
    known = labels or {}
    groups: dict[str, list[Run]] = {}
    for run, differs in zip(runs, _differing([run.settings for run in runs]), strict=True):
        key = json.dumps([known.get(run.folder), differs], sort_keys=True, default=str)
        group = groups.setdefault(key, [])
        for other in group:
            if other.finished.seeds == run.finished.seeds:
                _check_twins(run, other)
        group.append(run)
    found = list(groups.values())
    named = _labels([group[0].settings for group in found])
    if len(set(named)) < len(named):  # such as two models' folders of one name
        folders = folder_names([group[0] for group in found])
        named = [
            f"{one} ({folder})" if one else folder
            for one, folder in zip(named, folders, strict=True)
        ]
    return [
        Variant(known.get(group[0].folder, label), tuple(group))
        for label, group in zip(named, found, strict=True)
    ]


def _check_twins(run: Run, other: Run) -> None:
    """Two runs of the same settings and seed may only add rankers to each other."""
    same = f"{run.folder} and {other.folder} have the same settings and seed"
    if set(run.finished.rankers) == set(other.finished.rankers):
        raise ConfigError(f"{same}: they are one run made twice; name one of them")
    for ranker in run.finished.rankers:
        if ranker in other.finished.rankers and not _equal(run, other, ranker):
            raise ConfigError(f"{same}, but other values of {ranker}: name one of them")


def _equal(run: Run, other: Run, ranker: str) -> bool:
    ours, theirs = (
        one.finished.values.filter(pl.col("ranker") == ranker).drop(FIXED) for one in (run, other)
    )
    shared = [name for name in ours.columns if name in theirs.columns]
    return ours.select(shared).equals(theirs.select(shared))


def folder_names(runs: Sequence[Run]) -> list[str]:
    """As many last parts of each run's path as tell all apart."""
    every = [run.folder.parts for run in runs]
    names: list[str] = []
    for count in range(1, max(map(len, every)) + 1):
        names = ["/".join(parts[-count:]) for parts in every]
        if len(set(names)) == len(set(every)):
            break
    return names


def _differing(settings: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Of each the settings that differ from another's.

    A setting that a run does not read is none in which it differs.
    """
    keys = dict.fromkeys(key for one in settings for key in one)
    differing = []
    for key in keys:
        values = [one[key] for one in settings if key in one]
        if any(value != values[0] for value in values):
            differing.append(key)
    return [{key: one[key] for key in differing if key in one} for one in settings]


def _labels(settings: Sequence[Mapping[str, Any]]) -> list[str]:
    """`strategy=none, recent=3`: the settings that differ, under names as short as tell them."""
    differing = _differing(settings)
    keys = list(dict.fromkeys(key for one in differing for key in one))
    short = dict(zip(keys, short_keys(keys), strict=True))
    return [
        ", ".join(f"{short[key]}={_told(value)}" for key, value in one.items()) for one in differing
    ]


def _told(value: Any) -> str:
    """A setting's value; of a path of this machine the last part alone."""
    text = value_text(value)
    return without_paths(Path(text).name if Path(text).is_absolute() else text)
