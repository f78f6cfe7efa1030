"""The notes of runs' reports, merged for tables that compare runs: each once."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

from trsr.metrics.notes import on_errors, on_ties
from trsr.pipeline.finished_run import FinishedRun


@dataclass(frozen=True, slots=True)
class ReadNote:
    """A note of a run's report, read back.

    Attributes:
        subject: The rankers that it begins with, as it has them; empty: it is about the run.
        text: What it says of them.
        rankers: Which of the run's rankers it concerns; empty: all.
    """

    subject: str
    text: str
    rankers: frozenset[str]

    @property
    def on_errors(self) -> bool:
        """Whether it is about standard errors over queries."""
        return on_errors(self.text)

    @property
    def on_ties(self) -> bool:
        """Whether it is about a ranker's ties."""
        return on_ties(self.text)


@dataclass(frozen=True, slots=True)
class RunNotes:
    """A run in a table.

    Attributes:
        run: What names it among the table's runs.
        rankers: Which of its rankers stand in the table.
        notes: Its report's notes.
    """

    run: str
    rankers: Collection[str]
    notes: Sequence[ReadNote]


def run_notes(run: FinishedRun) -> tuple[ReadNote, ...]:
    """The notes of a run's report.

    One that begins with rankers' names and a colon is about these, and about a blend that has any
    of them for a member.
    """
    notes, found = run.report.get("notes"), []
    for note in notes if isinstance(notes, list) else ():
        said = str(note)
        subject, colon, text = said.partition(": ")
        names = set(subject.split(", "))
        if not colon or not names <= {*run.rankers, *run.blended}:
            found.append(ReadNote("", said, frozenset()))
            continue
        names |= {"blend"} if names & set(run.blended) else set()
        found.append(ReadNote(subject, text, frozenset(names & set(run.rankers))))
    return tuple(found)


def merged(runs: Sequence[RunNotes]) -> Iterator[str]:
    """The notes that concern what the table shows, each once.

    Where not all of the runs that it could be said of have a note, it names those that have it.
    """
    said: dict[tuple[str, str], tuple[set[str], list[RunNotes]]] = {}
    for one in runs:
        for note in one.notes:
            if note.rankers and not note.rankers & set(one.rankers):
                continue
            rankers, having = said.setdefault((note.subject, note.text), (set(), []))
            rankers |= note.rankers
            having.append(one)
    for (subject, text), (rankers, having) in said.items():
        able = [one for one in runs if not rankers or rankers & set(one.rankers)]
        names = "" if len(having) == len(able) else "; ".join(one.run for one in having)
        where = f"{subject} ({names})" if subject and names else subject or names
        yield f"{where}: {text}" if where else text
