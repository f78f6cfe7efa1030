"""A sweep's file, read and checked: the base configuration, and the settings that differ."""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError

from trsr.config import Config, find_config, load_config, read_toml, recipes, said_of
from trsr.errors import ConfigError
from trsr.metrics import parse_metric
from trsr.rankers.settings import RANKERS
from trsr.registry import near
from trsr.settings import Settings, digest
from trsr.storage import files


class SweepOptions(Settings):
    """Where the runs lie, and what a seed is the seed of."""

    folder: str = Field("", description="the folder of the runs; left out: runs/NAME, from here")
    seed: Literal["train.seed", "run.seed"] = Field(
        "train.seed",
        description="train.seed: seeds change the training alone, so that runs share data and "
        "summaries and are compared query by query; run.seed: they change everything",
    )


class SearchOptions(Settings):
    """A search by Optuna; it sees validation cases only."""

    space: dict[str, Any] = Field(
        description="section.key = [values], or {low, high, step, log} for a range"
    )
    trials: int = Field(20, ge=1, description="different settings to try, at most")
    metric: str = Field("ndcg@10", description="what is maximized on the validation cases")
    ranker: str = Field("llm", description="the ranker whose metric it is")
    seed: int = Field(0, ge=0, description="the seed of the search itself")


class SweepFile(Settings):
    """A sweep's file."""

    base: str = Field(description="the configuration that all runs start from")
    seeds: tuple[int, ...] = Field((), description="each run is made once with each")
    sweep: SweepOptions = Field(SweepOptions(), description="where the runs lie")
    set: dict[str, Any] = Field(default_factory=dict, description="settings of all runs")
    variants: dict[str, dict[str, Any]] = Field(
        default_factory=dict,
        description="name = settings: each is run, with each of the grid where there is one",
    )
    grid: dict[str, Any] = Field(default_factory=dict, description="section.key = [values]")
    search: SearchOptions | None = Field(None, description="instead of a grid")


def find_sweep(path: Path) -> Path:
    """A sweep's file.

    Raises:
        ConfigError: If there is none.
    """
    if files.is_file(path):
        return Path(os.path.abspath(path))
    if path.parent.name in ("", "recipes") and path.stem in recipes():
        found = recipes()[path.stem]
        if "base" in read_toml(found):
            return found
        raise ConfigError(_of_a_run(path))
    raise ConfigError(f"there is no sweep file {path}")


def read_sweep(path: Path) -> SweepFile:
    """What a sweep's file says.

    Raises:
        ConfigError: If it cannot be read or used, or is a run's configuration.
    """
    values = read_toml(path)
    if not set(SweepFile.model_fields) & set(values) and set(Config.model_fields) & set(values):
        raise ConfigError(_of_a_run(path))
    try:
        return SweepFile.model_validate(values)
    except ValidationError as error:
        lines = (f"{path}: the sweep cannot be used", *said_of(error, SweepFile))
        raise ConfigError("\n  ".join(lines)) from error


def _of_a_run(path: Path) -> str:
    return f"{path}: this is the configuration of one run, not a sweep; give `trsr run {path}`"


def base_path(path: Path, base: str) -> Path:
    """The base next to the sweep's file, else as it is named: a recipe, or from here."""
    found = Path(files.absolute(base, path.parent))
    return found if files.is_file(found) else Path(base)


LONGEST_NAME = 120
"""Characters of a run's name; a longer one ends with a hash."""

VARIANT = "variant"
"""Stands for the name of a variant among the settings that runs differ in."""

BEST = "best"
"""Begins the names of the runs that test a search's best settings."""

_OWN = frozenset({"run.folder", "run.cache"})
"""Settings that the sweep itself gives its runs."""

_CACHE = "responses.sqlite"

_FILES = frozenset({"sweep.md", "sweep.json", *(_CACHE + end for end in ("", "-wal", "-shm"))})
"""Files next to the runs' folders: no run may have their names."""


@dataclass(frozen=True)
class Planned:
    """One run of a sweep.

    Attributes:
        name: Its folder's name, made of the settings that differ.
        settings: `section.key` → value, what differs, without the seed; `variant` → its name.
        seed: Its seed; None where the sweep names none.
        config: All settings.
    """

    name: str
    settings: Mapping[str, Any]
    seed: int | None
    config: Config


@dataclass(frozen=True)
class Plan:
    """A sweep, read and checked.

    Attributes:
        path: Its file.
        base: The base configuration's file.
        folder: Where the runs lie.
        file: What the file says.
        keys: What runs differ in: `variant` where there are any, and settings.
        values: The base's settings when the sweep was read: all runs start from them.
    """

    path: Path
    base: Path
    folder: Path
    file: SweepFile
    keys: tuple[str, ...]
    values: Mapping[str, Any]

    def grid(self) -> list[Planned]:
        """The runs of the full product of variants and grid, seeds last.

        Raises:
            ConfigError: If the settings of a run are wrong.
        """
        values = flat(self.file.grid)
        if self.file.variants:
            values = {VARIANT: list(self.file.variants), **values}
        found = [
            run
            for chosen in itertools.product(*values.values())
            for run in self.runs(dict(zip(values, chosen, strict=True)))
        ]
        named: dict[str, Planned] = {}
        for run in found:
            other = named.setdefault(run.name, run)
            if other is not run:
                raise ConfigError(
                    f"{self.path}: two runs are named {run.name}: a value is repeated, or values "
                    "are shortened to the same; write them as [variants] with names of their own"
                )
        return found

    def only(self, names: Sequence[str]) -> list[Planned]:
        """The runs of the grid that are named, in its order; all of them where none is.

        A variant's name means all that the grid and the seeds make of it.

        Raises:
            ConfigError: If a name is none of them, the settings of a run are wrong, or the sweep
                is a search.
        """
        if names and self.file.search is not None:
            raise ConfigError(f"{self.path}: a search chooses its runs itself; name none of them")
        runs = self.grid() if self.file.search is None else []
        names_of = [{run.name, str(run.settings.get(VARIANT, run.name))} for run in runs]
        known = list(dict.fromkeys(name for both in names_of for name in sorted(both)))
        for name in names:
            if name not in known:
                raise ConfigError(
                    f"{self.path}: there is no run or variant {name!r}{near(name, known)}; "
                    "--dry-run lists them"
                )
        return [run for run, own in zip(runs, names_of, strict=True) if not names or own & {*names}]

    @property
    def search(self) -> SearchOptions:
        """What a search goes by.

        Raises:
            ConfigError: If the sweep is none.
        """
        if self.file.search is None:
            raise ConfigError(f"{self.path}: there is no [search]")
        return self.file.search

    def trial(self, settings: Mapping[str, Any]) -> list[Planned]:
        """The runs of a search's trial, one a seed: the searched ranker, on validation cases.

        Raises:
            ConfigError: If the settings are wrong, or the ranker needs a training that there is
                not.
        """
        ranker, metric = self.search.ranker, self.search.metric
        asked = {"rank.split": "valid", "rank.rankers": [ranker], "evaluate.metrics": [metric]}
        runs = self.runs(settings, asked)
        rank = runs[0].config.rank
        if rank.those("needs_training", rank.with_members(ranker)) and not runs[0].config.trained:
            raise ConfigError(
                f"{self.path}: search.ranker: {ranker} needs the trained model, and none is "
                "trained: set train.epochs above 0, or search by another ranker"
            )
        return runs

    def tests(self, settings: Mapping[str, Any]) -> list[Planned]:
        """The runs that test a search's best settings, one a seed.

        Raises:
            ConfigError: If the settings are wrong.
        """
        return self.runs(settings, {"rank.split": "test"}, BEST)

    def runs(
        self, settings: Mapping[str, Any], asked: Mapping[str, Any] | None = None, name: str = ""
    ) -> list[Planned]:
        """The runs with these settings, one a seed.

        Settings in `asked` come last and name no run; `name` begins their names in place of the
        settings.

        Raises:
            ConfigError: If the settings are wrong.
        """
        return [self._run(settings, seed, asked or {}, name) for seed in self.file.seeds or (None,)]

    def _run(
        self, settings: Mapping[str, Any], seed: int | None, asked: Mapping[str, Any], name: str
    ) -> Planned:
        own = self.file.variants.get(settings.get(VARIANT, ""), {})
        chosen = {key: value for key, value in settings.items() if key != VARIANT}
        every = flat(self.file.set, leaves=False) | flat(own, leaves=False) | chosen
        own_seed = {} if seed is None else {str(self.file.sweep.seed): seed}
        name = run_name(({VARIANT: name} if name else {**settings}) | own_seed)
        every |= {**own_seed, "run.folder": str(self.folder / name)}
        every.setdefault("run.cache", str(self.folder / _CACHE))
        try:
            config = load_config(
                self.base,
                values=self.values,
                changes=nested({**every, **asked}),
                changes_from=self.path.parent,
            )
        except ConfigError as error:
            raise ConfigError(f"{self.path}, run {name}: {error}") from error
        return Planned(name, dict(settings), seed, config)


def read_plan(path: Path | str) -> Plan:
    """Reads a sweep's file, or a sweep that comes with trsr by its name.

    Raises:
        ConfigError: If the file or the settings of a run are wrong.
    """
    path = find_sweep(Path(path))
    file = read_sweep(path)
    if file.search and (file.grid or file.variants):
        raise ConfigError(f"{path}: a sweep has a [search], or [variants] and a [grid], not both")
    folder = Path(files.absolute(file.sweep.folder, path.parent))
    if not file.sweep.folder:
        folder = Path("runs", path.stem)
    base = find_config(base_path(path, file.base))
    plan = Plan(
        path,
        base,
        Path(os.path.abspath(folder)),
        file,
        (
            *((VARIANT,) if file.variants else ()),
            *flat(file.search.space if file.search else file.grid),
        ),
        read_toml(base),
    )
    _check(plan)
    return plan


def _check(plan: Plan) -> None:
    search = plan.file.search
    for key, value in flat(plan.file.grid).items():
        if not isinstance(value, list) or not value:
            raise ConfigError(f"{plan.path}: grid.{key}: write a list of values, [a, b]")
    _check_variants(plan)
    for key in plan.keys[bool(plan.file.variants) :]:
        if "." not in key or key in {*_OWN, plan.file.sweep.seed}:
            raise ConfigError(f"{plan.path}: {key} cannot differ in a sweep; write section.key")
    if search is not None:
        _check_search(plan, search)


def _check_search(plan: Plan, search: SearchOptions) -> None:
    try:
        parse_metric(search.metric)
    except ConfigError as error:
        raise ConfigError(f"{plan.path}: search.metric: {error}") from error
    if search.ranker not in RANKERS:
        hint = near(search.ranker, RANKERS.names())
        raise ConfigError(f"{plan.path}: search.ranker: there is no {search.ranker!r}{hint}")
    if not plan.keys:
        raise ConfigError(f"{plan.path}: search.space names no setting")
    for key in plan.keys:
        if key.startswith(("data.", "run.", "rank.split", "rank.rankers", "evaluate.")):
            raise ConfigError(
                f"{plan.path}: search.space: {key} may change what is measured, and the "
                "easiest would win; give it one value in [set], or list values in a [grid]"
            )


def _check_variants(plan: Plan) -> None:
    for name, settings in plan.file.variants.items():
        folder = run_name({VARIANT: name})
        odd = folder[:1] in "-." or folder.casefold() in _FILES
        if not name.strip() or odd or {"/", "\\"} & set(name):
            raise ConfigError(
                f"{plan.path}: variants: {name!r} cannot be the name of a run's folder; begin it "
                "with a letter or a digit, without / and \\, and not as a file of the sweep"
            )
        own = set(flat(settings, leaves=False))
        for key in sorted({*_OWN, plan.file.sweep.seed} & own):
            raise ConfigError(f"{plan.path}: variants.{name}: {key} is the sweep's own")
        for key in sorted(set(flat(plan.file.grid)) & own):
            raise ConfigError(f"{plan.path}: variants.{name}: {key} is in the grid too")


def flat(table: Mapping[str, Any], prefix: str = "", leaves: bool = True) -> dict[str, Any]:
    """Nested tables as `section.key` → value.

    With `leaves` a table with `low` is a value, a range.
    """
    found: dict[str, Any] = {}
    for key, value in table.items():
        if isinstance(value, Mapping) and not (leaves and "low" in value):
            found |= flat(value, f"{prefix}{key}.", leaves)
        else:
            found[f"{prefix}{key}"] = value
    return found


def nested(values: Mapping[str, Any]) -> dict[str, Any]:
    """`section.key` → value as tables.

    Raises:
        ConfigError: If a key has a value, and keys within it have others.
    """
    found: dict[str, Any] = {}
    for key, value in values.items():
        for within in (other for other in values if other.startswith(f"{key}.")):
            raise ConfigError(
                f"{key} and {within} both have a value; in [set], [variants] and [grid] give the "
                "table or its parts"
            )
        *sections, last = key.split(".")
        table = found
        for section in sections:
            table = table.setdefault(section, {})
        table[last] = value
    return found


def run_name(settings: Mapping[str, Any]) -> str:
    """A folder's name of the settings that differ: `strategy=none,seed=1`; a variant's is bare."""
    name = re.sub(r"[^\w.+=,-]+", "-", ",".join(_labels(settings))) or "run"
    if len(name) <= LONGEST_NAME:
        return name
    return f"{name[: LONGEST_NAME - 17]}-{digest(dict(settings))}"


def label(settings: Mapping[str, Any]) -> str:
    """The settings that differ as a table shows them: `recurrent, recent=3`."""
    return ", ".join(_labels(settings))


def _labels(settings: Mapping[str, Any]) -> list[str]:
    keys = zip(settings, short_keys(list(settings)), strict=True)
    return [
        value_text(settings[key]) if key == VARIANT else f"{short}={value_text(settings[key])}"
        for key, short in keys
    ]


def short_keys(keys: Sequence[str]) -> Iterator[str]:
    """The last word of each key where no other key has it, else the whole key."""
    last = [key.rpartition(".")[2] for key in keys]
    for key, word in zip(keys, last, strict=True):
        yield word if last.count(word) == 1 else key


def value_text(value: Any) -> str:
    """A setting's value as a run's name has it: `a+b`, `true`, `0.001`."""
    if isinstance(value, list | tuple):
        return "+".join(map(value_text, value))
    if isinstance(value, float):
        return f"{value:.6g}"
    return str(value).lower() if isinstance(value, bool) else str(value)
