"""Prints the size of the house beside its limits; exits 1 where one is exceeded."""

from __future__ import annotations

import runpy
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel

from trsr.cli.app import app
from trsr.config import Config
from trsr.rankers.settings import RANKERS, RankSettings, ranker_class

ROOT = Path(__file__).parent.parent
SOURCES = ROOT / "src" / "trsr"
DOOR = runpy.run_path(str(ROOT / "tests" / "storage" / "test_one_door.py"))
"""The test that knows what reaches for the file system."""


def lines_of(folder: Path) -> tuple[int, int]:
    """Lines and files of Python under a folder."""
    files = list(folder.rglob("*.py"))
    return sum(len(path.read_text("utf-8").splitlines()) for path in files), len(files)


def settings_of(model: type[BaseModel], seen: set[type[BaseModel]]) -> Iterator[str]:
    """The names of all settings under a model; a table in two places is counted once."""
    for name, field in model.model_fields.items():
        inner = next(
            (
                one
                for one in (field.annotation, *get_args(field.annotation))
                if isinstance(one, type) and issubclass(one, BaseModel)
            ),
            None,
        )
        if inner is None:
            yield name
        elif inner not in seen:
            seen.add(inner)
            yield from (f"{name}.{one}" for one in settings_of(inner, seen))


def ranker_settings() -> int:
    """The settings in the rankers' own tables, each table counted."""
    owners = [ranker_class(name) for name in RANKERS.names()]
    tables = {
        owner.shares or name: owner for name, owner in zip(RANKERS.names(), owners, strict=True)
    }
    return sum(
        len(owner.config_class().model_fields)
        for place, owner in tables.items()
        if place not in RankSettings.model_fields
    )


def figures() -> dict[str, tuple[int, int]]:
    """Each figure with its limit."""
    source_lines, source_files = lines_of(SOURCES)
    tracked = subprocess.run(
        ["git", "ls-files"],  # noqa: S607
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    raw = sum(
        len(DOOR["raw_calls"](path))
        for path in SOURCES.rglob("*.py")
        if not {path.relative_to(SOURCES).parts[0], path.name} & {"storage", DOOR["SYSTEM"]}
    )
    commands: Any = app.registered_commands
    groups: Any = app.registered_groups
    return {
        "lines of src": (source_lines, 27_000),
        "lines of tests": (lines_of(ROOT / "tests")[0], 19_000),
        "files in src": (source_files, 170),
        "tracked files": (len(tracked.stdout.splitlines()), 450),
        "settings": (len(list(settings_of(Config, set()))) + ranker_settings(), 160),
        "commands": (len(commands) + len(groups), 20),
        "raw file-system calls outside storage": (raw, 0),
    }


def main() -> int:
    """Prints the table."""
    rows = figures()
    for name, (now, limit) in rows.items():
        mark = "" if now <= limit else "  over"
        sys.stdout.write(f"{name:<40} {now:>7,}  limit {limit:>7,}{mark}\n")
    return 1 if any(now > limit for now, limit in rows.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
