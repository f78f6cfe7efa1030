"""The one door to files: runs, caches and data are read, written and listed here.

The rest of the package makes no file-system call of its own (`tests/storage/test_one_door.py`), so
another kind of storage needs a change here only. What is written appears whole or not at
all, is private to the user (0600, in folders of 0700), and never goes through a link: a run
directory may come from somebody else. What is read must be a file: a pipe would hang.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib
import io
import json
import os
import re
import shutil
import stat
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO, Any, BinaryIO, TextIO

import numpy as np
import numpy.typing as npt
import polars as pl

from trsr.errors import ConfigError, StoreError
from trsr.storage.parquet_pages import refuse_damaged_pages

FILE_MODE = 0o600
FOLDER_MODE = 0o700

_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0)
_APPEND = os.O_WRONLY | os.O_CREAT | os.O_APPEND | getattr(os, "O_NOFOLLOW", 0)


# Names of files


def absolute(path: Path | str, base: Path | None = None) -> str:
    """A path as a person wrote it, from its root on: `~` is a home.

    A relative one starts at `base`, or else at the current folder.

    Raises:
        ConfigError: If there is no such home, or the path holds control characters.
    """
    if any(character < " " or character == "\x7f" for character in str(path)):
        raise ConfigError(
            f"{str(path)!r} has control characters in it; in TOML write a Windows path in single "
            "quotes, as double quotes make a tab of \\t"
        )
    try:
        return os.path.abspath((base or Path()) / Path(path).expanduser())
    except RuntimeError:
        raise ConfigError(f"{path}: there is no such home on this machine; write it out") from None


# What is there

_fetchers: dict[str, Callable[[Path], None]] = {}
"""Local copies of what lies elsewhere, and what brings a file of one here before it is read."""


def fetch_below(folder: Path, fetch: Callable[[Path], None]) -> None:
    """Calls `fetch` with each path in a folder, or the path itself, before it is looked at."""
    _fetchers[str(folder)] = fetch


def _here(path: Path) -> Path:
    if _fetchers:
        text = str(path)
        for folder, fetch in list(_fetchers.items()):
            if text == folder or text.startswith(folder + os.sep):
                fetch(Path(path))
    return path


def exists(path: Path) -> bool:
    """Whether there is a file or folder, behind a link too; not so where that leads nowhere."""
    return os.path.exists(_here(path))


def is_at(path: Path) -> bool:
    """Whether there is a file or folder on this machine already; nothing is brought here."""
    return os.path.exists(path)


def is_file(path: Path) -> bool:
    """Whether it is a regular file, or a link to one."""
    return os.path.isfile(_here(path))


def is_folder(path: Path) -> bool:
    """Whether it is a folder, or a link to one."""
    return os.path.isdir(_here(path))


def is_link(path: Path) -> bool:
    """Whether it is a symbolic link."""
    return os.path.islink(path)


def size(path: Path) -> int:
    """A file's size in bytes."""
    return os.stat(_here(path)).st_size


def stamp(path: Path) -> tuple[int, int]:
    """A file's size and time of change in nanoseconds: other ones mean other content."""
    status = os.stat(_here(path))
    return status.st_size, status.st_mtime_ns


def full_stamp(path: Path) -> dict[str, int]:
    """Size, times and inode of a file; who sets one time back changes another."""
    status = os.stat(_here(path))
    names = ("size", "mtime_ns", "ctime_ns", "ino")
    return {name: getattr(status, f"st_{name}") for name in names}


def listed(folder: Path, pattern: str = "*") -> list[Path]:
    """What lies in a folder under names of this pattern, sorted; empty where it is no folder."""
    return sorted(Path(folder).glob(pattern)) if is_folder(folder) else []


def has_signs(path: Path) -> bool:
    """Whether a path, if nothing lies there, is a pattern: `logs/clicks-*.csv`."""
    return re.search(r"[*?\[]", str(path)) is not None


def matching(path: Path) -> dict[str, Path]:
    """The data files that a path names: itself, those below a folder, or those of a pattern.

    What is there under the very name is no pattern. Left out are empty files and those that
    programs write beside data: names that begin with `.` or `_`, unless the pattern spells them,
    and `.crc`. A link to a folder is not followed, and stands as it is.

    Returns:
        A name, from the folder or the first sign of the pattern on → its file. In natural order of
        these names: 2 before 10.
    """
    if is_file(path) or (exists(path) and not is_folder(path)):
        return {path.name: path}
    spelled = False
    base, found = path, [path]
    if not is_folder(path):
        base = next(filter(is_folder, path.parents), path)
        pattern = path.relative_to(base)
        spelled = any(part[0] in "._" for part in pattern.parts)
        found = []
        if has_signs(pattern):
            with contextlib.suppress(ValueError):  # `**` within a name
                found = list(base.glob(pattern.as_posix()))
    within = {
        one.relative_to(base).as_posix(): one
        for match in found
        for one in ([match] if match != path and is_link(match) else _leaves(match))
    }
    names = (name for name in within if spelled or not re.search(r"(^|/)[._](?!$)|\.crc$", name))
    return {name: within[name] for name in sorted(names, key=_natural) if _has_bytes(within[name])}


def walk(folder: Path) -> Iterator[Path]:
    """All below a folder, links not followed; each folder before what lies in it."""
    for path in listed(folder):
        yield path
        if is_folder(path) and not is_link(path):
            yield from walk(path)


def _leaves(path: Path) -> Iterator[Path]:
    """All below a folder but the folders; one that cannot be looked into, or a link to one, is."""
    if not is_folder(path) or not os.access(path, os.R_OK | os.X_OK):
        yield path
        return
    for one in listed(path):
        yield from [one] if is_link(one) else _leaves(one)


def _has_bytes(path: Path) -> bool:
    return not is_file(path) or size(path) > 0


def _natural(name: str) -> tuple[list[list[str | int]], str]:
    """Sorts numbers in names by their values; in each folder's name text and numbers alternate."""
    pieces = (re.split(r"([0-9]+)", part) for part in name.split("/"))
    return [[int(p) if place % 2 else p for place, p in enumerate(part)] for part in pieces], name


def hash_file(path: Path) -> str:
    """SHA-256 of a file, or of a folder's files and their names."""
    if is_folder(path):
        # a linked folder within may lead back up
        parts = [
            f"{p.name}:{_link(p) if is_link(p) and is_folder(p) else hash_file(p)}"
            for p in listed(path)
        ]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()
    return _hash(Path(path), *stamp(path))


def _link(path: Path) -> str:
    return hashlib.sha256(os.fsencode(os.readlink(path))).hexdigest()


@functools.lru_cache(maxsize=4096)
def _hash(path: Path, size: int, changed: int) -> str:
    """Size and time of change are part of what is remembered, so a changed file is read again."""
    return digest(path, "sha256")


def digest(path: Path, kind: str) -> str:
    """A file's sum of a kind that hashlib knows, in hexadecimal digits."""
    with open_read(path) as file:
        return hashlib.file_digest(file, functools.partial(_sum, kind)).hexdigest()


def _sum(kind: str) -> Any:
    return hashlib.new(kind, usedforsecurity=False)


# Reading


def open_read(path: Path) -> io.BufferedReader:
    """Opens a file to read its bytes.

    Raises:
        OSError: If there is none.
        StoreError: If it is a pipe or a device, which would be waited for without end.
    """
    _refuse_special(path)
    return open(path, "rb")


def open_text(path: Path) -> TextIO:
    """Opens a file in UTF-8 to read its lines; errors as `open_read`."""
    _refuse_special(path)
    return open(path, encoding="utf-8")


def read_bytes(path: Path) -> bytes:
    """A file's bytes; errors as `open_read`."""
    with open_read(path) as file:
        return file.read()


def read_text(path: Path, encoding: str = "utf-8", errors: str = "strict") -> str:
    """A file's text, its line ends as they are written; errors as `open_read`."""
    return read_bytes(path).decode(encoding, errors)


class RepeatedKeyError(ValueError):
    """A JSON object has a key twice: a parser would keep the last value and say nothing."""


def json_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object from its keys and values, for `object_pairs_hook`.

    Raises:
        RepeatedKeyError: If a key stands twice.
    """
    found = dict(pairs)
    if len(found) != len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise RepeatedKeyError(f"the key {twice[:60]!r} stands twice in one object; leave one out")
    return found


def read_json(path: Path) -> Any:
    """A JSON file's value.

    Raises:
        OSError: If there is no such file.
        ValueError: If it is no JSON in UTF-8, is nested beyond reading, has a key twice in one
            object, or a text that cannot be written again.
    """
    return parse_json(read_text(path))


def parse_json(text: str) -> Any:
    """A JSON text's value; ValueError as `read_json`."""
    try:
        value = json.loads(text, object_pairs_hook=json_object)
        if "\\u" in text:  # halves of a pair stand alone only where they are escaped
            json.dumps(value, ensure_ascii=False).encode()
    except RecursionError as error:
        raise ValueError("nested too deep") from error
    except UnicodeEncodeError as error:
        half = error.object[error.start]
        raise ValueError(f"\\u{ord(half):04x} is half a character; write the pair") from error
    return value


def read_parquet(path: Path) -> pl.DataFrame:
    """A Parquet file's table.

    Raises:
        OSError: If there is no such file.
        ValueError: If it is damaged, or no Parquet.
    """
    refuse_fork()
    with parquet_errors():
        with open_read(path) as file:
            refuse_damaged_pages(file)
        return pl.read_parquet(path, glob=False)


def read_array(path: Path) -> npt.NDArray[Any]:
    """A NumPy file's array; a large one is read as it is needed.

    Raises:
        OSError: If there is no such file.
        ValueError: If it is damaged, holds Python objects, or is no NumPy file.
    """
    with open_read(path) as file:
        try:
            if size(path) > 2**20:
                return np.asarray(np.load(path, mmap_mode="r", allow_pickle=False))
            array = np.load(file, allow_pickle=False)
        except Exception as error:  # the file's head is read by Python's own tokenizer
            raise ValueError(f"{path}: {error or 'too large'}") from error
    # of an archive with several it makes a table
    return np.asarray(array)


def scan_parquet(path: Path) -> pl.LazyFrame:
    """A Parquet file's table, read when it is collected; errors come then, as polars' own.

    Raises:
        OSError: If there is no such file.
        ValueError: If its pages claim what cannot be.
    """
    refuse_fork()
    with open_read(path) as file:
        refuse_damaged_pages(file)
    return pl.scan_parquet(path, glob=False)


def scan_lines(source: Path | bytes) -> pl.LazyFrame:
    """The column `line` of a file in UTF-8, or of its bytes, read when it is collected."""
    return pl.scan_lines(_scannable(source), glob=False)


def scan_csv(source: Path | bytes, **options: Any) -> pl.LazyFrame:
    """A delimited file in UTF-8, or its bytes, as polars reads it when it is collected."""
    return pl.scan_csv(_scannable(source), glob=False, **options)


def _scannable(source: Path | bytes) -> Path | io.BytesIO:
    refuse_fork()
    if isinstance(source, bytes):
        return io.BytesIO(source)
    _refuse_special(source)
    return source


def parquet_metadata(path: Path) -> dict[str, str]:
    """A Parquet file's metadata by name; errors as `read_parquet`."""
    _refuse_special(path)
    with parquet_errors():
        return pl.read_parquet_metadata(path)


@contextlib.contextmanager
def parquet_errors() -> Iterator[None]:
    """Turns all that polars raises over a damaged file into ValueError.

    A panic of its Rust core is among it, which no `except Exception` catches.
    """
    try:
        yield
    except FileNotFoundError:
        raise
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError) as error:
        raise ValueError(str(error)) from error


def refuse_fork() -> None:
    """Refuses to work with tables in a fork of a process that has done so.

    The threads of polars stay behind in the parent, and the child would wait for them without end.

    Raises:
        StoreError: Saying what to do instead.
    """
    if _table_process() != os.getpid():
        raise StoreError(
            "this process was forked from one that had used trsr, and cannot use it any more; "
            'start processes by multiprocessing.get_context("spawn"), or load trsr\'s data and '
            "recommenders in each process after it was forked, and not before"
        )


@functools.cache
def _table_process() -> int:
    """The process that first worked with tables; a fork remembers its parent's."""
    return os.getpid()


def _refuse_special(path: Path) -> None:
    mode = os.stat(_here(path)).st_mode
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise StoreError(f"{path}: is a pipe or a device and no file; give a file")


# Writing


@contextlib.contextmanager
def writing(path: Path, *, private: bool = True) -> Iterator[BinaryIO]:
    """A new file that takes its place, whole, at the end of the block.

    A kill or an error leaves what was there before. A link in its place is replaced, and what it
    leads to is left as it is.
    """
    make_folder(path.parent, private=private)
    with _temporary(path, private) as temporary, open(temporary[0], "wb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())


@contextlib.contextmanager
def writing_text(path: Path) -> Iterator[TextIO]:
    """As `writing`, for text in UTF-8, its line ends as they are."""
    with writing(path) as file:
        text = io.TextIOWrapper(file, encoding="utf-8", newline="", write_through=False)
        yield text
        text.flush()
        text.detach()


@contextlib.contextmanager
def writing_path(path: Path) -> Iterator[Path]:
    """As `writing`, for libraries that write to a path of the local disk."""
    make_folder(path.parent)
    with _temporary(path, private=True) as (handle, temporary):
        os.close(handle)
        yield temporary
        sync(temporary)


@contextlib.contextmanager
def _temporary(path: Path, private: bool) -> Iterator[tuple[int, Path]]:
    """A new file beside another one, open; it replaces the other, or is removed on an error.

    Its name is its own, so that of two writers of one file the last wins and none fails.
    """
    # made anew (O_EXCL, O_NOFOLLOW), with 0600
    handle, name = tempfile.mkstemp(_UNFINISHED, f".{path.name}.", path.parent)
    temporary = Path(name)
    try:
        if not private:
            os.chmod(temporary, 0o666 & ~_umask())
        yield handle, temporary
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise


_UNFINISHED = ".new"
"""Ends the names of files that are being written."""


@functools.cache
def _umask() -> int:
    """The bits that new files lack by the user's mask, which can only be read by setting it."""
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def drop_unfinished(folder: Path) -> None:
    """Removes from a folder the files of writers that were killed long ago."""
    long_ago = time.time() - 3600
    for path in listed(folder, f".*{_UNFINISHED}"):
        with contextlib.suppress(OSError):
            if os.lstat(path).st_mtime < long_ago:
                remove(path)


def write_bytes(path: Path, content: bytes, *, private: bool = True) -> None:
    """Writes a file whole or not at all."""
    with writing(path, private=private) as file:
        file.write(content)


def write_text(path: Path, text: str, *, private: bool = True) -> None:
    """Writes text in UTF-8, its line ends as they are, whole or not at all."""
    write_bytes(path, text.encode(), private=private)


def write_json(path: Path, value: Any) -> None:
    """Writes a JSON file whole or not at all."""
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False))


def write_parquet(frame: pl.DataFrame, path: Path, metadata: dict[str, str] | None = None) -> None:
    """Writes a table whole or not at all."""
    refuse_fork()
    with writing(path) as file:
        frame.write_parquet(file, metadata=metadata)


def stream_parquet(
    frames: Iterable[pl.DataFrame], schema: pl.Schema, path: Path, *, private: bool = True
) -> None:
    """Writes frames of one schema as one table, whole or not at all, a frame at a time in memory.

    What making a frame raises is raised here.
    """
    refuse_fork()

    def source(*_: Any) -> Iterator[pl.DataFrame]:
        yield schema.to_frame()  # of no frame at all polars would write no file
        yield from frames

    with writing(path, private=private) as file:
        # as text, for the vocabulary refuses the last word in our own names
        lazy = importlib.import_module("polars.io.plugins").register_io_source
        lazy(source, schema=schema).sink_parquet(file, engine="streaming")


def make_file(path: Path) -> None:
    """Makes an empty file, where there is none, for a library that opens it itself."""
    make_folder(path.parent)
    with contextlib.suppress(FileExistsError):
        os.close(os.open(path, _NEW, FILE_MODE))


def open_append(path: Path) -> TextIO:
    """Opens a text file to write at its end; it is made where it is missing.

    Raises:
        OSError: If it cannot be written, or is a link.
    """
    handle = os.open(path, _APPEND, FILE_MODE)
    return open(handle, "a", encoding="utf-8")


def open_update(path: Path) -> io.BufferedRandom:
    """Opens an existing file to write within it: for scratch files only."""
    _refuse_special(path)
    return open(path, "r+b")


def sync(path: Path) -> None:
    """Brings a file, or a folder's list of names, to the disk."""
    if os.name == "nt" and is_folder(path):  # Windows cannot open a folder
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def flush(file: IO[Any]) -> None:
    """Brings what was written to an open file to the disk."""
    file.flush()
    os.fsync(file.fileno())


# Folders, moves, removal


def make_folder(folder: Path, *, private: bool = True) -> None:
    """Makes a folder and those above it, where they are missing; those there stay as they are."""
    if is_folder(folder):
        return
    if Path(folder).name in ("s3:", "gs:", "az:", "abfs:", "abfss:", "hdfs:"):
        raise StoreError(
            f"{folder}: is an address; this goes into a folder of this machine, so name one"
        )
    parent = Path(folder).parent
    if parent != folder:
        make_folder(parent, private=private)
    with contextlib.suppress(FileExistsError):
        os.mkdir(folder, FOLDER_MODE if private else 0o777)
        return
    if not is_folder(folder):
        raise FileExistsError(17, os.strerror(17), str(folder))


def empty_folder(folder: Path) -> None:
    """Makes a folder anew: whatever was in its place is gone, and a link is not followed."""
    remove(folder)
    make_folder(folder)


@contextlib.contextmanager
def temporary_folder(within: Path | None = None, prefix: str = "trsr-") -> Iterator[Path]:
    """A private folder that is gone after the block."""
    if within is not None:
        make_folder(within)
    with tempfile.TemporaryDirectory(prefix=prefix, dir=within) as name:
        yield Path(name)


def move(source: Path, target: Path) -> None:
    """Renames within a disk; a file, folder or link in the place of `target` is removed."""
    if is_folder(target):
        remove(target)
    os.replace(source, target)


def copy(source: Path, target: Path) -> None:
    """Copies a file or a folder, for the user alone; links in a folder are left out."""
    if is_folder(source):
        make_folder(target)
        for path in listed(source):
            if not is_link(path):
                copy(path, target / path.name)
        return
    with open_read(source) as old, writing(target) as new:
        shutil.copyfileobj(old, new)
    status = os.stat(source)
    os.utime(target, ns=(status.st_atime_ns, status.st_mtime_ns))


def set_time(path: Path, seconds: float) -> None:
    """Sets when a file was changed, in seconds since 1970."""
    os.utime(path, (seconds, seconds))


def remove(path: Path) -> None:
    """Removes a file, a folder with all that is in it, or a link, never what a link leads to."""
    if is_link(path) or not is_folder(path):
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            os.unlink(path)
        return
    shutil.rmtree(path)


def drop_links(folder: Path) -> None:
    """Removes links and pipes below a folder of our own: trsr makes none, so somebody else did."""
    for path in walk(folder):
        if is_link(path) or not (is_file(path) or is_folder(path)):
            remove(path)


def make_private(path: Path) -> None:
    """Makes a file, or a folder with all in it, private to the user."""
    if is_link(path):
        return
    os.chmod(path, FOLDER_MODE if is_folder(path) else FILE_MODE)
    for one in walk(path):
        if not is_link(one):
            os.chmod(one, FOLDER_MODE if is_folder(one) else FILE_MODE)
