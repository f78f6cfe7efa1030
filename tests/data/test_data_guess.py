"""What `trsr init` guesses about two files nobody has described."""

from __future__ import annotations

import random
import tomllib
from pathlib import Path
from typing import Any

import pytest

from trsr.config import start
from trsr.config.start import first_settings
from trsr.data import guess, inspect
from trsr.errors import DataError

WORDS = (
    "quiet",
    "harbour",
    "night",
    "story",
    "winter",
    "garden",
    "letter",
    "music",
    "river",
    "sea",
)


def films(n: int = 60) -> list[tuple[object, ...]]:
    draw = random.Random(1)
    return [
        (
            100 + 7 * k,
            f"The {WORDS[k % 10].title()} {k} ({1950 + k})",
            draw.choice(["Drama", "Comedy, Crime", "Thriller"]),
            " ".join(draw.choices(WORDS, k=40)),
            f"https://pictures.example/{k}.jpg",
        )
        for k in range(n)
    ]


def ratings(users: int = 40, each: int = 8, n: int = 60) -> list[tuple[int, int, float, int]]:
    draw = random.Random(2)
    return [
        (user, 100 + 7 * item, draw.randrange(1, 11) / 2, 1_500_000_000 + draw.randrange(10**8))
        for user in range(1, users + 1)
        for item in draw.sample(range(n), each)
    ]


def test_names_that_say_nothing_are_reported_by_values(bench: Any) -> None:
    rows = [(f"{time}", rating, item, user, "ok") for user, item, rating, time in ratings()]
    clicks = bench.table("x.csv", ("c1", "c2", "c3", "c4", "c5"), rows, ";")
    things = [(text, link, number, kind, name) for number, name, kind, text, link in films()]
    items = bench.table("y.csv", ("k1", "k2", "k3", "k4", "k5"), things, ";")
    found = guess(clicks, items)
    columns = found.settings.columns
    assert (columns.time, columns.rating, columns.item, columns.user) == ("c1", "c2", "c3", "c4")
    assert columns.item_id == "k3"
    assert found.fields == ("k5", "k4", "k1")
    assert found.domain == "films"
    assert found.settings.min_rating == 3.5
    assert inspect(found.settings, seed=0).counts["users"] == 40
    message = "\n".join(found.reasons)
    for word in ("separated by ';'", "'c3'", "'c4'", "moments in seconds", "min_rating", "k2"):
        assert word in message
    assert "not read of the interactions: c5" in found.reasons


def test_no_header_is_seen(bench: Any) -> None:
    clicks = bench.table("x.tsv", (), ratings(), "\t")
    items = bench.table("y.csv", ("item", "title"), [row[:2] for row in films()])
    found = guess(clicks, items)
    assert not found.settings.header
    assert found.settings.items_header
    columns = found.settings.columns
    assert (columns.user, columns.item, columns.rating, columns.time) == ("1", "2", "3", "4")
    assert inspect(found.settings, seed=0).counts["interactions_read"] == 320


def test_a_title_that_most_items_lack_is_said(bench: Any) -> None:
    clicks = bench.table("x.csv", ("user", "item", "rating", "time"), ratings())
    rows = [(k, text if n % 10 == 0 else "", text) for n, (k, text, *_) in enumerate(films())]
    found = guess(clicks, bench.table("y.csv", ("item", "title", "name"), rows))
    assert "'title' looks like the title" in "\n".join(found.reasons)
    assert "of the items have none)" in "\n".join(found.reasons)


def test_sequences_products_and_latin_1(bench: Any) -> None:
    draw = random.Random(3)
    people = [(f"p{p}", " ".join(f"B{draw.randrange(60):03}" for _ in range(7))) for p in range(50)]
    clicks = bench.table("baskets.csv", ("person", "stuff"), people)
    goods = "sku,name,brand,price\n" + "".join(
        f"B{k:03},Café table {k} inch,Müller,{k}.50\n" for k in range(60)
    )
    items = bench.raw("stock.csv", goods.encode("latin-1"))
    found = guess(clicks, items)
    assert found.settings.columns.sequence == "stuff"
    assert found.settings.columns.user == "person"
    assert found.settings.encoding == "cp1252"
    assert found.domain == "products"
    assert found.fields == ("name", "brand", "price")
    assert inspect(found.settings, seed=0).counts["users"] == 50


def test_plain_clicks_have_no_rating_and_a_given_split_is_seen(bench: Any) -> None:
    rows = [
        (user, item, time, "test" if time % 5 == 0 else "train")
        for user, item, _, time in ratings()
    ]
    clicks = bench.table("c.csv", ("visitor_id", "movie", "ts", "fold"), rows)
    items = bench.table("m.csv", ("movie", "title"), [row[:2] for row in films()])
    found = guess(clicks, items)
    assert found.settings.min_rating is None
    assert found.settings.split == "given"
    assert found.settings.columns.split == "fold"


def test_unknown_items_raise_the_share_allowed(bench: Any) -> None:
    clicks = bench.table("c.csv", ("user", "item", "rating", "time"), ratings())
    items = bench.table("m.csv", ("item", "title"), [row[:2] for row in films(50)])
    found = guess(clicks, items)
    assert found.settings.max_unknown > 0.1
    assert any("max_unknown" in reason for reason in found.reasons)
    inspect(found.settings, seed=0)


def test_what_cannot_be_decided_names_the_setting(bench: Any) -> None:
    items = bench.table("m.csv", ("item", "title"), [row[:2] for row in films()])
    strange = bench.table("c.csv", ("a", "b"), [(f"x{k}", f"y{k}") for k in range(50)])
    with pytest.raises(DataError, match=r"set data\.columns\.item and data\.columns\.item_id"):
        guess(strange, items)
    rows = [(f"s{user % 20}", f"p{user}", item, time) for user, item, _, time in ratings()]
    two = bench.table("c.csv", ("q", "w", "item", "time"), rows)
    with pytest.raises(DataError, match=r"is 'w' or 'q' the user\? Set data\.columns\.user"):
        guess(two, items)
    once = bench.table("c.csv", ("item", "time"), [(row[1], row[3]) for row in ratings()])
    with pytest.raises(DataError, match=r"which is the user\? Set data\.columns\.user"):
        guess(once, items)
    same = bench.table("m.csv", ("item", "title"), [(100, "a")] * 30)
    with pytest.raises(DataError, match=r"Set data\.columns\.item_id; the columns are item, title"):
        guess(two, same)
    with pytest.raises(DataError, match="no such file"):
        guess(bench.folder() / "gone.csv", items)


def test_published_formats_are_known_by_their_files(bench: Any) -> None:
    folder = bench.folder()
    (folder / "a.inter").write_text("user_id:token\titem_id:token\n1\t2\n")
    (folder / "a.item").write_text("item_id:token\tname:token_seq\n2\tA thing\n")
    found = guess(folder, folder)
    assert (found.settings.reader, found.fields) == ("recbole", ("name",))
    keys = ("reviewerID", "asin", "overall", "unixReviewTime")
    reviews = bench.lines("r.json", (dict(zip(keys, row, strict=True)) for row in ratings()))
    meta = [{"asin": row[0], "title": row[1], "rank": ["#1"]} for row in films()]
    found = guess(reviews, bench.lines("m.json", meta))
    assert (found.settings.reader, found.settings.min_rating) == ("amazon_reviews", 3.5)
    assert inspect(found.settings, seed=0).counts["users"] == 40


@pytest.mark.parametrize(("each", "block"), [(8, 3), (24, 5)])
def test_short_histories_get_short_blocks(bench: Any, each: int, block: int) -> None:
    """Ratings are drawn of ten, and those that people liked count: about half."""
    header = ("user", "item", "rating", "time")
    clicks = bench.table("x.csv", header, ratings(each=each))
    items = bench.table("y.csv", ("item", "title", "genre", "text", "link"), films())
    found = guess(clicks, items)
    assert found.settings.min_rating is not None
    assert found.block_items == block
    said = [one for one in found.reasons if one.startswith("block_items = 3")]
    assert len(said) == (block == 3)
    assert f"block_items = {block}\n" in first_settings(found, {})


@pytest.mark.parametrize("there", [True, False])
def test_what_is_written_for_want_of_a_package_is_said(
    bench: Any, monkeypatch: pytest.MonkeyPatch, there: bool
) -> None:
    monkeypatch.setattr(start, "find_spec", lambda name: there or None)
    clicks = bench.table("x.csv", ("user", "item", "rating", "time"), ratings())
    items = bench.table("y.csv", ("item", "title", "genre", "text", "link"), films())
    text = first_settings(guess(clicks, items), {})
    said = "\n".join(start.missing_packages())
    assert ("sasrec_text" in tomllib.loads(text)["rank"]["rankers"]) is there
    assert ("bm25" in tomllib.loads(text)["rank"]["blend"]["members"]) is there
    assert "trsr[embeddings]" in text  # the file says either way what the choice hangs on
    for extra in ("embeddings", "baselines", "openvino"):
        assert (f"pip install 'trsr[{extra}]'" in said) is not there


def test_minds_lists_are_the_candidates_where_they_say_what_was_clicked(bench: Any) -> None:
    def written(shown: str) -> Path:
        folder = bench.folder()
        news = (f"N{k}\tsports\tsoccer\tHeadline {k}\tAbstract.\tu\t[]\t[]\n" for k in range(30))
        (folder / "news.tsv").write_text("".join(news))
        lines = (
            f"{n}\tU{n}\t11/12/2019 6:11:{n:02} PM\tN1 N2 N3 N4 N5\t{shown}\n" for n in range(40)
        )
        (folder / "behaviors.tsv").write_text("".join(lines))
        return folder

    folder = written("N8-1 N9-0 N10-0")
    found = guess(folder, folder)
    assert (found.settings.candidates, found.settings.split) == ("given", "rows")
    assert "candidates = given: each line says what was shown and clicked" in "; ".join(
        found.reasons
    )
    counts = inspect(found.settings, seed=0).counts
    assert min(counts[f"cases_{split}"] for split in ("train", "valid", "test")) > 0

    folder = written("N8 N9 N10")  # as in the test set
    found = guess(folder, folder)
    assert found.settings.candidates == "uniform"
    assert "no line says what was clicked" in "; ".join(found.reasons)
