"""TREC runs and qrels, so that any other evaluation tool can check the numbers.

The formats part their columns by spaces and know no ties, and ids here are any text. So:

- A space, another blank or control character and `%` in an id are written as `%` and two
  hexadecimal digits for each of their UTF-8 bytes, as in URLs; `unescape` reads them back.
- Tools sort by score, some as 32-bit numbers, and break ties each in its own way. The scores are
  written so that they fall from line to line also as 32-bit numbers, by the least change that does
  this. Where candidates tie, their order in the file is drawn from a hash of the query and the
  item: it is made up, and stands in the file only. trsr's own metrics count a tie as its
  expected value, so they differ from other tools' on queries with ties, and only there.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import math
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from urllib.parse import quote, unquote

import numpy as np

from trsr.errors import DataError
from trsr.storage import files
from trsr.types import Case, Entry, RankedList

_UNSAFE = re.compile(r"[\s%\x00-\x1f\x7f-\x9f\ud800-\udfff]")
_LARGEST = np.float32(3e38)  # leaves room above for scores that have to fall further


@functools.lru_cache(1 << 16)
def escape(text: str) -> str:
    """An id without blanks; an empty one is written as a lone `%`."""
    return _UNSAFE.sub(lambda found: quote(found[0], safe="", errors="surrogatepass"), text) or "%"


def unescape(text: str) -> str:
    """The id that `escape` was given."""
    return "" if text == "%" else unquote(text, errors="surrogatepass")


def write_trec_run(path: Path, ranker: str, lists: Iterable[RankedList]) -> None:
    """Writes a ranker's lists: `query Q0 item rank score ranker`, best first.

    Lists are read once; queries without a list are not in the file.
    """
    tag = escape(ranker)
    with files.writing_text(path) as file:
        for ranked in lists:
            query = escape(ranked.query)
            ordered = list(untied(ranked))
            scores = falling([entry.score for entry in ordered])
            file.writelines(
                f"{query} Q0 {escape(entry.item)} {rank} {score} {tag}\n"
                for rank, (entry, score) in enumerate(zip(ordered, scores, strict=True), 1)
            )


def read_trec_run(path: Path) -> dict[str, dict[str, float]]:
    """Reads `query Q0 item rank score tag` lines, in any order; scores decide, ranks do not.

    Ids are read as `escape` writes them, so a `%` in a file of another tool must be written `%25`.
    Tags are not read, so the file should be of one ranker.

    Returns:
        Query → item → score.

    Raises:
        DataError: If the file cannot be read, has a line that is no such line, a score that is not
            a finite number, or an item twice in a query; with file and line.
    """
    found: dict[str, dict[str, float]] = {}
    try:
        with files.open_text(path) as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    query, item, score = _read_line(line, f"{path}:{number}")
                    scores = found.setdefault(query, {})
                    if item in scores:
                        raise DataError(
                            f"{path}:{number}: item {item} stands twice in query {query}"
                        )
                    scores[item] = score
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 text (byte {error.start})") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error
    return found


def _read_line(line: str, place: str) -> tuple[str, str, float]:
    parts = line.split()
    if len(parts) != 6:
        raise DataError(
            f"{place}: {len(parts)} columns, where a TREC run has six: query Q0 item rank score "
            "tag; a table with a header is read where the file's name ends with .csv or .tsv"
        )
    query, _, item, _, text, _ = parts
    try:
        score = float(text)
    except ValueError:
        score = math.nan
    if not math.isfinite(score):
        raise DataError(f"{place}: the score {text!r} is not a finite number")
    return unescape(query), unescape(item), score


def write_qrels(path: Path, cases: Iterable[Case]) -> None:
    """Writes the right answers: `query 0 item 1`; what is not in the file is not relevant."""
    with files.writing_text(path) as file:
        for case in cases:
            query = escape(case.query.id)
            file.writelines(f"{query} 0 {escape(item)} 1\n" for item in sorted(case.relevant))


def untied(ranked: RankedList) -> Iterator[Entry]:
    """The entries best first, those of one score in an order drawn from their ids."""
    for _, group in itertools.groupby(ranked.entries, key=lambda entry: entry.score):
        tied = list(group)
        if len(tied) > 1:
            tied.sort(key=lambda entry: _draw(ranked.query, entry.item))
        yield from tied


def falling(scores: Iterable[float]) -> Iterator[str]:
    """Scores that fall from one to the next as 32-bit numbers, as short as reads back."""
    limit = float(_LARGEST)
    before = np.float32(np.inf)
    for score in np.fromiter(scores, np.float64).clip(-limit, limit).astype(np.float32):
        before = score if score < before else np.nextafter(before, np.float32(-np.inf))
        yield str(before)


def file_name(ranker: str) -> str:
    """`run.RANKER.trec`; what a file name may not hold is written as in URLs."""
    return f"run.{quote(ranker, safe='', errors='surrogatepass')}.trec"


def _draw(query: str, item: str) -> bytes:
    text = f"{query}\x1f{item}".encode(errors="surrogatepass")
    return hashlib.blake2b(text, digest_size=8).digest()
