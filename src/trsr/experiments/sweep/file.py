"""A sweep's file, as it is written."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError

from trsr.config import Config, read_toml, recipes, said_of
from trsr.errors import ConfigError
from trsr.settings import Settings
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
    trials: int = Field(20, ge=1, description="different settings to try; all, if there are fewer")
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
    found = path.parent / Path(base).expanduser()
    return found if files.is_file(found) else Path(base)
