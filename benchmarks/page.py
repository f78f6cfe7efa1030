"""The page that `all` writes, whole or in parts; what people wrote into it is kept."""

from __future__ import annotations

import datetime
import os
import platform
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from benchmarks.records import HEADER, Result, rows
from trsr.errors import ConfigError
from trsr.machine import cores, cpuinfo, processor
from trsr.report.markdown_report import cell, template, without_paths
from trsr.storage import files

MARK = "<!-- notes -->"
"""Stands before and behind what is written by hand."""


@dataclass(frozen=True)
class Table:
    """One bench on the page.

    Attributes:
        title: The bench and its sizes, in words.
        text: What stands below the title.
    """

    title: str
    text: str

    @property
    def bench(self) -> str:
        """What a later run of the same bench replaces."""
        return self.title.partition(":")[0]

    @property
    def empty(self) -> bool:
        """Whether it says only that the bench could not run."""
        return not re.search(r"^\|", self.text, re.MULTILINE)


def check_page(path: Path) -> None:
    """Whether tables measured here can stand beside those of the page.

    Raises:
        ConfigError: If the page was measured on another kind of machine or with other versions.
    """
    old = path.read_text("utf-8") if path.exists() else ""
    if tables_of(old) and not _measured_here(old):
        raise ConfigError(
            f"{path} was measured on another kind of machine or with other versions, and one page "
            "does not mix them: name another page with --output, or run every bench"
        )


def write_page(path: Path, results: Sequence[Result], command: str) -> None:
    """Writes the page, or writes new tables into it.

    Tables of other benches stay as they are, if they were measured on such a machine with such
    versions; the hand-written notes always do.

    Args:
        path: The Markdown file.
        results: What the benches found, in order.
        command: What was run.
    """
    old = path.read_text("utf-8") if path.exists() else ""
    kept = tables_of(old) if _measured_here(old) else []
    path.parent.mkdir(parents=True, exist_ok=True)
    files.write_text(path, page(merged(kept, made(results, command)), notes_of(old)))


def notes_of(text: str) -> str:
    """What stands between the first and the last mark of a page, as it stands."""
    _, mark, rest = text.partition(MARK)
    inside, end, _ = rest.rpartition(MARK)
    return inside if mark and end else "\n\n## Notes\n\nNone yet.\n\n"


def tables_of(text: str) -> list[Table]:
    """The tables of a page, as they stand."""
    _, *parts = text.partition(MARK)[0].split("\n## ")
    return [Table(*(one.strip() for one in part.partition("\n")[::2])) for part in parts]


def made(results: Sequence[Result], command: str) -> list[Table]:
    """A table for each result, with today's date and no path of this machine."""
    table = template("benchmarks", "table.md.jinja")
    return [
        Table(
            result.title,
            table.render(
                header=HEADER,
                rows=[[cell(one) for one in row] for row in rows(result.records)],
                notes=[without_paths(note) for note in result.notes],
                date=datetime.datetime.now(datetime.UTC).date().isoformat(),
                command=command,
            ).strip(),
        )
        for result in results
    ]


def merged(kept: Sequence[Table], new: Sequence[Table]) -> list[Table]:
    """New tables in the places of the same benches' older ones, others behind.

    What could not run now replaces no table that there is.
    """
    found: dict[str, Table] = {}
    for one in kept:
        listed = one.empty and any(later.bench.startswith(one.bench) for later in new)
        if not listed:
            found[one.bench] = one
    for one in new:
        if not (one.empty and any(bench.startswith(one.bench) for bench in found)):
            found[one.bench] = one
    return list(found.values())


def page(tables: Sequence[Table], notes: str) -> str:
    """The page's text: the machine's kind, the tables, the notes."""
    return template("benchmarks", "performance.md.jinja").render(
        tables=tables, environment=_measured(), mark=MARK, notes=notes
    )


def _measured() -> str:
    return f"- Machine: {machine()}\n- Versions: {versions()}"


def _measured_here(text: str) -> bool:
    return _measured() in text


PACKAGES = ("trsr", "torch", "transformers", "peft", "polars", "numpy", "openvino-genai")
_FLAGS = ("avx2", "avx512f", "avx512_bf16", "avx512_vnni", "amx_bf16")


def machine() -> str:
    """The kind of machine in a line: processor, cores, what it multiplies fast, memory, GPU."""
    parts = [processor(), f"{cores()} cores"]
    flags = [flag for flag in _FLAGS if flag in cpuinfo("flags").split()]
    parts += [" ".join(flags)] if flags else []
    parts += list(_memory())
    parts += list(_gpu())
    return ", ".join(parts)


def versions() -> str:
    """Python and the packages that do the work."""
    found = [f"Python {platform.python_version()}"]
    for name in PACKAGES:
        try:
            found.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            continue
    return ", ".join(found)


def _memory() -> Iterator[str]:
    try:
        size = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return
    yield f"{size / 2**30:.0f} GiB"


def _gpu() -> Iterator[str]:
    try:
        import torch
    except ImportError:
        return
    if torch.cuda.is_available():
        yield torch.cuda.get_device_name()
    yield f"{torch.get_num_threads()} threads"
