"""Markdown pages that commands write: their templates, and texts that may stand in them."""

from __future__ import annotations

import re

import jinja2

_PATH = re.compile(r"(?<![\w.])(?:~|[A-Za-z]:\\|/)[^\s,;:'\"()]*[/\\][^\s,;:'\"()]*")


def template(package: str, name: str) -> jinja2.Template:
    """A Markdown template of a package; a name that it is not given is an error."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader(package),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # noqa: S701 - Markdown
    )
    return environment.get_template(name)


def without_paths(text: str) -> str:
    """The text with an ellipsis for each path of this machine."""
    return _PATH.sub("…", text)


def cell(text: str) -> str:
    """A text as it may stand in a table's cell, without paths."""
    return without_paths(text).replace("|", "\\|")
