"""All settings of a run, read and checked whole: TOML plus `section.key=value`.

The rooms own their settings classes and defaults; this module only joins them. Every mistake is
told at once. A relative path in a file is relative to that file; on the command line, to the
current folder.
"""

from __future__ import annotations

import copy
import os
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import tomli_w
from pydantic import BaseModel, Field, ValidationError

from trsr.data.settings import READERS, DataSettings
from trsr.errors import ConfigError, TrsrError
from trsr.evaluate.settings import EvaluateSettings
from trsr.llm.settings import BACKENDS, ModelSettings
from trsr.plugins import near
from trsr.prompts.settings import PromptSettings
from trsr.rank.settings import RANKERS, RankSettings
from trsr.settings import Settings
from trsr.summarize.settings import STRATEGIES, SummarizeSettings
from trsr.train.settings import PRIOR_LOSSES, TrainSettings, TuneSummarizerSettings

PATHS = (("data", "interactions"), ("data", "items"), ("run", "folder"), ("run", "outputs"))


class RunSettings(Settings):
    """Where a run lives."""

    folder: Path = Field(
        Path(), description="the run directory; left out: runs/NAME-OF-THE-CONFIG, from here"
    )
    outputs: Path = Field(
        Path(),
        description="the language models' outputs, shared by runs; left out: outputs.sqlite beside "
        "the run directory",
    )
    seed: int = Field(0, ge=0, description="every draw of the run is derived from it")


class Config(Settings):
    """All settings of a run."""

    run: RunSettings = Field(RunSettings(), description="where the run lives")
    data: DataSettings = Field(DataSettings(), description="the data, its splits and candidates")
    prompts: PromptSettings = Field(PromptSettings(), description="what is said to a model")
    model: ModelSettings = Field(ModelSettings(), description="the language model")
    summarize: SummarizeSettings = Field(SummarizeSettings(), description="history to summary")
    train: TrainSettings = Field(TrainSettings(), description="LoRA fine-tuning")
    rank: RankSettings = Field(RankSettings(), description="which rankers order the candidates")
    evaluate: EvaluateSettings = Field(EvaluateSettings(), description="which metrics")
    tune_summarizer: TuneSummarizerSettings = Field(
        TuneSummarizerSettings(), description="fine-tuning of the summarizing model"
    )

    @property
    def summarizer(self) -> ModelSettings:
        """The summarizing model's settings."""
        return self.summarize.model or self.model

    @property
    def training(self) -> TrainSettings:
        """The settings of training, with what the layout of the prompts decides."""
        if self.train.group != "auto":
            return self.train
        group = "user" if self.prompts.layout == "chain" else "case"
        return self.train.model_copy(update={"group": group})

    def to_toml(self) -> str:
        """The settings as resolved, as a file that gives the same run."""
        return tomli_w.dumps(_plain(self.model_dump(mode="json", exclude_none=True)))


def load_config(
    path: Path | str,
    overrides: Sequence[str] = (),
    *,
    changes: Mapping[str, Any] | None = None,
    changes_from: Path | None = None,
) -> Config:
    """Reads a configuration file and applies `section.key=value` overrides.

    Args:
        path: The file, or a recipe's name.
        overrides: As on the command line.
        changes: Tables of settings that replace the file's, before the overrides do.
        changes_from: The folder that relative paths in `changes` start from; left out: the current
            one.

    Raises:
        ConfigError: Listing every mistake, one a line.
    """
    path = find_config(Path(path))
    values = read_toml(path)
    if "base" in values and not isinstance(values["base"], dict):
        raise ConfigError(f"{path}: this is a sweep, not one run; give `trsr sweep {path}`")
    _resolve(values, path.parent)
    if changes:
        own = copy.deepcopy(dict(changes))
        _resolve(own, changes_from or Path.cwd())
        _merge(values, own, "the sweep's settings")
    for override in overrides:
        _apply(values, override)
    run = values.setdefault("run", {})
    if isinstance(run, dict):
        run.setdefault("folder", str(Path("runs", path.stem).absolute()))
        run.setdefault("outputs", str(Path(str(run["folder"])).parent / "outputs.sqlite"))
    return check_config(values, str(path))


def check_config(values: Mapping[str, Any], source: str = "settings") -> Config:
    """Makes a `Config` of plain values.

    Raises:
        ConfigError: Listing every mistake, one a line.
    """
    try:
        config = Config.model_validate(values)
    except ValidationError as error:
        mistakes = [_say(one) for one in error.errors()]
        mistakes += _wrong_names_beside(values, error)
        raise ConfigError(_list(source, mistakes)) from error
    mistakes = [*_wrong_names(config), *_conflicts(config)]
    if mistakes:
        raise ConfigError(_list(source, mistakes))
    return config


def recipes() -> dict[str, Path]:
    """The configurations that come with trsr, by name."""
    return {name: path for name, path in _shipped().items() if not _is_sweep(path)}


def sweep_recipes() -> dict[str, Path]:
    """The sweeps that come with trsr, by name."""
    return {name: path for name, path in _shipped().items() if _is_sweep(path)}


def _shipped() -> dict[str, Path]:
    folder = Path(__file__).parent / "recipes"
    return {path.stem: path for path in sorted(folder.glob("*.toml"))}


def _is_sweep(path: Path) -> bool:
    return "base" in read_toml(path)


def find_config(path: Path) -> Path:
    """A configuration file: a path, or the name of a recipe that comes with trsr."""
    if path.is_file():
        return Path(os.path.abspath(path))
    if path.is_dir() and (path / "config.toml").is_file():
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
        return tomllib.loads(path.read_text("utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path}: not TOML: {error}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 text (byte {error.start})") from error
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error


def _resolve(values: dict[str, Any], base: Path) -> None:
    """Makes the paths of a table of settings absolute."""
    for section, key in PATHS:
        table = values.get(section)
        if isinstance(table, dict) and isinstance(table.get(key), str) and table[key]:
            table[key] = os.path.abspath(base / Path(table[key]).expanduser())
    for table, key in _places(values):
        value = table.get(key)
        if isinstance(value, str) and value.startswith(("./", "../", "~")):
            table[key] = os.path.abspath(base / Path(value).expanduser())


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
    if not equals or len(keys) < 2 or not all(keys):
        raise ConfigError(f"{override!r} is not a setting: write section.key=value")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
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


def _say(error: Any) -> str:
    """One pydantic error as a line for people."""
    where = ".".join(str(part) for part in error["loc"])
    if error["type"] == "extra_forbidden":
        names = _names(error["loc"][:-1])
        return f"{where}: unknown setting{near(str(error['loc'][-1]), names)}"
    given = "" if isinstance(error["input"], dict) else f" (given: {error['input']!r})"
    return f"{where}: {error['msg'][0].lower()}{error['msg'][1:]}{given}"


def _names(where: Sequence[int | str]) -> list[str]:
    """The names of the settings in a table."""
    model: type[BaseModel] = Config
    for part in where:
        annotation = model.model_fields[str(part)].annotation
        options = (annotation, *get_args(annotation))
        model = next(o for o in options if isinstance(o, type) and issubclass(o, BaseModel))
    return list(model.model_fields)


def _wrong_names_beside(values: Mapping[str, Any], error: ValidationError) -> list[str]:
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
        return list(_wrong_names(Config.model_validate(others)))
    except ValidationError:
        return []


def _wrong_names(config: Config) -> Iterator[str]:
    """Names of parts, metrics and domains that do not exist."""
    named = [
        ("data.reader", READERS, [config.data.reader]),
        ("summarize.strategy", STRATEGIES, [config.summarize.strategy]),
        ("model.backend", BACKENDS, [config.model.backend]),
        ("summarize.model.backend", BACKENDS, [config.summarizer.backend]),
        ("rank.rankers", RANKERS, list(config.rank.rankers)),
        ("rank.blend", RANKERS, list(config.rank.blend)),
        ("rank.first_stage", RANKERS, [config.rank.first_stage]),
        ("train.prior", RANKERS, [config.train.prior] if config.train.prior else []),
    ]
    for key, table, names in named:
        for name in names:
            if name not in table.names():
                yield f"{key}: there is no {table.kind} {name!r}{near(name, table.names())}"
    from trsr.evaluate import parse_metric
    from trsr.prompts import check_domain

    for key, check, texts in (
        ("evaluate.metrics", parse_metric, config.evaluate.metrics),
        ("train.select_on", parse_metric, config.train.select_on),
        ("rank.tune_on", parse_metric, config.rank.tune_on),
        ("prompts.domain", check_domain, (config.prompts.domain,)),
    ):
        for text in texts:
            try:
                check(text)
            except TrsrError as error:
                yield f"{key}: {error}"


def _conflicts(config: Config) -> Iterator[str]:
    """Settings that contradict each other, which no single room can see."""
    if not config.data.dataset and config.data.interactions is None:
        yield "data.interactions: name the interactions' file or folder (or data.dataset)"
    if config.train.epochs == 0 and "llm" in config.rank.used:
        yield "rank.rankers: llm is the trained model, but train.epochs is 0; use untuned"
    if config.rank.first_stage in ("llm", "untuned"):
        yield "rank.first_stage: name a ranker without a language model, such as popular"
    if config.data.candidates == "full":
        cuts = (text.partition("@")[2] for text in config.evaluate.metrics)
        deepest = max((int(cut) for cut in cuts if cut.isdigit()), default=0)
        if deepest > config.rank.depth:
            yield f"rank.depth: lists of {config.rank.depth} places cannot tell a metric @{deepest}"
    if len(set(config.rank.rankers)) < len(config.rank.rankers):
        yield "rank.rankers: a ranker stands twice"
    if "blend" in config.rank.blend or len(set(config.rank.blend)) < len(config.rank.blend):
        yield "rank.blend: blend cannot be a member, and no member stands twice"
    if config.model.backend == "openai" and {"llm", "untuned"} & set(config.rank.used):
        yield (
            "model.backend: openai gives no log-probabilities of answers, so it cannot rank; set "
            "it in [summarize.model] and a local backend in [model]"
        )
    yield from _bad_prior(config)
    if config.prompts.layout == "chain":
        yield from _broken_chain(config)


def _bad_prior(config: Config) -> Iterator[str]:
    """A prior that cannot be fitted before training, or that the loss cannot take in."""
    if not config.train.prior:
        return
    if {"llm", "untuned"} & set(config.rank.only(config.train.prior).used):
        yield "train.prior: name a cheap ranker; this one asks a language model, itself or blended"
    if config.train.loss not in PRIOR_LOSSES:
        yield (
            f"train.prior: the loss {config.train.loss} has no place for a prior; set train.loss "
            f"to {' or '.join(sorted(PRIOR_LOSSES))}, or leave train.prior empty"
        )


def _broken_chain(config: Config) -> Iterator[str]:
    """What would keep a user's successive prompts from beginning alike."""
    told = config.prompts.use_summary and config.summarize.strategy != "none"
    if told and config.summarize.last_block:
        yield (
            "prompts.layout: chain tells each item since the summary, which must then be of full "
            "blocks only; set summarize.last_block to false"
        )
    block = 1 if not told or config.summarize.block_tokens else config.summarize.block_items
    step = config.data.history_step
    if config.data.max_history and (step == 1 or step % block):
        yield (
            "prompts.layout: chain needs histories that begin alike; set data.history_step to "
            f"{config.summarize.block_items} (summarize.block_items) or a multiple of it, or "
            "data.max_history to 0"
        )


def _list(source: str, mistakes: Sequence[str]) -> str:
    count = "one mistake" if len(mistakes) == 1 else f"{len(mistakes)} mistakes"
    return "\n".join((f"{source}: {count} in the settings", *(f"  {one}" for one in mistakes)))


def _plain(value: Any) -> Any:
    """TOML has no null."""
    if isinstance(value, dict):
        return {key: _plain(one) for key, one in value.items() if one is not None}
    return value
