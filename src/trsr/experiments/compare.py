"""`trsr compare`: reads finished runs, refuses what cannot be compared, and compares the rest."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from trsr.errors import ConfigError
from trsr.metrics.metrics import USUAL, parse_metric
from trsr.metrics.report import on_errors
from trsr.pipeline.finished_run import (
    FinishedRun,
    check_comparable,
    counted,
    merged,
    notes_about,
)
from trsr.registry import like
from trsr.report.systems import System, SystemsReport, compare_systems
from trsr.storage import files
from trsr.storage.remote_run import local


@dataclass(frozen=True)
class Chosen:
    """One ranker of one run."""

    run: FinishedRun
    ranker: str

    @property
    def key(self) -> tuple[Path, str]:
        """The same for one ranker of one run, however its folder was spelled."""
        return self.run.folder.resolve(), self.ranker


def compare(
    runs: Sequence[str],
    *,
    rankers: Sequence[str] = (),
    metrics: Sequence[str] = (),
    baseline: str = "",
    seeds: bool = False,
) -> SystemsReport:
    """Compares rankers of finished runs on the same queries and candidates.

    Args:
        runs: Run directories, or `RUN:RANKER`. A run without a ranker stands for `rankers`, else
            for the ranker that its report is about; a run named alone stands for all its rankers,
            whatever the baseline is.
        rankers: Which rankers of each run that names none.
        metrics: Which metrics; else ndcg@10, or the first that all runs have.
        baseline: What the others are compared with, as in `runs`; of a single run a ranker's name
            is enough; else the first, or a single run's main ranker.
        seeds: Whether runs that differ only by their seed are pooled; those in which a ranker gave
            the same, query by query, count as one.

    Raises:
        ConfigError: If a ranker or a metric is not in a run, nothing is named, something is named
            twice, no run takes one of `rankers`, or two runs to be pooled are one training.
        StoreError: If a run was not evaluated; StaleRunError, if not since its files changed.
        DataError: If a run's values are incomplete, or the runs have other queries, candidates or
            answers; says which.
    """
    if not runs:
        raise ConfigError("there is nothing to compare: name at least one run")
    opened: dict[Path, FinishedRun] = {}
    named = [_split(text) for text in runs]
    against = _against(baseline, named)
    _check_taken(rankers, named, against)
    lone = len(named) == 1
    chosen = [one for name in named for one in _chosen(name, rankers, lone, opened)]
    _check_twice(chosen)
    base = _base(against, chosen, rankers, lone, opened)
    every = list({one.key: one for one in (*chosen, base)}.values())
    runs_of = [one.run for one in every]
    check_comparable(runs_of)
    wanted = wanted_metrics(runs_of, metrics)
    wanted = wanted if metrics else [usual(wanted)]
    groups = _groups(every, seeds)
    names = _names(groups)
    pooled = [_distinct(group) for group in groups]
    systems = [
        make_system(name, [one.run for one in group], group[0].ranker, wanted)
        for name, group in zip(names, pooled, strict=True)
    ]
    first = next(
        name
        for name, group in zip(names, groups, strict=True)
        if base.key in [one.key for one in group]
    )
    users = base.run.of(base.ranker)["user"].to_list()
    report = compare_systems(systems, first, users, wanted)
    once = [
        f"{name}: {len(group)} runs gave the same, query by query, as where a seed does not reach "
        "this ranker: they count as one"
        for name, group, one in zip(names, groups, pooled, strict=True)
        if len(one) < len(group)
    ]
    none = () if systems[1:] else (_NONE,)
    warned = [note for note in _warnings(every) if note not in report.notes]
    return replace(report, notes=(*report.notes, *none, *once, *warned))


_NONE = (
    "Nothing is compared: the table has one row. Name another RUN or RUN:RANKER, another --ranker, "
    "or a --baseline."
)


def _warnings(every: Sequence[Chosen]) -> Iterator[str]:
    """What the reports of the runs say of the compared rankers; this table has no errors."""
    runs = {one.run.folder.resolve(): one.run for one in every}
    apart = len({folder.name for folder in runs}) == len(runs)
    notes = [
        (
            folder.name if apart else str(run.folder),
            notes_about(run, {one.ranker for one in every if one.run is run}),
        )
        for folder, run in runs.items()
    ]
    return (note for note in merged(notes) if not on_errors(note))


def _split(text: str) -> tuple[Path, str]:
    """`RUN` or `RUN:RANKER`; a directory whose name holds a colon is a run."""
    head, colon, tail = text.rpartition(":")
    if not colon or tail.startswith("/") or files.is_folder(Path(text)):
        head, tail = text, ""
    if not head.strip():
        raise ConfigError(
            f"{text!r} names no run: write RUN or RUN:RANKER, RUN being a run directory such as "
            "runs/demo"
        )
    return local(head), tail


def _open(folder: Path, opened: dict[Path, FinishedRun]) -> FinishedRun:
    """A run, read and checked once."""
    place = folder.resolve()
    if place not in opened:
        run = FinishedRun(folder)
        run.check()
        opened[place] = run
    return opened[place]


def _check_taken(
    rankers: Sequence[str],
    named: Sequence[tuple[Path, str]],
    against: tuple[Path, str] | None,
) -> None:
    """Refuses rankers that nothing takes: a run does that names none, a baseline the first."""
    if any(not ranker for _, ranker in named):
        return
    left = rankers[1:] if against and not against[1] else rankers
    if left:
        raise ConfigError(
            f"--ranker {left[0]}: no run takes it, as each names a ranker of its own; write "
            f"RUN:{left[0]} for a run's {left[0]}, or leave --ranker out"
        )


def _check_twice(chosen: Sequence[Chosen]) -> None:
    known: dict[tuple[Path, str], Chosen] = {}
    for one in chosen:
        if one.key in known:
            raise ConfigError(
                f"{one.run.folder}: its {one.ranker} stands twice, and a run does not differ from "
                "itself; name it once, and the run or RUN:RANKER to compare it with"
            )
        known[one.key] = one


def _chosen(
    name: tuple[Path, str],
    rankers: Sequence[str],
    lone: bool,
    opened: dict[Path, FinishedRun],
) -> Iterator[Chosen]:
    folder, ranker = name
    run = _open(folder, opened)
    names = [ranker] if ranker else list(rankers) or (run.rankers if lone else [run.main])
    for one in dict.fromkeys(names):
        if one not in run.rankers:
            raise ConfigError(
                f"{folder}: there is no ranker {one!r}{like(one, run.rankers)}; there are "
                f"{', '.join(run.rankers)}"
            )
        yield Chosen(run, one)


def _against(baseline: str, named: Sequence[tuple[Path, str]]) -> tuple[Path, str] | None:
    """The baseline's run and ranker; a bare name is a ranker where there is one run."""
    if not baseline:
        return None
    bare = not (files.is_folder(Path(baseline)) or {":", "/"} & set(baseline))
    alone = len({folder for folder, _ in named}) == 1
    return (named[0][0], baseline) if bare and alone else _split(baseline)


def _base(
    against: tuple[Path, str] | None,
    chosen: Sequence[Chosen],
    rankers: Sequence[str],
    lone: bool,
    opened: dict[Path, FinishedRun],
) -> Chosen:
    if against:
        _check_baseline(against, chosen)
        return next(_chosen(against, rankers[:1], False, opened))
    first = chosen[0]
    main = [one for one in chosen if one.ranker == first.run.main]
    return main[0] if lone and main else first


def _check_baseline(against: tuple[Path, str], chosen: Sequence[Chosen]) -> None:
    """Refuses a ranker's name alone, where there are several runs that it could be of."""
    folder, ranker = against
    if ranker or files.exists(folder) or len(folder.parts) > 1:
        return
    owners = {name: one.run.folder for one in chosen[::-1] for name in one.run.rankers}
    name = str(folder)
    if name in owners:
        raise ConfigError(
            f"--baseline {name}: there is no such run directory; the ranker {name} of which of the "
            f"runs? Write RUN:{name}, such as {owners[name]}:{name}"
        )
    raise ConfigError(
        f"--baseline {name}: there is no such run directory, and no ranker of that name in the "
        f"compared runs{like(name, list(owners))}; write RUN or RUN:RANKER"
    )


def _groups(every: Sequence[Chosen], seeds: bool) -> list[list[Chosen]]:
    """Rankers of runs that differ only by seed together, with `seeds`."""
    groups: dict[object, list[Chosen]] = {}
    for one in every:
        key = (one.run.kind, one.ranker) if seeds else one.key
        group = groups.setdefault(key, [])
        twin = next((other for other in group if other.run.seeds == one.run.seeds), None)
        if twin is not None:
            raise ConfigError(
                f"{one.run.folder} and {twin.run.folder} have the same settings and seed: they are "
                "one training, and would count as two; leave one of them out"
            )
        group.append(one)
    return list(groups.values())


def _distinct(group: Sequence[Chosen]) -> Sequence[Chosen]:
    """Of runs to be pooled those that count: one where all gave the same.

    Raises:
        ConfigError: If some, but not all, are copies of one making.
    """
    metrics = shared_metrics([one.run for one in group])

    def answers(one: Chosen) -> str:
        return one.run.answers(one.ranker, metrics)

    for place, one in enumerate(group if len(counted(group, answers)) > 1 else ()):
        for other in group[:place]:
            copied = one.run.made and one.run.made == other.run.made
            if copied and answers(one) == answers(other):
                raise ConfigError(
                    f"{one.run.folder} and {other.run.folder} rank by {one.ranker} from the same "
                    "settings and files: they are one training, and would count as two; leave one "
                    "of them out"
                )
    return counted(group, answers)


def _names(groups: Sequence[Sequence[Chosen]]) -> list[str]:
    """The shortest names that differ."""
    folders = {one.run.folder.resolve() for group in groups for one in group}
    if len(folders) == 1:
        return [group[0].ranker for group in groups]
    apart = len({path.name for path in folders}) == len(folders)
    named = [
        _run_name([one.run.folder.resolve() if apart else one.run.folder for one in group], apart)
        for group in groups
    ]
    rankers = [group[0].ranker for group in groups]
    if len(set(zip(named, rankers, strict=True))) < len(groups):
        named = [_first_of([str(one.run.folder) for one in group]) for group in groups]
    if len(set(rankers)) == 1:
        return named
    return [f"{name}:{ranker}" for name, ranker in zip(named, rankers, strict=True)]


_SEED = re.compile(r"(?:(?<=/)|^|,)(?:\w+\.)?seed=\d+")
"""The part of the names in which a sweep's seeds differ."""


def _run_name(folders: Sequence[Path], apart: bool) -> str:
    """A run's name; of runs that are pooled without their seeds, where a sweep named them."""
    names = [path.name if apart else str(path) for path in folders]
    if len(names) == 1:
        return names[0]
    short = {_SEED.sub("", name).lstrip(",").rstrip("/") for name in names}
    if short == {""}:
        short = {path.parent.name for path in folders}
    return short.pop() if len(short) == 1 else _first_of(names)


def _first_of(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"


def shared_metrics(runs: Sequence[FinishedRun]) -> list[str]:
    """The metrics that all of the runs have; there is at least one run."""
    return [name for name in runs[0].metrics if all(name in run.metrics for run in runs)]


def wanted_metrics(runs: Sequence[FinishedRun], wanted: Sequence[str]) -> list[str]:
    """The wanted metrics, each once; all that the runs share where none is named.

    Raises:
        ConfigError: If a run lacks a wanted one, or the runs share none.
    """
    shared = shared_metrics(runs)
    for name in wanted:
        if name in shared:
            continue
        if _together(name):
            raise ConfigError(
                f"{name} is one value of all lists together, so it cannot be compared by query; it "
                "stands in the runs' report.json"
            )
        lacking = [str(run.folder) for run in runs if name not in run.metrics]
        raise ConfigError(
            f"{lacking[0]} has no metric {name!r}{like(name, shared)}; all runs have "
            f"{', '.join(shared)}; to add one, name it in evaluate.metrics and give `trsr run`"
        )
    if not shared:
        raise ConfigError("the runs have no metric in common; set the same evaluate.metrics")
    return list(dict.fromkeys(wanted)) or shared


def _together(name: str) -> bool:
    """Whether a metric has one value for all lists."""
    try:
        return parse_metric(name).family.together is not None
    except ConfigError:
        return False


def usual(metrics: Sequence[str]) -> str:
    """The metric to look at where none is named."""
    return USUAL if USUAL in metrics else metrics[0]


def make_system(
    name: str,
    runs: Sequence[FinishedRun],
    ranker: str,
    metrics: Sequence[str],
) -> System:
    """One ranker of one run, or of several that differ by their seed alone."""
    tables = [run.of(ranker) for run in runs]
    values = {one: np.stack([rows[one].to_numpy() for rows in tables]) for one in metrics}
    bounds = frozenset().union(*(run.bounds[ranker] for run in runs))
    return System(name, values, bounds & values.keys())
