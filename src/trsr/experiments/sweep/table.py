"""What a sweep came to: its runs, and the table of runs × metrics."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from trsr.experiments.sweep.plan import Plan, label, short_keys
from trsr.metrics.report import LEAST, LOWER, Estimate, number, over_seeds
from trsr.pipeline.finished_run import counted, merged
from trsr.progress import duration
from trsr.report.costs import RankerCost, brief_seconds
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
        trial: Whether it is a search's trial, on the validation cases.
        taken: The stages that were copied from other runs.
        notes: What its report warns of.
        cases: A digest of the cases that it ranked; empty where there are none.
        answers: ranker → a digest of its metrics by query; the same where its seed changes nothing.
        stages: ranker → seconds of the stages between the data and the ranking that it reads, where
            they were made; its trainings are in `costs`.
        costs: What each ranker took.
    """

    name: str
    settings: Mapping[str, Any]
    seed: int | None
    error: str = ""
    rankers: Mapping[str, Mapping[str, Estimate]] = field(default_factory=dict)
    bounds: Mapping[str, frozenset[str]] = field(default_factory=dict)
    trial: bool = False
    taken: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    cases: str = ""
    answers: Mapping[str, str] = field(default_factory=dict)
    stages: Mapping[str, float] = field(default_factory=dict)
    costs: tuple[RankerCost, ...] = ()

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
            "trial": self.trial,
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
        tests = [one for one in self.outcomes if not one.trial]
        metrics = list(dict.fromkeys(m for o in tests for one in o.rankers.values() for m in one))
        search = self.plan.file.search
        valid = [f"valid {search.metric}"] if search else []
        header = [*short_keys(keys), "ranker", "seeds", *valid, *metrics]
        rows = []
        for group in self._groups():
            values = [_plain(group[0].settings.get(key, "")) for key in keys]
            for ranker in dict.fromkeys(name for one in group for name in one.rankers):
                tried, tested = (
                    _distinct_seeds(
                        [o for o in group if o.trial == trial and ranker in o.rankers], ranker
                    )
                    for trial in (True, False)
                )
                measured = [_cell(tried, ranker, search.metric)] if search else []
                cells = [_cell(tested, ranker, metric) for metric in metrics]
                rows.append([*values, ranker, str(len(tested or tried)), *measured, *cells])
        return header, rows

    def tables(self) -> list[tuple[list[str], list[list[str]]]]:
        """`table` for the runs of each set of test cases apart, and what each ranker took."""
        apart: dict[str, list[Outcome]] = {}
        for one in self.outcomes:
            apart.setdefault(one.cases if len(self._cases()) > 1 else "", []).append(one)
        parts = [dataclasses.replace(self, outcomes=tuple(own)) for own in apart.values()]
        return [found for part in parts if (found := part.table())[1]] + self._costs()

    def _cases(self) -> set[str]:
        return {one.cases for one in self.outcomes if one.cases and not one.trial}

    def _costs(self) -> list[tuple[list[str], list[list[str]]]]:
        keys = list(self.plan.keys)
        header = [*short_keys(keys), "ranker", "stages before", "fit", "a query"]
        rows = [
            [
                *(_plain(group[0].settings.get(key, "")) for key in keys),
                one.ranker,
                duration(group[0].stages[one.ranker]),
                duration(one.preparing),
                brief_seconds(one.seconds_a_query),
            ]
            for group in self._groups()
            for one in group[0].costs
        ]
        return [(header, rows)] if rows else []

    def notes(self) -> list[str]:
        """What to print below the table."""
        found = [
            "mean ± standard error over queries; with several seeds also (± their spread), where "
            "seeds that change nothing for a ranker count as one"
        ]
        if any(names for one in self.outcomes for names in one.bounds.values()):
            found.append(LOWER)
        if self.plan.file.search is not None:
            tried = {json.dumps(dict(one.settings), default=str) for one in self.outcomes}
            found.append(f"different settings tried: {len(tried)}")
        if self.best is not None:
            chosen = ", ".join(f"{key} = {_plain(value)}" for key, value in self.best.items())
            found.append(f"best on the validation cases: {chosen}")
        found += self._case_note()
        shown = [one for one in self.outcomes if one.rankers and not one.trial]
        found += merged([(one.name, one.notes) for one in shown])
        found += [f"failed: {one.name}: {one.error}" for one in self.failed]
        if self.left:
            found.append(f"not chosen, and not made: {', '.join(self.left)}")
        return found

    def _case_note(self) -> list[str]:
        """Which rows answered other test cases."""
        rows: dict[tuple[str, ...], list[str]] = {}
        for group in self._groups():
            cases = tuple(sorted({one.cases for one in group if one.cases and not one.trial}))
            if cases:
                rows.setdefault(cases, []).append(label(group[0].settings) or "this run")
        if len(rows) < 2:
            return []
        alike = " | ".join(map("; ".join, rows.values()))
        return [f"rows with other test cases do not compare; rows with the same cases: {alike}"]

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
        lines = []
        for top, body in self.tables():
            lines += [_line(top), _line(["---"] * len(top)), *map(_line, body), ""]
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


def _cell(runs: Sequence[Outcome], ranker: str, metric: str) -> str:
    """The mean over seeds; empty where no seed has a value."""
    found = [one.rankers[ranker][metric] for one in runs if metric in one.rankers[ranker]]
    mean, spread = over_seeds(found)
    bound = any(metric in one.bounds.get(ranker, ()) for one in runs)
    return "" if mean.mean is None else (LEAST if bound else "") + number(mean, spread)


def _plain(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(map(_plain, value))
    if isinstance(value, float):
        return f"{value:.6g}"
    return str(value).lower() if isinstance(value, bool) else str(value)


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"
