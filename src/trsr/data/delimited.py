"""Reads delimited text: finds its dialect, and reads each row or names the line at fault."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path

import polars as pl

from trsr.data.inputs import BATCH, Table, as_text, head, located, utf8
from trsr.errors import DataError
from trsr.storage import files

_PIECE = 1 << 24
"""Characters looked through at a time."""


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


def sniff(paths: Sequence[Path], encoding: str = "utf-8", separator: str = "") -> list[Dialect]:
    """Finds how one table's files are cut: a dialect a file.

    They have one separator (unless given), and all are quoted or none. Lines before the header are
    each file's own.

    Raises:
        DataError: If a file cannot be read.
    """
    heads = [[line for line in head(path, encoding, 200) if line.strip()] for path in paths]
    declared = [
        re.fullmatch(r'"?sep=(.)"?', lines[0].strip("\ufeff"), re.I) if lines else None
        for lines in heads
    ]
    separator = separator or next((sign[1] for sign in declared if sign), "")
    heads = [lines[bool(sign) :] for lines, sign in zip(heads, declared, strict=True)]
    bodies = [[line for line in lines if not line.startswith("#")] for lines in heads]
    some = chain.from_iterable(body or lines for body, lines in zip(bodies, heads, strict=True))
    found = separator or _separator(list(islice(some, 200)), paths[0])
    marked = chain.from_iterable(_with_marks(path, encoding) for path in paths)
    quoted = _quoted(list(islice(marked, 200)), found)
    dialects = []
    for path, lines, body, sign in zip(paths, heads, bodies, declared, strict=True):
        skip, notes = int(bool(sign)), []
        for line in lines:
            # a header may begin with the sign too, but has as many fields as the rows
            if not (line.startswith("#") and body and line.count(found) != body[0].count(found)):
                break
            notes.append(f"{path}: the line {line[:60]!r} is skipped as a comment")
            skip += 1
        dialects.append(Dialect(found, quoted, skip, tuple(notes)))
    return dialects


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
    opened = sum(field.startswith('"') for field in fields)
    closed = sum(field.endswith('"') for field in fields)
    inside = sum('"' in field[1:-1] for field in fields)
    # marks at the ends of fields alone are inches
    return min(opened, closed) + empty > inside


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
        source = utf8(path, encoding)
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
            frame = files.scan_csv(
                source,
                separator=dialect.separator,
                quote_char='"',
                has_header=False,
                skip_rows=skip,
                schema=dict.fromkeys(names, pl.String()),
            )
        else:
            parts = pl.col("line").str.split_exact(dialect.separator, len(cells) - 1)
            frame = body.select(parts.struct.rename_fields(names).alias("parts")).unnest("parts")
            frame = frame.with_columns(pl.when(pl.all() != "").then(pl.all()).name.keep())
        return Table(frame, frozenset(), (*dialect.notes, *notes))


def _lines(source: Path | bytes) -> pl.LazyFrame:
    """`line` and `number`, without blank lines (tabs alone may be a row)."""
    lines = files.scan_lines(source).with_row_index("number", offset=1)
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
    short = pl.col("fields") < width
    goes_on = short & line.str.contains(r"\\\r?$")
    counts = rows.with_columns(fields=fields).select(
        short=short.sum(),
        number=pl.col("number").filter(pl.col("fields") > width).first(),
        fields=pl.col("fields").filter(pl.col("fields") > width).first(),
        cut=pl.col("number").filter(goes_on).first(),
    )
    count, number, most, cut = counts.collect(engine="streaming").row(0)
    if number is not None:
        raise _too_wide(path, number, most, width, dialect)
    if cut is not None:
        raise DataError(
            f"{path}, line {cut}: too few fields, and a backslash at the end, as MySQL writes a "
            "line end inside a field; export the table with fields in quotation marks"
        )
    return int(count)


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
    raw = files.open_read(source) if isinstance(source, Path) else io.BytesIO(source)
    with raw, io.TextIOWrapper(raw, encoding="utf-8", newline="\n") as text:
        rows = _checked_rows(path, _Lines(text, dialect.skip, escaped), dialect)
        first = next(rows, None)
        if first is None:
            raise DataError(f"{path}: the file is empty")
        names, notes = _names(first, path, header)
        schema = dict.fromkeys(names, pl.String)
        batches, short = [pl.DataFrame(schema=schema)], 0
        left = rows if header else chain([first], rows)
        while batch := list(islice(left, BATCH)):
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
                "lines further on, and these look like rows: double each quotation mark "
                "inside a field, or take it out"
            )
        if len(shapes) < 1000:
            shapes.add(_shape(row[0]))
        yield row


def _swallows(lines: list[str], separator: str, width: int, shapes: set[str]) -> bool:
    """Whether the lines of one row look like rows themselves.

    Such a line has a row's number of fields and begins as rows begin. All of them look so, or half
    of those after the first that begin with an id, which has a digit.
    """
    if width < 2:
        return False
    cells = [line.rstrip("\n").split(separator) for line in lines]
    starts = [_shape(row[0]) for row in cells]
    known = shapes | {starts[0]}
    alike = [len(row) == width and start in known for row, start in zip(cells, starts, strict=True)]
    ids = sum(good and "9" in start for good, start in zip(alike[1:], starts[1:], strict=True))
    # a text of two lines may happen to have a row's commas
    return (all(alike) and len(lines) > 2) or 2 * ids >= len(lines) - 1


def _shape(cell: str) -> str:
    cell = re.sub(r"\d+", "9", cell.strip().strip('"'))
    return re.sub(r"[^\W\d_]+", "a", cell)
