"""All settings of a run, read and checked: TOML plus `section.key=value`.

Every mistake is reported at once. A relative path in a file is relative to that file; on the
command line, to the current folder. A recipe's data may lie in the current folder too. A run
directory in place of a file is that run.
"""

from __future__ import annotations

import contextlib
import copy
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args, get_origin

from pydantic import BaseModel, ValidationError

from trsr.config.schema import Config
from trsr.config.validation import conflicts, wrong_names
from trsr.errors import ConfigError
from trsr.methods import DEFAULT, METHODS
from trsr.rankers.settings import RANKERS, RankSettings, ranker_class
from trsr.registry import near
from trsr.settings import toml_values
from trsr.storage import files
from trsr.storage.remote import is_url
from trsr.storage.remote_run import data_file, is_copy, lasting, local, working_copy
from trsr.storage.response_cache import is_database
from trsr.storage.run_directory import RunDirectory

PATHS = (
    *(("data", "interactions"), ("data", "items"), ("data", "impressions")),
    *(("data", "service_log"), ("run", "folder"), ("run", "cache"), ("train", "start")),
)


def load_config(
    path: Path | str,
    overrides: Sequence[str] = (),
    *,
    values: Mapping[str, Any] | None = None,
    changes: Mapping[str, Any] | None = None,
    changes_from: Path | None = None,
) -> Config:
    """Reads a configuration file and applies `section.key=value` overrides.

    Args:
        path: The file, a recipe's name, or a run directory or its address (`s3://bucket/folder`):
            the run is then made there, whatever folder its settings name, unless `changes` or
            `overrides` name one.
        overrides: As on the command line.
        values: What the file held, where it is not to be read again.
        changes: Tables of settings that replace the file's, before the overrides do.
        changes_from: The folder that relative paths in `changes` start from; left out: the current
            one.

    Raises:
        ConfigError: Listing every mistake, one a line.
    """
    folder = working_copy(path) if is_url(path) else None
    path = find_config(path)
    values = read_toml(path) if values is None else copy.deepcopy(dict(values))
    if "base" in values and not isinstance(values["base"], dict):
        raise ConfigError(f"{path}: this is a sweep, not one run; give `trsr sweep {path}`")
    if path in recipes().values():
        _found_here(values)
    _resolve(values, path.parent)
    if path.name == "config.toml" and RunDirectory(path.parent).begun:
        _stay(values, folder or path.parent)
    if changes:
        own = copy.deepcopy(dict(changes))
        _resolve(own, changes_from or Path.cwd())
        _merge(values, own, "the sweep's settings")
    for override in overrides:
        _apply(values, override)
    run = values.setdefault("run", {})
    if isinstance(run, dict):
        run.setdefault("folder", str(Path("runs", path.stem).absolute()))
        run.setdefault("cache", str(_default_cache(str(run["folder"]))))
    try:
        return check_config(values, str(path))
    except ConfigError as error:
        lacking = [f"  {one}" for one in _lacking(path.parent)]
        raise ConfigError("\n".join((str(error), *lacking))) from error


def _lacking(folder: Path) -> Iterator[str]:
    """The packages whose rankers a run holds, fitted, and that are not here."""
    for path in files.listed(folder / "rankers", "*/ranker.json"):
        with contextlib.suppress(OSError, ValueError, LookupError, TypeError):
            state = files.read_json(path)
            name, package = state["ranker"], state["package"]
            if re.fullmatch(r"\w+ [\w.-]+ [\w.+!-]+", f"{name} {package}") and name not in RANKERS:
                yield f"the ranker {name} is of the package {package}, which is not installed"


def tables(settings: Mapping[str, Any]) -> dict[str, Any]:
    """A program's settings as tables within tables, as a file would hold them.

    Args:
        settings: By dotted keys (`rank.rankers`), as tables, or both.

    Raises:
        ConfigError: If a key is both a table and a value.
    """
    found: dict[str, Any] = {}
    for name, value in settings.items():
        addition = _plain(value)
        for key in reversed(str(name).split(".")):
            addition = {key: addition}
        _merge(found, addition, str(name))
    return found


def _plain(value: Any) -> Any:
    """A program's value as TOML would give it: paths are text."""
    if isinstance(value, Mapping):
        return {str(key): _plain(one) for key, one in value.items()}
    return os.fspath(value) if isinstance(value, os.PathLike) else value


def replaced(values: Mapping[str, Any], settings: Mapping[str, Any]) -> Config:
    """Settings, as tables, with others in their place; relative paths start from here.

    Raises:
        ConfigError: Listing every mistake, one a line.
    """
    found, own = copy.deepcopy(dict(values)), copy.deepcopy(dict(settings))
    _resolve(own, Path.cwd())
    _merge(found, own, "settings")
    return check_config(found)


def check_config(values: Mapping[str, Any], source: str = "settings") -> Config:
    """Makes a `Config` of plain values.

    Args:
        values: What is said; the rest is the method's, else the defaults.
        source: Where it is said, as a message names it.

    Raises:
        ConfigError: Listing every mistake, one a line.
    """
    method = values.get("method", DEFAULT)
    if method in METHODS:  # else it is among the wrong names
        with METHODS.blamed(method, "its settings"):
            values = METHODS.load(method).fill(values)
    try:
        config = Config.model_validate(values)
    except ValidationError as error:
        problems = said_of(error)
        problems += _further_wrong_names(values, error)
        raise ConfigError(_list(source, problems)) from error
    problems = [*wrong_names(config), *conflicts(config)]
    if problems:
        raise ConfigError(_list(source, problems))
    return config


def recipes() -> dict[str, Path]:
    """The configurations that come with trsr, by name."""
    # in a checkout the package holds a link: relative paths start from the real place
    folder = Path(os.path.realpath(Path(__file__).parents[1] / "recipes"))
    return {path.stem: path for path in files.listed(folder, "*.toml")}


def find_config(place: Path | str) -> Path:
    """A configuration file: a path, a run's folder, or a recipe that comes with trsr by name."""
    path = local(place)
    if files.is_file(path):
        return Path(os.path.abspath(path))
    if files.is_folder(path) and files.is_file(path / "config.toml"):
        return Path(os.path.abspath(path / "config.toml"))
    known = recipes()
    if path.stem in known and path.parent.name in ("", "recipes"):
        return known[path.stem]
    raise ConfigError(
        f"there is no configuration file {path}, and no such recipe{near(path.stem, list(known))}"
    )


def read_toml(path: Path) -> dict[str, Any]:
    """The values of a TOML file.

    Raises:
        ConfigError: If it cannot be read.
    """
    try:
        # an editor of Windows may put a byte order mark first
        return toml_values(files.read_text(path).removeprefix("\ufeff"))
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 text (byte {error.start})") from error
    except ValueError as error:
        raise ConfigError(f"{path}: {error}") from error
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error


def _resolve(values: dict[str, Any], base: Path) -> None:
    """Makes the paths of a table of settings absolute."""
    for section, key in PATHS:
        table = values.get(section)
        if isinstance(table, dict) and isinstance(table.get(key), str):
            if not table[key]:
                raise ConfigError(f"{section}.{key} is empty: name a path, or leave it out")
            table[key] = _located(section, key, table[key], base)
    for table, key in _lists(values):
        table[key] = [
            _located("rank", key, one, base) if isinstance(one, str) else one for one in table[key]
        ]
    for table, key in _places(values):
        value = table.get(key)
        if isinstance(value, str) and value.startswith(("./", "../", "~")):
            table[key] = files.absolute(value, base)


def data_path(place: Path | str, base: Path | None = None) -> Path:
    """A path to data as a person wrote it, absolute; an address's local copy."""
    return data_file(str(place)) if is_url(place) else Path(files.absolute(place, base))


def _found_here(values: dict[str, Any]) -> None:
    """A recipe's data in the current folder, where it is there: recipes come with the package."""
    data = values.get("data")
    for section, key in PATHS:
        place = data.get(key) if section == "data" and isinstance(data, dict) else None
        if isinstance(place, str) and place and files.exists(Path(place)):
            values["data"][key] = files.absolute(place)


def _located(section: str, key: str, text: str, base: Path) -> str:
    """A path as a person wrote it, absolute; an address's local copy."""
    if key == "cache" and is_database(text):
        return text
    if key == "cache" and re.search(r"password\s*=", text, re.IGNORECASE):
        raise ConfigError(
            "run.cache holds a password and is no address: give postgresql://USER@HOST/DATABASE, "
            "and the password in PGPASSWORD"
        )
    if key not in ("cache", "folder", "start"):
        return str(data_path(text, base))
    if not is_url(text):
        return files.absolute(text, base)
    if key == "cache":
        raise ConfigError(
            f"{section}.{key}: give a file of this machine, or postgresql://USER@HOST/DATABASE"
        )
    return str(working_copy(text))


def _stay(values: dict[str, Any], folder: Path) -> None:
    """Makes a run's own settings those of the folder that they lie in.

    They name the folder that the run was made in. Since then it may have been moved or copied, and
    nothing that is done to the copy may change the first one.
    """
    run = values.setdefault("run", {})
    if not isinstance(run, dict):
        return
    before, cache = run.get("folder"), run.get("cache")
    run["folder"] = str(folder)
    if not cache or is_database(str(cache)) or files.exists(Path(str(cache))):
        return
    # next to the run by default: a cache that moved with it still is; that of a remote run is
    # another machine's
    if is_copy(folder) or (before and cache == str(_default_cache(str(before)))):
        del run["cache"]


def _default_cache(folder: str) -> Path:
    """Where a run's response cache is unless the settings say so."""
    if is_copy(Path(folder)):
        return lasting("responses.sqlite")
    return Path(folder).parent / "responses.sqlite"


def _lists(values: Mapping[str, Any]) -> Iterator[tuple[dict[str, Any], str]]:
    """Settings that are lists of paths."""
    rank = values.get("rank")
    lists = rank.get("external") if isinstance(rank, dict) else None
    for one in lists.values() if isinstance(lists, dict) else ():
        if isinstance(one, dict) and isinstance(one.get("files"), list):
            yield one, "files"


def _places(values: Mapping[str, Any]) -> Iterator[tuple[dict[str, Any], str]]:
    """Settings that may be a path or a name."""
    summarize = values.get("summarize")
    for table, key in (
        (values.get("prompts"), "domain"),
        (values.get("model"), "name"),
        (values.get("rank"), "text_model"),
        (summarize.get("model") if isinstance(summarize, dict) else None, "name"),
    ):
        if isinstance(table, dict):
            yield table, key


def _apply(values: dict[str, Any], override: str) -> None:
    """Applies one `section.key=value`; the value is TOML, or else plain text."""
    name, equals, text = override.partition("=")
    keys = name.strip().split(".")
    if not equals or (len(keys) < 2 and keys != ["method"]) or not all(keys):
        raise ConfigError(f"{override!r} is not a setting: write section.key=value")
    if re.search(r"[\x00-\x08\x0a-\x1f\x7f]", override):
        raise ConfigError(
            f"{override!r} has a line end or control character in it: give each setting by itself, "
            "in one line"
        )
    try:
        value = toml_values(f"value = {text}")["value"]
    except ValueError:
        value = text
    addition: dict[str, Any] = {keys[-1]: value}
    for key in reversed(keys[:-1]):
        addition = {key: addition}
    _resolve(addition, Path.cwd())
    _merge(values, addition, override)


def _merge(into: dict[str, Any], addition: Mapping[str, Any], override: str) -> None:
    for key, value in addition.items():
        if isinstance(value, dict) and isinstance(into.get(key, {}), dict):
            _merge(into.setdefault(key, {}), value, override)
        elif isinstance(into.get(key), dict):
            raise ConfigError(f"{override!r}: {key} is a table of settings, not one value")
        else:
            into[key] = value


def said_of(error: ValidationError, root: type[BaseModel] = Config) -> list[str]:
    """What is wrong with a table of settings, a line each.

    Args:
        error: What pydantic found.
        root: What the table was to be.
    """
    found = error.errors()
    # pydantic counts the values that it takes: of a list with wrong ones alone it says two things
    within = {one["loc"][:end] for one in found for end in range(len(one["loc"]))}
    return [
        _say(one, root)
        for one in found
        if not (one["type"] == "too_short" and one["loc"] in within)
    ]


def _say(error: Any, root: type[BaseModel]) -> str:
    """One pydantic error as a line for people."""
    where = ".".join(str(part) for part in error["loc"])
    if error["type"] == "extra_forbidden":
        names = _names(error["loc"][:-1], root)
        return f"{where}: unknown setting{near(str(error['loc'][-1]), names)}"
    plain = isinstance(error["input"], str | int | float | list | tuple | None)
    hidden = not plain or error["type"] == "secret"
    shown = repr(error["input"])
    given = "" if hidden else f" (given: {shown if len(shown) <= 200 else shown[:200] + '…'})"
    if error["type"] == "too_short":
        return f"{where}: too few values: give at least {error['ctx']['min_length']}{given}"
    if error["type"] in ("tuple_type", "list_type"):
        name = error["input"] if isinstance(error["input"], str) else ""
        example = name if re.fullmatch(r"[\w@-]{1,40}", name) else "…"
        return f'{where}: write a list, such as ["{example}"]{given}'
    message = error["msg"].removeprefix("Value error, ")
    return f"{where}: {message[0].lower()}{message[1:]}{given}"


def _names(where: Sequence[int | str], model: type[BaseModel]) -> list[str]:
    """The names of the settings in a table."""
    parts = iter(where)
    for part in parts:
        if issubclass(model, RankSettings) and str(part) not in model.model_fields:
            model = ranker_class(str(part)).config_class()
            continue
        annotation = model.model_fields[str(part)].annotation
        options = (annotation, *get_args(annotation))
        model = next(o for o in options if isinstance(o, type) and issubclass(o, BaseModel))
        if get_origin(annotation) is dict:  # tables by names of people's own: the next part is one
            next(parts, None)
    tables = RANKERS.names() if issubclass(model, RankSettings) else ()
    return [*model.model_fields, *tables]


def _further_wrong_names(values: Mapping[str, Any], error: ValidationError) -> list[str]:
    """The wrong names in settings that have other mistakes, which stand at their defaults here."""
    others = copy.deepcopy(dict(values))
    for one in error.errors():
        *where, key = [part for part in one["loc"] if isinstance(part, str)]
        table: Any = others
        for part in where:
            table = table.get(part) if isinstance(table, dict) else None
        if isinstance(table, dict):
            table.pop(key, None)
    try:
        return list(wrong_names(Config.model_validate(others)))
    except ValidationError:
        return []


def _list(source: str, problems: Sequence[str]) -> str:
    count = "one mistake" if len(problems) == 1 else f"{len(problems)} mistakes"
    return "\n".join((f"{source}: {count} in the settings", *(f"  {one}" for one in problems)))
