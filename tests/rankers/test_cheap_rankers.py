"""The cheap rankers: hand-computed scores, what must not matter, and what nothing is known of."""

from __future__ import annotations

import math
import random

import numpy as np
import polars as pl
import pytest
from fitting import fitted, given
from hypothesis import given as drawn
from hypothesis import settings
from hypothesis import strategies as st

from trsr.data import Catalog
from trsr.errors import ConfigError
from trsr.rankers import FitData, FitOptions, RankSettings
from trsr.rankers.baselines.item_knn import InteractionMatrix, ease_weights
from trsr.rankers.baselines.text_knn import TextKnnRanker
from trsr.rankers.item_text import TextEmbedder, item_text
from trsr.rankers.settings import ranker_class
from trsr.types import Interaction, Item, Query, UserHistory

TITLES = {
    "a": "steel bolt",
    "b": "steel  bolt ",  # a's text, once white space is folded
    "c": "copper wire",
    "d": "steel wire wire",
    "e": None,
    "f": "blue lamp",
}
CATALOG = Catalog(pl.DataFrame({"id": list(TITLES), "title": list(TITLES.values())}))
# a: u v w, b: u v, c: u, d: w; e and f nobody. v met a twice.
LOG = pl.DataFrame(
    [
        *(("u", "a", 1.0), ("u", "b", 2.0), ("u", "c", 9.0)),
        *(("v", "a", 3.0), ("v", "b", 4.0), ("v", "a", 8.0)),
        *(("w", "a", 5.0), ("w", "d", 11.0)),
    ],
    schema=["user", "item", "time"],
    orient="row",
)
CHEAP = ["popular_recent", "bm25", "item_knn", "item_knn_recent", "ease", "text_knn"]


def query(history: str, candidates: str = "abcdef", name: str = "q", start: float = 20.0) -> Query:
    times = (Interaction(CATALOG[item], start + n) for n, item in enumerate(history))
    return Query(name, UserHistory("x", tuple(times)), tuple(CATALOG[item] for item in candidates))


def scored(ranker, asked: Query) -> dict[str, float]:
    (ranked,) = ranker.rank([asked])
    return {entry.item: entry.score for entry in ranked}


def made(name: str, log: pl.DataFrame = LOG, catalog: Catalog = CATALOG, **table):
    """A fitted ranker, of the settings that it tries the first one, or this."""
    owner = ranker_class(name)
    with pytest.MonkeyPatch.context() as patch:
        if table:
            patch.setattr(owner, "tried", [{**owner.tried[0], **table}])
        return fitted(name, catalog, log)


def knn(shrinkage: float, last: int | None = None, decay: float = 1.0, popularity: float = 0.0):
    if last is None and decay == 1.0:
        return made("item_knn", shrinkage=shrinkage, popularity=popularity)
    own = {"last": last or 0, "decay": decay, "popularity": popularity}
    return made("item_knn_recent", shrinkage=shrinkage, **own)


# --- item_knn


def test_item_knn_is_the_cosine_over_users_with_shrinkage() -> None:
    # a and b share u, v; a and c share u; a and d share w: 3, 2, 1, 1 users met a, b, c, d
    assert scored(knn(0.0), query("a")) == pytest.approx(
        {"a": 0, "b": 2 / 6**0.5, "c": 1 / 3**0.5, "d": 1 / 3**0.5, "e": 0, "f": 0}
    )
    assert scored(knn(5.0), query("ca", "b")) == pytest.approx(
        {"b": 2 / (6**0.5 + 5) + 1 / (2**0.5 + 5)}
    )


def test_item_knn_recent_takes_the_last_few_and_decays() -> None:
    whole = scored(knn(0.0, decay=0.5), query("dca", "b"))
    assert whole == pytest.approx({"b": 2 / 6**0.5 + 0.5 / 2**0.5})
    last = scored(knn(0.0, last=1), query("adc"))
    assert last == scored(knn(0.0), query("c"))
    # the age counts unknown items too: c is two steps before the end
    assert scored(knn(0.0, decay=0.5), query("cef", "a")) == pytest.approx({"a": 0.25 / 3**0.5})


@pytest.mark.parametrize(
    "make",
    [
        lambda popularity: knn(0.0, popularity=popularity),
        lambda popularity: made("ease", penalty=5.0, popularity=popularity),
    ],
)
def test_popularity_is_added_and_orders_what_the_history_tells_nothing_of(make) -> None:
    # 3, 2, 1, 1 users met a, b, c, d; nobody e and f
    popularity_share = {
        item: math.log1p(n) / math.log1p(3)
        for item, n in zip("abcdef", (3, 2, 1, 1, 0, 0), strict=True)
    }
    without, added = scored(make(0.0), query("ca")), scored(make(0.25), query("ca"))
    assert added == pytest.approx(
        {item: without[item] + 0.25 * popularity_share[item] for item in popularity_share}
    )
    assert scored(make(0.25), query("")) == pytest.approx(
        {i: 0.25 * popularity_share[i] for i in popularity_share}
    )
    # where nothing is known of a history popularity is all there is, whatever its weight
    for unknown in ("", "ef"):
        assert scored(make(0.0), query(unknown)) == pytest.approx(popularity_share)


# --- popular_recent


def test_popular_recent_counts_a_window_that_ends_before_the_history_does() -> None:
    # the log spans 1 to 11; a window of half is 5 long
    ranker = made("popular_recent", share=0.5)
    at_8 = query("f", start=8.0)  # [3, 8): a at 3 and 5, not at 8; b at 4
    assert scored(ranker, at_8) == {"a": 2, "b": 1, "c": 0, "d": 0, "e": 0, "f": 0}
    after = query("f", start=11.0)  # [6, 11)
    assert scored(ranker, after) == {"a": 1, "b": 0, "c": 1, "d": 0, "e": 0, "f": 0}


def test_popular_recent_of_an_empty_history_ends_with_training() -> None:
    ending = {"a": 1, "b": 0, "c": 1, "d": 1, "e": 0, "f": 0}  # [6, 11]
    assert scored(made("popular_recent", share=0.5), query("")) == ending


@settings(max_examples=20)
@drawn(st.floats(0, 15), st.floats(0.05, 1), st.integers(0, 5))
def test_popular_recent_never_sees_what_came_later(now: float, share: float, seed: int) -> None:
    draw = random.Random(seed)
    later = [("z", draw.choice("abcd"), now + draw.random()) for _ in range(9)]
    ends = pl.DataFrame([("y", "f", 0.0), ("y", "f", 16.0)], schema=LOG.schema, orient="row")
    more = pl.DataFrame(later, schema=LOG.schema, orient="row")
    without = made("popular_recent", pl.concat([LOG, ends]), share=share)
    with_more = made("popular_recent", pl.concat([LOG, ends, more]), share=share)
    asked = query("f", "abcde", start=now)
    assert without.window_ == with_more.window_
    assert scored(without, asked) == scored(with_more, asked)


def test_no_interactions_at_all_are_no_error() -> None:
    for name in ("popular", "popular_recent", "item_knn", "ease"):
        assert set(scored(made(name, LOG.clear()), query("ab")).values()) == {0.0}


# --- ease


@pytest.mark.parametrize("penalty", [0.5, 10.0])
def test_ease_is_the_closed_form_of_the_paper(penalty: float) -> None:
    # Rows u, v, w; columns a, b, c, d.
    x = np.array([[1, 1, 1, 0], [1, 1, 0, 0], [1, 0, 0, 1]], float)
    p = np.linalg.inv(x.T @ x + penalty * np.eye(4))
    b = np.eye(4) - p @ np.diag(1 / np.diag(p))  # equation 8, whose diagonal comes out as 0
    # a once, though it stands twice
    found = scored(made("ease", penalty=penalty, popularity=0.0), query("aba"))
    wanted = dict(zip("abcd", b[0] + b[1], strict=True)) | {"e": 0.0, "f": 0.0}
    assert found == pytest.approx(wanted)


def test_ease_solves_its_least_squares_problem() -> None:
    # The definition, not the closed form: no small change that keeps the diagonal 0 is better.
    draw = np.random.default_rng(0)
    x = (draw.random((40, 6)) < 0.4).astype(float)
    users, items = np.nonzero(x)
    log = pl.DataFrame({"user": [f"u{n}" for n in users], "item": [f"i{n}" for n in items]})
    weights = ease_weights(
        InteractionMatrix(log, Catalog(pl.DataFrame({"id": ["i0"]})), "test"), 3.0
    )

    def loss(b):
        return ((x - x @ b) ** 2).sum() + 3.0 * (b**2).sum()

    best = loss(weights)
    assert np.diag(weights) == pytest.approx(np.zeros(6))
    for _ in range(50):
        change = draw.normal(size=(6, 6)) * 1e-3
        np.fill_diagonal(change, 0)
        assert loss(weights + change) > best


def test_ease_refuses_a_catalog_that_its_inverse_cannot_hold(monkeypatch) -> None:
    monkeypatch.setattr("trsr.rankers.baselines.item_knn.memory", lambda: 4 * 4 * 28)
    fitted("ease", CATALOG, LOG, RankSettings())
    monkeypatch.setattr("trsr.rankers.baselines.item_knn.memory", lambda: 4 * 4 * 28 - 1)
    with pytest.raises(ConfigError, match=r"all 4 items .* GiB, and this machine has"):
        fitted("ease", CATALOG, LOG, RankSettings())


# --- bm25


def lucene_bm25(term_counts: list[dict[str, int]], asked: list[str], doc: int) -> float:
    n = len(term_counts)
    lengths = [sum(one.values()) for one in term_counts]
    total = 0.0
    for term in asked:
        found = sum(term in one for one in term_counts)
        tf = term_counts[doc].get(term, 0)
        idf = math.log(1 + (n - found + 0.5) / (found + 0.5))
        length = lengths[doc] / (sum(lengths) / n)
        total += idf * tf / (tf + 1.5 * (1 - 0.75 + 0.75 * length))
    return total


def test_bm25_is_the_textbook_formula_summed_over_the_history() -> None:
    terms = [
        *({"steel": 1, "bolt": 1}, {"steel": 1, "bolt": 1}, {"copper": 1, "wire": 1}),
        *({"steel": 1, "wire": 2}, {}, {"blue": 1, "lamp": 1}),
    ]
    found = scored(made("bm25", last=0, decay=0.5), query("ca"))
    for doc, item in enumerate(TITLES):
        latest = lucene_bm25(terms, ["steel", "bolt"], doc)
        before = lucene_bm25(terms, ["copper", "wire"], doc)
        assert found[item] == pytest.approx(latest + 0.5 * before), item
    assert found["a"] == found["b"]
    assert found["e"] == found["f"] == 0
    assert scored(made("bm25", last=1, decay=0.5), query("ca")) == scored(
        made("bm25", last=0, decay=0.5), query("a")
    )


def test_bm25_reads_texts_outside_the_catalogue() -> None:
    outside = Item("z", (("title", "blue thing"),))
    history = UserHistory("x", (Interaction(outside, 1.0),))
    asked = Query("q", history, (outside, CATALOG["f"], CATALOG["a"]))
    found = scored(made("bm25", last=0, decay=1.0), asked)
    assert found["f"] > 0
    assert found["z"] > found["a"] == 0
    # as if it were in the catalog: equal texts tie, whatever the words and how long the text
    ranker = made("bm25", last=0, decay=0.5)
    for name in CATALOG.ids:
        twin, bare = Item("z", CATALOG[name].fields), Item("y", (("title", "never met"),))
        asked = Query("q", query("ca").history, (twin, bare, *CATALOG))
        found = scored(ranker, asked)
        assert found["z"] == found[name]
        assert found["y"] == 0


def test_bm25_of_texts_without_words_is_no_error() -> None:
    bare = Catalog(pl.DataFrame({"id": ["a", "b"], "title": ["!", None]}))
    history = UserHistory("x", (Interaction(CATALOG["c"], 1.0),))
    asked = Query("q", history, (bare["a"], bare["b"]))
    assert scored(made("bm25", LOG, bare, last=0, decay=1.0), asked) == {"a": 0, "b": 0}


def test_the_text_of_an_item_is_the_named_columns_in_their_order() -> None:
    item = Item("i", (("title", "A  B"), ("brand", "C"), ("note", "one two three")))
    assert item_text(item, RankSettings()) == "A B. C. one two three"
    some = RankSettings(text_fields=("note", "title", "none"), text_words=2)
    assert item_text(item, some) == "one two. A B"


# --- text_knn


class Compass:
    """Texts in a plane: `steel` is east, `copper` north, `blue` north-east, the rest west."""

    identity = "1" * 32

    def encode(self, texts):
        half = math.sqrt(0.5)
        known = {"steel": (1, 0), "copper": (0, 1), "blue": (half, half)}
        return np.array([known.get(text.split(" ", 1)[0], (-1, 0)) for text in texts], np.float32)


def text_knn(profile: str, decay: float = 1.0) -> TextKnnRanker:
    ranker = TextKnnRanker(None, given(CATALOG), "text_knn")
    ranker.embed = TextEmbedder(Compass)
    ranker.fit(FitData(CATALOG, LOG), FitOptions())
    return ranker.with_profile(profile, decay)


def test_text_profiles_by_hand() -> None:
    half = math.sqrt(0.5)
    asked = query("acd", "acf")  # east, north, east
    # the mean points to (2, 1)/√5
    five = math.sqrt(5)
    assert scored(text_knn("mean"), asked) == pytest.approx(
        {"a": 2 / five, "c": 1 / five, "f": 3 * half / five}, abs=1e-6
    )
    assert scored(text_knn("last"), asked) == pytest.approx(
        {"a": 1.0, "c": 0.0, "f": half}, abs=1e-6
    )
    # 1·east + ½·north + ¼·east = (1.25, .5)
    length = math.hypot(1.25, 0.5)
    assert scored(text_knn("decayed", 0.5), asked) == pytest.approx(
        {"a": 1.25 / length, "c": 0.5 / length, "f": 1.75 * half / length}, abs=1e-6
    )
    # the three nearest of east, north, east, east to a are the easts
    assert scored(text_knn("max3"), query("acda", "acf")) == pytest.approx(
        {"a": 1.0, "c": 1 / 3, "f": half}, abs=1e-6
    )
    assert scored(text_knn("max3"), query("ac", "a")) == pytest.approx({"a": 0.5}, abs=1e-6)


@pytest.mark.parametrize("profile", ["mean", "last", "decayed", "max3"])
def test_text_knn_knows_nothing_without_text(profile: str) -> None:
    ranker = text_knn(profile, 0.5)
    assert scored(ranker, query("a"))["e"] == 0
    for history in ("", "e"):
        assert set(scored(ranker, query(history)).values()) == {0.0}
    outside = Query("q", query("a").history, (Item("z", (("title", "steel z"),)),))
    assert scored(ranker, outside) == pytest.approx({"z": 1.0})


# --- all of them


@pytest.mark.parametrize("name", CHEAP)
@settings(max_examples=10)
@drawn(data=st.data())
def test_neither_the_order_of_candidates_nor_the_other_queries_matter(name: str, data) -> None:
    ranker = made(name)
    histories = data.draw(st.lists(st.text("abcdef", max_size=6), min_size=1, max_size=4))
    queries = [query(history, name=f"q{n}") for n, history in enumerate(histories)]
    shuffled = data.draw(st.permutations("abcdef"))
    turned = [query(h, "".join(shuffled), f"q{n}") for n, h in enumerate(histories)][::-1]
    forth = {one.query: {e.item: e.score for e in one} for one in ranker.rank(queries)}
    back = {one.query: {e.item: e.score for e in one} for one in ranker.rank(turned)}
    for one, other in zip(forth.values(), (back[name] for name in forth), strict=True):
        # a sum of products may round by its place; no setting of the others does
        assert one == (pytest.approx(other, abs=1e-11) if name == "text_knn" else other)


@pytest.mark.parametrize("name", ["bm25", "text_knn"])
@settings(max_examples=10)
@drawn(st.text("abcdef", max_size=6))
def test_items_with_the_same_text_tie(name: str, history: str) -> None:
    found = scored(made(name), query(history))
    assert found["a"] == found["b"]


@pytest.mark.parametrize("name", ["bm25", "text_knn"])
def test_an_empty_history_is_no_evidence(name: str) -> None:
    assert set(scored(made(name), query("")).values()) == {0.0}


@pytest.mark.parametrize("name", ["item_knn", "item_knn_recent", "ease"])
def test_an_empty_history_is_answered_by_popularity(name: str) -> None:
    found = scored(made(name), query(""))
    assert found["a"] > found["b"] > found["c"] == found["d"] > found["e"] == found["f"] == 0


@pytest.mark.parametrize("name", ["popular_recent", "item_knn", "item_knn_recent", "ease"])
def test_items_that_nobody_met_score_as_nothing_known(name: str) -> None:
    found = scored(made(name), query("ab"))
    assert found["e"] == found["f"] == 0
