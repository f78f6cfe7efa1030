"""What the page of results shows: a TOML file of sections, each with its runs or its sweep."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import Field, ValidationError

from trsr import sweep
from trsr.config import read_toml, said_of
from trsr.errors import ConfigError, StoreError
from trsr.evaluate import parse_metric
from trsr.evaluate.settings import Lengths
from trsr.settings import Settings

TOP, END = "top", "end"
"""Notes that stand before and behind all sections."""

MARK = re.compile(r"<!-- notes: ([\w-]+) -->")
"""Stands before and behind the notes of a name."""


class SectionSettings(Settings):
    """One table of the page: runs that ranked the same candidates of the same queries."""

    title: str = Field(description="the heading")
    runs: tuple[str, ...] = Field((), description="run directories, in the folder of runs")
    sweep: str = Field("", description="instead of runs: a sweep's file beside this one, or a name")
    command: str = Field("", description="what makes the runs; left out: the sweep's")
    about: str = Field("", description="a line about the data and what was done with it")
    baseline: str = Field("", description="the row that others are compared with; else llm's")
    metrics: tuple[str, ...] = Field((), description="columns; left out: all that the runs have")
    compare: tuple[str, ...] = Field((), description="metrics that are compared; ndcg@10 if none")
    history_bins: Lengths = Field(
        (), description="also by length of history: where a new group begins; none if left out"
    )
    machine: str = Field("", description="the machine's kind, for runs that do not record it")


class ResultsFile(Settings):
    """The file."""

    title: str = Field("Results", description="the page's title")
    details: str = Field(
        "",
        pattern=r"^[\w-]*$",
        description="a folder beside the page for what is long: all differences, groups by length "
        "and costs, a page for each section; left out: they stand on the page",
    )
    sections: dict[str, SectionSettings] = Field(
        min_length=1, description="by the name that a section's notes are kept under"
    )


@dataclass(frozen=True)
class Section:
    """A section to be written.

    Attributes:
        name: What its notes are kept under.
        settings: What the file says of it.
        runs: Its run directories, in order; whether they are there is not checked yet.
        command: What makes them.
        labels: Run directory → its row's name, where a sweep's variants name it.
    """

    name: str
    settings: SectionSettings
    runs: tuple[Path, ...]
    command: str
    labels: Mapping[Path, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Plan:
    """A page to be written.

    Attributes:
        path: The file.
        title: The page's title.
        sections: In the file's order.
        details: The folder beside the page for the sections' own pages; empty: there are none.
    """

    path: Path
    title: str
    sections: tuple[Section, ...]
    details: str = ""


def read_plan(path: Path, runs: Path | None = None) -> Plan:
    """Reads a page's file.

    Args:
        path: The file.
        runs: The folder of runs; left out: `runs`, from here. Sweeps are looked for where their
            file says, or in this folder where one is named.

    Raises:
        ConfigError: Listing what is wrong in it.
        StoreError: If a search has not been run, so that its runs are not known.
    """
    if not path.is_file():
        raise ConfigError(
            f"there is no file {path}: write one with a table [sections.NAME] for each table of "
            "the page, and in it a title and runs"
        )
    try:
        file = ResultsFile.model_validate(read_toml(path))
    except ValidationError as error:
        said = said_of(error, ResultsFile)
        raise ConfigError("\n  ".join((f"{path}: cannot be used", *said))) from error
    mistakes = _marked("title", file.title)
    mistakes += [said for item in file.sections.items() for said in _mistakes(*item)]
    if mistakes:
        raise ConfigError("\n  ".join((f"{path}: cannot be used", *mistakes)))
    sections = tuple(_section(path, name, one, runs) for name, one in file.sections.items())
    return Plan(path, file.title, sections, file.details)


def _mistakes(name: str, section: SectionSettings) -> Sequence[str]:
    found = []
    if not re.fullmatch(r"[\w-]+", name) or name in (TOP, END):
        found.append(f"sections.{name}: no name for notes; write a word, and not {TOP} or {END}")
    for key, text in (
        ("title", section.title),
        ("about", section.about),
        ("command", section.command),
        ("machine", section.machine),
    ):
        found += _marked(f"sections.{name}.{key}", text)
    if bool(section.runs) == bool(section.sweep):
        found.append(f"sections.{name}: name either runs or a sweep")
    if section.runs and not section.command:
        found.append(f"sections.{name}.command: write the command that makes the runs")
    if len(set(section.runs)) < len(section.runs):
        found.append(f"sections.{name}.runs: a run stands twice")
    if len(set(section.history_bins)) < len(section.history_bins):
        found.append(f"sections.{name}.history_bins: a length stands twice")
    for metric in (*section.metrics, *section.compare):
        try:
            parse_metric(metric)
        except ConfigError as error:
            found.append(f"sections.{name}: {error}")
    return found


def _marked(key: str, text: str) -> list[str]:
    """A mark in a text would part the page's notes, and the page could not be written again."""
    if not MARK.search(text):
        return []
    return [f"{key}: a mark of notes cannot stand in it: leave out <!-- notes: … -->"]


def _section(path: Path, name: str, settings: SectionSettings, runs: Path | None) -> Section:
    if not settings.sweep:
        folder = runs or Path("runs")
        found = tuple(folder / run for run in settings.runs)
        return Section(name, settings, found, settings.command)
    beside = path.parent / settings.sweep
    plan = sweep.read_plan(beside if beside.is_file() else Path(settings.sweep))
    folder = runs / plan.folder.name if runs else plan.folder
    planned = [] if plan.file.search else plan.grid()
    named = [one.name for one in planned] or _tested(folder)
    labels = {folder / one.name: sweep.label(one.settings) for one in planned if plan.file.variants}
    command = settings.command or f"trsr sweep {Path(settings.sweep).name}"
    return Section(name, settings, tuple(folder / one for one in named), command, labels)


def _tested(folder: Path) -> list[str]:
    """The runs of a search that were asked about test cases: the best settings'."""
    path = folder / "sweep.json"
    try:
        value = json.loads(path.read_text("utf-8"))
        return [one["name"] for one in value["runs"] if one["rankers"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StoreError(f"{path}: cannot be read; give `trsr sweep` for it first") from error
