"""The code speaks the words of docs/vocabulary.md."""

from __future__ import annotations

import io
import re
import tokenize
import tomllib
from collections.abc import Iterator
from pathlib import Path

import click
import typer.main

from trsr.cli.app import app

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "vocabulary.md"


def refused(page: str) -> set[str]:
    """The identifiers of the last column, in snake case."""
    rows = [line for line in page.splitlines() if line.startswith("| ")]
    return {snake(name) for row in rows for name in re.findall(r"`(\w+)`", row.split("|")[-2])}


def snake(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).replace("-", "_").lower().strip("_")


def misses(names: set[str], words: set[str]) -> set[str]:
    """Those of the names that are a refused word or hold one."""
    pattern = re.compile(rf"(?:^|_)(?:{'|'.join(sorted(words))})(?:_|$)")
    return {name for name in names if pattern.search(snake(name))}


def names_of(path: Path) -> set[str]:
    """The identifiers of a Python file, or the keys of a TOML file."""
    text = path.read_text("utf-8")
    if path.suffix == ".toml":
        return set(keys(tomllib.loads(text)))
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    return {token.string for token in tokens if token.type == tokenize.NAME}


def keys(values: object) -> Iterator[str]:
    if isinstance(values, dict):
        for key, value in values.items():
            yield from key.split(".")
            yield from keys(value)


def words_of(command: click.Command) -> set[str]:
    """The names of a command, its options and its subcommands."""
    found = {command.name or ""}
    for parameter in command.params:
        found |= {option.lstrip("-") for option in parameter.opts}
    for below in getattr(command, "commands", {}).values():
        found |= words_of(below)
    return found


def test_refused_words_are_nowhere():
    words = refused(PAGE.read_text("utf-8"))
    assert len(words) >= 20
    paths = [
        path
        for folder in ("src", "benchmarks", "recipes")
        for path in (ROOT / folder).rglob("*")
        if path.suffix in (".py", ".toml")
    ]
    wrong = {
        str(path.relative_to(ROOT)): found
        for path in paths
        if (
            found := misses(
                names_of(path) | set(path.relative_to(ROOT).with_suffix("").parts), words
            )
        )
    }
    command_line = misses(words_of(typer.main.get_command(app)), words)
    assert (wrong, command_line) == ({}, set()), "docs/vocabulary.md names the word to use"


def test_parts_of_names_are_found():
    words = refused("| counts | how often | `tally`, `OutputStore` |")
    assert misses({"_tally_of", "OutputStore", "open_output_store", "--tally"}, words) == {
        "_tally_of",
        "OutputStore",
        "open_output_store",
        "--tally",
    }
    assert misses({"totally", "tallying", "store"}, words) == set()
