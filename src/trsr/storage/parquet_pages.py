"""Checks the page headers of Parquet files, before polars takes memory by what they claim.

polars 2.1 ends the whole process where a damaged header claims more values than any memory holds.
Headers are small and few, and their values are not read here.

Format: https://github.com/apache/parquet-format (Thrift's compact protocol).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, BinaryIO

_MAGIC = b"PAR1"
_WINDOW = 1 << 12
"""Bytes read for a header; a long one is read again in full."""
_MOST = 2**31 - 1
_DATA, _DICTIONARY, _DATA_V2 = 5, 7, 8  # fields of a page header
_MISFITS = (LookupError, ValueError, TypeError, AttributeError, RecursionError)
"""What reading fields that are not there, or of another kind, raises."""


def refuse_damaged_pages(file: BinaryIO) -> None:
    """Refuses a file in which a page claims what cannot be.

    A file whose end cannot be read is left to polars, which says what is wrong.

    Raises:
        ValueError: Naming the column by its number.
    """
    size = file.seek(0, 2)
    file.seek(max(size - 8, 0))
    tail = file.read()
    length = int.from_bytes(tail[:4], "little")
    if tail[4:] != _MAGIC or length + 8 > size:
        return
    file.seek(size - 8 - length)
    try:
        chunks = list(_chunks(_Struct(file.read(length)).fields()))
    except _MISFITS:
        return
    for number, chunk in chunks:
        try:
            good = _pages_fit(file, size, chunk)
        except _MISFITS:
            good = False
        if not good:
            raise ValueError(f"is damaged: a page of column {number + 1} claims what cannot be")


def _chunks(footer: dict[int, Any]) -> Iterator[tuple[int, dict[int, Any]]]:
    """Each column chunk's number in its row group, and its metadata by field."""
    for group in footer[4]:
        for number, chunk in enumerate(group[1]):
            yield number, chunk[3]


def _pages_fit(file: BinaryIO, size: int, chunk: dict[int, Any]) -> bool:
    """Whether a column chunk's pages lie in the file, and hold no more than it has values."""
    values = chunk[5]
    at = min(place for place in (chunk[9], chunk.get(11, 0)) if place > 0)
    end = at + chunk[7]
    fits = bool(0 <= at <= end <= size)
    while fits and at < end:
        header, used = _header(file, at, end - at)
        unpacked, packed = header[2], header[3]
        # a dictionary's value takes a byte at least
        most = unpacked if _DICTIONARY in header else values
        kinds = [header[kind] for kind in (_DATA, _DICTIONARY, _DATA_V2) if kind in header]
        fits = all(0 <= kind[1] <= most for kind in kinds)
        fits &= bool(0 <= packed <= end - at - used and 0 <= unpacked <= _MOST)
        at += used + packed
    return fits


def _header(file: BinaryIO, at: int, room: int) -> tuple[dict[int, Any], int]:
    """A page's header by field, and its length in bytes."""
    for window in (_WINDOW, room):
        file.seek(at)
        reader = _Struct(file.read(min(window, room)))
        try:
            return reader.fields(), reader.at
        except IndexError:
            continue
    raise ValueError("the header is cut")


class _Struct:
    """Reads one struct of Thrift's compact protocol: values by their field's number.

    Texts are passed over, as None. Reading beyond the end is an IndexError.
    """

    def __init__(self, raw: bytes) -> None:
        self._raw = raw
        self.at = 0

    def fields(self) -> dict[int, Any]:
        found: dict[int, Any] = {}
        field = 0
        while head := self._byte():
            step, kind = head >> 4, head & 15
            field = field + step if step else self._signed()
            found[field] = kind == 1 if kind in (1, 2) else self._value(kind)
        return found

    def _byte(self) -> int:
        self.at += 1
        return self._raw[self.at - 1]

    def _number(self) -> int:
        found = shift = 0
        while shift < 70:
            byte = self._byte()
            found |= (byte & 127) << shift
            if byte < 128:
                return found
            shift += 7
        raise ValueError("a number without end")

    def _signed(self) -> int:
        number = self._number()
        return (number >> 1) ^ -(number & 1)

    def _value(self, kind: int) -> Any:
        if kind in (4, 5, 6):
            return self._signed()
        if kind == 12:
            return self.fields()
        if kind in (9, 10):
            head = self._byte()
            size = head >> 4 if head >> 4 < 15 else self._number()
            return [self._value(head & 15) for _ in range(size)]
        if kind in (1, 2, 3):  # truth values in a list, bytes
            return self._byte()
        if kind not in (7, 8):
            raise ValueError(f"there is no type {kind}")
        length = 8 if kind == 7 else self._number()
        self.at += length
        return None
