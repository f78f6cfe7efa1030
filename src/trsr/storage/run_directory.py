"""The run directory: a stage's files appear whole or not at all, and the manifest records them.

Layout: the stages' files, `config.toml` as resolved, `manifest.json`, and `.work/STAGE/` for what
an unfinished stage needs to go on. This module knows no stage: callers pass names.

A run directory may come from somebody else. Names in its manifest are plain names, or it is
refused; nothing is written or removed through a link.
"""

from __future__ import annotations

import contextlib
import datetime
import errno
import fnmatch
import json
import os
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl
from pydantic import BaseModel, ConfigDict, ValidationError

from trsr.errors import RunBusyError, StoreError
from trsr.storage import files
from trsr.storage.files import hash_file


def readable(path: Path) -> bool:
    """Whether a Parquet, JSON, NumPy or safetensors file is complete; of a folder, all of them.

    A file that was cut off or written over is not; files of other kinds are not checked.
    """
    if files.is_folder(path):
        return all(map(readable, files.listed(path)))
    try:
        match path.suffix:
            case ".parquet":
                files.read_parquet(path)
            case ".json":
                files.read_json(path)
            case ".npy":
                files.read_array(path)  # compares the size with the head
            case ".safetensors":
                return _is_complete(path)
    except (
        OSError,
        ValueError,
        RecursionError,
        StoreError,
        AttributeError,
        LookupError,
        TypeError,
    ):
        return False
    return True


def _is_complete(path: Path) -> bool:
    """Whether a safetensors file ends where its head says that the last tensor ends."""
    with files.open_read(path) as file:
        length = int.from_bytes(file.read(8), "little")
        size = files.size(path) - 8 - length
        head = json.loads(file.read(length)) if size >= 0 else {}
    ends = [one["data_offsets"][1] for name, one in head.items() if name != "__metadata__"]
    return bool(max(ends, default=-1) == size)


MANIFEST = "manifest.json"
CONFIG = "config.toml"
LOCK = ".lock"
WORK = ".work"
"""Holds, in a run's folder, what unfinished stages need to go on."""

PLACE = "run.folder=…"
"""Names a run's folder."""


class _Info(BaseModel):
    """What trsr reads of `StageRecord.info`; the rest may be anything."""

    model_config = ConfigDict(extra="allow", strict=True)
    seconds: float | None = None
    usage: dict[str, float] = {}
    costs: dict[str, dict[str, float]] = {}
    made: dict[str, str | float | None] = {}
    versions: dict[str, str] = {}
    models: dict[str, Any] = {}
    taken_from: str = ""
    steps: int = 0
    late_loss: float = 0.0
    guess_loss: float = 0.0


@dataclass(frozen=True)
class StageRecord:
    """The manifest's entry of a finished stage.

    Attributes:
        settings: The settings that the stage's output depends on.
        parents: file name → SHA-256 of each file of earlier stages that it read.
        files: file name → SHA-256 of each file that it wrote.
        info: Counts, seconds, versions and seed, as the stage reported them.
    """

    settings: Mapping[str, Any]
    parents: Mapping[str, str]
    files: Mapping[str, str]
    info: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("settings", "parents", "files"):
            if not isinstance(getattr(self, name), Mapping):
                raise TypeError(f"{name} is no table")
        try:
            _Info.model_validate(self.info)
        except ValidationError as error:
            wrong = error.errors()[0]
            place = ".".join(map(str, ("info", *wrong["loc"])))
            raise TypeError(f"{place}: {wrong['msg'].lower()}") from error


def need_run(folder: Path) -> None:
    """Refuses a folder that no run has begun in.

    Raises:
        StoreError: Saying so.
    """
    if not files.is_file(folder / "config.toml"):
        raise StoreError(f"{folder}: not a run directory; make one with `trsr run CONFIG`")


class RunDirectory:
    """One run's files."""

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)

    def __truediv__(self, name: str) -> Path:
        return self.folder / name

    @property
    def begun(self) -> bool:
        """Whether a stage was done or begun here."""
        return files.is_file(self.folder / MANIFEST) or files.is_folder(self.folder / WORK)

    @contextlib.contextmanager
    def locked(self, place: str = PLACE, wait: float = 0) -> Iterator[None]:
        """Keeps other writers out.

        Raises:
            RunBusyError: If another process is writing this folder.
        """
        import filelock

        with explained(self.folder, place):
            files.make_folder(self.folder)
            if files.is_link(self.folder / LOCK):
                files.remove(self.folder / LOCK)
            lock = filelock.FileLock(self.folder / LOCK, timeout=wait, mode=files.FILE_MODE)
            try:
                lock.acquire()
            except filelock.Timeout as error:
                raise RunBusyError(
                    f"{self.folder}: another trsr is writing this folder; wait for it, or choose "
                    f"another one with {place}"
                ) from error
        try:
            files.drop_unfinished(self.folder)
            yield
        finally:
            lock.release()

    def records(self) -> dict[str, StageRecord]:
        """The finished stages, by name, in the order they were finished.

        Raises:
            StoreError: If the manifest cannot be read.
        """
        return self._manifest()[0]

    @property
    def written(self) -> str:
        """When a stage was last finished (ISO, UTC); empty where none is."""
        if not self._manifest()[0]:
            return ""
        return str(files.read_json(self.folder / MANIFEST).get("written", ""))

    def unfinished(self) -> list[str]:
        """The stages whose files a kill may have left half old and half new."""
        return self._manifest()[1]

    def _manifest(self) -> tuple[dict[str, StageRecord], list[str]]:
        path = self.folder / MANIFEST
        try:
            return read_manifest(files.read_bytes(path), path)
        except FileNotFoundError:
            return {}, []
        except OSError as error:
            raise StoreError(f"{path}: cannot be read: {error.strerror}") from error

    def faults(self, record: StageRecord) -> list[str]:
        """The files of a finished stage that are gone or damaged.

        A file that somebody put in the place of a stage's own is none of them if it can be read.
        """
        paths = ((self.folder / name, known) for name, known in record.files.items())
        return [
            path.name
            for path, known in paths
            if not files.exists(path) or (hash_file(path) != known and not readable(path))
        ]

    def altered(self, record: StageRecord) -> list[str]:
        """The files of a finished stage that are there, and not as it wrote them."""
        paths = ((self.folder / name, known) for name, known in record.files.items())
        return [
            path.name for path, known in paths if files.exists(path) and hash_file(path) != known
        ]

    def hashes(self, names: Sequence[str]) -> dict[str, str]:
        """The files' SHA-256 as they are now, by name; files that do not exist are left out.

        A file that somebody put in the place of a stage's own is thus seen by the stages below.
        """
        return {
            name: hash_file(self.folder / name)
            for name in names
            if files.exists(self.folder / name)
        }

    def foreign(self, stage: str, writes: Collection[str]) -> list[str]:
        """Files that a stage would replace and that trsr did not make.

        Not among them: files of the manifest, files that cannot be read any more, and what a kill
        left while the stage was published. In the names that it may write `*` stands for any
        letters.
        """
        records, unfinished = self._manifest()
        if stage in unfinished:
            return []
        known = records[stage].files if stage in records else {}
        there = [
            path
            for path in files.listed(self.folder)
            if is_among(path.name, writes) and files.exists(path)
        ]
        other = (path for path in there if hash_file(path) != known.get(path.name))
        return [path.name for path in other if readable(path)]

    def workspace(self, stage: str) -> Path:
        """A folder for what an unfinished stage needs to go on; kept until it is finished."""
        path = self._work() / stage
        if files.is_link(path):
            files.remove(path)
        files.make_folder(path)
        files.drop_links(path)
        return path

    @contextlib.contextmanager
    def writing(self, stage: str) -> Iterator[Path]:
        """An empty folder for a stage's output; emptied again when the stage was stopped."""
        with explained(self.folder):
            path = self._work() / f"{stage}.out"
            files.empty_folder(path)
            yield path

    def _work(self) -> Path:
        """The folder of unfinished work, made here: a link would lead out of the run."""
        path = self.folder / WORK
        if files.is_link(path):
            files.remove(path)
        files.make_folder(path)
        return path

    def publish(
        self, stage: str, output: Path, record: StageRecord, writes: Collection[str]
    ) -> StageRecord:
        """Moves a stage's output into place and records it.

        The record leaves the manifest first and comes back last: a kill in between leaves
        a stage that is not done, never one that is half old and half new.

        Returns:
            The record, with the hashes of the files.

        Raises:
            StoreError: If a file cannot be written, or the manifest names one that the stage does
                not write.
        """
        with explained(self.folder):
            records, unfinished = self._manifest()
            before = records.pop(stage, None)
            self.refuse_unwritten(stage, before.files if before else (), writes)
            self._drop_leftovers(before, output)
            self._write_manifest(records, sorted({*unfinished, stage}))
            files.make_private(output)
            made = {}
            for path in files.listed(output):
                made[path.name] = hash_file(path)
                files.move(path, self.folder / path.name)
            done = StageRecord(record.settings, record.parents, made, record.info)
            self._write_manifest(
                {**records, stage: done}, [name for name in unfinished if name != stage]
            )
            files.remove(self.folder / WORK / stage)
            files.remove(output)
            return done

    def refuse_unwritten(self, stage: str, names: Collection[str], writes: Collection[str]) -> None:
        """Refuses names of a stage's files that the stage does not write.

        Raises:
            StoreError: Naming manifest, stage and file.
        """
        for name in names:
            if not is_among(name, writes):
                raise StoreError(
                    f"{self.folder / MANIFEST}: stage {stage} names the file {name!r}, which it "
                    f"does not write; {_UNTRUE}"
                )

    def _drop_leftovers(self, before: StageRecord | None, output: Path) -> None:
        """Removes what the stage made before and makes no more, such as another run's adapter."""
        for name in before.files if before else ():
            if not files.exists(output / name):
                files.remove(self.folder / name)

    def write_config(self, text: str) -> None:
        """Writes the settings as they were resolved."""
        with explained(self.folder):
            files.write_text(self.folder / CONFIG, text)

    def _write_manifest(
        self, records: Mapping[str, StageRecord], unfinished: Sequence[str]
    ) -> None:
        files.write_text(self.folder / MANIFEST, manifest_text(records, unfinished))


def manifest_text(records: Mapping[str, StageRecord], unfinished: Sequence[str]) -> str:
    """What `read_manifest` reads."""
    value = {
        "written": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "stages": {name: vars(record) for name, record in records.items()},
        "unfinished": list(unfinished),
    }
    return json.dumps(value, indent=1, ensure_ascii=False, default=str)


def read_manifest(content: bytes, place: Path | str) -> tuple[dict[str, StageRecord], list[str]]:
    """The finished stages by name, and those that were stopped while they were published.

    Raises:
        StoreError: If it is none.
    """
    try:
        value = files.parse_json(content.decode())
        records = {name: StageRecord(**record) for name, record in value["stages"].items()}
        unfinished = [_text(stage) for stage in value["unfinished"]]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise StoreError(
            f"{place}: not a manifest that trsr wrote ({error}); move the folder away and run "
            "again to make every stage (the language model's outputs are kept elsewhere)"
        ) from error
    for stage, record in records.items():
        _refuse_paths(place, stage, (*record.files, *record.parents))
    return records, unfinished


_UNTRUE = (
    "trsr did not write that: do not trust this folder; to use it all the same, take that line out"
)


def _refuse_paths(manifest: Path | str, stage: str, names: Collection[object]) -> None:
    """Refuses what is no plain name: a manifest from elsewhere could name any file."""
    for name in names:
        plain = isinstance(name, str) and re.fullmatch(r"[^/\\\x00-\x1f]{1,200}", name)
        if not plain or str(name).startswith("."):
            raise StoreError(
                f"{manifest}: stage {stage} names the file {name!r}, which is no plain name; "
                f"{_UNTRUE}"
            )


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is no stage")
    return value


def is_among(name: str, patterns: Collection[str]) -> bool:
    """Whether a name is one of these; `*` stands for any letters."""
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


@contextlib.contextmanager
def explained(folder: Path, place: str = PLACE) -> Iterator[None]:
    """Turns write errors of the operating system and of polars into a `StoreError`.

    Raises:
        StoreError: For a full disk, a read-only place, or a missing permission.
    """
    try:
        yield
    except (OSError, pl.exceptions.PolarsError) as error:
        number = _number(error)
        if number in (errno.ENOSPC, errno.EDQUOT):
            raise StoreError(
                f"{folder}: the disk is full; free some space and give the same command again: "
                "what is done is kept"
            ) from error
        if number == errno.EFBIG:
            raise StoreError(
                f"{folder}: a file would be larger than the system allows (ulimit -f, a quota); "
                "raise that and give the same command again: what is done is kept"
            ) from error
        if number in (errno.EACCES, errno.EROFS, errno.EPERM, errno.ENOTDIR, errno.EEXIST):
            raise StoreError(
                f"{folder}: cannot be written ({os.strerror(number)}); choose another place with "
                f"{place}"
            ) from error
        raise


def _number(error: Exception) -> int:
    """The system's error number, which polars gives in words alone; 0 where there is none."""
    if isinstance(error, OSError) and error.errno:
        return error.errno
    found = re.search(r"\(os error (\d+)\)", str(error))
    return int(found[1]) if found else 0
