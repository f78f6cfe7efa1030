"""Opens the user's files of data, and turns what goes wrong into a `DataError`."""

from __future__ import annotations

import codecs
import csv
import gzip
import io
import json
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
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
_GZIP = b"\x1f\x8b"
_UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_MARKS = {"utf-16": _UTF16, "utf-32": (codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)}


@dataclass(frozen=True, slots=True)
class Table:
    """One file as a frame.

    Attributes:
        frame: Columns of text, of a Parquet file of any type.
        nested: The text columns in which lists or objects stand as JSON.
        notes: What people should know about how it was read.
    """

    frame: pl.LazyFrame
    nested: frozenset[str] = frozenset()
    notes: tuple[str, ...] = ()

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


def in_folder(path: Path | None, name: str, key: str) -> Path:
    """The file itself, or the one of this name in the folder."""
    found = existing(path, key, f"{name} or its folder")
    return a_file(found / name if files.is_folder(found) else found, key, name)


def format_of(path: Path) -> Format:
    """The file's format, by its name, else by its first bytes."""
    suffixes = [s.lower() for s in path.suffixes if s.lower() not in (".gz", ".gzip")]
    last = suffixes[-1] if suffixes else ""
    if last in (".parquet", ".pq"):
        return "parquet"
    if last in (".jsonl", ".ndjson", ".json"):
        return "jsonl"
    if last in (".csv", ".tsv", ".tab", ".dat", ".txt"):
        return "delimited"
    try:  # `located` asks for the format
        with opened(path) as stream:
            start = stream.read(64).removeprefix(codecs.BOM_UTF8)
    except (OSError, EOFError, zlib.error) as error:
        raise _unreadable(path, error) from error
    if start.startswith(b"PAR1"):
        return "parquet"
    return "jsonl" if start.lstrip().startswith(b"{") else "delimited"


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
        bad = _bad_bytes(path, encoding)
        raise (DataError(bad) if bad else _unreadable(path, error)) from error


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
    """`PATH, line N` of the first line that holds a text, or begins to, as it stands or as JSON.

    Where it is not found, it is the path alone.
    """
    if format_of(path) == "parquet":
        return str(path)
    with located(path, encoding), as_text(path, encoding, errors="replace", newline="") as stream:
        whole = stream.read().replace("\r\n", "\n")
    if "\n" not in whole:  # as once on the Macintosh
        whole, text = whole.replace("\r", "\n"), text.replace("\r", "\n")
    written = (text, *(json.dumps(text, ensure_ascii=ascii)[1:-1] for ascii in (True, False)))
    at = next((place for one in written if (place := whole.find(one)) >= 0), -1)
    return f"{path}, line {whole.count(chr(10), 0, at) + 1}" if at >= 0 else str(path)
