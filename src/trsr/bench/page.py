"""The page that `trsr bench all` writes; what people wrote into it by hand is kept."""

from __future__ import annotations

import datetime
import re
from collections.abc import Sequence
from pathlib import Path

import jinja2

from trsr.bench.machine import machine, versions
from trsr.bench.records import Result
from trsr.bench.show import HEADER, rows

MARK = "<!-- notes -->"
"""Stands before and behind what is written by hand."""

_PATH = re.compile(r"(?<![\w.])(?:~|[A-Za-z]:\\|/)[^\s,;:'\"()]*[/\\][^\s,;:'\"()]*")


def write_page(path: Path, results: Sequence[Result], command: str) -> None:
    """Writes the page, or writes it again with its hand-written notes untouched.

    Args:
        path: The Markdown file.
        results: What the benches found, in order.
        command: What was run.
    """
    old = path.read_text("utf-8") if path.exists() else ""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page(results, command, notes_of(old)), "utf-8")


def notes_of(text: str) -> str:
    """What stands between the first and the last mark of a page, as it stands."""
    _, mark, rest = text.partition(MARK)
    inside, end, _ = rest.rpartition(MARK)
    return inside if mark and end else "\n\n## Notes\n\nNone yet.\n\n"


def page(results: Sequence[Result], command: str, notes: str) -> str:
    """The page's text: one table a result, the machine's kind, and no path of it."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("trsr.bench"),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # noqa: S701 - Markdown
    )
    tables = [
        {
            "title": result.title,
            "rows": [[_cell(cell) for cell in row] for row in rows(result.records)],
            "notes": [without_paths(note) for note in result.notes],
        }
        for result in results
    ]
    return environment.get_template("performance.md.jinja").render(
        header=HEADER,
        tables=tables,
        machine=machine(),
        versions=versions(),
        date=datetime.datetime.now(datetime.UTC).date().isoformat(),
        command=command,
        mark=MARK,
        notes=notes,
    )


def without_paths(text: str) -> str:
    """The text with an ellipsis for each path of this machine."""
    return _PATH.sub("…", text)


def _cell(text: str) -> str:
    return without_paths(text).replace("|", "\\|")
