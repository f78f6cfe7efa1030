"""Small logs in every format that trsr reads, spoilt, and what is counted of them."""

from __future__ import annotations

import csv
import gzip
import io
import json
import random
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import polars as pl

from trsr.cli.inspect import write_config
from trsr.config import load_config
from trsr.data import DataReport, DataSettings, guess, inspect, located, prepare
from trsr.progress import Silent

Row = dict[str, Any]
LEFT_OUT = (
    *("other_events", "rows_without_ids", "cancelled", "rows_without_time", "unknown_items"),
    *("duplicates", "below_min_rating", "repeats", "long_users_interactions"),
    *("k_core_interactions", "interactions"),
)
"""Each interaction that was read is in one of these counts."""
WORDS = (
    *("red", "blue", "long", "short", "drill", "lamp", "rope", "saw", "pump", "valve", "clamp"),
    *("hose", "fan", "level", "shelf", "bolt"),
)
ODD: tuple[Any, ...] = (
    *(None, "", " ", "nan", "NULL", "\\N", "None", "\x00", "\x1b[31m", "\u2028", "\u202e"),
    *("\ufeff", '"', '""', 'a"b', '"a', 'b"', '\\"', "\\", "a,b", "a;b", "a::b", "a\tb", "a|b"),
    *("[", "[1, 2]", "{", "{}", "[]", '{"a": 1}', "&amp;", "<b>x</b>", "&#0;", "&#xD800;"),
    *("<!--", "x" * 3000, "-1", "0", "1e400", "-inf", "9" * 400, "1_000", "0x10", "1,5", "١٢"),
    *("½", "\r", "a\rb", "\ud800", -1, 0, 2**63, 2**64, -(2**63), 1.5, float("nan")),
    *(float("inf"), 1e300, True, False, [], ["a"], [["a"]], {"a": None}, [None]),
    *({"a": {"b": [1]}}, "2024-02-30", "31.12.2024", "12/31/2024", "1/2/3"),
    *("Mon Feb 05 16:11:00 XYZ 2024", "24:61", "1700000000", "1700000000000", "20240131"),
    *("2024-01-01T00:00:00+99:99", "sep=;", "#a"),
)
"""Cells that somebody's file has held."""
PIECES = (
    *(b'"', b'""', b"\\", b'\\"', b"\n", b"\r", b"\r\n", b"\x00", b"\xff", b"\xef\xbb\xbf"),
    *(b"::", b"\xff\xfe", b"\t", b",", b";", b"|", b"[", b"]", b"{", b"}", b"#", b"sep=,\n"),
    *(b"NaN", b"\x1f\x8b", b"[" * 2000, b"9" * 5000, b"\xed\xa0\x80", b"PAR1", b"\x1a", b"'"),
)
"""Bytes put into files."""


class WrongError(Exception):
    """What must not happen."""


def log(rng: random.Random) -> tuple[list[Row], list[Row]]:
    """Interactions and items as rows."""
    n, users = rng.randrange(10, 24), rng.randrange(1, 6)
    names = rng.choice((("user", "item", "time"), ("customer", "sku", "when"), ("c1", "c2", "c3")))
    prefix, key = rng.choice(("p", "", "item ", "0")), rng.choice(("item", "sku", "id"))
    ids = [f"{prefix}{k:02}" for k in range(n)]
    stamp = rng.choice(
        (
            lambda t: 1_700_000_000 + t,
            lambda t: f"2024-01-{1 + t % 28:02}T10:{t % 60:02}:00",
            lambda t: f"{1 + t % 28:02}.01.2024 10:{t % 60:02}",
            lambda t: t,
        )
    )
    clicks = [
        dict(zip(names, (f"u{u}", rng.choice(ids), stamp(t)), strict=True))
        for u in range(users)
        for t in range(rng.randrange(1, 9))
    ]
    goods: list[Row] = [
        {key: one, "title": " ".join(rng.sample(WORDS, 3)), "price": round(rng.uniform(1, 9), 2)}
        for one in ids
    ]
    if rng.random() < 0.2:  # one file is enough
        texts = {row[key]: row["title"] for row in goods}
        clicks = [{**row, "title": texts[row[names[1]]], "quantity": 1} for row in clicks]
        return clicks, []
    if rng.random() < 0.2:
        clicks = [
            {**row, "rating": rng.randrange(1, 6), "event": rng.choice(WORDS[:3])} for row in clicks
        ]
    if rng.random() < 0.2:
        found: dict[str, list[str]] = {}
        for row in clicks:
            found.setdefault(row[names[0]], []).append(row[names[1]])
        clicks = [{names[0]: user, "items": items} for user, items in found.items()]
    return clicks, goods


def spoil_cells(rng: random.Random, rows: list[Row]) -> None:
    """Puts odd values into some cells, and odd keys into some rows."""
    for _ in range(rng.randrange(1, 4)):
        row = rng.choice(rows)
        row[rng.choice(list(row))] = rng.choice(ODD)
    if rng.random() < 0.1:
        column, odd = rng.choice(list(rows[0])), rng.choice(ODD)
        for row in rows:
            row[column] = odd
    if rng.random() < 0.1:
        names = (
            [f" {name}" for name in rows[0]] + [name.upper() for name in rows[0]] + ["", '"', "a,b"]
        )
        rng.choice(rows)[rng.choice(names)] = rng.choice(ODD)


def spoil_bytes(rng: random.Random, raw: bytes) -> bytes:
    """Cuts, repeats, changes and inserts bytes."""
    for _ in range(rng.randrange(1, 4)):
        at, other = sorted((rng.randrange(len(raw) + 1), rng.randrange(len(raw) + 1)))
        kind = rng.randrange(6)
        if kind == 0:
            raw = raw[:at]
        elif kind == 1:
            raw = raw[:at] + raw[other:]
        elif kind == 2:
            raw = raw[:other] + raw[at:other] + raw[other:]
        elif kind == 3:
            raw = raw[:at] + bytes([rng.randrange(256)]) + raw[at + 1 :]
        else:
            raw = raw[:at] + rng.choice(PIECES) + raw[at:]
    return raw


def as_csv(rng: random.Random, rows: Sequence[Row]) -> bytes:
    """Delimited text, well quoted."""
    names = list({name: None for row in rows for name in row})
    out = io.StringIO()
    quoting = rng.choice((csv.QUOTE_MINIMAL, csv.QUOTE_ALL))
    separator = rng.choice(",;\t|")
    writer = csv.writer(
        out, delimiter=separator, quoting=quoting, lineterminator=rng.choice(("\n", "\r\n"))
    )
    if rng.random() < 0.1:
        out.write(f"sep={separator}\n")
    writer.writerow(names)
    for row in rows:
        writer.writerow([_cell(row.get(name)) for name in names])
    encoding = rng.choice(("utf-8", "utf-8", "utf-8-sig", "latin-1", "utf-16"))
    return out.getvalue().encode(encoding, errors="replace")


def as_dat(rng: random.Random, rows: Sequence[Row]) -> bytes:
    """Fields between double colons, without quotation marks."""
    names = list(rows[0])
    lines = ["::".join(names), *("::".join(_cell(row.get(n)) for n in names) for row in rows)]
    return "\n".join(lines).encode(errors="replace")


def as_jsonl(rng: random.Random, rows: Sequence[Row]) -> bytes:
    """An object a line."""
    mark = "\ufeff" if rng.random() < 0.1 else ""
    if rng.random() < 0.1:
        return (mark + "".join(f"{row!r}\n" for row in rows)).encode(errors="replace")
    lines = (json.dumps(row, ensure_ascii=rng.random() < 0.5) for row in rows)
    return (mark + "\n".join(lines)).encode(errors="replace")


def as_parquet(rng: random.Random, rows: Sequence[Row]) -> bytes:
    """Columns of any type that takes the values."""
    columns = []
    for name in dict.fromkeys(name for row in rows for name in row):
        values = [row.get(name) for row in rows]
        try:
            column = pl.Series(name, values)
        except (pl.exceptions.PolarsError, TypeError, ValueError, OverflowError):
            texts = [_cell(value).encode(errors="replace").decode() for value in values]
            column = pl.Series(name, texts, dtype=pl.String)
        if column.dtype == pl.Object:
            continue
        odd = rng.choice(
            (None,) * 9
            + (pl.Binary, pl.Categorical, pl.Float64, pl.Time, pl.Duration, pl.Decimal(20, 2))
        )
        if odd is not None:
            with suppress(pl.exceptions.PolarsError):
                column = column.cast(odd, strict=False)
        columns.append(column)
    out = io.BytesIO()
    try:
        pl.DataFrame(columns).write_parquet(out)
    except pl.exceptions.PolarsError:  # such as an object without a key
        return as_jsonl(rng, rows)
    return out.getvalue()


def _cell(value: Any) -> str:
    return "" if value is None else str(value)


FORMATS: Mapping[str, Callable[[random.Random, Sequence[Row]], bytes]] = {
    "csv": as_csv,
    "dat": as_dat,
    "jsonl": as_jsonl,
    "parquet": as_parquet,
}


READERS = ("mind", "recbole", "movielens", "amazon_m2", "amazon_reviews")


def published(
    rng: random.Random, folder: Path, reader: str, *, spoilt: bool
) -> tuple[DataSettings, int, int]:
    """Files of a format that has a reader of its own, and how many interactions and items."""
    n = rng.randrange(5, 12)
    items, users = [f"B{k:03}" for k in range(n)], [f"u{k}" for k in range(4)]
    title = " ".join(rng.sample(WORDS, 3))
    taken = {user: rng.sample(items, 5) for user in users}
    flat = [(u, i, t) for u, chosen in taken.items() for t, i in enumerate(chosen)]
    names = {
        "mind": ("behaviors.tsv", "news.tsv"),
        "recbole": ("a.inter", "a.item"),
        "movielens": ("ratings.dat", "movies.dat"),
        "amazon_m2": ("sessions_train.csv", "products_train.csv"),
        "amazon_reviews": ("r.jsonl", "m.jsonl"),
    }[reader]
    shown = " ".join(f"{i}-{int(i == items[0])}" for i in items[:4])
    keys = ("user_id", "parent_asin", "timestamp")
    made = {
        "mind": (
            [
                f"{k}\t{u}\t11/1{k}/2019 9:05:58 AM\t{' '.join(c)}\t{shown}"
                for k, (u, c) in enumerate(taken.items())
            ],
            [f"{i}\tsports\tx\t{title} {i}\tabstract\tu\t[]\t[]" for i in items],
        ),
        "recbole": (
            [
                "user_id:token\titem_id:token\ttimestamp:float",
                *(f"{u}\t{i}\t{t}" for u, i, t in flat),
            ],
            ["item_id:token\ttitle:token_seq", *(f"{i}\t{title} {i}" for i in items)],
        ),
        "movielens": (
            [f"{u}::{i}::5::{t}" for u, i, t in flat],
            [f"{i}::{title} {i}::A|B" for i in items],
        ),
        "amazon_m2": (
            [
                "prev_items,next_item,locale",
                *(f"{' '.join(map(repr, c[:-1]))},{c[-1]},UK" for c in taken.values()),
            ],
            ["id,locale,title", *(f"{i},UK,{title} {i}" for i in items)],
        ),
        "amazon_reviews": (
            [json.dumps({**dict(zip(keys, row, strict=True)), "rating": 5}) for row in flat],
            [
                json.dumps({"parent_asin": i, "title": f"{title} {i}", "features": [i]})
                for i in items
            ],
        ),
    }[reader]
    for name, lines in zip(names, made, strict=True):
        raw = "\n".join(lines).encode()
        (folder / name).write_bytes(spoil_bytes(rng, raw) if spoilt else raw)
    paths = [folder / name for name in names]
    given = reader == "mind" and rng.random() < 0.5
    chosen = DataSettings(
        reader=reader,
        interactions=paths[0],
        items=paths[1],
        candidates="given" if given else "uniform",
    )
    return chosen, len(flat), n


def attempt(rng: random.Random, folder: Path) -> str:
    """Makes one input and tries it; returns what came of it.

    Raises:
        WrongError: If rows are lost.
    """
    return rng.choices((of_reader, of_table), (1, 4))[0](rng, folder)


def of_reader(rng: random.Random, folder: Path) -> str:
    """A published format, mostly spoilt."""
    spoilt = rng.random() < 0.8
    found, rows, items = published(rng, folder, rng.choice(READERS), spoilt=spoilt)
    if rng.random() < 0.3 and found.interactions:
        found = guess(found.interactions, found.items).settings
    known = not spoilt and found.reader in READERS
    return prepared(found, rng, folder, rows if known else None, items if known else None)


def of_table(rng: random.Random, folder: Path) -> str:
    """Files of a shop, mostly spoilt."""
    clicks, goods = log(rng)
    spoils = rng.choice(("", "cells", "bytes", "cells, bytes"))
    made = [
        written(rng, folder / name, rows, spoils)
        for name, rows in (("clicks", clicks), ("goods", goods))
        if rows
    ]
    paths = [path for path, _ in made]
    settings = _settings(rng, folder, paths, list(clicks[0]), list(goods[0]) if goods else [])
    if "event" in clicks[0] and rng.random() < 0.5:
        kinds = sorted({str(row.get("event")) for row in clicks})
        columns = settings.columns.model_copy(update={"event": "event"})
        settings = settings.model_copy(update={"events": kinds, "columns": columns})
    # a header that was not seen is a row more
    counts = [count if settings.header and settings.items_header else None for _, count in made]
    return prepared(settings, rng, folder, counts[0], counts[1] if len(counts) > 1 else None)


def written(
    rng: random.Random, path: Path, rows: list[Row], spoils: str
) -> tuple[Path, int | None]:
    """Writes a file in any format; with the number of its rows, where that is sure."""
    if "cells" in spoils and rng.random() < 0.7:
        spoil_cells(rng, rows)
    kind = rng.choice(list(FORMATS))
    raw = FORMATS[kind](rng, rows)
    cells = [value for row in rows for value in row.values()]
    # what stands in no quotation marks may hold what separates fields or rows
    loose = kind == "dat" and any(re.search("[:\n\r]", _cell(cell)) for cell in cells)
    lists = any(isinstance(cell, list) for cell in cells)
    if "bytes" in spoils:
        raw = spoil_bytes(rng, raw)
    if rng.random() < 0.15:
        raw, kind = gzip.compress(raw), f"{kind}.gz"
        raw = spoil_bytes(rng, raw) if "bytes" in spoils else raw
    whole = path.with_suffix(f".{kind}")
    whole.write_bytes(raw)
    return whole, None if "bytes" in spoils or loose or lists else len(rows)


def _settings(
    rng: random.Random, folder: Path, paths: Sequence[Path], names: list[str], keys: list[str]
) -> DataSettings:
    """The settings as a person would have them: guessed, written by `trsr init`, or by hand."""
    way = rng.random()
    if way < 0.3:
        items = paths[1] if len(paths) > 1 else None
        config, _ = write_config(paths[0], items, folder / "c.toml", force=True)
        return located(load_config(config).data)
    if way < 0.7:
        return guess(*paths).settings
    listed = "items" in names
    columns = {"user": names[0], "item_id": keys[0] if keys else ""}
    columns |= {"sequence": "items"} if listed else {"item": names[1], "time": names[2]}
    files = {"interactions": paths[0], "items": paths[1] if len(paths) > 1 else None}
    return DataSettings.model_validate({**files, "columns": columns})


def prepared(
    settings: DataSettings, rng: random.Random, folder: Path, rows: int | None, items: int | None
) -> str:
    """Prepares, or only inspects, and counts."""
    updates = {
        "negatives": 1,
        "min_history": 1,
        "max_unknown": 1.0,
        "ties": rng.choice(("file", "drawn", "step")),
    }
    chosen = settings.model_copy(update=updates)
    if rng.random() < 0.3:
        out = folder / "out"
        out.mkdir()
        report = prepare(chosen, out, seed=1, progress=Silent())
    else:
        report = inspect(chosen, seed=1)
    balanced(report, rows, items)
    return "used"


def balanced(report: DataReport, rows: int | None = None, items: int | None = None) -> None:
    """Every row is used or counted.

    Args:
        report: Of a preparation.
        rows: Interactions in the file, where they are known.
        items: Items in the file, where they are known.

    Raises:
        WrongError: If a row is neither.
    """
    counts = report.counts
    read, found = counts["interactions_read"], sum(counts.get(name, 0) for name in LEFT_OUT)
    if read != found:
        raise WrongError(f"{read} interactions were read, {found} are used or counted: {counts}")
    if rows is not None and read != rows:
        raise WrongError(f"the file has {rows} interactions, {read} were read: {counts}")
    if "items_read" in counts:
        kept = sum(counts[name] for name in ("items_without_id", "items_twice", "items"))
        if counts["items_read"] != kept or items not in (None, counts["items_read"]):
            raise WrongError(f"{items or counts['items_read']} items, {kept} are counted: {counts}")
