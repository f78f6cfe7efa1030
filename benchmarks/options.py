"""What each bench is asked: a frozen object a bench, read from the command line."""

from __future__ import annotations

import argparse
from dataclasses import Field, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T", bound="Options")


def option(
    default: Any, help: str, *, least: int | None = None, kind: type = str, flag: str = ""
) -> Any:
    """A field that stands on the command line.

    Args:
        default: Where it is left out. A tuple: may be given again and again.
        help: What it is.
        least: The smallest number.
        kind: What a value is read as, where the default does not show it.
        flag: Its name there; empty: the field's. Without dashes: it has a place, and no name.
    """
    return field(
        default=default, metadata={"help": help, "least": least, "kind": kind, "flag": flag}
    )


@dataclass(frozen=True)
class Options:
    """What every bench is asked.

    Attributes:
        repeats: Timed runs of each variant.
        seed: Of what is drawn.
        json: Whether records are printed as JSON.
    """

    repeats: int = option(5, "timed runs of each variant", least=1)
    seed: int = option(0, "of what is drawn", least=0)
    json: bool = option(False, "one JSON object a variant")


@dataclass(frozen=True)
class ModelOptions(Options):
    """A bench of a model; empty: the configuration's, else the settings' defaults."""

    model: str = option("", "the model; left out: the configuration's, else smollm2-135m")
    dtype: str = option("", "auto, float32, bfloat16 or float16")
    device: str = option("", "auto, cpu, cuda or mps")
    batch_tokens: int = option(0, "most tokens in one forward pass; 0: the settings'", least=0)


@dataclass(frozen=True)
class DataOptions(ModelOptions):
    """A bench on a configuration's data.

    Attributes:
        config: A TOML file, a recipe's name or a run directory.
        settings: `section.key=value` each, in the place of the file's.
        data: A folder whose folder of the configuration's name holds the data.
    """

    config: Path | None = option(
        None, "a TOML file, a recipe or a run directory", kind=Path, flag="config"
    )
    settings: tuple[str, ...] = option(
        (), "section.key=value: replaces the file's", flag="settings"
    )
    data: Path | None = option(
        None, "a folder whose folder of the configuration's name holds its data", kind=Path
    )


@dataclass(frozen=True)
class ScoreOptions(DataOptions):
    """Of `score`: without a configuration or two files, prompts are random tokens."""

    interactions: Path | None = option(None, "with --items: real queries from two files", kind=Path)
    items: Path | None = option(None, "the items' file", kind=Path)
    queries: int = option(0, "0: 1 of random tokens, 8 of real data", least=0)
    candidates: tuple[int, ...] = option((20,), "a query; may be given again", least=2, kind=int)
    prefix: int = option(350, "random tokens that a query's prompts share", least=1)
    rest: int = option(60, "random tokens of one candidate", least=1)
    variants: tuple[str, ...] = option(
        (), "an engine; may be given again; left out: all", flag="--variant"
    )


@dataclass(frozen=True)
class TrainOptions(ModelOptions):
    """Of `train`."""

    cases: int = option(4, "cases a step", least=1)
    negatives: int = option(4, "negatives of a case", least=1)
    prefix: int = option(350, "tokens that a case's prompts share", least=1)
    rest: int = option(60, "tokens of one candidate", least=1)
    loss: str = option("listwise", "listwise or text")


@dataclass(frozen=True)
class SummarizeOptions(DataOptions):
    """Of `summarize`."""

    users: int = option(400, "summarized by trsr's engines", least=1)
    alone_users: int = option(4, "summarized one prompt at a time", least=1)
    batches: tuple[int, ...] = option(
        (8, 16, 32),
        "of transformers' generate; may be given again",
        least=1,
        kind=int,
        flag="--batch",
    )


@dataclass(frozen=True)
class PrepareOptions(Options):
    """Of `prepare`: users and items are a tenth as many as interactions, each."""

    interactions: tuple[int, ...] = option(
        (1_000_000, 10_000_000), "of a data set; may be given again", least=1000, kind=int
    )
    cases: int = option(0, "most cases of a kind; 0: all", least=0)
    csv: bool = option(False, "CSV files instead of Parquet")
    repeats: int = option(3, "timed runs of each size", least=1)


@dataclass(frozen=True)
class OverheadOptions(DataOptions):
    """Of `overhead`."""

    queries: int = option(50, "test queries", least=1)


@dataclass(frozen=True)
class VectorsOptions(DataOptions):
    """Of `vectors`."""

    vectors: int = option(4, "vectors of an item", least=1)
    candidates: int = option(100, "of the query that is scored", least=2)
    cases: int = option(4, "cases of a training step, of five candidates each", least=1)
    repeats: int = option(3, "timed runs of each variant", least=1)


@dataclass(frozen=True)
class EncodeOptions(Options):
    """Of `encode`: a finished run's item encoder over its items' texts."""

    run: Path | None = option(None, "a run directory", kind=Path, flag="run")
    items: int = option(400, "most texts", least=2)
    repeats: int = option(3, "timed runs of each variant", least=1)


@dataclass(frozen=True)
class ServeOptions(Options):
    """Of `serve`: new users with histories drawn from a finished run's items."""

    run: Path | None = option(None, "a run directory", kind=Path, flag="run")
    ranker: str = option("llm", "the ranker that is served")
    scorer: str = option("", "torch or openvino; left out: the run's")
    users: int = option(32, "users, each with a request", least=1)
    history: int = option(20, "interactions of each", least=1)
    anew: int = option(100, "interactions of the user whose summary is made anew", least=1)
    recent: int = option(0, "recent items in a prompt; 0: the run's", least=0)
    words: int = option(0, "of made-up summaries, given with each request; 0: the run's", least=0)
    candidates: int = option(20, "a request", least=2)
    clients: int = option(32, "at once", least=1)
    only: tuple[str, ...] = option((), "a measure; may be given again; left out: all")
    repeats: int = option(2, "timed runs of each variant", least=1)


@dataclass(frozen=True)
class GpuOptions(Options):
    """Of `gpu`: a random model of Qwen2-0.5B's shape."""

    tiny: bool = option(False, "a tiny model and few tokens, on any machine")
    minutes: int = option(6, "no part is begun after so many", least=1)
    output: Path = option(Path("gpu.md"), "the page to write", kind=Path)
    repeats: int = option(3, "timed runs of each variant", least=1)


@dataclass(frozen=True)
class ClusterOptions(Options):
    """Of `cluster`. Without a configuration nothing is computed, and time is simulated."""

    config: Path | None = option(
        None, "run this here and on Ray, in place of the simulation", kind=Path, flag="config"
    )
    settings: tuple[str, ...] = option(
        (), "section.key=value: replaces the file's", flag="settings"
    )
    workers: int = option(1000, "of the cluster", least=1)
    shards: int = option(1_000_000, "to be done", least=1)
    shard_seconds: float = option(30.0, "that a shard takes in the mean", kind=float)
    start_seconds: float = option(60.0, "until a new worker is ready", kind=float)
    failing: float = option(1.0, "per cent of the workers that fail each minute", kind=float)

    def with_failing(self, failing: float) -> ClusterOptions:
        """The same with other failures."""
        return replace(self, failing=failing)


@dataclass(frozen=True)
class AllOptions(ModelOptions):
    """Of `all`: every bench, sized for two cores."""

    data: Path | None = option(
        None, "a folder with the data of the recipes, in folders of their names", kind=Path
    )
    queries: int = option(4, "real queries of 20 candidates; a quarter as many of 100", least=1)
    users: int = option(48, "users that are summarized", least=1)
    interactions: int = option(10_000_000, "of the largest made-up data set", least=10_000)
    only: tuple[str, ...] = option((), "a bench; may be given again; left out: all")
    output: Path = option(Path("docs/performance.md"), "the page to write", kind=Path)
    repeats: int = option(3, "timed runs of each variant", least=1)

    def command(self) -> str:
        """The command with what differs from the defaults, without this machine's paths."""
        words = ["python -m benchmarks all"]
        for one in fields(self):
            value = getattr(self, one.name)
            if value == one.default or one.name in ("output", "json"):
                continue
            shown = {"data": "FOLDER", "model": Path(str(value)).name}.get(one.name, value)
            each = shown if isinstance(shown, tuple) else (shown,)
            words += [f"{_flag(one)} {each_one}" for each_one in each]
        return " ".join(words)


def _flag(one: Field[Any]) -> str:
    return str(one.metadata["flag"]) or "--" + one.name.replace("_", "-")


def add_options(parser: argparse.ArgumentParser, options: type[Options]) -> None:
    """Gives a parser the options of a bench."""
    for one in fields(options):
        flag, many = _flag(one), isinstance(one.default, tuple)
        how: dict[str, Any] = {"help": one.metadata["help"]}
        if not flag.startswith("-"):
            parser.add_argument(flag, nargs="*" if many else "?", type=one.metadata["kind"], **how)
            continue
        how["dest"] = one.name
        if isinstance(one.default, bool):
            parser.add_argument(flag, action="store_true", **how)
            continue
        kind = int if isinstance(one.default, int) else one.metadata["kind"]
        how["type"] = _at_least(one.metadata["least"]) if kind is int else kind
        how |= {"action": "append"} if many else {"default": one.default}
        parser.add_argument(flag, *(["-o"] if one.name == "output" else []), **how)


def _at_least(least: int | None) -> Any:
    def number(text: str) -> int:
        found = int(text)
        if least is not None and found < least:
            raise argparse.ArgumentTypeError(f"{found} is below {least}")
        return found

    return number


def read_options(options: type[T], asked: argparse.Namespace) -> T:
    """The options that a command line names; its defaults for all else."""
    given: dict[str, Any] = {}
    for one in fields(options):
        value = getattr(asked, one.name)
        if value is not None:
            given[one.name] = tuple(value) if isinstance(value, list) else value
    return options(**given)
