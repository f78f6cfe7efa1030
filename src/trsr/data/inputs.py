"""Opens the user's files of data, and turns what goes wrong into a `DataError`."""

from __future__ import annotations

import codecs
import csv
import gzip
import io
import json
import re
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import IO, Literal, cast

import polars as pl

from trsr.errors import DataError
from trsr.storage import files

Format = Literal["delimited", "jsonl", "parquet"]

BATCH = 50_000
"""Rows held as Python values at a time."""

_MAGIC = (
    *((b"PK\x03\x04", "a zip archive or a workbook"), (b"7z\xbc\xaf", "a 7z archive")),
    *((b"BZh", "a bzip2 archive"), (b"\xfd7zX", "an xz archive")),
    *((b"\x28\xb5\x2f\xfd", "a zstd archive"), (b"\xd0\xcf\x11\xe0", "a workbook")),
    *((b"ARRO", "an Arrow file"), (b"SQLi", "an SQLite file")),
)
"""How files begin that must be unpacked or converted first."""
_ENDINGS: dict[str, Format] = {
    **dict.fromkeys((".parquet", ".pq"), "parquet"),
    **dict.fromkeys((".jsonl", ".ndjson", ".json"), "jsonl"),
    **dict.fromkeys((".csv", ".tsv", ".tab", ".dat", ".txt"), "delimited"),
}
_LOGS = ("_delta_log", ".hoodie", "metadata/*.metadata.json")
"""Beside files of which some may hold rows that were deleted since."""
_GZIP = b"\x1f\x8b"
_UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_MARKS = {"utf-16": _UTF16, "utf-32": (codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)}


@dataclass(frozen=True, slots=True)
class Table:
    """One file, or several of one table, as a frame.

    Attributes:
        frame: Columns of text, of Parquet files of any type.
        nested: The text columns in which lists or objects stand as JSON.
        notes: What people should know about how it was read.
        sparse: Whether a row may lack a column, as a line of JSON its key.
        lacking: Columns that only some of the files have → a message; null in the others.
        mixed: Columns of several types → a message; null everywhere.
    """

    frame: pl.LazyFrame
    nested: frozenset[str] = frozenset()
    notes: tuple[str, ...] = ()
    sparse: bool = False
    lacking: Mapping[str, str] = field(default_factory=dict)
    mixed: Mapping[str, str] = field(default_factory=dict)

    @property
    def names(self) -> list[str]:
        """The columns' names."""
        return self.frame.collect_schema().names()


def existing(path: Path | None, key: str, what: str) -> Path:
    """The path, if there is a file or folder with something in it.

    Raises:
        DataError: If it is not set, not there, empty, or a pipe or device.
    """
    if path is None:
        raise DataError(f"data.{key} is not set: {what} is needed")
    if not files.exists(path):
        raise DataError(f"{path}: there is no such file (data.{key})")
    if not files.is_file(path) and not files.is_folder(path):
        raise DataError(
            f"{path}: is a pipe or a device, and a file is read more than once; save what it "
            f"holds as a file (data.{key})"
        )
    if files.is_file(path) and files.size(path) == 0:
        raise DataError(f"{path}: the file is empty (data.{key})")
    return path


def a_file(path: Path | None, key: str, what: str) -> Path:
    """As `existing`, and it must be a file that can be read as it is."""
    found = existing(path, key, what)
    if files.is_folder(found):
        raise DataError(f"{found}: is a folder, a file is needed (data.{key})")
    with located(found):
        start = _start(found, 4)
    other = next((name for magic, name in _MAGIC if start.startswith(magic)), "")
    if other:
        raise DataError(
            f"{found}: is {other}; unpack it first, or save it as CSV or Parquet (data.{key})"
        )
    return found


def table_files(path: Path | None, key: str, what: str) -> list[Path]:
    """The files of one table that a path names (see `files.matching`), in the order of their names.

    Raises:
        DataError: As `a_file` for each; if there is none, or they are of several kinds.
    """
    if path is None or files.is_file(path):
        return [a_file(path, key, what)]
    places = ((folder, sign) for folder in (path, path.parent) for sign in _LOGS)
    if log := next((one for place in places for one in files.listed(*place)), None):
        raise DataError(
            f"{path}: {log.name} is of a table that says there which files still hold its rows "
            f"(Delta Lake, Hudi, Iceberg); export it as plain Parquet files (data.{key})"
        )
    within = files.matching(path)
    if not within and not files.exists(path) and files.has_signs(path):
        raise DataError(f"{path}: no file matches this pattern (data.{key})")
    if not within and files.is_folder(path):
        raise DataError(f"{path}: there is no file with data in this folder (data.{key})")
    for one in filter(files.is_folder, within.values()):
        why = "may not be read by you; ask for the right"
        if files.is_link(one):
            why = "is a link; name the folder that it leads to"
        raise DataError(f"{one}: this folder {why} (data.{key})")
    found = [a_file(one, key, what) for one in within.values() or [path]]
    _refuse_kinds(path, dict(zip(within, found, strict=True)), key)
    holding = [one for one in found if not _is_hollow(one)]
    if not holding:
        raise DataError(f"{path}: all of its {len(found)} files are empty (data.{key})")
    return holding


def _refuse_kinds(path: Path, within: Mapping[str, Path], key: str) -> None:
    """Refuses files of several kinds: one is not of the table, such as a readme."""
    kinds: dict[str, list[str]] = {}
    for name, one in within.items():
        kinds.setdefault(_ending(one) or format_of(one), []).append(name)
    if len(kinds) < 2:
        return
    most = max(kinds, key=lambda kind: len(kinds[kind]))
    there = "; ".join(
        f"{len(names)} {kind} ({', '.join(names[:2])}{', …' if len(names) > 2 else ''})"
        for kind, names in kinds.items()
    )
    folder = path if files.is_folder(path) else path.parent
    pattern = re.sub(r"\d.*", "", kinds[most][0]) + "*"
    if most in _ENDINGS:
        deep = "**/" if any("/" in name for name in kinds[most]) else ""
        packed = "*" if any(name.endswith((".gz", ".gzip")) for name in kinds[most]) else ""
        pattern = f"{deep}*{most}{packed}"
    raise DataError(
        f"{path}: holds files of several kinds: {there}. The files of a table are of one kind: "
        f'name them by a pattern, such as "{folder.as_posix()}/{pattern}" (data.{key})'
    )


def _is_hollow(path: Path) -> bool:
    """Whether nothing is in a file once it is unpacked, as in those of empty partitions."""
    with located(path), opened(path) as stream:
        return not stream.read(1)


def in_folder(path: Path | None, name: str, key: str) -> Path:
    """The file itself, or the one of this name in the folder."""
    found = existing(path, key, f"{name} or its folder")
    return a_file(found / name if files.is_folder(found) else found, key, name)


def format_of(path: Path) -> Format:
    """The file's format, by its name, else by its first bytes."""
    ending = _ending(path)
    if ending:
        return _ENDINGS[ending]
    try:  # `located` asks for the format
        with opened(path) as stream:
            start = stream.read(64).removeprefix(codecs.BOM_UTF8)
    except (OSError, EOFError, zlib.error) as error:
        raise _unreadable(path, error) from error
    if start.startswith(b"PAR1"):
        return "parquet"
    return "jsonl" if start.lstrip().startswith(b"{") else "delimited"


def _ending(path: Path) -> str:
    """What a name ends with, but for gzip's: `.csv`; empty where that says no format."""
    endings = [s.lower() for s in path.suffixes if s.lower() not in (".gz", ".gzip")]
    return endings[-1] if endings and endings[-1] in _ENDINGS else ""


def _start(path: Path, size: int) -> bytes:
    with files.open_read(path) as stream:
        return stream.read(size)


@contextmanager
def opened(path: Path) -> Iterator[IO[bytes]]:
    """The file's bytes, unpacked when it is gzip."""
    packed = _start(path, 2) == _GZIP
    with files.open_read(path) as stream:
        yield cast("IO[bytes]", gzip.GzipFile(fileobj=stream)) if packed else stream


def encoding_of(path: Path, encoding: str) -> str:
    """The encoding of one of the files, which share `data.encoding`.

    UTF-16 and UTF-32 begin with a mark; a file without it beside one of these is UTF-8.

    Raises:
        DataError: If there is no such encoding, or the file is neither.
    """
    try:
        name = codecs.lookup(encoding).name
        "".encode(name)  # codecs also has names of bytes to bytes
    except (LookupError, ValueError):
        raise DataError(f"data.encoding: there is no encoding {encoding!r}") from None
    if name not in _MARKS:
        return encoding
    with opened(path) as stream:
        start = stream.read(64)
    if start.startswith(_MARKS[name]):
        return encoding
    if b"\0" in start:
        raise DataError(
            f"{path}: does not begin with the mark of {name}; set data.encoding to "
            f'"{name}-le" or "{name}-be"'
        )
    return "utf-8"


def head(path: Path, encoding: str, lines: int) -> list[str]:
    """The first lines as text without their ends; bytes that cannot be read become `�`."""
    with located(path, encoding), as_text(path, encoding, errors="replace") as text:
        return [line.rstrip("\n") for line in islice(text, lines)]


@contextmanager
def as_text(
    path: Path, encoding: str, *, errors: str = "strict", newline: str | None = None
) -> Iterator[io.TextIOWrapper]:
    """The file's text, unpacked when it is gzip, without a byte order mark."""
    own = encoding_of(path, encoding)
    if codecs.lookup(own).name == "utf-8":
        own = "utf-8-sig"
    with (
        opened(path) as raw,
        io.TextIOWrapper(raw, encoding=own, errors=errors, newline=newline) as text,
    ):
        yield text


def utf8(path: Path, encoding: str) -> Path | bytes:
    """The path itself where polars can read it, else its text written again as UTF-8."""
    encoding = encoding_of(path, encoding)
    with opened(path) as stream:
        start = stream.read(1 << 16)
        if start[:2] in _UTF16 and not codecs.lookup(encoding).name.startswith(
            ("utf-16", "utf-32")
        ):
            raise DataError(f'{path}: looks like UTF-16 text; set data.encoding = "utf-16"')
        plain = _is_utf8(encoding)
        old = b"\r" in start and b"\n" not in start  # as once on the Macintosh
        packed = _start(path, 2) == _GZIP
        if plain and not old and not packed and not start.startswith(codecs.BOM_UTF8):
            return path
        raw = start + stream.read()
    if not plain:
        try:
            raw = raw.decode(encoding).encode()
        except UnicodeDecodeError as error:
            line = raw.count(b"\n", 0, error.start) + 1
            raise DataError(
                f"{path}, line {line}: byte 0x{raw[error.start]:02x} is not {encoding} text; "
                "set data.encoding to the file's encoding"
            ) from None
    raw = raw.removeprefix(codecs.BOM_UTF8)
    return raw.replace(b"\r", b"\n") if old or (b"\r" in raw and b"\n" not in raw) else raw


def _is_utf8(encoding: str) -> bool:
    return codecs.lookup(encoding).name in ("utf-8", "ascii", "utf-8-sig")


@contextmanager
def located(path: Path, encoding: str = "utf-8") -> Iterator[None]:
    """Turns what goes wrong while reading `path` into a `DataError` that names it."""
    try:
        yield
    except DataError:
        raise
    except pl.exceptions.NoDataError:
        raise DataError(f"{path}: the file is empty") from None
    except (
        *(OSError, EOFError, ValueError, OverflowError, RecursionError, MemoryError),
        *(zlib.error, csv.Error, pl.exceptions.PolarsError, pl.exceptions.PanicException),
    ) as error:
        bad = filter(None, (_bad_bytes(one, encoding) for one in files.matching(path).values()))
        first = next(bad, "")
        raise (DataError(first) if first else _unreadable(_culprit(path), error)) from error


def _culprit(path: Path) -> Path:
    """Of several files the first one that is damaged; polars does not always say which."""
    within = files.matching(path)
    for one in within.values() if len(within) > 1 else ():
        try:
            if format_of(one) == "parquet":
                files.read_parquet(one)
        except (OSError, ValueError, DataError):
            return one
    return path


def _unreadable(path: Path, error: BaseException) -> DataError:
    first = (str(error).strip() or type(error).__name__).split("\n")[0]
    return DataError(f"{path}: cannot be read: {first}")


def _bad_bytes(path: Path, encoding: str) -> str:
    """The first line that is not UTF-8 text where it should be; empty when there is none."""
    try:
        if not files.is_file(path) or format_of(path) == "parquet":
            return ""
        own = encoding_of(path, encoding)
        if not _is_utf8(own):
            return ""
        advice = 'set data.encoding, for example to "latin-1" or "cp1252"'
        if own != encoding:
            advice = f"only {encoding} with its mark and UTF-8 can be mixed: save it as one"
        with opened(path) as stream:
            for number, line in enumerate(stream, 1):
                try:
                    line.decode()
                except UnicodeDecodeError as error:
                    byte = f"byte 0x{line[error.start]:02x}"
                    return f"{path}, line {number}: {byte} is not {own} text; {advice}"
    except (OSError, EOFError, ValueError, zlib.error, DataError):
        return ""
    return ""


def line_with(path: Path, encoding: str, text: str) -> str:
    """`FILE, line N` of the first line that holds a text, or begins to, as it stands or as JSON.

    Where none of the files that the path names has it, it is the path alone.
    """
    places = (_place_of(text, one, encoding) for one in files.matching(path).values())
    return next(filter(None, places), str(path))


def _place_of(text: str, path: Path, encoding: str) -> str:
    if format_of(path) == "parquet":
        return ""
    with located(path, encoding), as_text(path, encoding, errors="replace", newline="") as stream:
        whole = stream.read().replace("\r\n", "\n")
    if "\n" not in whole:  # as once on the Macintosh
        whole, text = whole.replace("\r", "\n"), text.replace("\r", "\n")
    written = (text, *(json.dumps(text, ensure_ascii=ascii)[1:-1] for ascii in (True, False)))
    at = next((place for one in written if (place := whole.find(one)) >= 0), -1)
    return f"{path}, line {whole.count(chr(10), 0, at) + 1}" if at >= 0 else ""
