"""Finished runs: which are, what they differ in, and which are the same but for their seed."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from trsr.bench.page import without_paths
from trsr.config import Config, load_config
from trsr.errors import ConfigError, StoreError, TrsrError
from trsr.evaluate.costs import RankerCost, read_costs
from trsr.pipeline.finished import FinishedRun
from trsr.store.rundir import RunDirectory, StageRecord
from trsr.sweep.plan import flat, short_keys, value_text

_PLACES = ("run", "evaluate")
"""Tables of settings that no ranking depends on, the seed apart."""

_APART = frozenset({"data.interactions", "data.items", "rank.rankers", "data.seed", "train.seed"})
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
        own = self.config.train.seed
        return self.config.run.seed if own is None else own

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
    def costs(self) -> Mapping[str, RankerCost]:
        """What its rankers took, where that is recorded."""
        record = self.records.get("rank")
        return {one.ranker: one for one in read_costs(record.info.get("costs") if record else None)}

    @cached_property
    def settings(self) -> Mapping[str, Any]:
        """`section.key` → value of all that a ranking depends on, the data's files apart."""
        values = self.config.model_dump(mode="json", exclude=set(_PLACES))
        values["rank"] = self.config.rank.model_dump(mode="json", exclude=self.config.rank.unread)
        values["model"] = self.config.model.meaning() | {"scorer": self.config.model.scorer}
        values["summarize"]["model"] = self.config.summarizer.meaning()
        found = flat(values, leaves=False)
        return {key: value for key, value in found.items() if key not in _APART}


@dataclass(frozen=True)
class Variant:
    """Runs that differ by their seed only.

    Attributes:
        label: The settings in which they differ from other runs; empty where there are none.
        runs: At least one, each with another seed.
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
    """
    finished = FinishedRun(folder)
    finished.check_fresh()
    directory = RunDirectory(folder)
    stopped = directory.unfinished()
    if stopped:
        raise StoreError(f"{folder}: {', '.join(stopped)} was stopped; give `trsr run` again")
    if not finished.rankers or not len(finished.asked):
        raise StoreError(f"{folder}: it has no query, so there is nothing to show")
    return Run(
        finished,
        load_config(folder / "config.toml"),
        directory.records(),
        _report(folder / "report.json"),
        directory.written,
    )


def _report(path: Path) -> Mapping[str, Any]:
    try:
        value: dict[str, Any] = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise StoreError(f"{path}: no report; give `trsr evaluate` first") from error
    return value


def variants(runs: Sequence[Run], labels: Mapping[Path, str] | None = None) -> list[Variant]:
    """Puts runs that differ by seed only together, and names each by what it differs in.

    Args:
        runs: The runs.
        labels: Run directory → name, where the sweep that made them names them.

    Raises:
        ConfigError: If two runs have the same settings and the same seed.
    """
    known = labels or {}
    groups: dict[str, list[Run]] = {}
    for run in runs:
        told = [known.get(run.folder), run.settings]
        key = json.dumps(told, sort_keys=True, default=str)
        twin = next((one for one in groups.get(key, ()) if _seeds(one) == _seeds(run)), None)
        if twin is not None:
            raise ConfigError(
                f"{run.folder} and {twin.folder} have the same settings and seed: they are one run "
                "made twice; name one of them"
            )
        groups.setdefault(key, []).append(run)
    found = list(groups.values())
    named = _labels([group[0].settings for group in found])
    if len(set(named)) < len(named):  # such as two folders of one name
        named = [f"{one} ({group[0].folder.name})" for one, group in zip(named, found, strict=True)]
    return [
        Variant(known.get(group[0].folder, label), tuple(group))
        for label, group in zip(named, found, strict=True)
    ]


def _seeds(run: Run) -> tuple[int, int]:
    return run.config.run.seed, run.seed


def _labels(settings: Sequence[Mapping[str, Any]]) -> list[str]:
    """`strategy=none, recent=3`: the settings that differ, under names as short as tell them.

    A setting that a run does not read is none in which it differs.
    """
    keys = list(dict.fromkeys(key for one in settings for key in one))
    differing = []
    for key in keys:
        values = [one[key] for one in settings if key in one]
        if any(value != values[0] for value in values):
            differing.append(key)
    short = list(short_keys(differing))
    return [
        ", ".join(
            f"{name}={_told(one[key])}"
            for name, key in zip(short, differing, strict=True)
            if key in one
        )
        for one in settings
    ]


def _told(value: Any) -> str:
    """A setting's value; of a path of this machine the last part alone."""
    text = value_text(value)
    return without_paths(Path(text).name if Path(text).is_absolute() else text)
