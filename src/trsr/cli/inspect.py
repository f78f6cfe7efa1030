"""`trsr init`, `check` and `ls`: what files hold, mistakes of settings, names of parts."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from trsr.config import Config, load_config, recipes
from trsr.errors import ConfigError
from trsr.progress import Progress
from trsr.storage import files

if TYPE_CHECKING:
    from trsr.models.settings import ModelSettings


def check_all(path: Path, settings: Sequence[str]) -> Iterator[str]:
    """Checks the settings, the prompts' domain and the data.

    Yields:
        The findings, for people.

    Raises:
        ConfigError: With every mistake of the settings.
        DataError: If the data cannot be used.
    """
    from trsr.data import inspect, located

    config = load_config(path, settings)
    yield f"{path}: the settings are valid" + (f"; {config.replaced}" if config.replaced else "")
    report = inspect(located(config.data), seed=config.data_seed)
    yield from report.lines()
    for name, one in config.rank.external_lists.items():
        from trsr.rankers.external import read_lists

        yield f"rank.external.{name}: {sum(map(len, read_lists(name, one))):,} lists"
    yield from _installed(config)
    if config.trained and config.train.start:
        from trsr.pipeline.training import start_config

        start_config(config)
    run = config.run
    if run.reaches and (run.engine == "local" or run.address):  # else a cluster would be started
        from trsr.pipeline.sharding import check_reach

        there = files.exists(run.folder)
        yield from check_reach(config)
        if not there:
            files.remove(run.folder)


def _installed(config: Config) -> Iterator[str]:
    """Checks that required extras are installed, and names the models."""
    from importlib.util import find_spec

    ranking = [config.model] if config.rank.those("uses_llm") else []
    writing = [config.summarizer] if config.summarize.uses_llm else []
    needs = {"transformers": "local", "openvino": "openvino", "openai": "openai"}
    modules = {"transformers": "torch", "openvino": "openvino_genai", "openai": "openai"}
    used_backends = {one.backend for one in (*ranking, *writing)} | {
        "openai" for one in ranking if one.scorer == "endpoint"
    }
    for backend in sorted(used_backends & set(needs)):
        if find_spec(modules[backend]) is None:
            raise ConfigError(
                f"the backend {backend} is not installed: pip install 'trsr[{needs[backend]}]'"
            )
    yield from _seeing(config)
    for ranker in config.rank.used:
        for module, extra in config.rank.traits(ranker).extras:
            if find_spec(module) is None:
                raise ConfigError(
                    f"the ranker {ranker} is not installed: pip install 'trsr[{extra}]'"
                )
    for kind, models in (("ranking", ranking), ("summaries", writing)):
        used = [f"{one.name} through {_engine(one, kind)}" for one in models] or ["none"]
        yield f"model for {kind}: {used[0]}"


def _engine(model: ModelSettings, kind: str) -> str:
    """Through what a model is asked, as far as it is known before it is opened."""
    from importlib.util import find_spec

    compiled = model.scorer in ("auto", "openvino") and find_spec("openvino") is not None
    on_cpu = kind == "ranking" and model.backend == "transformers" and compiled
    return model.backend + (" (on a CPU through openvino)" if on_cpu else "")


def _seeing(config: Config) -> Iterator[str]:
    """Checks that local models which are to see can, and names the one that describes."""
    from trsr.methods import METHODS
    from trsr.models.weights import image_fault

    describing = "describe" in METHODS.load(config.method).stages
    shown = config.prompts.candidate_image and config.rank.those("uses_llm")
    asked = ([config.describer] if describing else []) + ([config.model] if shown else [])
    faults = {fault for one in asked if (fault := image_fault(one.backend, one.name))}
    if faults:
        raise ConfigError("\n".join(sorted(faults)))
    if describing:
        yield f"model for images: {config.describer.name} through {config.describer.backend}"


def components(kind: str) -> Iterator[str]:
    """The components of a kind, or of all kinds, a line each.

    Raises:
        ConfigError: If there is no such kind.
    """
    from trsr.data.settings import READERS
    from trsr.hub import names
    from trsr.methods import METHODS
    from trsr.metrics import METRICS
    from trsr.models.settings import BACKENDS
    from trsr.rankers.settings import RANKERS
    from trsr.registry import near
    from trsr.summarize.settings import STRATEGIES

    known = {
        "methods": [
            f"{name}: {one.description} ({one.source})"
            for name in METHODS.names()
            for one in [METHODS.load(name)]
        ],
        "readers": READERS.names(),
        "strategies": STRATEGIES.names(),
        "models": BACKENDS.names(),
        "rankers": RANKERS.names(),
        "metrics": [family.example(name, "k") for name, family in METRICS.items()],
        "recipes": [f"{name}: {_opening(path)}" for name, path in recipes().items()],
        "downloads": list(names()),
    }
    if kind and kind not in known:
        raise ConfigError(f"trsr ls knows no {kind!r}{near(kind, list(known))}")
    for name in [kind] if kind else known:
        if not kind:
            yield f"{name}:"
        yield from (("" if kind else "  ") + one for one in known[name])


def _opening(recipe: Path) -> str:
    first = files.read_text(recipe).splitlines()[0]
    return first.lstrip("# ").strip()


def fetch(name: str, progress: Progress) -> Path:
    """Fetches weights or data by name, and makes weights ready for use."""
    from trsr.hub import get

    path = get(name, progress=progress)
    from trsr.models.weights import GGUF, local_weights

    return local_weights(name, progress=progress) if name in GGUF else path


def write_config(
    interactions: Path, items: Path | None, output: Path | None, force: bool
) -> tuple[Path, list[str]]:
    """Writes a configuration for interactions and items, or for a table that is both.

    Each is a file, a folder, a pattern or an address.

    Returns:
        The file written, and what was guessed and why, a line each.

    Raises:
        ConfigError: If the file exists and `force` is not set.
        DataError: If the files cannot be read, or a column cannot be guessed.
    """
    from trsr.config.loading import data_path
    from trsr.config.start import HEAD, first_settings, missing_packages, name_of
    from trsr.data import guess
    from trsr.storage.addresses import shown
    from trsr.storage.remote import is_url

    named = {"interactions": interactions} | ({"items": items} if items is not None else {})
    given = {key: data_path(one) if is_url(one) else one for key, one in named.items()}
    found = guess(given["interactions"], given.get("items"))
    path = output or Path(f"{name_of(interactions)}.toml")
    if files.exists(path) and not force:
        raise ConfigError(f"{path} exists; give another name with --output, or --force")
    paths = {
        key: shown(file) if is_url(named[key]) else os.path.relpath(file, path.parent)
        for key, file in given.items()
    }
    text = f"# trsr run {path}\n{HEAD}\n{first_settings(found, paths)}"
    files.write_text(path, text, private=False)
    return path, [*found.reasons, *missing_packages()]
