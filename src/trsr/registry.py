"""Finds a named part: name → `module:attribute` tables, entry points, near-name hints."""

from __future__ import annotations

import contextlib
import difflib
import functools
import importlib
import importlib.metadata
import re
import sys
import traceback
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from trsr.errors import ConfigError, PluginError, TrsrError


class PluginTable:
    """Parts of one kind, by name; only the part asked for is imported.

    Args:
        kind: What the parts are, in the singular, as a message says it: `reader`.
        group: The entry-point group by which other packages add parts: `trsr.readers`.
        parts: name → `module:attribute`.
    """

    def __init__(self, kind: str, group: str, parts: Mapping[str, str]) -> None:
        self.kind = kind
        self.group = group
        self._own = dict(parts)

    def _added(self) -> dict[str, tuple[str, str]]:
        return _added(self.group, tuple(sys.path))

    def _all(self) -> dict[str, str]:
        return {name: value for name, (value, _) in self._added().items()} | self._own

    def __contains__(self, name: object) -> bool:
        # the metadata of other packages is read for what is not trsr's own alone
        return isinstance(name, str) and (name in self._own or name in self._all())

    def names(self) -> list[str]:
        """All names, sorted."""
        return sorted(self._all())

    def added(self, name: str) -> bool:
        """Whether another package added this part."""
        return bool(self.package(name))

    def package(self, name: str) -> str:
        """The package that added this part, with its version; empty where it is trsr's own."""
        return "" if name in self._own else self._added().get(name, ("", ""))[1]

    @contextlib.contextmanager
    def blamed(self, name: str, what: str) -> Iterator[None]:
        """Says whose a part is that fails, where another package added it.

        Args:
            name: The part.
            what: What it is at, as a message says it: `fit`.

        Raises:
            PluginError: If it raises anything that trsr does not raise on purpose.
        """
        try:
            yield
        except TrsrError:
            raise
        except Exception as error:
            package = self.package(name)
            if not package:
                raise
            last = (self.lines(name, error) or traceback.extract_tb(error.__traceback__))[-1]
            raise PluginError(
                f"the {self.kind} {name} of the package {package} failed in {what}: "
                f"{type(error).__name__}: {error} ({last.filename}:{last.lineno}); with "
                "PYTHONDEVMODE=1 in the environment trsr shows the traceback"
            ) from error

    def lines(self, name: str, error: Exception) -> list[traceback.FrameSummary]:
        """The lines of another package's part that an error came through; the last is nearest."""
        root = re.split(r"[.:]", self._added()[name][0])[0]
        frames = traceback.extract_tb(error.__traceback__)
        return [one for one in frames if root in Path(one.filename).with_suffix("").parts]

    def load(self, name: str) -> Any:
        """Imports and returns one part.

        Raises:
            ConfigError: If there is no such part; the message suggests near names.
            PluginError: If another package's part cannot be imported.
        """
        parts = self._own if name in self._own else self._all()
        if name not in parts:
            raise ConfigError(f"there is no {self.kind} {name!r}{near(name, list(parts))}")
        module, _, attribute = parts[name].partition(":")
        with self.blamed(name, "its import"):
            return getattr(importlib.import_module(module), attribute)


@contextlib.contextmanager
def blamed(parts: Iterable[tuple[PluginTable, str]], what: str) -> Iterator[None]:
    """As `PluginTable.blamed`, of those parts in whose code something fails.

    Raises:
        PluginError: Likewise.
    """
    try:
        yield
    except TrsrError:
        raise
    except Exception as error:
        for table, name in parts:
            if table.package(name) and table.lines(name, error):
                with table.blamed(name, what):
                    raise
        raise


@functools.cache
def _added(group: str, _: tuple[str, ...]) -> dict[str, tuple[str, str]]:
    """What installed packages add to a group, and which; reading all their metadata is slow."""
    found = {}
    for point in entry_points(group=group):
        package = f"{point.dist.name} {point.dist.version}" if point.dist else "unknown"
        found[point.name] = point.value, package
    return found


def near(name: str, names: list[str]) -> str:
    """A hint for a mistyped name: `: did you mean …?`, or the list of what there is."""
    return like(name, names) or f": there are {', '.join(sorted(names)) or 'none'}"


def like(name: str, names: Sequence[str]) -> str:
    """`: did you mean …?`, for messages that list the names anyway; empty where none is near."""
    close = difflib.get_close_matches(name, names, n=2, cutoff=0.6)
    return f": did you mean {' or '.join(close)}?" if close else ""


def optional(module: str, extra: str, what: str) -> Any:
    """Imports a library that only some parts need.

    Raises:
        ConfigError: If it is not installed; the message says how to install it.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ConfigError(
            f"{what} needs {module.partition('.')[0]}, which cannot be imported ({error}): "
            f"pip install 'trsr[{extra}]'"
        ) from error


def how_to_install(error: ModuleNotFoundError) -> str:
    """Names the extra of trsr that brings a missing module; raises `error` where none does."""
    module = (error.name or "").partition(".")[0]
    for line in importlib.metadata.requires("trsr") or ():
        package, _, extra = line.partition("; extra == ")
        name = re.split(r"[^\w-]", package)[0].removesuffix("-cpu").replace("-", "_").lower()
        if extra and module and name == module:
            extra = extra.strip("\"'")
            return f"this needs {module}, which is not installed: pip install 'trsr[{extra}]'"
    raise error
