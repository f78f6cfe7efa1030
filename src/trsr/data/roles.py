"""Guesses which columns hold users, items, times, ratings and splits, by names and by values."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import polars as pl

from trsr.data.ids import id_text, is_missing, likely_cause, number, to_text
from trsr.data.readers.base import USUAL_NAMES, listed, must_have, plain
from trsr.data.records import MANY_TIES, SPLIT_NAMES
from trsr.data.settings import Columns
from trsr.data.times import DAY, Times, seconds, unit_of
from trsr.errors import DataError

_ITEMS = 5000
"""Items looked at."""
_LONG = 25
"""Words, in the mean, from which a text is read after the short ones."""

TITLES = (
    *("title", "name", "headline", "movietitle", "producttitle", "productname", "itemname"),
    *("itemtitle", "newstitle", "booktitle", "label", "bezeichnung", "description"),
    "itemdescription",
)
"""Names of columns that hold titles, the surest first."""
_NUMBERS = ("price", "year", "releaseyear")
"""Numbers that describe an item."""
_NOT_TEXT = r"^(https?://|www\.|\{)"

_DOMAINS: dict[str, tuple[frozenset[str], str]] = {
    "films": (
        frozenset({"genre", "genres", "overview", "tagline", "director", "cast", "movietitle"}),
        r"\((19|20)\d\d\)$|^(Action|Adventure|Animation|Comedy|Crime|Documentary|Drama|Fantasy|"
        r"Horror|Musical|Romance|Sci-Fi|Thriller|Western)\b",
    ),
    "products": (
        frozenset({"brand", "price", "asin", "parentasin", "sku", "color", "material", "store"}),
        r"(?i)\b(pack of|inch|inches|oz|lbs?|\d+ ?(mm|cm|ml|pcs|count|pack)|stainless|warranty)\b",
    ),
    "news": (
        frozenset({"abstract", "headline", "newsid", "publisher", "subcategory", "lead", "byline"}),
        r"(?i)^(news|sports|finance|lifestyle|politics|weather|health|travel|business)$",
    ),
}
"""Domain → the names of columns and the values that point to it."""
_FILE_WORDS = {
    "films": ("movie", "film"),
    "products": ("product", "goods", "shop", "retail", "order", "purchase"),
    "news": ("news", "article"),
}


@dataclass(frozen=True, slots=True)
class _Text:
    """What one text column looks like."""

    name: str
    filled: float
    words: float
    distinct: float
    links: float
    numbers: float
    digits: float


_FILLED = 0.9
"""The share of items with a title below which it is worth a word."""


def text_fields(items: pl.DataFrame, reasons: list[str]) -> tuple[str, ...]:
    """The columns worth reading: a title, then short ones in their order, then long ones.

    Left out: links, vectors, nearly empty or constant columns, codes, and numbers other than a
    price or a year.
    """
    texts = [
        _profile(column) for column in items.head(_ITEMS).iter_columns() if column.name != "id"
    ]
    worth = [text for text in texts if _worth_reading(text)]
    if not worth:
        reasons.append("fields: no column looks like a text; all are read")
        return ()
    title = next((t for name in TITLES for t in worth if plain(t.name) == name), None) or max(
        worth, key=lambda t: (1 < t.words <= _LONG) * t.distinct
    )
    rest = [text for text in worth if text is not title]
    short = [text for text in rest if text.words <= _LONG]
    long = sorted((text for text in rest if text.words > _LONG), key=lambda text: text.words)
    left_out = [text.name for text in texts if text not in worth]
    reasons.append(
        f"fields: {title.name!r} looks like the title ({title.words:.0f} words"
        + (f"; {1 - title.filled:.0%} of the items have none)" if title.filled < _FILLED else ")")
        + (f"; left out: {', '.join(left_out)}" if left_out else "")
    )
    return tuple(text.name for text in (title, *short, *long))


def _profile(column: pl.Series) -> _Text:
    values = column.drop_nulls()
    some = max(len(values), 1)
    return _Text(
        name=column.name,
        filled=len(values) / max(len(column), 1),
        words=float(str(values.str.count_matches(r"\S+").mean() or 0)),
        distinct=values.n_unique() / some,
        links=float(values.str.contains(_NOT_TEXT).sum()) / some,
        numbers=float(values.str.contains(r"^[-+$€£]?\s?\d[\d.,]*$").sum()) / some,
        digits=float(values.str.contains(r"\d").sum()) / some,
    )


def _worth_reading(text: _Text) -> bool:
    if text.filled < 0.01 or text.links > 0.5 or text.distinct * text.filled == 0:
        return False
    if text.numbers > 0.9:
        return plain(text.name) in _NUMBERS
    code = text.words < 1.1 and text.distinct > 0.8 and text.digits > 0.5
    return not code


def domain_of(
    items: pl.DataFrame, fields: Sequence[str], paths: Sequence[Path], reasons: list[str]
) -> str:
    """`films`, `products` or `news` by columns, values or file names, else `generic`."""
    some = items.head(_ITEMS)
    scores: dict[str, float] = {}
    for domain, (columns, pattern) in _DOMAINS.items():
        named = sum(plain(name) in columns for name in items.columns)
        shares = [
            float(str(some[name].drop_nulls().str.contains(pattern).mean() or 0)) for name in fields
        ]
        filed = any(word in path.stem.lower() for word in _FILE_WORDS[domain] for path in paths)
        scores[domain] = named + 3 * max(shares, default=0.0) + filed
    best = max(scores, key=lambda domain: scores[domain])
    if scores[best] < 1:
        reasons.append("domain: generic: neither columns nor texts show what the items are")
        return "generic"
    reasons.append(f"domain: {best}: by the items' columns and texts")
    return best


CELLS = 1000
"""Cells looked at where all of them would cost too much."""
_LIKE_A_DATE = (
    r"(?i)\d{1,4}[-/. ]\d{1,2}[-/. ]\d{2,4}|\d:\d\d|"
    r"\b(mon|tue|wed|thu|fri|sat|sun|jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)"
)
_ORDERS = (
    *("time", "order", "step", "seq", "position", "index", "frame", "rank", "clock", "number"),
    *("line", "hour", "minute", "row"),
)
"""Words in the names of columns that may order the rows of one moment; a price does not."""


@dataclass(frozen=True)
class Column:
    """One column of the interactions and what its values look like."""

    name: str
    values: pl.Series
    path: Path

    @cached_property
    def is_list(self) -> bool:
        """Whether most cells seem to hold several ids."""
        if isinstance(self.values.dtype, pl.List | pl.Array):
            return True
        some = self._text(self.values.head(CELLS))
        pieces = listed(some, self.path).list.len()
        # Running text has pieces too, but signs that no printed list has.
        prose = some.str.contains(r"[.!?:]\s|\d:\d\d").mean()
        return float(str(pieces.mean() or 0)) >= 1.5 and float(str(prose or 0)) < 0.5

    @property
    def text(self) -> pl.Series:
        """The cells as text; null where they cannot be."""
        return self._text(self.values)

    def _text(self, values: pl.Series) -> pl.Series:
        try:
            return to_text(values, self.path)
        except DataError:
            return pl.Series(self.name, [None] * len(values), dtype=pl.String)

    @cached_property
    def ids(self) -> pl.Series:
        """The cells as ids; none where they cannot be."""
        return self._ids(self.text)

    @cached_property
    def pieces(self) -> pl.Series:
        """All ids in the cells' lists; none where they hold no lists of ids."""
        try:
            lists = listed(self.values, self.path)
        except DataError:
            return pl.Series(self.name, [], dtype=pl.String)
        return self._ids(lists.explode(empty_as_null=True))

    def _ids(self, values: pl.Series) -> pl.Series:
        try:
            return id_text(values, self.path).drop_nulls()
        except DataError:
            return values.clear()

    @cached_property
    def distinct(self) -> pl.Series:
        """The cells' ids, each once, in order: examples of them are the same in each call."""
        return self.ids.unique(maintain_order=True)

    @cached_property
    def numbers(self) -> pl.Series | None:
        """The cells as numbers, if all of them are."""
        if self.values.dtype.is_nested() or not (len(self.ids) or self.values.dtype.is_numeric()):
            return None
        frame = pl.DataFrame({"text": self.text.str.strip_chars()})
        numbers = frame.filter(~is_missing("text")).select(number("text")).to_series()
        return None if numbers.null_count() or numbers.is_empty() else numbers

    @cached_property
    def has_fractions(self) -> bool:
        """Whether the cells are numbers and not all whole."""
        return self.numbers is not None and bool((self.numbers % 1 != 0).any())

    @cached_property
    def dates(self) -> Times | DataError | None:
        """Some cells as times if they are dates, or why they cannot be read as such."""
        # of all rows: the first may be of one day
        some = self.values.gather_every(len(self.values) // CELLS + 1)
        if some.dtype not in (pl.String, pl.Binary, pl.Date, pl.Datetime, pl.Categorical):
            return None
        if some.dtype not in (pl.Date, pl.Datetime) and self.numbers is not None:
            return None
        try:
            times = seconds(some, self.path)
        except DataError as error:
            alike = float(str(self._text(some).str.contains(_LIKE_A_DATE).mean() or 0))
            return error if alike > 0.5 else None
        return times if times.values.null_count() < 0.5 * len(some) else None

    def named(self, role: str) -> bool:
        """Whether its name is a usual one for a role."""
        return plain(self.name) in USUAL_NAMES[role]

    @cached_property
    def words(self) -> float:
        """The mean number of words in a cell."""
        letters = self.text.head(CELLS).str.count_matches(r"\p{L}{2,}")
        return float(str(letters.mean() or 0))

    @cached_property
    def without_digits(self) -> float:
        """The share of cells without a digit."""
        return float(str((~self.text.head(CELLS).str.contains(r"\d")).mean() or 0))

    def predicts(self, other: Column) -> float:
        """How well this column predicts another, from 0 (no better than guessing) to 1."""
        both = pl.DataFrame({"key": self.text, "other": other.text}).drop_nulls()
        # a value that comes once predicts nothing
        both = both.filter(pl.col("key").is_duplicated())
        if both.is_empty():
            return 0.0
        counts = both.group_by("key", "other").len()
        most = float(str(counts.group_by("key").agg(pl.col("len").max())["len"].sum()))
        base = float(str(both["other"].value_counts()["count"].max()))
        return (most - base) / max(len(both) - base, 1)


@dataclass(frozen=True, slots=True)
class Roles:
    """What each column is for.

    Attributes:
        columns: The columns by name.
        unknown: Share of the interactions looked at whose item the items' file does not have.
        least: A `min_rating` that keeps what was liked; None where nothing is rated.
        given: Whether the data says which interactions are for training and which for test.
        tied: Whether many interactions of a user have one time and nothing orders them.
    """

    columns: Columns
    unknown: float = 0.0
    least: float | None = None
    given: bool = False
    tied: bool = False


def roles(
    rows: pl.DataFrame,
    items: pl.DataFrame | None,
    path: Path,
    items_path: Path,
    reasons: list[str],
    known: Columns = Columns(),  # noqa: B008
) -> Roles:
    """Guesses the roles of all columns.

    Without items each interaction describes its item. `known` are roles that need no guess.

    Raises:
        DataError: If a column that is needed cannot be found, or a known one is not there.
    """
    _check_known(known, rows, items, path, items_path)
    left = {name: Column(name, rows[name], path) for name in rows.columns}
    found: dict[str, str] = {}
    unknown, sequence = 0.0, False
    if items is not None:
        named = known.item or known.sequence
        asked = {named: left[named]} if named else left
        keys = items.select(known.item_id) if known.item_id else items
        item, key, unknown, sequence = _item(asked, keys, path, items_path)
        found |= {"item_id": key, "sequence" if sequence else "item": item.name}
        share = f"{1 - unknown:.0%} of its values are values of {key!r} in {items_path.name}"
        what = "sequences of items" if sequence else "items"
        reasons.append(f"{what}: column {item.name!r}: {share}")
        del left[item.name]
    columns, taken = dict(left), set(known.model_dump(exclude={"texts"}).values())
    for role, guess in (
        *(("split", _split), ("time", _time), ("event", _events), ("quantity", _quantity)),
        ("rating", _rating),
    ):
        given = str(getattr(known, role))
        free = {name: one for name, one in left.items() if name not in taken}
        guessed = (given, _GIVEN) if given else guess(free)
        if guessed:
            found[role], why = guessed
            left.pop(found[role])
            reasons.append(f"{role}: column {found[role]!r}: {why}")
    if "time" not in found and not sequence:
        reasons.extend(_no_time(left))
    texts = _texts_inside(left, found, reasons, known) if items is None else []
    rest = {name: one for name, one in left.items() if name not in (*texts, found.get("item"))}
    user = (known.user, _GIVEN) if known.user else _user(rest, sequence, len(rows), path)
    if user:
        found["user"], why = user
        reasons.append(f"user: column {found['user']!r}: {why}")
        rest.pop(found["user"], None)
    else:
        reasons.append("user: no column: each line counts as a user of its own")
    tied = False
    if user and "time" in found and not sequence and not known.order:
        order, tied = _order(columns, rest, found, reasons)
        found |= {"order": order} if order else {}
    least = liked_threshold(columns[found["rating"]].values, reasons) if "rating" in found else None
    found |= {role: name for role, name in known.model_dump(exclude={"texts"}).items() if name}
    unread = [name for name in rows.columns if name not in (*found.values(), *texts)]
    if unread:
        some = ", ".join(unread[:5]) + (", …" if len(unread) > 5 else "")
        reasons.append(f"not read of the interactions: {some}")
    return Roles(Columns(**found, texts=texts), unknown, least, "split" in found, tied)


_GIVEN = "as you say"


def _check_known(
    known: Columns, rows: pl.DataFrame, items: pl.DataFrame | None, path: Path, items_path: Path
) -> None:
    """Checks that the columns that people name are there."""
    lists = ("candidates", "clicked")  # of a file that is not looked at here
    for role, name in known.model_dump(exclude={"texts", *lists}).items():
        of_items = role == "item_id" and items is not None
        frame, place = (items, items_path) if of_items and items is not None else (rows, path)
        must_have(frame.columns, (name,) if name else (), place, f"data.columns.{role}")
    must_have(rows.columns, known.texts, path, "data.columns.texts")


def _item(
    columns: dict[str, Column], items: pl.DataFrame, path: Path, items_path: Path
) -> tuple[Column, str, float, bool]:
    """The item column, the items' id column, the share of unknown items, and whether of lists."""
    keys = {
        name: ids for name in items.columns if (ids := _key(items[name], items_path)) is not None
    }
    if not keys:
        raise DataError(
            f"{items_path}: no column has a value of its own in each row; which is the item's id? "
            f"Set data.columns.item_id; the columns are {', '.join(items.columns)}"
        )
    best: tuple[float, Column, str, float, bool] | None = None
    cause = ""
    for column in columns.values():
        for sequence in (False, True) if column.is_list else (False,):
            values = column.pieces if sequence else column.ids
            distinct = values.unique(maintain_order=True)
            for key, ids in keys.items() if len(distinct) else ():
                inside = distinct.is_in(ids.implode())
                share = float(str(inside.mean()))
                # Small numbers (a rating, a user's number) may be ids by chance, but cover few.
                cover = float(inside.sum()) / len(ids)
                usual = 0.3 if column.named("item") or column.named("sequence") else 0.0
                score = share + 0.5 * cover + usual + 0.1 * (plain(key) in USUAL_NAMES["item_id"])
                if share >= 0.3 and (best is None or score > best[0]):
                    unknown = 1 - float(str(values.is_in(ids.implode()).mean()))
                    best = (score, column, key, unknown, sequence)
                elif usual and not share and plain(key) in USUAL_NAMES["item_id"]:
                    cause = cause or likely_cause(distinct, ids)
    if best is None:
        for name, column in columns.items():
            if column.named("item") or len(columns) == 1:
                id_text(column.text.alias(name), path)  # what is wrong with its ids is the cause
        raise DataError(
            f"{path}: no column's values are ids of {items_path.name}; set data.columns.item and "
            f"data.columns.item_id. The columns are {', '.join(columns)}, and "
            f"{', '.join(items.columns)}" + (f". {cause}" if cause else "")
        )
    return best[1:]


def _key(column: pl.Series, path: Path) -> pl.Series | None:
    """The values as ids, if nearly every row has one of its own."""
    try:
        ids = id_text(column, path).drop_nulls()
    except DataError:
        return None
    distinct = ids.unique(maintain_order=True)
    long = float(str(ids.head(CELLS).str.len_chars().mean() or 0)) > 64
    # an id may come again, but a brand or a day comes more often
    if long or len(ids) <= 0.5 * len(column) or len(distinct) < 0.5 * len(ids):
        return None
    return distinct


def _split(left: dict[str, Column]) -> tuple[str, str] | None:
    for name, column in left.items():
        ids = column.pieces if column.is_list else column.ids
        values = set(ids.unique(maintain_order=True).head(20).str.to_lowercase())
        tests = {value for value in values if SPLIT_NAMES.get(value) == 2}
        if values and tests and values <= set(SPLIT_NAMES):
            return name, f"its values are {', '.join(sorted(values))}"
    return None


def _time(left: dict[str, Column]) -> tuple[str, str] | None:
    guessed: dict[str, tuple[int, str]] = {}
    for name, column in left.items():
        if isinstance(column.dates, Times) and (column.dates.values.max() or 0) > DAY:  # type: ignore[operator]
            why = "; ".join(("its values are dates", *column.dates.notes))
            guessed[name] = (len(column.distinct), why)
        elif column.numbers is not None:
            low, high = float(str(column.numbers.min())), float(str(column.numbers.max()))
            if unit := unit_of(low, high):
                why = f"its values are moments in {unit} since 1970"
                guessed[name] = (len(column.distinct), why)
            elif low >= 19850101 and high <= 20961231 and _all_days(column.numbers):
                guessed[name] = (len(column.distinct), "its values are days such as 20240131")
    usual = [name for name in left if left[name].named("time")]
    for name in usual:
        if name in guessed or left[name].numbers is not None:
            return name, guessed.get(name, (0, "by its name"))[1]
    if not guessed:
        return None
    best = max(guessed, key=lambda name: guessed[name][0])
    return best, guessed[best][1]


def _all_days(numbers: pl.Series) -> bool:
    days = numbers.cast(pl.Int64, strict=False).cast(pl.String)
    return not days.str.to_date("%Y%m%d", strict=False).null_count()


def _no_time(left: dict[str, Column]) -> list[str]:
    """Why no column holds the time."""
    refused = [
        f"time: column {name!r} looks like dates, but cannot be read: {column.dates}, and "
        f"data.columns.time = {name!r}"
        for name, column in left.items()
        if isinstance(column.dates, DataError)
    ]
    return refused or [
        "time: no column holds dates or moments: a user's rows count as oldest first in the file"
    ]


def _quantity(left: dict[str, Column]) -> tuple[str, str] | None:
    for name, column in left.items():
        if column.named("quantity") and column.numbers is not None:
            below = int((column.numbers <= 0).sum())
            return name, f"by its name; {below:,} rows with 0 or less, cancelled, are left out"
    return None


def _rating(left: dict[str, Column]) -> tuple[str, str] | None:
    for name, column in left.items():
        numbers = column.numbers
        if numbers is None:
            continue
        values = sorted(numbers.unique(maintain_order=True).head(100))
        steps = all((2 * value).is_integer() for value in values)
        if not (1 < len(values) <= 21 and steps and values[0] >= 0 and values[-1] <= 10):
            continue
        if column.named("rating") or values[-1] in (5, 10):
            return name, f"{len(values)} values from {values[0]:g} to {values[-1]:g}"
    return None


_STRONG = re.compile(r"purchase|buy|bought|order|cart|basket|sale|transaction|checkout", re.I)
"""Kinds of events that say more of a user than a view or a click."""


def _events(left: dict[str, Column]) -> tuple[str, str] | None:
    for name, column in left.items():
        if column.named("event") and 1 < len(column.distinct) <= 20:
            counts = column.ids.value_counts(sort=True).rows()
            kinds = ", ".join(f"{kind} ({count:,})" for kind, count in counts)
            strong = [kind for kind, _ in counts if _STRONG.search(kind)]
            some = ", ".join(f'"{kind}"' for kind in strong or [kind for kind, _ in counts[1:3]])
            return name, f"it holds {kinds}; all are kept, until you set data.events = [{some}]"
    return None


def _texts_inside(
    left: dict[str, Column], found: dict[str, str], reasons: list[str], known: Columns
) -> list[str]:
    """Finds the item and its texts where each row describes its item; adds `item` to `found`."""
    free = {name: one for name, one in left.items() if not one.named("user")}
    words = {name: one.words for name, one in free.items() if one.numbers is None}
    texts = (
        known.texts
        or [name for name in words if words[name] >= 1.5]
        or [name for name in words if words[name] >= 0.9 and free[name].without_digits > 0.9]
    )
    if not texts:
        raise DataError(
            f"{next(iter(left.values())).path}: no column holds texts that describe "
            "items; give a second file with the items and their texts"
        )
    title = max(texts, key=lambda name: (plain(name) in TITLES, len(free[name].distinct)))
    usual = [known.item] if known.item else [name for name in free if left[name].named("item")]
    others = [name for name in free if name not in texts and not free[name].has_fractions]
    sure = [name for name in others if free[name].predicts(free[title]) >= 0.8]
    item = next(iter(usual + sorted(sure, key=lambda name: -len(free[name].distinct))), title)
    found["item"] = item
    why = (
        "no column holds ids of items, so each is known by its text"
        if item == title
        else ("by its name" if item in usual else f"each value has one {title!r}")
    )
    reasons.append(f"item: column {item!r}: {why}")
    kept = known.texts or [
        n for n in free if n == title or (n != item and free[item].predicts(free[n]) >= 0.8)
    ]
    reasons.append(f"texts: columns {', '.join(kept)}: an item's rows agree on them")
    return kept


def _order(
    columns: dict[str, Column], left: dict[str, Column], found: dict[str, str], reasons: list[str]
) -> tuple[str, bool]:
    """A column that orders interactions at one time, and whether they are many without it."""
    user, time = (columns[found[role]] for role in ("user", "time"))
    frame = pl.DataFrame(
        {
            "user": id_text(user.values, user.path),
            "time": seconds(time.values, time.path).values,
            "row": pl.int_range(len(user.values), eager=True),
        }
    )
    frame = frame.drop_nulls()
    rows = frame.drop_in_place("row")
    share = _tied(frame)
    if share < MANY_TIES:
        return "", False
    ties = f"{share:.0%} of a user's neighbouring interactions have the same {time.name!r}"
    for name, column in left.items():
        hinted = any(word in plain(name) for word in _ORDERS) and not plain(name).endswith("id")
        clock = isinstance(column.dates, Times)
        if hinted and (clock or column.numbers is not None):
            finer = _tied(
                frame.with_columns(finer=seconds(column.values, column.path).values.gather(rows))
            )
            if finer <= 0.5 * share:
                reasons.append(f"order: column {name!r}: {ties}, and it orders them")
                return name, False
    reasons.append(
        f"ties = drawn: {ties}: is there a finer column? Set data.columns.order; until then their "
        "order is random, as that of the file may tell what comes next"
    )
    return "", True


def _tied(frame: pl.DataFrame) -> float:
    """The share of neighbours within users that are alike in all columns."""
    rows = frame.sort(frame.columns)
    pairs = rows.select(
        user=(pl.col("user") == pl.col("user").shift(1)).sum(),
        same=(pl.struct(pl.all()) == pl.struct(pl.all()).shift(1)).sum(),
    ).row(0)
    return pairs[1] / pairs[0] if pairs[0] else 0.0


def liked_threshold(ratings: pl.Series, reasons: list[str]) -> float | None:
    """A `min_rating` that keeps what was liked; None where all ratings are the same."""
    text = ratings.cast(pl.String, strict=False).str.replace(",", ".", literal=True)
    numbers = text.cast(pl.Float64, strict=False).drop_nulls().drop_nans()
    values = sorted(numbers.unique())
    if len(values) < 2 or values[-1] <= 0:
        return None
    least = float(next(value for value in values if value >= 0.7 * values[-1]))
    liked = float(str((numbers >= least).mean()))
    reasons.append(
        f"min_rating = {least:g}: people rated what they disliked too; this keeps the {liked:.0%} "
        "that they liked. Remove it to keep all"
    )
    return least


def _user(
    left: dict[str, Column], a_row_each: bool, rows: int, path: Path
) -> tuple[str, str] | None:
    usual = [name for name in USUAL_NAMES["user"] for column in left if plain(column) == name]
    for name in left:
        if usual and plain(name) == usual[0]:
            return name, "by its name"
    sizes = {}
    for name, column in left.items():
        size = len(column.distinct)
        enough = size > 0.9 * rows if a_row_each else 1 < size <= 0.8 * rows
        if not column.values.dtype.is_nested() and not column.has_fractions and enough:
            sizes[name] = size
    ranked = sorted(sizes, key=lambda name: -sizes[name])
    if not ranked and a_row_each:
        return None
    if not ranked:
        raise DataError(
            f"{path}: no column's values come again as a user's do; which is the user? Set "
            f"data.columns.user; the columns left are {', '.join(left) or 'none'}"
        )
    if len(ranked) > 1 and sizes[ranked[1]] > 0.1 * sizes[ranked[0]]:
        raise DataError(
            f"{path}: is {ranked[0]!r} or {ranked[1]!r} the user? Set data.columns.user"
        )
    each = rows / sizes[ranked[0]]
    return ranked[0], f"{sizes[ranked[0]]:,} values, {each:.1f} rows each"
