"""The run directory: a stage's files appear whole or not at all, and the manifest says how.

Layout: the stages' files, `config.toml` as resolved, `manifest.json`, and `.work/STAGE/` for what
an unfinished stage needs to go on. The store knows no stage: it is told their names.
"""

from __future__ import annotations

import contextlib
import datetime
import errno
import functools
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import filelock
import polars as pl

from trsr.errors import StoreError
from trsr.store.whole import readable

MANIFEST = "manifest.json"
WORK = ".work"
"""Holds, in a run's folder, what unfinished stages need to go on."""

PLACE = "run.folder=…"
"""Names a run's folder."""


@dataclass(frozen=True)
class StageRecord:
    """What the manifest says of a finished stage.

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


class RunDirectory:
    """One run's files.

    Args:
        folder: The run directory; made when first written to.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)

    def __truediv__(self, name: str) -> Path:
        return self.folder / name

    @property
    def begun(self) -> bool:
        """Whether a stage was done here, or at least begun."""
        return (self.folder / MANIFEST).is_file() or (self.folder / WORK).is_dir()

    @contextlib.contextmanager
    def locked(self, place: str = PLACE, wait: float = 0) -> Iterator[None]:
        """Keeps other writers out.

        Args:
            place: What names another folder.
            wait: Seconds to wait for another writer's end.

        Raises:
            StoreError: If another process is writing this folder.
        """
        with explained(self.folder, place):
            self.folder.mkdir(parents=True, exist_ok=True)
            lock = filelock.FileLock(self.folder / ".lock", timeout=wait)
            try:
                lock.acquire()
            except filelock.Timeout as error:
                raise StoreError(
                    f"{self.folder}: another trsr is writing this folder; wait for it, or choose "
                    f"another one with {place}"
                ) from error
        try:
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
        return str(json.loads((self.folder / MANIFEST).read_text("utf-8")).get("written", ""))

    def unfinished(self) -> list[str]:
        """The stages whose files a kill may have left half old and half new."""
        return self._manifest()[1]

    def _manifest(self) -> tuple[dict[str, StageRecord], list[str]]:
        path = self.folder / MANIFEST
        try:
            value = json.loads(path.read_text("utf-8"))
            records = {name: StageRecord(**record) for name, record in value["stages"].items()}
            return records, list(value["unfinished"])
        except FileNotFoundError:
            return {}, []
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise StoreError(
                f"{path}: not a manifest that trsr wrote ({error}); delete it to make every stage "
                "again (the language model's outputs are kept elsewhere)"
            ) from error

    def faults(self, record: StageRecord) -> list[str]:
        """The files of a finished stage that are gone or damaged.

        A file that somebody put in the place of a stage's own is none of them if it can be read.
        """
        paths = ((self.folder / name, known) for name, known in record.files.items())
        return [
            path.name
            for path, known in paths
            if not path.exists() or (hash_file(path) != known and not readable(path))
        ]

    def altered(self, record: StageRecord) -> list[str]:
        """The files of a finished stage that are there, and not as it wrote them."""
        paths = ((self.folder / name, known) for name, known in record.files.items())
        return [path.name for path, known in paths if path.exists() and hash_file(path) != known]

    def hashes(self, names: list[str]) -> dict[str, str]:
        """The files' SHA-256 as they are now, by name; files that do not exist are left out.

        A file that somebody put in the place of a stage's own is thus seen by the stages below.
        """
        return {
            name: hash_file(self.folder / name) for name in names if (self.folder / name).exists()
        }

    def workspace(self, stage: str) -> Path:
        """A folder for what an unfinished stage needs to go on; kept until it is finished."""
        path = self.folder / WORK / stage
        path.mkdir(parents=True, exist_ok=True)
        return path

    @contextlib.contextmanager
    def writing(self, stage: str) -> Iterator[Path]:
        """An empty folder for a stage's output; emptied again when the stage was stopped."""
        path = self.folder / WORK / f"{stage}.out"
        shutil.rmtree(path, ignore_errors=True)
        with explained(self.folder):
            path.mkdir(parents=True)
            yield path

    def publish(self, stage: str, output: Path, record: StageRecord) -> StageRecord:
        """Moves a stage's output into place and writes it down.

        The record is taken out of the manifest first and put back last: a kill in between leaves
        a stage that is not done, never one that is half old and half new.

        Returns:
            The record, with the hashes of the files.
        """
        with explained(self.folder):
            records, unfinished = self._manifest()
            self._drop_leftovers(records.pop(stage, None), output)
            self._write_manifest(records, sorted({*unfinished, stage}))
            files = {}
            for path in sorted(output.iterdir()):
                files[path.name] = hash_file(path)
                target = self.folder / path.name
                if target.is_dir():
                    shutil.rmtree(target)
                os.replace(path, target)
            done = StageRecord(record.settings, record.parents, files, record.info)
            self._write_manifest(
                {**records, stage: done}, [name for name in unfinished if name != stage]
            )
            shutil.rmtree(self.folder / WORK / stage, ignore_errors=True)
            shutil.rmtree(output, ignore_errors=True)
            return done

    def _drop_leftovers(self, before: StageRecord | None, output: Path) -> None:
        """Removes what the stage made before and makes no more, such as another run's adapter."""
        for name in before.files if before else ():
            path = self.folder / name
            if not (output / name).exists() and path.exists():
                shutil.rmtree(path) if path.is_dir() else path.unlink()

    def write_text(self, name: str, text: str) -> None:
        """Writes a small file whole or not at all."""
        with explained(self.folder):
            write_atomic(self.folder / name, text)

    def _write_manifest(
        self, records: Mapping[str, StageRecord], unfinished: Sequence[str]
    ) -> None:
        value = {
            "written": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "stages": {name: vars(record) for name, record in records.items()},
            "unfinished": list(unfinished),
        }
        text = json.dumps(value, indent=1, ensure_ascii=False, default=str)
        write_atomic(self.folder / MANIFEST, text)


def write_atomic(path: Path, text: str) -> None:
    """Writes a text file so that a kill leaves the old content or the new, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.new")
    with temporary.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def hash_file(path: Path) -> str:
    """SHA-256 of a file, or of a folder's files and their names."""
    if path.is_dir():
        parts = [f"{p.name}:{hash_file(p)}" for p in sorted(path.iterdir())]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()
    status = path.stat()
    return _hash(path, status.st_size, status.st_mtime_ns)


@functools.lru_cache(maxsize=4096)
def _hash(path: Path, size: int, changed: int) -> str:
    """Size and time of change are part of what is remembered, so a changed file is read again."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextlib.contextmanager
def explained(folder: Path, place: str = PLACE) -> Iterator[None]:
    """Turns the operating system's write errors into words, polars' own ones too.

    Args:
        folder: What is written.
        place: What names another folder.

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
    told = re.search(r"\(os error (\d+)\)", str(error))
    return int(told[1]) if told else 0
