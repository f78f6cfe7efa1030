"""Writes docs/configuration.md and docs/cli.md from the code; `--check` compares them."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args, get_origin

import click
import typer
from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from trsr.cli.app import app
from trsr.config import Config
from trsr.rankers.settings import RANKERS, RankSettings, ranker_class

DOCS = Path(__file__).parent.parent / "docs"
NOTE = "<!-- Written by `make docs` from the code; changes here are lost. -->"


def configuration() -> str:
    """The configuration reference."""
    lines = [
        "# Configuration",
        "",
        NOTE,
        "",
        "A configuration is a TOML file with the tables below; every setting has a default except "
        "the data's place. On the command line, `section.key=value` replaces a setting: "
        "`trsr run mine.toml summarize.strategy=recurrent train.epochs=2`. A relative path in a "
        "file is relative to that file, on the command line to the current folder. "
        "A run directory may stand in the file's place, wherever it was moved or copied to: the "
        "run is then made there, or with `run.folder=…` another one with its settings. "
        "`trsr check mine.toml` tells every mistake at once.",
    ]
    lines += ["", "## At the top", "", "| key | default | meaning |", "|---|---|---|"]
    lines += [
        f"| `{name}` | {shown(field.get_default())} | {field.description} |"
        for name, field in Config.model_fields.items()
        if field.annotation is str
    ]
    for name, field in Config.model_fields.items():
        model = field.annotation
        if isinstance(model, type) and issubclass(model, BaseModel):
            words = field.description or ""
            lines += ["", f"## `[{name}]`", "", f"{words[:1].upper()}{words[1:]}.", ""]
            lines += table(name, model)
    return "\n".join(lines) + "\n"


def table(name: str, model: type[BaseModel]) -> Iterator[str]:
    """The settings of one table; tables within it follow."""
    inner: list[tuple[str, type[BaseModel]]] = []
    yield "| key | default | meaning |"
    yield "|---|---|---|"
    for key, field in model.model_fields.items():
        nested = [
            one
            for one in (field.annotation, *get_args(field.annotation))
            if isinstance(one, type) and issubclass(one, BaseModel)
        ]
        if nested:
            many = get_origin(field.annotation) is dict
            inner.append((f"{name}.{key}.NAME" if many else f"{name}.{key}", nested[0]))
        text = (field.description or "").replace("|", "\\|")
        default = f"table `[{inner[-1][0]}]`" if nested else shown(field.get_default())
        yield f"| `{key}` | {default} | {text}{choices(field.annotation)} |"
    if model is RankSettings:
        for ranker in RANKERS.names():
            owner = ranker_class(ranker)
            own = owner.config_class()
            if own.model_fields and owner.shares in ("", ranker):
                inner.append((f"{name}.{ranker}", own))
    for title, one in inner:
        yield ""
        yield f"### `[{title}]`"
        yield ""
        if model is RankSettings and title.count(".") == 1 and not title.endswith("sequential"):
            said = " ".join((one.__doc__ or "").split("\n\n", maxsplit=1)[0].split())
            yield f"Settings of the ranker `{title.partition('.')[2]}`: {said}"
            yield ""
        if title == "summarize.model":
            yield "The same settings as `[model]`, for a summarizing model of its own."
        else:
            yield from table(title, one)


def choices(annotation: Any) -> str:
    """The values that a setting can take, where they are few."""
    words = [one for one in get_args(annotation) if isinstance(one, str)]
    return f" (one of {', '.join(f'`{one}`' for one in words)})" if words else ""


def shown(value: Any) -> str:
    """A default as TOML writes it."""
    if value is None or value is PydanticUndefined or value == Path():
        return "–"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, tuple | list):
        inside = ", ".join(f'"{one}"' if isinstance(one, str) else str(one) for one in value)
        return f"`[{inside}]`"
    return f'`"{value}"`' if isinstance(value, str) else f"`{value}`"


def cli() -> str:
    """The command-line reference: each command's own help."""
    lines = ["# Command line", "", NOTE]
    group = typer.main.get_command(app)
    assert isinstance(group, click.Group) or hasattr(group, "commands")  # noqa: S101
    context = group.make_context("trsr", ["ls"], resilient_parsing=True)
    lines += ["", "```", group.get_help(context), "```"]
    lines += commands("trsr", group, context)
    return "\n".join(lines) + "\n"


def commands(path: str, group: Any, context: Any) -> Iterator[str]:
    """The help of a group's commands, and of the commands within them."""
    for name, command in group.commands.items():
        inner = type(context)(command, info_name=name, parent=context)
        yield from ("", f"## `{path} {name}`", "", "```", command.get_help(inner), "```")
        if hasattr(command, "commands"):
            yield from commands(f"{path} {name}", command, inner)


def main() -> int:
    """Writes the pages, or checks them."""
    wrong = []
    for name, text in (("configuration.md", configuration()), ("cli.md", cli())):
        path = DOCS / name
        if "--check" not in sys.argv:
            path.write_text(text, "utf-8")
        elif not path.exists() or path.read_text("utf-8") != text:
            wrong.append(name)
    if wrong:
        sys.stderr.write(f"docs/{', docs/'.join(wrong)}: not as the code says; run `make docs`\n")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
