"""Reads times of any make as numbers: seconds since 1970, or the file's own clock."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import reduce
from pathlib import Path

import polars as pl

from trsr.data.ids import finite, is_missing, number, to_text
from trsr.errors import DataError

SCALES = {"seconds": 1.0, "milliseconds": 1e3, "microseconds": 1e6, "nanoseconds": 1e9}
"""Units of numbers that are moments since 1970."""
DAY = 86_400.0
"""Seconds."""
_MOMENTS = (5e8, 4e9)
"""Seconds from 1985 to 2096."""
_STRAY = 0.01
"""Of the times: as many unreadable ones are faults of single rows, more are another format."""

_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_WEEKDAY = r"(?:(?:mon|tue|wed|thu|fri|sat|sun)[a-z]*\.?,?\s+)?"
_MONTH = rf"(?<word>{'|'.join(_MONTHS)})[a-z]*\.?"
_CLOCK = (
    r"(?<hour>\d{1,2})[:.](?<minute>\d{2})(?:[:.](?<second>\d{2})(?:[.,](?<fraction>\d{1,9}))?)?"
    r"(?:\s*(?<half>[ap])\.?m\.?)?"
)
_ZONE = r"(?<zone>z|[a-z]{2,5}|(?:gmt|utc)?[+-]\d{2}:?(?:\d{2})?)?(?:\s*[\[(][^\])]*[\])])?"
_REST = rf"(?:(?:\s*[t,:_\s]\s*|\s+at\s+){_CLOCK}\s*{_ZONE})?"
_YEAR = r"(?<year>\d{4}|\d{2})"
_FORMS = tuple(
    # \d is a digit of any script, and only these can be read
    f"(?i)^{form}$".replace(r"\d", "[0-9]")
    for form in (
        rf"(?<year>\d{{4}})[-/.](?<month>\d{{1,2}})(?:[-/.](?<day>\d{{1,2}}))?{_REST}",
        rf"(?<year>\d{{4}})(?<month>\d\d)(?<day>\d\d)[t ](?<hour>\d\d)(?<minute>\d\d)"
        rf"(?<second>\d\d){_ZONE}",
        rf"{_WEEKDAY}(?<first>\d{{1,2}})(?<mark>[-/. ])(?<other>\d{{1,2}})[-/., ]+(?<year>\d{{4}})"
        rf"{_REST}",
        # 24-01-05 may begin with the year
        rf"(?<first>\d{{1,2}})(?<mark>[/.])(?<other>\d{{1,2}})[/.](?<year>\d{{2}}){_REST}",
        rf"{_WEEKDAY}(?<day>\d{{1,2}})(?:st|nd|rd|th)?\.?[-/ ]\s*{_MONTH}[-/ ,]+{_YEAR}{_REST}",
        rf"{_WEEKDAY}{_MONTH}[- ]+(?<day>\d{{1,2}})(?:st|nd|rd|th)?,?[- ]+(?<year>\d{{4}}){_REST}",
        rf"{_WEEKDAY}{_MONTH}\s+(?<day>\d{{1,2}})\s+{_CLOCK}\s*{_ZONE}\s+(?<year>\d{{4}})",
        _CLOCK,
    )
)
"""ISO; compact ISO; numbers with day and month in either order; then months by name: RFC 2822 and
Apache, American and JavaScript, Ruby, Java, Twitter and C; last a time of the day alone."""
_PARTS = (
    *("year", "month", "day", "first", "mark", "other", "word"),
    *("hour", "minute", "second", "fraction", "half", "zone"),
)
_HOURS = {
    **{"z": 0, "utc": 0, "gmt": 0, "wet": 0, "west": 1, "cet": 1, "cest": 2, "eet": 2, "eest": 3},
    **{"est": -5, "edt": -4, "cst": -6, "cdt": -5, "mst": -7, "mdt": -6, "pst": -8, "pdt": -7},
    **{"akst": -9, "akdt": -8, "hst": -10, "msk": 3, "jst": 9, "kst": 9, "aest": 10, "aedt": 11},
}
"""Hours that zones known by name are ahead."""


@dataclass(frozen=True, slots=True)
class Times:
    """A column of times.

    Attributes:
        values: Float64: numbers as they are, dates as seconds since 1970; null where there is none.
        notes: What people should know about how they were read.
    """

    values: pl.Series
    notes: tuple[str, ...] = ()


def seconds(column: pl.Series, path: Path, pattern: str = "") -> Times:
    """Times as float64: numbers as they are, dates and date texts as seconds since 1970.

    A time of the day alone is in seconds since midnight.

    Numbers of several units (1700000000 and 1700000000000), or beside dates, become seconds. Dates
    with a day above 12 decide whether 3/4/2024 is in March or April. The pattern is that of
    `strptime`; empty: found.

    Raises:
        DataError: If more than one time in a hundred is neither a number nor a date that can be
            read. Fewer are none, and a note says so.
    """
    if column.dtype in (pl.Date, pl.Datetime):
        moment = column.cast(pl.Datetime("us", getattr(column.dtype, "time_zone", None)))
        return Times(moment.dt.timestamp("us").cast(pl.Float64) / 1e6)
    if column.dtype.is_temporal():
        return Times(column.to_physical().cast(pl.Float64))
    if column.dtype.is_numeric():
        return _one_unit(finite(column.cast(pl.Float64)), path, beside_dates=False)
    frame = pl.DataFrame({"text": to_text(column, path).str.strip_chars()})
    frame = frame.with_columns(pl.when(~is_missing("text")).then("text"))
    numbers = frame["text"].cast(pl.Float64, strict=False)
    if numbers.null_count() > frame["text"].null_count():
        numbers = frame.select(number("text")).to_series()
    if pattern:
        numbers = numbers.clear(len(numbers))
    unread = numbers.is_null() & frame["text"].is_not_null()
    found = _one_unit(finite(numbers), path, beside_dates=bool(unread.any()))
    if not unread.any():
        return Times(found.values.alias(column.name), found.notes)
    dates = frame.filter(unread)
    read = _by_pattern(dates, pattern) if pattern else _dates(dates, column.name, path)
    notes = found.notes + read.notes
    bad = dates.filter(read.values.is_null())["text"]
    if len(bad):
        notes += (_stray(bad, frame["text"].count(), path, pattern),)
    values = found.values.scatter(unread.arg_true(), read.values)
    return Times(values.alias(column.name), notes)


def _stray(bad: pl.Series, written: int, path: Path, pattern: str) -> str:
    """What to say of few times that cannot be read; their rows have none.

    Raises:
        DataError: If they are many.
    """
    more = f" (and {len(bad) - 1:,} more)" if len(bad) > 1 else ""
    shown = f"the time {bad[0][:80]!r}{more}"
    if len(bad) <= _STRAY * written:
        return f"{path}: {shown} cannot be read, of {written:,}: such rows have no time"
    if pattern:
        raise DataError(f"{path}: {shown} is not written as data.time_format = {pattern!r} says")
    raise DataError(
        f"{path}: {shown} is neither a number nor a date that can be read, such as "
        '2024-05-31T18:00:00; set data.time_format to its format, such as "%d/%m/%Y %H:%M"'
    )


def unit_of(low: float, high: float) -> str:
    """The unit in which numbers are moments since 1970; empty: they are none."""
    for unit, scale in SCALES.items():
        if low >= _MOMENTS[0] * scale and high <= _MOMENTS[1] * scale:
            return unit
    return ""


def _one_unit(numbers: pl.Series, path: Path, *, beside_dates: bool) -> Times:
    frame = numbers.alias("number").to_frame()
    number = pl.col("number")
    inside = {
        unit: number.is_between(_MOMENTS[0] * scale, _MOMENTS[1] * scale)
        for unit, scale in SCALES.items()
    }
    counts = frame.select(**{unit: one.sum() for unit, one in inside.items()}).row(0, named=True)
    units = [unit for unit, count in counts.items() if count]
    others = len(numbers) - numbers.null_count() - sum(counts.values())
    if not (units and (beside_dates or (len(units) > 1 and not others))):
        return Times(numbers)
    scaled = reduce(
        lambda rest, unit: pl.when(inside[unit]).then(number / SCALES[unit]).otherwise(rest),
        units,
        number,
    )
    values = frame.select(scaled.alias(numbers.name)).to_series()
    if units == ["seconds"]:
        return Times(values)
    return Times(values, (f"{path}: times in {', '.join(units)}: all are read as seconds",))


def _by_pattern(dates: pl.DataFrame, pattern: str) -> Times:
    text = pl.col("text")
    try:
        zoned = "%z" in pattern or "%:z" in pattern
        moment = text.str.to_datetime(
            pattern, strict=False, time_unit="us", time_zone="UTC" if zoned else None
        )
        day = text.str.to_date(pattern, strict=False).cast(pl.Datetime("us"))
        moments = dates.select(m=moment)["m"]
        if moments.null_count() == len(moments):
            moments = dates.select(m=day)["m"]
    except pl.exceptions.PolarsError as error:
        raise DataError(f"data.time_format = {pattern!r}: {error}") from None
    return Times(moments.dt.timestamp("us").cast(pl.Float64) / 1e6)


def _dates(dates: pl.DataFrame, name: str, path: Path) -> Times:
    parts = dates.select(pl.coalesce(_matched(form) for form in _FORMS).alias("parts"))
    parts = parts.unnest("parts")
    month_first, notes = _month_first(parts, dates["text"], name, path)
    first, other = pl.col("first"), pl.col("other")
    word = (
        pl.col("word")
        .str.to_lowercase()
        .replace_strict({month: str(n) for n, month in enumerate(_MONTHS, 1)}, default=None)
    )
    no_day = pl.col("year").is_null() & pl.col("hour").is_not_null()
    year = pl.when(no_day).then(pl.lit("1970")).otherwise(pl.col("year")).cast(pl.Int64)
    hour, half = pl.col("hour").cast(pl.Int64).fill_null(0), pl.col("half").str.to_lowercase()
    day_hour = hour % 12 + 12 * (half == "p").cast(pl.Int64)
    at = parts.select(
        year=pl.when(year < 70)
        .then(year + 2000)
        .when(year < 100)
        .then(year + 1900)
        .otherwise(year),
        month=pl.when(no_day)
        .then(pl.lit("1"))
        .otherwise(pl.coalesce("month", word, first if month_first else other)),
        day=pl.coalesce("day", other if month_first else first, pl.lit("1")),
        hour=pl.when(half.is_null() | (hour > 12)).then(hour).otherwise(day_hour),
        minute=pl.col("minute").fill_null("0"),
        second=pl.col("second").fill_null("0"),
        us=pl.col("fraction").str.pad_end(9, "0").cast(pl.Float64).fill_null(0.0) / 1e9,
        ahead=_ahead(),
    )
    text = pl.format("{}-{}-{}T{}:{}:{}", *("year", "month", "day", "hour", "minute", "second"))
    moment = text.str.to_datetime("%Y-%m-%dT%H:%M:%S", strict=False, time_unit="us")
    stamp = moment.dt.timestamp("us").cast(pl.Float64) / 1e6
    return Times(at.select(stamp + pl.col("us") - pl.col("ahead")).to_series(), tuple(notes))


def _matched(form: str) -> pl.Expr:
    """A struct of `_PARTS`, null where a form does not match."""
    text = pl.col("text")
    found = text.str.extract_groups(form)
    parts = [
        (found.struct.field(part) if f"?<{part}>" in form else pl.lit(None, pl.String)).alias(part)
        for part in _PARTS
    ]
    return pl.when(text.str.contains(form)).then(pl.struct(parts))


def _ahead() -> pl.Expr:
    """Seconds by which a zone is ahead of UTC; null where its name is not known."""
    zone = pl.col("zone").str.to_lowercase()
    parts = zone.str.extract_groups(r"(?<sign>[+-])(?<hours>\d{2}):?(?<minutes>\d{2})?$").struct
    size = parts.field("hours").cast(pl.Int64) * 3600
    size += parts.field("minutes").cast(pl.Int64).fill_null(0) * 60
    signed = pl.when(parts.field("sign") == "-").then(-size).otherwise(size)
    known = {name: hours * 3600 for name, hours in _HOURS.items()}
    named = zone.replace_strict(known, default=None, return_dtype=pl.Int64)
    return pl.when(zone.is_null()).then(pl.lit(0, pl.Int64)).otherwise(pl.coalesce(signed, named))


def _month_first(
    parts: pl.DataFrame, texts: pl.Series, name: str, path: Path
) -> tuple[bool, Iterable[str]]:
    """Whether 3/4/2024 is in March, by days above 12, and a note where there is none."""
    first, other = (parts[key].cast(pl.Int64) for key in ("first", "other"))
    days, months = (first > 12).fill_null(value=False), (other > 12).fill_null(value=False)
    if days.any() and months.any():
        raise DataError(
            f"{path}: column {name!r} has dates with the day first ({texts.filter(days)[0]!r}) and "
            f"with the month first ({texts.filter(months)[0]!r}); write them alike"
        )
    apart = (first != other).fill_null(value=False)
    if days.any() or months.any() or not apart.any():
        return bool(months.any()), ()
    # the usual order: 3/4/2024 American, 3.4.2024 and 3-4-2024 elsewhere
    american = bool(parts["mark"].filter(apart)[0] in "/ ")
    order = ("month", "%m/%d/%Y") if american else ("day", "%d.%m.%Y")
    other_order = "%d/%m/%Y" if american else "%m.%d.%Y"
    return american, (
        f"{path}: no date of column {name!r} has a day above 12: {texts.filter(apart)[0]!r} is "
        f"read with the {order[0]} first ({order[1]}); if it is the other, set data.time_format, "
        f'such as "{other_order}"',
    )
