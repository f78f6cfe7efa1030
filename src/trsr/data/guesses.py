"""Guesses, for `trsr init`, how to read files, with a reason for each guess."""

from __future__ import annotations

import codecs
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import polars as pl

from trsr.data import inputs
from trsr.data.delimited import delimited, sniff
from trsr.data.json_lines import json_value
from trsr.data.readers.amazon import FORMATS
from trsr.data.readers.base import USUAL_NAMES, Source, plain
from trsr.data.readers.table import opened
from trsr.data.report import RowCounts
from trsr.data.roles import Roles, domain_of, liked_threshold, roles, text_fields
from trsr.data.settings import READERS, Columns, DataSettings
from trsr.data.text import catalog
from trsr.errors import DataError
from trsr.storage import files

_ROWS = 100_000
"""Interactions looked at."""
_BYTES = 1 << 26
"""Bytes of a file looked at for the encoding, fewer where there are many files."""
_FORMATS = (
    ("recbole", ("*.inter",)),
    ("mind", ("behaviors.tsv",)),
    ("amazon_m2", ("sessions_train.csv",)),
    ("movielens", ("u.data", "ratings.dat", "ratings.csv")),
)
"""Readers known by a file's name."""
_FILMS = ("u.item", "movies.dat", "movies.csv")


@dataclass(frozen=True, slots=True)
class Guess:
    """How to read the files.

    Attributes:
        settings: Ready for `prepare`.
        domain: `films`, `products`, `news` or `generic`.
        fields: The items' columns worth reading: a title first, then short ones, then long ones;
            empty: all.
        block_items: Interactions a block, few enough for most histories to fill one.
        reasons: A sentence a guess.
    """

    settings: DataSettings
    domain: str
    fields: tuple[str, ...]
    block_items: int = 5
    reasons: list[str] = field(default_factory=list)


def guess(
    interactions: Path,
    items: Path | None = None,
    columns: Columns = Columns(),  # noqa: B008
) -> Guess:
    """Looks into the files and guesses format, columns, what to read of an item, and the domain.

    Usual names and values decide together: the column whose values are ids of the other file is
    the item, dates or moments are times, few numbers on a small scale are ratings.

    Args:
        interactions: Rows of interactions or of users: a file, a folder of files, a pattern; or
            the folder of a format that has a reader of its own.
        items: Rows of items, or the same folder; None: each row of the interactions describes its
            item, as in a shop's list of orders.
        columns: What is known of the columns already, and so not guessed.

    Raises:
        DataError: If a file cannot be read, or a column cannot be found; the message says which
            setting to give.
    """
    reasons: list[str] = []
    with inputs.located(interactions):
        return _guess(interactions, items, columns, reasons)


def _guess(interactions: Path, items: Path | None, columns: Columns, reasons: list[str]) -> Guess:
    reader = _format(interactions, items)
    if reader:
        reasons.append(f"reader = {reader}: by the files' names or keys")
        settings = DataSettings(reader=reader, interactions=interactions, items=items)
        if reader == "mind":
            settings = _shown(settings, reasons)
    else:
        settings = _table(interactions, items, columns, reasons)
    source: Source = READERS.load(settings.reader)().read(settings)
    reasons.extend(source.warnings)
    if reader and "rating" in source.interactions.collect_schema().names():
        with inputs.located(source.interactions_path):
            ratings = source.interactions.select("rating").head(_ROWS).collect().to_series()
        least = liked_threshold(ratings, reasons)
        settings = settings.model_copy(update={"min_rating": least})
    found = catalog(source, RowCounts())
    fields = text_fields(found, reasons)
    paths = (interactions, items) if items else (interactions,)
    domain = domain_of(found, fields, paths, reasons)
    with inputs.located(source.interactions_path):
        block = _block_items(source.interactions, settings, reasons)
    return Guess(settings, domain, fields, block, reasons)


_LONG = 10
"""From so many interactions of the median user on, blocks are as long as the paper's."""


def _block_items(interactions: pl.LazyFrame, settings: DataSettings, reasons: list[str]) -> int:
    """5 as in the paper; 3 where users have so little that many would fill no block of 5."""
    if settings.min_rating is not None:
        rated = pl.col("rating").cast(pl.Float64, strict=False) >= settings.min_rating
        interactions = interactions.filter(rated)
    counts = interactions.group_by("user").len().collect(engine="streaming")["len"]
    middle = counts.median()
    if not isinstance(middle, float) or middle >= _LONG:
        return 5
    reasons.append(
        f"block_items = 3: half of the users have {middle:.0f} interactions or fewer, so many "
        "would fill no block of 5 and get no summary"
    )
    return 3


def _shown(settings: DataSettings, reasons: list[str]) -> DataSettings:
    """MIND's lists of what was shown are the candidates, where they say what was clicked."""
    found = settings.model_copy(update={"candidates": "given", "split": "rows"})
    source: Source = READERS.load("mind")().read(found)
    assert source.impressions is not None  # noqa: S101  (given)
    with inputs.located(source.interactions_path):
        clicked = source.impressions.select(pl.col("relevant").list.len().sum()).collect().item()
    if not clicked:
        reasons.append("candidates = uniform: no line says what was clicked of what was shown")
        return settings
    reasons.append(
        "candidates = given: each line says what was shown and clicked; uniform: the last item of "
        "the history among sampled ones, as in the paper"
    )
    reasons.append(
        "split = rows: most users have one such line, and the default split, by each user's last "
        "lines, would leave next to none for training"
    )
    return found


def _format(interactions: Path, items: Path | None) -> str:
    """The reader of a published format, by the files' names or keys; empty: a table."""
    for reader, patterns in _FORMATS:
        for pattern in patterns:
            if files.is_folder(interactions) and any(files.listed(interactions, pattern)):
                films = [one for name in _FILMS for one in files.listed(interactions, name)]
                if reader != "movielens" or films:
                    return reader
            if interactions.match(pattern) and not (reader == "movielens" and not _films(items)):
                return reader
    if files.is_file(interactions) and inputs.format_of(interactions) == "jsonl":
        first = next(iter(inputs.head(interactions, "utf-8", 1)), "")
        with suppress(DataError):
            keys = json_value(first, "", of=dict)
            if items and any(set(named.values()) <= set(keys) for named in FORMATS):
                return "amazon_reviews"
    return ""


def _films(items: Path | None) -> bool:
    return items is not None and items.name in _FILMS


def _table(
    interactions: Path, items: Path | None, columns: Columns, reasons: list[str]
) -> DataSettings:
    named = {"interactions": interactions} | ({"items": items} if items else {})
    within = {key: inputs.table_files(path, key, f"the {key}' file") for key, path in named.items()}
    encoding = _encoding([one for paths in within.values() for one in paths], reasons)
    headers = {key: _header(named[key], within[key], encoding, reasons) for key in named}
    settings = DataSettings(
        interactions=interactions,
        items=items,
        encoding=encoding,
        header=headers["interactions"],
        items_header=headers.get("items", True),
    )
    table = opened(interactions, "interactions", settings, settings.header)[1]
    with inputs.located(interactions, encoding):
        rows = table.frame.head(_ROWS).collect()
    if rows.is_empty():
        raise DataError(f"{interactions}: there is no interaction in it")
    all_items = None
    if items:
        with inputs.located(items, encoding):
            all_items = opened(items, "items", settings, settings.items_header)[1].frame.collect()
    try:
        found = roles(rows, all_items, interactions, items or interactions, reasons, columns)
    except DataError as error:
        differ = next(iter(table.lacking.values()), "")
        raise DataError(f"{error}{differ and f'. Is it one table? {differ}'}") from error
    return settings.model_copy(update=_updates(found, settings, reasons))


def _updates(found: Roles, settings: DataSettings, reasons: list[str]) -> dict[str, object]:
    """The settings that follow from the columns' roles."""
    updates: dict[str, object] = {"columns": found.columns}
    if found.least is not None:
        updates["min_rating"] = found.least
    if found.tied:
        updates["ties"] = "drawn"
    if found.given:
        updates["split"] = "given"
        reasons.append("split = given: the data says which interactions are for test")
    if found.unknown > settings.max_unknown:
        updates["max_unknown"] = min(1.0, round(1.2 * found.unknown + 0.01, 2))
        reasons.append(
            f"max_unknown = {updates['max_unknown']}: {found.unknown:.1%} of the interactions have "
            "an item that the items' file does not have; they are left out"
        )
    return updates


def _encoding(paths: Sequence[Path], reasons: list[str]) -> str:
    """UTF-8 where both files are, else the one encoding that reads both."""
    samples = []
    for path in paths:
        if inputs.format_of(path) != "parquet":
            with inputs.located(path), inputs.opened(path) as stream:
                samples.append(stream.read(_BYTES // max(len(paths) // 2, 1)))
    if any(sample.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) for sample in samples):
        reasons.append("encoding = utf-16: by the first bytes")
        return "utf-16"
    for encoding in ("utf-8", "cp1252"):
        if all(_reads(sample, encoding) for sample in samples):
            break
    else:
        encoding = "latin-1"
    if encoding != "utf-8":
        reasons.append(f"encoding = {encoding}: the files are not UTF-8; look whether é is é")
    return encoding


def _reads(sample: bytes, encoding: str) -> bool:
    try:
        codecs.getincrementaldecoder(encoding)().decode(sample)
    except UnicodeDecodeError:
        return False
    return True


def _header(named: Path, paths: list[Path], encoding: str, reasons: list[str]) -> bool:
    """Whether delimited files' first lines name the columns, by the largest file."""
    if len(paths) > 1:
        names = {file: name for name, file in files.matching(named).items()}
        reasons.append(f"{named.name}: {len(paths)} files, {names[paths[0]]} to {names[paths[-1]]}")
    path = max(paths, key=files.size)
    if inputs.format_of(path) != "delimited":
        reasons.append(f"{named.name}: {inputs.format_of(path)}")
        return True
    dialect = sniff(paths, encoding)[paths.index(path)]
    frame = delimited(path, dialect=dialect, header=False, encoding=encoding).frame
    with inputs.located(path, encoding):
        rows = [[cell or "" for cell in row] for row in frame.head(200).collect().rows()]
    if not rows:
        raise DataError(f"{path}: the file is empty")
    header = _names_columns(rows)
    first = "the first line names the columns" if header else "there is no line of column names"
    reasons.append(f"{named.name}: fields separated by {dialect.separator!r}; {first}")
    return header


def _names_columns(rows: list[list[str]]) -> bool:
    first, rest = [cell.strip() for cell in rows[0]], rows[1:]
    if any(_number(cell) for cell in first):
        return False
    usual = {name for names in USUAL_NAMES.values() for name in names} | {"title", "name"}
    if any(plain(cell) in usual for cell in first):
        return True
    columns = [
        [row[place].strip() for row in rest if place < len(row)] for place in range(len(first))
    ]
    if any(cells and all(_number(cell) for cell in cells if cell) for cells in columns):
        return True
    again = any(cell in cells for cell, cells in zip(first, columns, strict=True) if cell)
    return not again and all(cell and len(cell) <= 40 for cell in first)


def _number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True
