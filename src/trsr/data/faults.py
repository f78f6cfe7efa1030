"""Looks for the line of a text table that made it unreadable, once reading has failed."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import IO

from trsr.data.files import (
    Dialect,
    as_text,
    csv_rows,
    encoding_of,
    format_of,
    json_object,
    opened,
    sniff,
)
from trsr.errors import DataError


def fault(path: Path, encoding: str, dialect: Dialect | None) -> str:
    """The first line at fault and what is wrong with it; empty when none is found."""
    try:
        if format_of(path) == "parquet":  # has neither lines nor an encoding
            return ""
        asked, encoding = encoding, encoding_of(path, encoding)
        with opened(path) as stream:
            bad = _bad_bytes(path, stream, encoding, asked)
        if bad:
            return bad
        if format_of(path) == "jsonl":
            return _bad_json(path, encoding)
        if format_of(path) == "delimited":
            return _bad_fields(path, encoding, dialect or sniff(path, encoding))
    except (OSError, EOFError, UnicodeError) as error:
        return f"{path}: cannot be read: {error}"
    return ""


def _bad_bytes(path: Path, stream: IO[bytes], encoding: str, asked: str) -> str:
    if encoding.lower().replace("-", "").replace("_", "") not in ("utf8", "ascii", "utf8sig"):
        return ""
    advice = 'set data.encoding, for example to "latin-1" or "cp1252"'
    if asked != encoding:
        advice = f"only {asked} with its mark and UTF-8 can stand side by side: save it as one"
    for number, line in enumerate(stream, 1):
        try:
            line.decode()
        except UnicodeDecodeError as error:
            return (
                f"{path}, line {number}: byte 0x{line[error.start]:02x} is not {encoding} text; "
                f"{advice}"
            )
    return ""


def _bad_json(path: Path, encoding: str) -> str:
    with as_text(path, encoding) as text:
        for number, line in enumerate(text, 1):
            if line.strip():
                try:
                    json_object(line, path, number)
                except DataError as error:
                    return str(error)
    return ""


def _bad_fields(path: Path, encoding: str, dialect: Dialect) -> str:
    if len(dialect.separator) > 1:
        return ""
    with as_text(path, encoding, newline="") as text:
        rows = csv_rows(text, dialect)
        width, start = 0, 1
        try:
            for row in rows:
                width = width or len(row)
                if len(row) > width:
                    return (
                        f"{path}, line {start}: {len(row)} fields where the first line has "
                        f"{width} (separator {dialect.separator!r}); quote a field that holds it"
                    )
                start = rows.line_num + 1
        except csv.Error as error:
            return f"{path}, line {start}: {error}; double each quotation mark inside a field"
    return _stray_mark(path, encoding, dialect.separator) if dialect.quoted else ""


def _stray_mark(path: Path, encoding: str, separator: str) -> str:
    """The first line with a quotation mark that is neither around its field nor doubled."""
    inside = False  # a quoted field, which may go on over separators and lines
    with as_text(path, encoding) as text:
        for number, line in enumerate(text, 1):
            if '"' not in line:
                continue
            for part in line.replace('""', "").split(separator):
                field = part.strip()
                begins = not inside and field.startswith('"')
                rest = field[begins:]
                ends = (inside or begins) and rest.endswith('"')
                if '"' in (rest[:-1] if ends else rest):
                    return (
                        f"{path}, line {number}: a quotation mark inside a field that is not "
                        "quoted, or not doubled; quote the field and double the mark in it"
                    )
                inside = (inside or begins) and not ends
    return ""
