"""The ranker number_knn: hand-computed scores, what has no number, and how the column is chosen."""

from __future__ import annotations

import math
from collections.abc import Iterable

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trsr.data import Catalog
from trsr.errors import ConfigError
from trsr.evaluate import evaluate
from trsr.rank import RankContext, RankSettings, make_ranker
from trsr.rank.number_knn import ColumnNumbers, NumberKnnRanker, number_columns
from trsr.rank.text_number import mostly_years, number_in
from trsr.types import Case, Interaction, Item, Query, UserHistory

TITLES = {
    "a": "1984 (1956)",  # the year of its making stands last
    "b": "Toy Story (1995)",
    "c": "GoldenEye (1995)",
    "d": "Vertigo (1958)",
    "e": None,
    "f": "Fargo (1996)",
    "g": "Apollo 13",  # no year
}
SPAN = 1996 - 1956
LOG = pl.DataFrame({"user": ["u"], "item": ["a"], "time": [1.0]})


def catalog(**columns: Iterable[str | None]) -> Catalog:
    return Catalog(pl.DataFrame({"id": list(TITLES)} | {k: list(v) for k, v in columns.items()}))


CATALOG = catalog(title=TITLES.values())


def query(history: str, candidates: str = "abcdefg", name: str = "q", of: Catalog = CATALOG):
    times = (Interaction(of[item], float(n)) for n, item in enumerate(history))
    return Query(name, UserHistory("x", tuple(times)), tuple(of[item] for item in candidates))


def ranker(last: int = 0, to: str = "nearest") -> NumberKnnRanker:
    numbers = ColumnNumbers("title", [title or "" for title in TITLES.values()])
    return NumberKnnRanker(numbers, last, to)


def scored(ranker, asked: Query) -> dict[str, float]:
    (ranked,) = ranker.rank([asked])
    return {entry.item: entry.score for entry in ranked}


def context(of: Catalog, cases: Iterable[Case] = (), **changes) -> RankContext:
    def judge(tuned: bool):
        raise AssertionError("no cheap ranker asks a language model")

    def quality(asked, lists):
        return evaluate(asked, {"x": lists}, ("ndcg@10", "auc")).means("x")

    valid = list(cases)
    return RankContext(of, LOG, 0, judge, validation=lambda: valid, quality=quality, **changes)


# --- the number of a text


def test_a_text_gives_its_last_year_or_its_first_number() -> None:
    assert number_in("1984 (1956), 120 min", years=True) == 1956
    assert number_in("3.5 inch, 12 pieces of 1999", years=False) == 3.5
    assert math.isnan(number_in("Apollo 13", years=True))
    assert math.isnan(number_in("19956", years=True))  # five digits are no year
    assert math.isnan(number_in("", years=False))
    assert mostly_years(["in 1999", "in 2001", ""])
    assert not mostly_years(["in 1999", "12", "", "in 2001"])  # half is not most
    assert not mostly_years([])


def test_a_code_of_many_digits_is_no_number() -> None:
    numbers = ColumnNumbers("code", ["9" * 400, "9" * 16, "7", "9"])
    assert (numbers.count, numbers.share, numbers.span) == (2, 0.5, 2.0)


# --- scores


def test_the_score_is_minus_the_distance_to_the_nearest() -> None:
    # the history is of 1995 and 1958
    assert scored(ranker(), query("bd")) == {
        **{"a": -2, "b": 0, "c": 0, "d": 0, "f": -1},
        **{"e": -SPAN, "g": -SPAN},
    }


def test_or_minus_the_mean_distance_to_all() -> None:
    # 1995, 1958 and 1996
    assert scored(ranker(to="mean"), query("bdf")) == pytest.approx(
        {
            **{"a": -(39 + 2 + 40) / 3, "b": -(37 + 1) / 3, "c": -(37 + 1) / 3},
            **{"d": -(37 + 38) / 3, "f": -(1 + 38) / 3, "e": -SPAN, "g": -SPAN},
        }
    )


@pytest.mark.parametrize("to", ["nearest", "mean"])
def test_only_the_last_items_count(to: str) -> None:
    assert scored(ranker(1, to), query("bdf")) == scored(ranker(0, to), query("f"))
    assert scored(ranker(2, to), query("bdf")) == scored(ranker(0, to), query("df"))
    assert scored(ranker(9, to), query("bdf")) == scored(ranker(0, to), query("bdf"))
    # an item without a number is one of the last, and is passed over
    assert scored(ranker(2, to), query("bde")) == scored(ranker(0, to), query("d"))


@pytest.mark.parametrize("to", ["nearest", "mean"])
@pytest.mark.parametrize("history", ["", "e", "eg", "be"])
def test_a_history_without_a_number_is_no_evidence(history: str, to: str) -> None:
    assert set(scored(ranker(1, to), query(history)).values()) == {0.0}


@pytest.mark.parametrize("to", ["nearest", "mean"])
def test_items_outside_the_catalogue_are_read_from_their_own_text(to: str) -> None:
    new = Item("new", (("title", "Nikita (1990)"),))
    far = Item("far", (("title", "Metropolis (1827)"),))
    bare = Item("bare", (("plot", "in 1990"),))
    history = UserHistory("x", (Interaction(new, 1.0), Interaction(bare, 2.0)))
    found = scored(ranker(0, to), Query("q", history, (CATALOG["b"], new, far, bare)))
    # none is farther than the catalogue's numbers are from each other
    assert found == {"b": -5, "new": 0, "far": -SPAN, "bare": -SPAN}


@settings(deadline=None, max_examples=50)
@given(
    st.lists(st.text("abcdefg", max_size=6), min_size=1, max_size=4),
    st.permutations("abcdefg"),
    st.integers(0, 3),
    st.sampled_from(["nearest", "mean"]),
)
def test_neither_the_order_of_candidates_nor_the_other_queries_matter(
    histories: list[str], shuffled: list[str], last: int, to: str
) -> None:
    one = ranker(last, to)
    queries = [query(history, name=f"q{n}") for n, history in enumerate(histories)]
    turned = [query(h, "".join(shuffled), f"q{n}") for n, h in enumerate(histories)][::-1]
    forth = {ranked.query: {e.item: e.score for e in ranked} for ranked in one.rank(queries)}
    back = {ranked.query: {e.item: e.score for e in ranked} for ranked in one.rank(turned)}
    assert forth == back
    for found in forth.values():
        assert found["b"] == found["c"]  # equal numbers tie
        assert min(found.values()) == found["e"] == found["g"] >= -SPAN
        assert max(found.values()) <= 0


# --- the column


PRICES = [f"{n}.50 euro" for n in range(7)]
YEARS = [f"of {1990 + n * n % 7}" for n in range(7)]


def test_columns_with_numbers_are_taken_in_the_order_of_the_settings() -> None:
    several = catalog(title=TITLES.values(), price=PRICES, made=YEARS)
    assert list(number_columns(several, RankSettings())) == ["price", "made"]
    named = RankSettings(text_fields=("made", "title", "price", "none"))
    found = number_columns(several, named)
    assert list(found) == ["made", "price"]
    assert found["price"].span == 6


@pytest.mark.parametrize(
    ("columns", "fields", "said"),
    [
        (
            {"title": TITLES.values(), "note": ["1", *[""] * 6]},
            (),
            r"90 % of the items .* in all text columns, and the most have one in title: 5 of 7 "
            r"items, 71\.4 %\. .* take number_knn out of where it stands: rank\.rankers, ",
        ),
        (
            {"title": TITLES.values(), "price": PRICES},
            ("title",),
            r"in rank\.text_fields, and the most have one in title",
        ),
        ({"price": PRICES}, ("none",), r"in rank\.text_fields, and there is no text column"),
        ({}, (), r"in all text columns, and there is no text column"),
    ],
)
def test_no_column_with_numbers_is_an_error(columns, fields, said) -> None:
    with pytest.raises(ConfigError, match=said):
        make_ranker(
            "number_knn", context(catalog(**columns), settings=RankSettings(text_fields=fields))
        )


def test_a_catalogue_without_items_is_an_error_too() -> None:
    empty = Catalog(pl.DataFrame({"id": [], "title": []}, schema={"id": str, "title": str}))
    with pytest.raises(ConfigError, match="in title: 0 of 0 items"):
        make_ranker("number_knn", context(empty))


# --- the choice


def test_validation_chooses_the_column_and_how_many_items_count() -> None:
    several = catalog(made=YEARS, price=PRICES)
    # who took an item takes the one whose price comes next, whatever was taken before
    pairs = ["eab", "fbc", "gcd", "ade", "bef", "cfg"]
    cases = [Case(query(pair[:2], "abcdefg", pair, several), frozenset(pair[2])) for pair in pairs]
    chosen = make_ranker("number_knn", context(several, cases)).chosen
    assert (chosen["column"], chosen["last"]) == ("price", 1)
    # 2 columns; 3 of the 4 `last` have two distances
    assert chosen["why"] == "best of 14 on 6 validation cases"
    assert "at_end" not in chosen
    first = make_ranker("number_knn", context(several)).chosen
    assert (first["column"], first["last"], first["to"]) == ("made", 3, "nearest")


def test_rankings_depend_on_the_settings_that_it_reads() -> None:
    assert set(RankSettings(rankers=("number_knn",)).meaning()) == {
        *("rankers", "number_knn", "text_fields", "tune_on", "tune_cases")
    }
