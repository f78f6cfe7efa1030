"""Runs stages: which one reads what, what is fresh, what is stale and why."""

from __future__ import annotations

import functools
import itertools
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from trsr.config import Config
from trsr.config.validation import packages
from trsr.errors import StaleRunError, StoreError
from trsr.machine import ResourceUsage, give_back_memory
from trsr.progress import Progress, duration
from trsr.settings import digest
from trsr.storage import files
from trsr.storage.run_directory import MANIFEST, PLACE, RunDirectory, StageRecord

PACKAGES = (
    *("trsr", "torch", "transformers", "peft", "polars", "numpy", "openvino-genai", "openai"),
    *("scipy", "bm25s", "sentence-transformers"),
)

SOURCE = "source files"
"""The key of the data's files among the settings of the stage that reads them."""


REMARKS = "remarks"
"""In a stage's record: sentences on its work that people must see."""

WAITED = "start_seconds"
"""In a stage's record: the seconds of it until a worker was there to begin, where it had any."""


@dataclass(frozen=True)
class Job:
    """What a stage's work is given.

    Attributes:
        stage: The stage's name.
        key: A hash of all that its output depends on.
        config: All settings.
        run: The run directory, for reading earlier stages' files.
        out: The empty folder that the stage writes its files into.
        work: A folder that survives a kill, for going on.
        progress: Shows how far the work is.
    """

    stage: str
    key: str
    config: Config
    run: RunDirectory
    out: Path
    work: Path
    progress: Progress


@dataclass(frozen=True)
class Stage:
    """One stage.

    Attributes:
        name: The command line's verb.
        reads: The files of earlier stages that it reads; those that do not exist are left out.
        reads_more: Further ones that it reads with some settings only.
        writes: The files that it writes, and that the stages below read.
        writes_more: Further names that it may write; `*` stands for any letters.
        settings: The settings that its output depends on, as plain values.
        work: Does it; returns counts for the manifest.
        unread: Settings of earlier stages that do not matter to it: it reads what these made.
        optional: Whether one of its files is enough where it was made outside: the stages below
            do without what the others would hold.
        last: Whether no stage reads its files: what they say is the run's own, so that
            nothing made outside may replace them.
    """

    name: str
    reads: tuple[str, ...]
    writes: tuple[str, ...]
    settings: Callable[[Config], dict[str, Any]]
    work: Callable[[Job], dict[str, Any]]
    reads_more: Callable[[Config], tuple[str, ...]] = lambda config: ()
    writes_more: tuple[str, ...] = ()
    unread: tuple[str, ...] = ()
    optional: bool = False
    last: bool = False

    @property
    def may_write(self) -> tuple[str, ...]:
        """All names that it may write; `*` stands for any letters."""
        return (*self.writes, *self.writes_more)

    def parents(self, config: Config, run: RunDirectory) -> dict[str, str]:
        """The hashes of the files that it reads, as they are now."""
        return run.hashes([*self.reads, *self.reads_more(config)])

    def key(self, config: Config, run: RunDirectory) -> str:
        """A hash of all that its output depends on, in any run; what it reads must be made."""
        return digest([self.name, _as_stored(self.settings(config)), self.parents(config, run)])


@dataclass(frozen=True)
class Outcome:
    """What became of a stage: `made` says whether work was done, `why` says why."""

    stage: str
    made: bool
    why: str
    info: Mapping[str, Any]

    @property
    def state(self) -> str:
        """What became of it, in a few words."""
        if not self.made:
            return self.why
        took = f"done in {duration(self.info['seconds'])}"
        if WAITED in self.info:
            took += f", {duration(self.info[WAITED])} of it to start workers"
        return took

    def __str__(self) -> str:
        """A line for people, one before it where the stage was made again; then the remarks."""
        if not self.made:
            return "\n  ".join((f"{self.stage}: {self.state}", *self.remarks))
        again = "" if self.why == "not made yet" else f"{self.stage}: made again, {self.why}\n"
        from trsr.report.words import count_line  # a check needs no report

        counts = count_line(self.info)
        line = f"{again}{self.stage}: {self.state}{f' ({counts})' if counts else ''}"
        return "\n  ".join((line, *self.remarks))

    @property
    def remarks(self) -> tuple[str, ...]:
        """Sentences on the work that people must see, now or earlier as it was done."""
        return tuple(self.info.get(REMARKS, ()))


def advance(
    stages: Sequence[Stage],
    name: str,
    config: Config,
    run: RunDirectory,
    progress: Progress,
    donors: Sequence[RunDirectory] = (),
    *,
    alone: bool = False,
) -> Outcome:
    """Does one stage, unless what it made before still holds, or another run has made the same.

    Files that somebody put in the run are never replaced. Among all stages, one whose files were
    made outside is passed over. Of `donors` a stage with the same settings and inputs is copied;
    `alone` tells that no other stage is to be made.

    Raises:
        StaleRunError: If an earlier stage is missing or was made with other settings.
        StoreError: If a file that the stage writes is there and trsr has not made it.
    """
    stage = next(one for one in stages if one.name == name)
    earlier = list(itertools.takewhile(lambda one: one.name != name, stages))
    refuse_stale(earlier, config, run, name, stage.unread)
    why = reason(stage, config, run)
    if not why:
        return Outcome(name, False, "up to date", run.records()[name].info)
    if not alone and not stage.last and _made_outside(stage, run):
        return Outcome(name, False, "made outside, taken as it is", {})
    _refuse_foreign(stage, run)
    parents = stage.parents(config, run)
    donor = _donor(stage, config, parents, donors)
    if donor is not None:
        return _taken(stage, run, donor, why)
    usage, started = ResourceUsage(), time.perf_counter()
    with run.writing(name) as out:
        key = digest([name, _as_stored(stage.settings(config)), parents])
        info = stage.work(Job(name, key, config, run, out, run.workspace(name), progress))
        took = time.perf_counter() - started + info.get("earlier_seconds", 0)
        info |= {"seconds": round(took, 2)}
        made = {"versions": versions() | packages(config), "made": usage.tell()}
        info |= {"seed": config.run.seed, **made}
        record = StageRecord(stage.settings(config), parents, {}, info)
        run.publish(name, out, record, stage.may_write)
    give_back_memory()
    return Outcome(name, True, why, info)


def _refuse_foreign(stage: Stage, run: RunDirectory) -> None:
    """Refuses to replace what trsr has not made, before hours of work and not after."""
    record = run.records().get(stage.name)
    if record is not None:
        run.refuse_unwritten(stage.name, record.files, stage.may_write)
        if stage.last:  # a report is nobody else's: one that was changed is made again
            return
    foreign = run.foreign(stage.name, stage.may_write)
    if foreign:
        raise StoreError(
            f"{run / foreign[0]}: {stage.name} would write over {', '.join(foreign)}, which trsr "
            f"has not made as {MANIFEST} tells; move it away, or choose another folder with {PLACE}"
        )


def _donor(
    stage: Stage, config: Config, parents: Mapping[str, str], donors: Sequence[RunDirectory]
) -> RunDirectory | None:
    """A run that has made this very stage, and whose files are as it made them."""
    wanted = _as_stored(stage.settings(config))
    for donor in donors:
        record = donor.records().get(stage.name)
        if record is None or record.settings != wanted or record.parents != parents:
            continue
        donor.refuse_unwritten(stage.name, record.files, stage.may_write)
        linked = any(files.is_link(donor / name) for name in record.files)
        if not linked and donor.hashes(list(record.files)) == record.files:
            return donor
    return None


def _taken(stage: Stage, run: RunDirectory, donor: RunDirectory, why: str) -> Outcome:
    """Copies a stage from another run; not by links: a file changed in place is one run's own."""
    record = donor.records()[stage.name]
    info = {**record.info, "taken_from": donor.folder.name}
    with run.writing(stage.name) as out:
        for name in record.files:
            files.copy(donor / name, out / name)
        copied = StageRecord(record.settings, record.parents, {}, info)
        run.publish(stage.name, out, copied, stage.may_write)
    return Outcome(stage.name, True, why, info)


def refuse_stale(
    stages: Sequence[Stage],
    config: Config,
    run: RunDirectory,
    name: str,
    unread: Sequence[str] = (),
) -> None:
    """Refuses to build on stages that are missing or made with other settings, `unread` apart.

    A stage without a record whose files are there was made outside, and is taken as it is.

    Raises:
        StaleRunError: Naming each such stage and why.
    """
    stale = []
    for stage in stages:
        why = reason(stage, config, run, unread)
        if why and not _made_outside(stage, run):
            stale.append(f"{stage.name} ({why})")
    if stale:
        raise StaleRunError(
            f"{name} needs {', '.join(stale)}; give `trsr run` with the same settings, or that "
            "stage first (--only)"
        )


def reason(stage: Stage, config: Config, run: RunDirectory, unread: Sequence[str] = ()) -> str:
    """Why a stage must be made (again), `unread` settings apart; empty when it still holds."""
    record = run.records().get(stage.name)
    if record is None:
        return "not made yet"
    before, after = (
        {key: one for key, one in settings.items() if key not in unread}
        for settings in (record.settings, _as_stored(stage.settings(config)))
    )
    changed = differences(before, after)
    if changed:
        return f"settings changed: {'; '.join(changed)}"
    now = stage.parents(config, run)
    other = sorted({*now, *record.parents} - {n for n in now if record.parents.get(n) == now[n]})
    if other:
        return f"made from another {', '.join(other)}"
    faults = run.faults(record)
    if faults:
        return f"gone or damaged: {', '.join(faults)}"
    altered = run.altered(record) if stage.last else []
    return f"changed since it was written: {', '.join(altered)}" if altered else ""


def is_finished(stages: Sequence[Stage], config: Config, run: RunDirectory) -> bool:
    """Whether all stages are made, and still hold."""
    return not any(
        reason(stage, config, run) and (stage.last or not _made_outside(stage, run))
        for stage in stages
    )


def is_made(output: RunDirectory, command: str, meaning: Mapping[str, Any]) -> bool:
    """Whether a command's own folder holds its very result.

    Raises:
        StaleRunError: If it holds a result of other settings.
        StoreError: If it holds something else.
    """
    record = output.records().get(command)
    if record is None:
        if any(path.name not in (".lock", ".work") for path in files.listed(output.folder)):
            raise StoreError(f"{output.folder}: is not empty; choose another --out")
        return False
    changed = differences(record.settings, meaning)
    if changed:
        raise StaleRunError(
            f"{output.folder} was made with other settings: {'; '.join(changed)}; choose "
            "another --out, remove it, or go back to those settings"
        )
    return not output.faults(record)


def differences(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> list[str]:
    """The settings that differ, as `key: old → new`."""
    found = []
    for key in sorted({*old, *new}):
        before, after = old.get(key), new.get(key)
        if isinstance(before, dict) and isinstance(after, dict):
            found += differences(before, after, f"{prefix}{key}.")
        elif before != after and prefix == f"{SOURCE}.":
            what = "gone" if after is None else "another size or time of change"
            found.append(f"{prefix}{key}: {what if before is not None else 'new'}")
        elif before != after:
            found.append(f"{prefix}{key}: {_short(before)} → {_short(after)}")
    return found


def fingerprint(
    sources: Mapping[str, Path | None], *, tables: bool = False
) -> dict[str, list[int]]:
    """Size and time of change of source files, to notice that the data is another.

    Of a folder all files are meant; where sources are tables, those that `files.matching` finds.

    Returns:
        A file's name → both numbers; `role:name` where files of several roles share the name.
    """
    found: dict[str, dict[Path, str]] = {}  # name → its files, and the first role of each
    for role, path in sources.items():
        if path is None:
            continue
        within = files.matching(path)
        if files.is_folder(path) and not tables:
            within = {file.name: file for file in files.listed(path)}
        for name, file in within.items():
            if files.is_file(file):
                found.setdefault(name, {}).setdefault(file, role)
    return {
        # the name alone where it can be: so were all once, and those runs still hold
        name if len(roles) == 1 else f"{role}:{name}": list(files.stamp(file))
        for name, roles in found.items()
        for file, role in roles.items()
    }


def versions() -> dict[str, str]:
    """Versions of what can change a result; nothing is imported for it."""
    found = {package: _version(package) for package in PACKAGES}
    return {package: version for package, version in found.items() if version}


@functools.cache
def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""


def _made_outside(stage: Stage, run: RunDirectory) -> bool:
    if stage.name in run.records() or stage.name in run.unfinished():
        return False
    there = [files.exists(run / name) for name in stage.writes]
    return any(there) if stage.optional else bool(there) and all(there)


def _as_stored(value: Any) -> Any:
    """Plain values as JSON gives them back."""
    if isinstance(value, Mapping):
        return {str(key): _as_stored(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_as_stored(one) for one in value]
    if isinstance(value, str | int | float | bool) or value is None:
        return value
    return str(value)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "…"
