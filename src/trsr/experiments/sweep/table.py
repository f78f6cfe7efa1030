"""What a sweep came to: its runs, and the table of runs × metrics."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from trsr.experiments.sweep.plan import Plan, label, short_keys
from trsr.experiments.sweep.space import combinations
from trsr.metrics.report import Estimate, over_seeds
from trsr.metrics.tables import LEAST, LOWER, number
from trsr.pipeline.comparable import ReadNote, RunNotes, merged
from trsr.pipeline.finished_run import counted
from trsr.storage import files
from trsr.storage.run_directory import explained

PLACE = "sweep.folder"
"""Names the folder of a sweep's runs."""


@dataclass(frozen=True)
class Outcome:
    """What became of one run.

    Attributes:
        name: Its folder's name.
        settings: What it differs in, without the seed.
        seed: Its seed; None where there is none.
        error: Why it failed; empty where it did not.
        rankers: ranker → metric → estimate on the test queries; empty where there are none.
        bounds: ranker → its metrics that are lower bounds.
        validation: A search's metric on the validation cases.
        taken: The stages that were copied from other runs.
        notes: What its report warns of.
        cases: A digest of the cases that it ranked; empty where there are none.
        answers: ranker → a digest of its metrics by query; the same where its seed changes nothing.
    """

    name: str
    settings: Mapping[str, Any]
    seed: int | None
    error: str = ""
    rankers: Mapping[str, Mapping[str, Estimate]] = field(default_factory=dict)
    bounds: Mapping[str, frozenset[str]] = field(default_factory=dict)
    validation: Estimate | None = None
    taken: tuple[str, ...] = ()
    notes: tuple[ReadNote, ...] = ()
    cases: str = ""
    answers: Mapping[str, str] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "name": self.name,
            "settings": dict(self.settings),
            "seed": self.seed,
            "state": "failed" if self.error else "done",
            "error": self.error,
            "rankers": {
                ranker: {name: {"mean": one.mean, "se": one.se} for name, one in metrics.items()}
                for ranker, metrics in self.rankers.items()
            },
            "lower_bounds": {ranker: sorted(names) for ranker, names in self.bounds.items()},
            "validation": None
            if self.validation is None
            else {"mean": self.validation.mean, "se": self.validation.se},
            "taken": list(self.taken),
            "cases": self.cases,
        }


@dataclass(frozen=True)
class Swept:
    """A sweep's runs, as far as they are done.

    Attributes:
        plan: The sweep.
        outcomes: Its runs, in order.
        best: A search's best settings; None for a grid.
        left: The runs that were not chosen and are not done.
    """

    plan: Plan
    outcomes: tuple[Outcome, ...]
    best: Mapping[str, Any] | None = None
    left: tuple[str, ...] = ()

    @property
    def failed(self) -> tuple[Outcome, ...]:
        """The runs that failed."""
        return tuple(one for one in self.outcomes if one.error)

    def table(self) -> tuple[list[str], list[list[str]]]:
        """A header, and a row for each setting and ranker, over its seeds."""
        keys = list(self.plan.keys)
        metrics = list(
            dict.fromkeys(m for o in self.outcomes for one in o.rankers.values() for m in one)
        )
        search = self.plan.file.search
        valid = [f"valid {search.metric}"] if search else []
        header = [*short_keys(keys), "ranker", "seeds", *valid, *metrics]
        rows = []
        for group in self._groups():
            values = [_plain(group[0].settings.get(key, "")) for key in keys]
            rankers = list(dict.fromkeys(name for one in group for name in one.rankers))
            for ranker in rankers or [search.ranker if search else ""]:
                shown = _distinct_seeds([one for one in group if ranker in one.rankers], ranker)
                measured: list[str] = []
                seeds = len(shown)
                if search:  # the figure is that of the searched ranker alone
                    every = [o.validation for o in group if ranker == search.ranker]
                    own = counted(every, lambda one: one)
                    measured, seeds = [_over_seeds(own)], seeds or len(own)
                cells = [
                    _over_seeds(
                        [o.rankers[ranker].get(m) for o in shown],
                        any(m in o.bounds.get(ranker, ()) for o in shown),
                    )
                    for m in metrics
                ]
                rows.append([*values, ranker, str(seeds), *measured, *cells])
        return header, rows

    def notes(self) -> list[str]:
        """What to print below the table."""
        found = ["mean ± standard error over queries; with several seeds also (± their spread)"]
        if any(names for one in self.outcomes for names in one.bounds.values()):
            found.append(LOWER)
        if self.plan.file.search is not None:
            found.append(self._tried(self.plan.file.search.trials))
        if self.best is not None:
            chosen = ", ".join(f"{key} = {_plain(value)}" for key, value in self.best.items())
            found.append(f"best on the validation cases: {chosen}")
        found += [*self._seed_note(), *self._case_notes()]
        shown = [one for one in self.outcomes if one.rankers]
        found += merged([RunNotes(one.name, one.rankers, one.notes) for one in shown])
        found += [f"failed: {one.name}: {one.error}" for one in self.failed]
        if self.left:
            found.append(f"not chosen, and not made: {', '.join(self.left)}")
        return found

    def _tried(self, trials: int) -> str:
        """How many settings a search has tried, and whether there are others."""
        tried = len({json.dumps(dict(one.settings), default=str) for one in self.outcomes})
        every = ", all that there are" if tried == combinations(self.plan.space()) else ""
        fewer = f" (trials = {trials})" if every and tried < trials else ""
        return f"different settings tried: {tried}{every}{fewer}"

    def _seed_note(self) -> list[str]:
        """Whether seeds give the same values."""
        for group in self._groups():
            for ranker in {name for one in group for name in one.rankers}:
                having = [one for one in group if ranker in one.rankers]
                if len(_distinct_seeds(having, ranker)) < len(having):
                    return ["seeds that changed nothing for a ranker count as one"]
        return []

    def _case_notes(self) -> list[str]:
        """Which rows and seeds answered other test cases."""
        rows: dict[tuple[str, ...], list[str]] = {}
        for group in self._groups():
            cases = tuple(sorted({one.cases for one in group if one.cases}))
            if cases:
                rows.setdefault(cases, []).append(label(group[0].settings) or "this run")
        found = []
        if len(rows) > 1:
            found.append(
                "rows with other test cases do not compare; rows with the same cases: "
                f"{' | '.join(map('; '.join, rows.values()))}"
            )
        redrawn = [name for cases, names in rows.items() if len(cases) > 1 for name in names]
        if redrawn:
            found.append(
                "each seed has test cases of its own, so the means are over draws of cases too: "
                f"{'; '.join(redrawn)}"
            )
        return found

    def write(self) -> None:
        """Writes `sweep.json` and `sweep.md` into the sweep's folder.

        Raises:
            StoreError: If the folder cannot be written.
        """
        header, rows = self.table()
        value = {
            "sweep": self.plan.path.name,
            "base": self.plan.base.name,
            "runs": [one.to_json() for one in self.outcomes],
            "best": None if self.best is None else dict(self.best),
            "table": {"header": header, "rows": rows, "notes": self.notes()},
        }
        folder = self.plan.folder
        lines = [_line(header), _line(["---"] * len(header)), *map(_line, rows), ""]
        lines += [f"- {note}" for note in self.notes()]
        text = "\n".join((f"# {self.plan.path.stem}", "", *lines))
        with explained(folder, PLACE):
            files.write_text(folder / "sweep.json", json.dumps(value, indent=1, ensure_ascii=False))
            files.write_text(folder / "sweep.md", text + "\n")

    def _groups(self) -> list[list[Outcome]]:
        """The runs that did not fail, those that differ in the seed alone together."""
        found: dict[str, list[Outcome]] = {}
        for one in self.outcomes:
            if not one.error:
                found.setdefault(json.dumps(dict(one.settings), default=str), []).append(one)
        return list(found.values())


def _distinct_seeds(having: Sequence[Outcome], ranker: str) -> list[Outcome]:
    """The runs of a setting whose ranker gives other values than the others'."""
    return list(counted(having, lambda one: (one.cases, one.answers.get(ranker, one.name))))


def _over_seeds(found: Sequence[Estimate | None], bound: bool = False) -> str:
    """A cell: empty where no seed has a value."""
    mean, spread = over_seeds(one for one in found if one is not None)
    return "" if mean.mean is None else (LEAST if bound else "") + number(mean, spread)


def _plain(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(map(_plain, value))
    if isinstance(value, float):
        return f"{value:.6g}"
    return str(value).lower() if isinstance(value, bool) else str(value)


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"
