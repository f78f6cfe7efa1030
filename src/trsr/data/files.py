"""Opens text tables of any make as polars frames of text, and says which line is at fault."""

from __future__ import annotations

import codecs
import csv
import gzip
import io
import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import IO, TYPE_CHECKING, Literal, cast

import polars as pl

from trsr.errors import DataError

if TYPE_CHECKING:
    from _csv import Reader as CsvRows

Format = Literal["delimited", "jsonl", "parquet"]

_SAMPLE_LINES = 10_000
"""JSON Lines: the columns are the keys of this many first lines."""

_PIECE = 1 << 24
"""Characters looked through at a time."""

_MAGIC = {b"\x1f\x8b": "gzip", b"PK\x03\x04": "zip", b"7z\xbc\xaf": "7z", b"BZh": "bzip2"}
_UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_MARKS = {"utf-16": _UTF16, "utf-32": (codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)}


@dataclass(frozen=True, slots=True)
class Dialect:
    """How the lines of a delimited file are cut into fields.

    Attributes:
        separator: Between fields; any length.
        quoted: Whether fields may stand in double quotation marks.
    """

    separator: str
    quoted: bool


def existing(path: Path | None, key: str, what: str) -> Path:
    """The path, if there is a file or folder with something in it.

    Raises:
        DataError: If it is not set, not there, or empty.
    """
    if path is None:
        raise DataError(f"data.{key} is not set: {what} is needed")
    if not path.exists():
        raise DataError(f"{path}: there is no such file (data.{key})")
    if path.is_file() and path.stat().st_size == 0:
        raise DataError(f"{path}: the file is empty (data.{key})")
    return path


def a_file(path: Path | None, key: str, what: str) -> Path:
    """As `existing`, and it must be a file that can be read as it is."""
    found = existing(path, key, what)
    if found.is_dir():
        raise DataError(f"{found}: is a folder, a file is needed (data.{key})")
    with found.open("rb") as stream:
        start = stream.read(4)
    packed = next((name for magic, name in _MAGIC.items() if start.startswith(magic)), "")
    if packed not in ("", "gzip"):
        raise DataError(f"{found}: is a {packed} archive; unpack it first (data.{key})")
    return found


def format_of(path: Path) -> Format:
    """The file's format, by its name and, where that says nothing, by its first bytes."""
    suffixes = [s.lower() for s in path.suffixes if s.lower() not in (".gz", ".gzip")]
    last = suffixes[-1] if suffixes else ""
    if last in (".parquet", ".pq"):
        return "parquet"
    if last in (".jsonl", ".ndjson", ".json"):
        return "jsonl"
    if last in (".csv", ".tsv", ".tab", ".dat", ".txt"):
        return "delimited"
    with opened(path) as stream:
        start = stream.read(64)
    if start.startswith(b"PAR1"):
        return "parquet"
    return "jsonl" if start.lstrip().startswith(b"{") else "delimited"


def opened(path: Path) -> IO[bytes]:
    """The file's bytes, unpacked when it is gzip."""
    stream = path.open("rb")
    if stream.read(2) == b"\x1f\x8b":
        stream.close()
        return cast("IO[bytes]", gzip.open(path, "rb"))
    stream.seek(0)
    return stream


def encoding_of(path: Path, encoding: str) -> str:
    """The encoding of this one of the files that `data.encoding` is said of.

    UTF-16 and UTF-32 begin with a mark; a file without it beside one of these is UTF-8.

    Raises:
        DataError: If there is no such encoding, or the file is neither.
    """
    try:
        name = codecs.lookup(encoding).name
    except LookupError:
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
    with (
        located(path, encoding),
        as_text(path, encoding, errors="replace") as text,
    ):
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


def sniff(path: Path, encoding: str = "utf-8", separator: str = "") -> Dialect:
    """Finds the separator (unless given) and whether fields are quoted, from the first lines."""
    lines = [line for line in head(path, encoding, 200) if line.strip()]
    found = separator or _separator(lines, path)
    return Dialect(found, _quoted(_with_marks(path, encoding) or lines, found))


def _with_marks(path: Path, encoding: str) -> list[str]:
    """The first lines, wherever they stand, that hold a quotation mark."""
    with located(path, encoding), as_text(path, encoding, errors="replace") as text:
        # Most files of interactions hold none: long pieces are searched, not lines.
        while piece := text.read(_PIECE):
            if '"' in piece:
                lines = (piece + text.readline()).splitlines()
                return [line for line in lines if '"' in line][:200]
    return []


def _separator(lines: list[str], path: Path) -> str:
    usual = "\t" if ".tsv" in path.suffixes or ".tab" in path.suffixes else ","
    best, best_score = usual, (0.0, 0.0, 0.0)
    for separator in ("\t", ",", ";", "|", "::"):
        if separator == "::":
            counts = [line.count(separator) for line in lines]
        else:
            counts = [len(row) - 1 for row in csv.reader(lines, delimiter=separator) if row]
        first = counts[0] if counts else 0
        if first == 0:
            continue
        same = sum(count == first for count in counts) / len(counts)
        score = (round(same, 1), float(separator == usual), float(first))
        if separator == "::":  # contains no other candidate, so nothing else explains it better
            score = (score[0] + 0.05, *score[1:])
        if score > best_score:
            best, best_score = separator, score
    return best


def _quoted(lines: list[str], separator: str) -> bool:
    """Whether marks stand around fields rather than inside them, as in `"Great" film`."""
    fields = [field.strip() for line in lines for field in line.split(separator)]
    empty = fields.count('""')
    fields = [field.replace('""', "") for field in fields]
    begun = sum(field.startswith('"') for field in fields)
    ended = sum(field.endswith('"') for field in fields)
    inside = sum('"' in field[1:-1] for field in fields)
    # marks at the ends of fields alone are inches
    return min(begun, ended) + empty > inside


def csv_rows(lines: Iterable[str], dialect: Dialect) -> CsvRows:
    """The lines cut into fields; the separator must be one character."""
    csv.field_size_limit(1 << 30)
    quoting: Literal[0, 3] = csv.QUOTE_MINIMAL if dialect.quoted else csv.QUOTE_NONE
    return csv.reader(lines, delimiter=dialect.separator, quoting=quoting, strict=dialect.quoted)


def delimited(
    path: Path, *, dialect: Dialect, header: bool = True, encoding: str = "utf-8"
) -> pl.LazyFrame:
    """A delimited file as a frame of text columns; without a header they are `1`, `2`, ….

    Raises:
        DataError: If it is empty or cannot be read in this encoding.
    """
    with located(path, encoding, dialect):
        source = _utf8(path, encoding)
        if len(dialect.separator.encode()) > 1:
            return _long_separator(source, dialect.separator, header)
        frame = pl.scan_csv(
            source,
            separator=dialect.separator,
            quote_char='"' if dialect.quoted else None,
            has_header=header,
            infer_schema=False,
            glob=False,
        )
        names = frame.collect_schema().names()
    if not header:
        return frame.rename({name: str(place) for place, name in enumerate(names, 1)})
    return frame.rename({name: name.strip() for name in names if name != name.strip()})


def _long_separator(source: Path | io.BytesIO, separator: str, header: bool) -> pl.LazyFrame:
    lines = pl.scan_csv(
        source,
        separator="\x01",
        quote_char=None,
        has_header=False,
        infer_schema=False,
        glob=False,
    )
    first: str = lines.head(1).collect().item()
    names = first.split(separator) if header else []
    width = len(first.split(separator))
    names = names or [str(place) for place in range(1, width + 1)]
    parts = pl.first().str.split_exact(separator, width - 1).struct.rename_fields(names)
    return lines.slice(1 if header else 0).select(parts.alias("parts")).unnest("parts")


def _utf8(path: Path, encoding: str) -> Path | io.BytesIO:
    """The path itself where polars can read it, else its text written again as UTF-8."""
    encoding = encoding_of(path, encoding)
    name = codecs.lookup(encoding).name
    with opened(path) as stream:
        start = stream.read(2)
    if start in _UTF16 and not name.startswith(("utf-16", "utf-32")):
        raise DataError(f'{path}: looks like UTF-16 text; set data.encoding = "utf-16"')
    if name in ("utf-8", "ascii", "utf-8-sig"):
        return path
    with opened(path) as stream:
        raw = stream.read()
    try:
        return io.BytesIO(raw.decode(encoding).encode())
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"{path}, line {line}: byte 0x{raw[error.start]:02x} is not {encoding} text; "
            "set data.encoding to the file's encoding"
        ) from None


def json_lines(path: Path, *, encoding: str = "utf-8") -> tuple[pl.LazyFrame, frozenset[str]]:
    """A JSON Lines file as text columns, and the names of those that hold JSON lists.

    Numbers become their text, lists and objects their JSON: so no column can have mixed types.
    The columns are the keys of the first ten thousand lines.

    Raises:
        DataError: If it is empty, or a line is not a JSON object.
    """
    keys: dict[str, None] = {}
    lists: set[str] = set()
    for number, line in enumerate(head(path, encoding, _SAMPLE_LINES), 1):
        if not line.strip():
            continue
        row = json_object(line, path, number)
        keys.update(dict.fromkeys(row))
        lists.update(name for name, value in row.items() if isinstance(value, list))
    if not keys:
        raise DataError(f"{path}: the file holds no line with a JSON object")
    with located(path, encoding):
        return json_columns(path, list(keys), encoding=encoding), frozenset(lists)


def json_columns(path: Path, names: list[str], *, encoding: str = "utf-8") -> pl.LazyFrame:
    """The named keys of a JSON Lines file as text columns, null where a line has none."""
    source = _utf8(path, encoding)
    # polars would take [ and * in a path for a pattern, and read other files
    stream = source.open("rb") if isinstance(source, Path) else source
    with stream:
        return pl.scan_ndjson(stream, schema=dict.fromkeys(names, pl.String))


def json_object(line: str, path: Path, number: int) -> dict[str, object]:
    """The object on a line of a JSON Lines file.

    Raises:
        DataError: Naming the line, if there is none.
    """

    def refuse(name: str) -> None:
        raise DataError(f"{path}, line {number}: not JSON: {name} is no value; write null for it")

    try:
        row = json.loads(line, parse_constant=refuse)
    except json.JSONDecodeError as error:
        if number == 1 and line.strip() in ("[", "[{"):
            raise DataError(f"{path}: is one JSON list; write one object a line") from None
        raise DataError(f"{path}, line {number}: not JSON: {error.msg}") from None
    if not isinstance(row, dict):
        raise DataError(f"{path}, line {number}: not a JSON object but a {type(row).__name__}")
    return row


@contextmanager
def located(path: Path, encoding: str = "utf-8", dialect: Dialect | None = None) -> Iterator[None]:
    """Turns what goes wrong while reading `path` into a `DataError` that names the line."""
    try:
        yield
    except pl.exceptions.NoDataError:
        raise DataError(f"{path}: the file is empty") from None
    except LookupError:
        raise DataError(f"data.encoding: there is no encoding {encoding!r}") from None
    except (OSError, EOFError, UnicodeError) as error:
        raise DataError(f"{path}: cannot be read: {error}") from error
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
        from trsr.data.faults import fault  # knows this module

        where = fault(path, encoding, dialect)
        first = str(error).strip().split("\n")[0]
        raise DataError(where or f"{path}: cannot be read: {first}") from error
