"""From tables to a recommender in one call: guesses the settings, runs the stages."""

from __future__ import annotations

import hashlib
import json
import re
import tomllib
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

from trsr.bars import Bar, err
from trsr.config import Config
from trsr.config.loading import data_path, replaced, tables
from trsr.config.start import first_settings, name_of
from trsr.data import Columns, guess
from trsr.data.frames import FrameKind, is_table, parquet_bytes, read_frame
from trsr.errors import ConfigError, DataError, TrsrError
from trsr.methods import DEFAULT
from trsr.pipeline import run_stage, stage_names
from trsr.recommender import Recommender
from trsr.storage import files

GIVEN = "given"
"""In a run directory: the tables that a program gave, as Parquet."""


def fit(
    interactions: Any,
    items: Any = None,
    *,
    run_directory: Path | str | None = None,
    **settings: Any,
) -> Recommender:
    """Makes a recommender of interactions and item texts: all stages of the method.

    Columns and formats are guessed, as `trsr init` does. Without settings it takes a few minutes on
    two cores: a small language model is fine-tuned on some users, and blended with a network that
    learns from all of them. The same call again finds what is done and goes on.

    Settings are those of docs/configuration.md, by dotted keys, as tables, or both:

        trsr.fit(orders, **{"rank.rankers": ["popular", "item_knn"], "data.min_rating": None})
        trsr.fit(clicks, products, data={"columns": {"user": "who"}}, train={"epochs": 2})

    Args:
        interactions: A row an interaction, or a row a user with a list of items: a polars, pandas
            or Arrow table, a Hugging Face dataset, or the path or address (`s3://…`) of a file, a
            folder of files or a pattern.
        items: A row an item with its texts, as one of these; None: each interaction describes its
            item, as in a shop's list of orders.
        run_directory: Where the run lives; None: a folder below `runs/`, named by what is given.
        settings: Settings that replace the guessed ones.

    Returns:
        A recommender that ranks by the last one of `rank.rankers`, and gives tables of the kind
        that `interactions` is.

    Raises:
        ConfigError: Listing every mistake of the settings.
        DataError: If a table cannot be read, or a column cannot be guessed; the message names it.
    """
    if interactions is None:
        raise DataError("the interactions are None: give a table, or the path of a file")
    given = tables(settings)
    _refuse_places(given)
    tabled = {
        name: read_frame(one, name)
        for name, one in (("interactions", interactions), ("items", items))
        if one is not None and is_table(one)
    }
    content = {name: parquet_bytes(frame, name) for name, (frame, _) in tabled.items()}
    paths = {
        name: data_path(one)
        for name, one in (("interactions", interactions), ("items", items))
        if one is not None and name not in content
    }
    folder = Path(files.absolute(run_directory or _folder(content, paths, given)))
    for name, one in content.items():
        path = paths[name] = folder / GIVEN / f"{name}.parquet"
        # the same table is the same file, so that nothing is prepared anew
        if not files.is_file(path) or files.hash_file(path) != hashlib.sha256(one).hexdigest():
            files.write_bytes(path, one)
    named = {name: paths[name] for name in content}
    try:
        config = _config(paths, given, folder, tuple(content))
    except TrsrError as error:
        raise _as_given(error, named) from error
    for name in stage_names(config):
        try:
            with Bar(name) as bar:
                outcome = run_stage(config, name, bar)
        except DataError as error:
            if name != "prepare":  # later stages do not read what was given
                raise
            raise _as_given(error, named) from error
        err.print(_tables_named(str(outcome), named), markup=False)
    found = Recommender.load(folder)
    found.kind = tabled["interactions"][1] if "interactions" in tabled else "polars"
    return found


def _refuse_places(given: Mapping[str, Any]) -> None:
    data = given.get("data")
    for name in ("interactions", "items", "dataset"):
        if isinstance(data, Mapping) and name in data:
            raise ConfigError(
                f"data.{name}: what is read is the first two arguments of trsr.fit; leave it out"
            )


def _folder(
    content: Mapping[str, bytes], paths: Mapping[str, Path], given: Mapping[str, Any]
) -> Path:
    """A folder of its own for what is given, so that no call writes over another one's run."""
    parts = [hashlib.sha256(one).hexdigest() for one in content.values()]
    parts += map(str, paths.values())
    parts.append(json.dumps(given, sort_keys=True, default=str))
    name = name_of(paths["interactions"]) if "interactions" in paths else "fit"
    return Path("runs", f"{name}-{hashlib.sha256('/'.join(parts).encode()).hexdigest()[:8]}")


def _as_given(error: TrsrError, named: Mapping[str, Path]) -> TrsrError:
    """The error, with tables named as such: their files are trsr's, and nobody gave them."""
    return type(error)(_tables_named(str(error), named))


def _tables_named(text: str, named: Iterable[str] | Mapping[str, Path]) -> str:
    for name in named:
        if isinstance(named, Mapping):
            text = text.replace(str(named[name]), f"the {name} table")
        text = re.sub(rf"(?<![\w./\\-]){name}\.parquet\b", f"the {name} table", text)
    return text


def _config(
    paths: Mapping[str, Path], given: Mapping[str, Any], folder: Path, tabled: Collection[str]
) -> Config:
    known = given.get("data", {}).get("columns", {})
    found = guess(paths["interactions"], paths.get("items"), Columns.model_validate(known))
    formats = {f"{name}.parquet: parquet" for name in tabled}  # of tables that says nothing
    for line in found.reasons:
        if line not in formats:
            err.print(f"  {_tables_named(line, tabled)}", markup=False)
    named = {name: str(path) for name, path in paths.items()}
    values = tomllib.loads(first_settings(found, named))
    if given.get("method", DEFAULT) != DEFAULT:  # a method has defaults of its own
        values = {table: values[table] for table in ("data", "prompts", "model")}
    place = {"folder": str(folder), "cache": str(folder.parent / "responses.sqlite")}
    return replaced(values | {"run": place}, given)


__all__ = ["FrameKind", "fit"]
