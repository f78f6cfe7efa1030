"""The one door to files of data: text tables of any make, JSON Lines and Parquet, as frames.

Every row of a file comes through or the file is refused with the line at fault. What a library says
of a broken file becomes a `DataError` here.
"""

from __future__ import annotations

import ast
import codecs
import csv
import gzip
import io
import json
import re
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import IO, Any, Literal, cast

import polars as pl

from trsr.errors import DataError

Format = Literal["delimited", "jsonl", "parquet"]

_BATCH = 50_000
"""Rows held as Python values at a time."""
_MOST_KEYS = 5_000
"""Different keys of a JSON Lines file; more are ids written as keys, not columns."""
_PIECE = 1 << 24
"""Characters looked through at a time."""

_MAGIC = {
    **{b"PK\x03\x04": "a zip archive or a workbook", b"7z\xbc\xaf": "a 7z archive"},
    **{
        b"BZh": "a bzip2 archive",
        b"\xfd7zX": "an xz archive",
        b"\x28\xb5\x2f\xfd": "a zstd archive",
    },
    **{b"\xd0\xcf\x11\xe0": "a workbook", b"ARRO": "an Arrow file", b"SQLi": "an SQLite file"},
}
_UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_MARKS = {"utf-16": _UTF16, "utf-32": (codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)}


@dataclass(frozen=True, slots=True)
class Dialect:
    """How the lines of a delimited file are cut into fields.

    Attributes:
        separator: Between fields; any length.
        quoted: Whether fields may stand in double quotation marks.
        skip: Lines before the header: `sep=;`, or comments.
        notes: What people should know about these.
    """

    separator: str
    quoted: bool
    skip: int = 0
    notes: tuple[str, ...] = ()


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
    with located(path):
        if not path.exists():
            raise DataError(f"{path}: there is no such file (data.{key})")
        if not path.is_file() and not path.is_dir():
            raise DataError(
                f"{path}: is a pipe or a device, and a file is read more than once; save what it "
                f"holds as a file (data.{key})"
            )
        if path.is_file() and path.stat().st_size == 0:
            raise DataError(f"{path}: the file is empty (data.{key})")
    return path


def a_file(path: Path | None, key: str, what: str) -> Path:
    """As `existing`, and it must be a file that can be read as it is."""
    found = existing(path, key, what)
    if found.is_dir():
        raise DataError(f"{found}: is a folder, a file is needed (data.{key})")
    with located(found), found.open("rb") as stream:
        start = stream.read(4)
    other = next((name for magic, name in _MAGIC.items() if start.startswith(magic)), "")
    if other:
        raise DataError(
            f"{found}: is {other}; unpack it first, or save it as CSV or Parquet (data.{key})"
        )
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
    with located(path), opened(path) as stream:
        start = stream.read(64).removeprefix(codecs.BOM_UTF8)
    if start.startswith(b"PAR1"):
        return "parquet"
    return "jsonl" if start.lstrip().startswith(b"{") else "delimited"


def table(path: Path, *, encoding: str, separator: str = "", header: bool = True) -> Table:
    """One file of any format.

    Args:
        path: The file.
        encoding: Of text.
        separator: Of delimited files; empty: found.
        header: Whether a delimited file's first line names the columns.
    """
    kind = format_of(path)
    if kind == "parquet":
        with located(path):
            frame = pl.scan_parquet(path, glob=False)
            frame.collect_schema()
        return Table(frame)
    if kind == "jsonl":
        return json_lines(path, encoding=encoding)
    dialect = sniff(path, encoding, separator)
    return delimited(path, dialect=dialect, header=header, encoding=encoding)


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
    with (
        located(path, encoding),
        as_text(path, encoding, errors="replace") as text,
    ):
        return [line.rstrip("\n") for line in islice(text, lines)]


@contextmanager
def as_text(path: Path, encoding: str, *, errors: str = "strict") -> Iterator[io.TextIOWrapper]:
    """The file's text, unpacked when it is gzip, without a byte order mark."""
    own = encoding_of(path, encoding)
    if codecs.lookup(own).name == "utf-8":
        own = "utf-8-sig"
    with opened(path) as raw, io.TextIOWrapper(raw, encoding=own, errors=errors) as text:
        yield text


def sniff(path: Path, encoding: str = "utf-8", separator: str = "") -> Dialect:
    """Finds the separator (unless given), lines before the header, and whether fields are quoted.

    Raises:
        DataError: If the file cannot be read.
    """
    lines = [line for line in head(path, encoding, 200) if line.strip()]
    said = re.fullmatch(r'"?sep=(.)"?', lines[0].strip("\ufeff"), re.I) if lines else None
    skip, notes = 0, []
    if said:
        skip, separator = 1, separator or said[1]
    body = [line for line in lines[skip:] if not line.startswith("#")]
    found = separator or _separator(body or lines[skip:], path)
    for line in lines[skip:]:
        # a header may begin with the sign too, but has as many fields as the rows
        if not (line.startswith("#") and body and line.count(found) != body[0].count(found)):
            break
        notes.append(f"{path}: the line {line[:60]!r} is taken as a comment and skipped")
        skip += 1
    return Dialect(found, _quoted(_with_marks(path, encoding), found), skip, tuple(notes))


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
        counts = [line.count(separator) for line in lines]
        if separator != "::" and '"' in "".join(lines):
            cut = csv.reader((line.replace("\r", " ") for line in lines), delimiter=separator)
            counts = [len(row) - 1 for row in cut if row]
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


def delimited(
    path: Path, *, dialect: Dialect, header: bool = True, encoding: str = "utf-8"
) -> Table:
    """A delimited file as text columns; without a header they are `1`, `2`, ….

    Blank lines are no rows. A row with fewer fields than the first lacks the last ones; there is a
    note of it.

    Raises:
        DataError: If it is empty, cannot be read in this encoding, a row has more fields than the
            first, or quotation marks do not stand around fields.
    """
    with located(path, encoding):
        source = _source(path, encoding)
        lines = _lines(source)
        quoted = dialect.quoted and len(dialect.separator) == 1
        if quoted and not _row_a_line(lines, dialect.separator):
            rows, notes = _csv_frame(path, source, dialect, header)
            return Table(rows.lazy(), frozenset(), (*dialect.notes, *notes))
        first = lines.slice(dialect.skip).head(1).collect()
        if first.is_empty():
            raise DataError(f"{path}: the file is empty")
        line = str(first["line"][0])
        cut = csv.reader([line], delimiter=dialect.separator) if quoted else None
        cells = next(cut) if cut else line.split(dialect.separator)
        names, notes = _names(cells, path, header)
        skip = dialect.skip + header
        body = lines.slice(skip)
        notes += _short(_widths(body, path, dialect, len(cells), quoted=quoted), path)
        if quoted:
            frame = _scanned(source, dialect.separator, skip, names)
        else:
            parts = pl.col("line").str.split_exact(dialect.separator, len(cells) - 1)
            frame = body.select(parts.struct.rename_fields(names).alias("parts")).unnest("parts")
            frame = frame.with_columns(pl.when(pl.all() != "").then(pl.all()).name.keep())
        return Table(frame, frozenset(), (*dialect.notes, *notes))


def _source(path: Path, encoding: str) -> Path | bytes:
    """The path itself where polars can read it, else its text written again as UTF-8."""
    encoding = encoding_of(path, encoding)
    name = codecs.lookup(encoding).name
    with opened(path) as stream:
        start = stream.read(1 << 16)
        if start[:2] in _UTF16 and not name.startswith(("utf-16", "utf-32")):
            raise DataError(f'{path}: looks like UTF-16 text; set data.encoding = "utf-16"')
        utf8 = name in ("utf-8", "ascii", "utf-8-sig")
        old = b"\r" in start and b"\n" not in start  # as once on the Macintosh
        if utf8 and not old and not start.startswith(codecs.BOM_UTF8) and not _packed(path):
            return path
        raw = start + stream.read()
    if not utf8:
        raw = _again(raw, path, encoding)
    raw = raw.removeprefix(codecs.BOM_UTF8)
    return raw.replace(b"\r", b"\n") if old or (b"\r" in raw and b"\n" not in raw) else raw


def _again(raw: bytes, path: Path, encoding: str) -> bytes:
    try:
        return raw.decode(encoding).encode()
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"{path}, line {line}: byte 0x{raw[error.start]:02x} is not {encoding} text; "
            "set data.encoding to the file's encoding"
        ) from None


def _packed(path: Path) -> bool:
    with path.open("rb") as stream:
        return stream.read(2) == b"\x1f\x8b"


def _stream(source: Path | bytes) -> Path | io.BytesIO:
    return source if isinstance(source, Path) else io.BytesIO(source)


def _lines(source: Path | bytes) -> pl.LazyFrame:
    """`line` and `number`, without blank lines (tabs alone may be a row)."""
    lines = pl.scan_lines(_stream(source), glob=False).with_row_index("number", offset=1)
    return lines.filter(pl.col("line").str.contains("[^ \r]"))


def _row_a_line(lines: pl.LazyFrame, separator: str) -> bool:
    """Whether each line is a row of well-quoted fields, so that polars reads what is meant."""
    mark = f"\\x{{{ord(separator):x}}}"
    field = f'(?:"(?:[^"]|"")*"|[^"{mark}]*)'
    line = pl.col("line")
    good = ~line.str.contains('"', literal=True) | line.str.contains(f"^{field}(?:{mark}{field})*$")
    # a blank line would be a row to polars
    dense = pl.col("number").max() == pl.len()
    return bool(lines.select(good.all() & dense).collect(engine="streaming").item())


def _scanned(source: Path | bytes, separator: str, skip: int, names: list[str]) -> pl.LazyFrame:
    return pl.scan_csv(
        _stream(source),
        separator=separator,
        quote_char='"',
        has_header=False,
        skip_rows=skip,
        schema=dict.fromkeys(names, pl.String()),
        glob=False,
    )


def _names(cells: list[str], path: Path, header: bool) -> tuple[list[str], list[str]]:
    """The columns' names, each once, and a note where two were the same."""
    if not header:
        return [str(place) for place in range(1, len(cells) + 1)], []
    names: list[str] = []
    notes: list[str] = []
    for place, cell in enumerate(cells, 1):
        name = wanted = cell.strip().strip('"').strip() or f"column {place}"
        again = 2
        while name in names:
            name, again = f"{wanted}_{again}", again + 1
        if name != wanted:
            notes.append(f"{path}: two columns are called {wanted!r}; the later is now {name!r}")
        names.append(name)
    return names, notes


def _widths(rows: pl.LazyFrame, path: Path, dialect: Dialect, width: int, *, quoted: bool) -> int:
    """How many rows have too few fields.

    Raises:
        DataError: If one has too many.
    """
    line = pl.col("line")
    bare = line.str.replace_all('"(?:[^"]|"")*"', "") if quoted else line
    fields = bare.str.count_matches(dialect.separator, literal=True).cast(pl.Int64) + 1
    counts = rows.with_columns(fields=fields).select(
        short=(pl.col("fields") < width).sum(),
        number=pl.col("number").filter(pl.col("fields") > width).first(),
        fields=pl.col("fields").filter(pl.col("fields") > width).first(),
    )
    short, number, most = counts.collect(engine="streaming").row(0)
    if number is not None:
        raise _too_wide(path, number, most, width, dialect)
    return int(short)


def _too_wide(path: Path, line: int, fields: int, width: int, dialect: Dialect) -> DataError:
    what = f"{path}, line {line}: {fields} fields where the first line has {width}"
    advice = "quote a field that holds it"
    if width == 1:
        advice = "is the first line a title or a comment? The columns' names must come first"
    elif len(dialect.separator) > 1 or not dialect.quoted:
        advice = "a field must not hold it, or must be quoted in a file with one-character ones"
    return DataError(f"{what} (separator {dialect.separator!r}); {advice}")


def _short(short: int, path: Path) -> list[str]:
    return [f"{path}: {short} rows have fewer fields than the first line"] if short else []


def _csv_frame(
    path: Path, source: Path | bytes, dialect: Dialect, header: bool
) -> tuple[pl.DataFrame, list[str]]:
    """Rows over several lines, or with marks inside fields: slower, and row by row."""
    try:
        return _csv_rows(path, source, dialect, header, escaped=False)
    except DataError as error:
        try:
            frame, notes = _csv_rows(path, source, dialect, header, escaped=True)
        except DataError:
            raise error from None
        note = f"{path}: quotation marks inside fields are written with a backslash; read as such"
        return frame, [note, *notes]


def _csv_rows(
    path: Path, source: Path | bytes, dialect: Dialect, header: bool, *, escaped: bool
) -> tuple[pl.DataFrame, list[str]]:
    csv.field_size_limit(1 << 30)
    raw = source.open("rb") if isinstance(source, Path) else io.BytesIO(source)
    with raw, io.TextIOWrapper(raw, encoding="utf-8", newline="\n") as text:
        rows = _checked_rows(path, _Lines(text, dialect.skip, escaped), dialect)
        first = next(rows, None)
        if first is None:
            raise DataError(f"{path}: the file is empty")
        names, notes = _names(first, path, header)
        schema = dict.fromkeys(names, pl.String)
        batches, short = [pl.DataFrame(schema=schema)], 0
        left = rows if header else chain([first], rows)
        while batch := list(islice(left, _BATCH)):
            short += sum(len(row) < len(names) for row in batch)
            padded = [[*(c or None for c in r), *[None] * (len(names) - len(r))] for r in batch]
            batches.append(pl.DataFrame(padded, schema=schema, orient="row"))
    return pl.concat(batches), [*notes, *_short(short, path)]


class _Lines:
    """The lines for `csv`, which remembers those of the row that is being read."""

    def __init__(self, text: Iterable[str], skip: int, escaped: bool) -> None:
        self._text, self._skip, self._escaped = text, skip, escaped
        self.row: list[str] = []
        self.number = 0

    def __iter__(self) -> Iterator[str]:
        for line in self._text:
            self.number += 1
            if self._skip and line.strip(" \r\n"):
                self._skip -= 1
                continue
            clean = line.rstrip("\r\n").replace("\r", " ") + "\n"
            self.row.append(clean)
            yield re.sub(r'\\(["\\])', _doubled, clean) if self._escaped else clean


def _doubled(found: re.Match[str]) -> str:
    return '""' if found[1] == '"' else found[1]


def _checked_rows(path: Path, lines: _Lines, dialect: Dialect) -> Iterator[list[str]]:
    """The rows, none blank, none wider than the first, none that swallows others."""
    rows = csv.reader(lines, delimiter=dialect.separator, strict=True, skipinitialspace=True)
    width, shapes, start = 0, set[str](), 1
    while True:
        start = lines.number + 1
        lines.row.clear()
        try:
            row = next(rows)
        except StopIteration:
            return
        except csv.Error as error:
            raise DataError(
                f"{path}, line {start}: {error}: a quotation mark inside a field that is not "
                "quoted, or not doubled; quote the field and double the mark in it"
            ) from None
        if not any(line.strip(" \n") for line in lines.row):
            continue
        width = width or len(row)
        if len(row) > width:
            raise _too_wide(path, start, len(row), width, dialect)
        if len(lines.row) > 1 and _swallows(lines.row, dialect.separator, width, shapes):
            raise DataError(
                f"{path}, line {start}: a quotation mark opens a field that ends {len(lines.row)} "
                "lines further on, and all of these look like rows: double each quotation mark "
                "inside a field, or take it out"
            )
        if len(shapes) < 1000:
            shapes.add(_shape(row[0]))
        yield row


def _swallows(lines: list[str], separator: str, width: int, shapes: set[str]) -> bool:
    """Whether each line alone has a row's number of fields, and begins as rows begin."""
    cells = [line.rstrip("\n").split(separator) for line in lines]
    if width < 2 or any(len(row) != width for row in cells):
        return False
    begun = {_shape(row[0]) for row in cells[1:]}
    known = begun <= shapes | {_shape(cells[0][0])}
    # a text of two lines may happen to have a row's commas; an id has a digit
    return known and (len(lines) > 2 or all("9" in shape for shape in begun))


def _shape(cell: str) -> str:
    cell = re.sub(r"\d+", "9", cell.strip().strip('"'))
    return re.sub(r"[^\W\d_]+", "a", cell)


def json_lines(path: Path, *, encoding: str = "utf-8", keys: Iterable[str] = ()) -> Table:
    """A JSON Lines file as text columns, null where a line has no such key.

    Numbers stand as they are written, lists and objects as their JSON: so no column can have mixed
    types. Lines of Python literals (`{'id': 1, 'new': True}`) are read too.

    Args:
        path: The file.
        encoding: Its own.
        keys: The only ones that are kept; empty: all, wherever they first come.

    Raises:
        DataError: If it is empty, or a line is not a JSON object.
    """
    wanted = dict.fromkeys(keys)
    batches: list[pl.DataFrame] = []
    nested: set[str] = set()
    notes: dict[str, int] = {}
    with located(path, encoding), as_text(path, encoding) as text:
        rows = _objects(text, path, notes)
        while batch := list(islice(rows, _BATCH)):
            names = {key: None for row in batch for key in row if not wanted or key in wanted}
            names = names or {"column 1": None}  # rows without any key are rows too
            if len(names) > _MOST_KEYS:
                raise DataError(
                    f"{path}: has more than {_MOST_KEYS:,} different keys, so they are no columns; "
                    "write one object an item with the same keys in each"
                )
            columns = []
            for name in names:
                values = [row.get(name) for row in batch]
                if any(isinstance(value, list | dict) for value in values):
                    nested.add(name)
                columns.append(_texts(name, values, notes))
            batches.append(pl.DataFrame(columns))
        if not batches:
            raise DataError(f"{path}: the file holds no line with a JSON object")
        frame = pl.concat(batches, how="diagonal")
    return Table(
        frame.lazy(), frozenset(nested), tuple(f"{path}: {n} {what}" for what, n in notes.items())
    )


def _texts(name: str, values: list[Any], notes: dict[str, int]) -> pl.Series:
    texts = [value if isinstance(value, str) else _json_text(value) for value in values]
    try:
        return pl.Series(name.encode(errors="replace").decode(), texts, dtype=pl.String)
    except UnicodeEncodeError:  # half of a character, which JSON can write
        whole = [None if t is None else t.encode(errors="replace").decode() for t in texts]
        changed = sum(a != b for a, b in zip(texts, whole, strict=True))
        said = "texts with halves of characters, which are replaced by ?"
        notes[said] = notes.get(said, 0) + changed
        return pl.Series(name, whole, dtype=pl.String)


def _json_text(value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, list | dict | bool):
        return json.dumps(value, ensure_ascii=False, default=str)
    return str(value)


def _objects(lines: Iterable[str], path: Path, notes: dict[str, int]) -> Iterator[dict[str, Any]]:
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            yield json_value(line, f"{path}, line {number}", of=dict)
        except DataError as error:
            found = _literal(line)
            if found is None:
                if number == 1 and line.strip() in ("[", "[{"):
                    raise DataError(f"{path}: is one JSON list; write one object a line") from None
                raise error from None
            said = "lines are Python literals, not JSON, and are read as such"
            notes[said] = notes.get(said, 0) + 1
            yield found


def _literal(line: str) -> dict[str, Any] | None:
    """The dictionary that a line of Python writes, with nothing but literals in it."""
    if not re.match(r"\s*\{\s*u?'", line):
        return None
    try:
        found = ast.literal_eval(line.strip())
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
        return None
    return {str(key): value for key, value in found.items()} if isinstance(found, dict) else None


def json_value(text: str, where: str, *, of: type = object) -> Any:
    """What JSON text holds, numbers as the text that they are written as.

    Args:
        text: The JSON.
        where: Its file and line, for messages.
        of: The type that it must have.

    Raises:
        DataError: If it is not JSON, holds NaN or infinity, or is nested too deep.
    """

    def refuse(name: str) -> None:
        raise DataError(f"{where}: not JSON: {name} is no value; write null for it")

    try:
        value = json.loads(text, parse_constant=refuse, parse_int=str, parse_float=str)
    except json.JSONDecodeError as error:
        raise DataError(f"{where}: not JSON: {error.msg}") from None
    except RecursionError:
        raise DataError(f"{where}: not JSON that can be read: it is nested too deep") from None
    if not isinstance(value, of):
        kind = (
            "number" if isinstance(value, str) and text.strip()[0] != '"' else type(value).__name__
        )
        raise DataError(f"{where}: not a JSON object but a {kind}")
    return value


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
        first = (str(error).strip() or type(error).__name__).split("\n")[0]
        raise DataError(_bad_bytes(path, encoding) or f"{path}: cannot be read: {first}") from error


def _bad_bytes(path: Path, encoding: str) -> str:
    """The first line that is not UTF-8 text where it should be; empty when there is none."""
    try:
        if not path.is_file() or format_of(path) == "parquet":
            return ""
        own = encoding_of(path, encoding)
        if codecs.lookup(own).name not in ("utf-8", "ascii", "utf-8-sig"):
            return ""
        advice = 'set data.encoding, for example to "latin-1" or "cp1252"'
        if own != encoding:
            advice = f"only {encoding} with its mark and UTF-8 can stand side by side"
            advice = f"{advice}: save it as one"
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
    """`PATH, line N` of the first line that holds a text, or the path where there is none."""
    if format_of(path) == "parquet":
        return str(path)
    with located(path, encoding), as_text(path, encoding, errors="replace") as lines:
        number = next((n for n, line in enumerate(lines, 1) if text in line), 0)
    return f"{path}, line {number}" if number else str(path)
