"""Each format read from rows as their publishers write them."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from trsr.errors import DataError

CLICKS = [("u1", "i1", 1), ("u1", "i2", 2), ("u1", "i3", 3), ("u1", "i4", 4), ("u1", "i5", 5)]


def history(dataset: Any, split: str = "test") -> list[str]:
    return [item for row in dataset.cases(split).frame["items"] for item in row]


def folder(bench: Any, **contents: str | bytes) -> Path:
    path: Path = bench.folder()
    for name, content in contents.items():
        raw = content.encode() if isinstance(content, str) else content
        (path / name.replace("__", ".")).write_bytes(raw)
    return path


def fields(dataset: Any, item: str) -> dict[str, str]:
    return dict(dataset.catalog[item].fields)


@pytest.mark.parametrize("kind", ["csv", "tsv", "csv.gz", "jsonl", "jsonl.gz", "parquet", "noname"])
def test_tables_of_any_make_are_the_same_data(bench: Any, kind: str) -> None:
    names = ("user_id", "item_id", "timestamp")
    if kind.startswith("jsonl"):
        path = bench.lines("c.jsonl", (dict(zip(names, row, strict=True)) for row in CLICKS))
    elif kind == "parquet":
        path = bench.folder() / "c.parquet"
        pl.DataFrame(CLICKS, schema=names, orient="row").write_parquet(path)
    else:
        path = bench.table("c.csv", names, CLICKS, "\t" if kind == "tsv" else ",")
        path = path.rename(path.with_name("c.tsv" if kind == "tsv" else "c.csv"))
    if kind.endswith(".gz"):
        packed = path.with_name(path.name + ".gz")
        packed.write_bytes(gzip.compress(path.read_bytes()))
        path = packed
    if kind == "noname":
        path = path.rename(path.with_name("clicks"))
    _, dataset = bench.prepare(interactions=path, items=bench.goods(30))
    (case,) = dataset.cases("test")
    assert [(i.item.id, i.time) for i in case.query.history.interactions] == [
        ("i1", 1.0),
        ("i2", 2.0),
        ("i3", 3.0),
        ("i4", 4.0),
    ]
    assert case.relevant == {"i5"}


@pytest.mark.parametrize("kind", ["csv", "dat", "csv.gz", "jsonl", "parquet"])
def test_a_files_name_is_no_pattern(bench: Any, kind: str) -> None:
    names = ("user_id", "item_id", "timestamp")
    where = bench.folder()
    for stem, rows in (("c[1]", CLICKS), ("c1", CLICKS[1:] + CLICKS[:1])):
        frame = pl.DataFrame([(u, i, t) for t, (u, i, _) in enumerate(rows)], names, orient="row")
        path = where / f"{stem}.{kind}"
        if kind == "parquet":
            frame.write_parquet(path)
        elif kind == "jsonl":
            frame.write_ndjson(path)
        elif kind == "dat":
            path.write_text(frame.write_csv().replace(",", "::"))
        else:
            text = frame.write_csv().encode()
            path.write_bytes(gzip.compress(text) if kind.endswith(".gz") else text)
    for stem, last in (("c[1]", "i5"), ("c1", "i1")):
        path = where / f"{stem}.{kind}"
        _, dataset = bench.prepare(interactions=path, items=bench.goods(30))
        assert dataset.cases("test").frame["relevant"].to_list() == [[last]]


def test_columns_are_mapped_and_without_a_header_numbered(bench: Any) -> None:
    clicks = bench.table("c.csv", (), [(time, item, user) for user, item, time in CLICKS])
    items = bench.table("g.csv", (), [(f"name {k}", f"i{k}") for k in range(30)])
    _, dataset = bench.prepare(
        interactions=clicks,
        items=items,
        header=False,
        items_header=False,
        columns={"user": "3", "item": "2", "time": "1", "item_id": "2"},
    )
    assert history(dataset) == ["i1", "i2", "i3", "i4"]
    assert fields(dataset, "i7") == {"1": "name 7"}


def test_lists_in_jsonl_and_parquet_and_lines_without_users(bench: Any) -> None:
    rows = [{"items": ["i1", "i2", "i3", "i4"]}, {"items": ["i5", "i6", "i7", "i8", "i9"]}]
    parquet = bench.folder() / "s.parquet"
    pl.DataFrame(rows).write_parquet(parquet)
    for path in (bench.lines("s.jsonl", rows), parquet):
        report, dataset = bench.prepare(interactions=path, items=bench.goods(30))
        assert dataset.cases("test").frame["query"].to_list() == ["test/1/3", "test/2/4"]
        assert any("a user of its own" in warning for warning in report.warnings)


def test_without_times_the_order_of_the_file_holds(bench: Any) -> None:
    table = bench.table("c.csv", ("user", "item"), [("b", "i9"), *((u, i) for u, i, _ in CLICKS)])
    _, dataset = bench.prepare(interactions=table, items=bench.goods(30))
    (case,) = dataset.cases("test")
    assert [i.time for i in case.query.history.interactions] == [0.0, 1.0, 2.0, 3.0]
    assert history(dataset) == ["i1", "i2", "i3", "i4"]


def test_lists_and_objects_of_items_become_text(bench: Any) -> None:
    rows: list[dict[str, object]] = [
        {"id": k, "title": f"t{k}", "tags": ["a", "b", None, 3], "price": 2.5} for k in range(30)
    ]
    rows[1] |= {"tags": [["x", "y"], ["z"]]}
    rows[2] |= {"tags": "plain", "title": None}
    rows[3] |= {"tags": [], "more": {"size": "L"}}
    rows[4] |= {"tags": "[not json"}
    clicks = bench.lines("c.jsonl", ({"user": "u", "item": k, "time": k} for k in range(5)))
    _, dataset = bench.prepare(interactions=clicks, items=bench.lines("g.jsonl", rows))
    assert fields(dataset, "0") == {"title": "t0", "tags": "a, b, 3", "price": "2.5"}
    assert fields(dataset, "1")["tags"] == "x, y, z"
    assert fields(dataset, "2") == {"tags": "plain", "price": "2.5"}
    assert "tags" not in fields(dataset, "3")
    assert "L" in fields(dataset, "3")["more"]
    assert fields(dataset, "4")["tags"] == "[not json"


def test_parquet_lists_are_joined_and_vectors_left_out(bench: Any) -> None:
    items = bench.folder() / "g.parquet"
    pl.DataFrame(
        {
            "id": list(range(30)),
            "title": [f"t{k}" for k in range(30)],
            "genres": [["Drama", "Crime"]] * 30,
            "vector": [[0.5] * 64] * 30,
        }
    ).write_parquet(items)
    clicks = bench.table("c.csv", ("user", "item"), [("u", k) for k in range(5)])
    report, dataset = bench.prepare(interactions=clicks, items=items)
    assert fields(dataset, "1") == {"title": "t1", "genres": "Drama, Crime"}
    assert any("vector" in warning for warning in report.warnings)


def test_recbole_atomic_files(bench: Any) -> None:
    inter = "user_id:token\titem_id:token\trating:float\ttimestamp:float\n" + "".join(
        f"7\t{k}\t{4.5 if k else 2}\t8.8125094{k}E8\n" for k in range(6)
    )
    item = (
        "item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq\tv:float_seq\n"
    )
    item += "".join(f'{k}\tThe "Film" {k}\t199{k % 10}\tDrama Sci-Fi\t0.1 0.2\n' for k in range(30))
    where = folder(bench, small__inter=inter, small__item=item)
    for paths in (
        {"interactions": where},
        {"interactions": where / "small.inter"},
        {"interactions": where / "small.inter", "items": where / "small.item"},
    ):
        _, dataset = bench.prepare(reader="recbole", min_rating=4, **paths)
        (case,) = dataset.cases("test")
        assert case.query.id == "test/7/4"
        assert case.query.history.interactions[0].time == pytest.approx(881250941)
        assert fields(dataset, "3") == {
            "movie_title": 'The "Film" 3',
            "release_year": "1993",
            "class": "Drama, Sci-Fi",
        }


def test_recbole_says_what_is_no_atomic_file(bench: Any) -> None:
    where = folder(bench, a__inter="user\titem\n1\t2\n", a__item="item_id:token\n1\n")
    with pytest.raises(DataError, match=r"a\.inter, line 1: 'user' is not `name:type`"):
        bench.prepare(reader="recbole", interactions=where)
    with pytest.raises(DataError, match=r"one \.inter file is needed, there is none"):
        bench.prepare(reader="recbole", interactions=bench.folder())


FLAGS = "|".join("1" if place in (1, 15) else "0" for place in range(19))
MOVIELENS = {
    "100K": {
        "u__data": "".join(f"7\t{k}\t{3 + k % 3}\t88125094{k}\n" for k in range(1, 7)),
        "u__item": "".join(
            f"{k}|Misérables, Les (1995)|01-Jan-1995||http://x|{FLAGS}\n" for k in range(1, 30)
        ).encode("latin-1"),
    },
    "1M": {
        "ratings__dat": "".join(f"7::{k}::{3 + k % 3}::97830010{k}\n" for k in range(1, 7)),
        "movies__dat": "".join(
            f"{k}::Misérables, Les (1995)::Action|Sci-Fi\n" for k in range(1, 30)
        ).encode("latin-1"),
    },
    "latest": {
        "ratings__csv": "userId,movieId,rating,timestamp\n"
        + "".join(f"7,{k},{3 + k % 3}.5,97830010{k}\n" for k in range(1, 7)),
        "movies__csv": "movieId,title,genres\n"
        + "".join(f'{k},"Misérables, Les (1995)",Action|Sci-Fi\n' for k in range(1, 30)),
    },
}


@pytest.mark.parametrize("kind", sorted(MOVIELENS))
def test_movielens_of_each_make(bench: Any, kind: str) -> None:
    _, dataset = bench.prepare(reader="movielens", interactions=folder(bench, **MOVIELENS[kind]))
    assert history(dataset) == ["1", "2", "3", "4", "5"]
    assert fields(dataset, "3") == {
        "title": "Misérables, Les (1995)",
        "genres": "Action, Sci-Fi",
    }


def test_a_folder_without_movielens_says_what_must_be_there(bench: Any) -> None:
    with pytest.raises(DataError, match=r"u\.data and u\.item; or ratings\.dat"):
        bench.prepare(reader="movielens", interactions=bench.folder())


NEWS = "".join(
    f'N{k}\tsports\tfootball_nfl\tA "quoted" headline {k}\tSome abstract.\thttps://x/{k}.html\t'
    f'[{{"Label": "X", "Type": "G"}}]\t[]\n'
    for k in range(30)
)
BEHAVIORS = (
    "1\tU1\t11/11/2019 9:05:58 AM\tN1 N2 N3 N4\tN5-0 N6-1 N7-0 N99-0\n"
    "2\tU1\t11/12/2019 6:11:30 PM\tN1 N2 N3 N4\tN8-1 N9-0 N10-1\n"
    "3\tU2\t11/13/2019 8:00:00 AM\tN4 N5 N6 N7 N8\tN1-0 N2-1\n"
    "4\tU3\t11/14/2019 8:00:00 AM\t\tN1-0 N2-1\n"
    "5\tU4\t11/14/2019 9:00:00 AM\tN9 N8 N7 N6\tN1-0 N2-0\n"
    "6\tU5\t11/14/2019 9:30:00 PM\tN9 N8 N7 N6\tN1-1 N98-0\n"
)


def test_mind_by_the_papers_protocol(bench: Any) -> None:
    where = folder(bench, behaviors__tsv=BEHAVIORS, news__tsv=NEWS)
    report, dataset = bench.prepare(reader="mind", interactions=where, split="rows", test_cases=4)
    frame = dataset.cases("test").frame
    rows = {
        user: (items, relevant)
        for user, items, relevant in frame[["user", "items", "relevant"]].rows()
    }
    assert rows["U1"] == (["N1", "N2", "N3"], ["N4"])
    assert rows["U2"] == (["N4", "N5", "N6", "N7"], ["N8"])
    assert fields(dataset, "N2") == {
        "category": "sports",
        "subcategory": "football_nfl",
        "title": 'A "quoted" headline 2',
        "abstract": "Some abstract.",
    }
    assert report.counts["other_rows_of_user"] == 1
    assert report.counts["rows_without_ids"] == 1


def test_mind_impressions_as_given_candidates(bench: Any) -> None:
    where = folder(bench, behaviors__tsv=BEHAVIORS, news__tsv=NEWS)
    report, dataset = bench.prepare(
        reader="mind",
        interactions=where,
        items=where / "news.tsv",
        candidates="given",
        split="leave_last_out",
    )
    tests = {case.query.id: case for case in dataset.cases("test")}
    assert set(tests) == {"test/U1/4", "test/U2/5"}
    case = tests["test/U1/4"]
    assert {item.id for item in case.query.candidates} == {"N8", "N9", "N10"}
    assert case.relevant == {"N8", "N10"}
    assert [item.id for item in case.query.history.items] == ["N1", "N2", "N3", "N4"]
    (valid,) = dataset.cases("valid")
    assert {item.id for item in valid.query.candidates} == {"N5", "N6", "N7"}
    assert report.counts["unknown_candidates"] == 2
    assert report.counts["impressions_without_answer"] == 1
    assert report.counts["impressions_without_choice"] == 1
    assert report.counts["impressions_unknown_user"] == 1
    assert report.counts["impressions_short"] == 0


def many_impressions(bench: Any, users: int, lists: int) -> Path:
    lines = [
        f"{u * lists + k}\tU{u}\t11/{1 + k}/2019 9:05:58 AM\tN1 N2 N3\t"
        f"N{4 + k}-1 N20-0 N21-0 N22-0 N23-1"
        for u in range(users)
        for k in range(lists)
    ]
    return folder(bench, behaviors__tsv="\n".join(lines) + "\n", news__tsv=NEWS)


def test_given_candidates_split_by_user_or_by_time(bench: Any) -> None:
    chosen = {
        "reader": "mind",
        "interactions": many_impressions(bench, 20, 4),
        "candidates": "given",
        "train_negatives": 2,
    }
    _, rows = bench.prepare(**chosen, split="rows", test_cases=4, valid_cases=2)
    train, test = rows.cases("train"), rows.cases("test")
    assert not set(train.frame["user"]) & set(test.frame["user"])
    assert set(rows.interactions["user"]) == set(train.frame["user"])
    for case in train:
        assert (len(case.relevant), len(case.query.candidates)) == (1, 3)
    assert all(len(case.query.candidates) == 5 for case in test)
    _, timed = bench.prepare(**chosen, split="global_time", valid_share=0.25, test_share=0.25)
    assert set(timed.cases("test").frame["relevant"].list.set_difference(["N23"]).list.first()) == {
        "N7"
    }
    assert len(timed.cases("valid")) == 20
    queries = timed.cases("train").frame["query"]
    assert queries.n_unique() == len(queries) == 20
    _, more = bench.prepare(**chosen, split="global_time", valid_share=0, targets_per_user=2)
    assert {"train/U3/3", "train/U3/3#2"} & set(more.cases("train").frame["query"])
    assert more.cases("train").frame["query"].n_unique() == len(more.cases("train"))
    with pytest.raises(DataError, match="take rows, global_time or leave_last_out"):
        bench.prepare(**chosen, split="given")
    with pytest.raises(DataError, match="leave no time for training"):
        bench.prepare(**chosen, split="global_time", valid_share=0.5, test_share=0.5)
    with pytest.raises(DataError, match="no case is left"):
        bench.prepare(**chosen, split="global_time", min_history=500)


@pytest.mark.parametrize("part", ["train", "test"])
def test_the_answer_stands_anywhere_in_a_given_list(bench: Any, part: str) -> None:
    _, dataset = bench.prepare(
        reader="mind",
        interactions=many_impressions(bench, 1600, 2),
        candidates="given",
        split="rows",
        train_users=1500,
        test_cases=100,
    )
    places = Counter(
        [item.id for item in case.query.candidates].index(answer)
        for case in dataset.cases(part)
        for answer in case.relevant
    )
    width = 2 if part == "train" else 5
    expected = places.total() / width
    assert all(abs(places[place] - expected) < 5 * expected**0.5 for place in range(width))


def test_given_candidates_need_a_reader_that_has_them(bench: Any) -> None:
    with pytest.raises(DataError, match="mind does"):
        bench.prepare(interactions=bench.clicks(CLICKS), items=bench.goods(30), candidates="given")


SESSIONS = (
    "prev_items,next_item,locale\n"
    "\"['B001' 'B002']\",B003,UK\n"
    "\"['B001' 'B002' 'B003'\n 'B004']\",B005,UK\n"
    "\"['B001' 'B007' 'B008']\",B009,DE\n"
)
PRODUCTS = "id,locale,title,price,brand,color,size,model,material,author,desc\n" + "".join(
    f'B00{k},{locale},"{locale} thing, number {k}",{k}.99,Acme,,,,,,'
    '"A ""good"" thing\nin two lines"\n'
    for locale in ("DE", "UK")
    for k in range(10)
)


def test_amazon_m2_with_a_locale(bench: Any) -> None:
    where = folder(bench, sessions_train__csv=SESSIONS, products_train__csv=PRODUCTS)
    for paths in (
        {"interactions": where},
        {
            "interactions": where / "sessions_train.csv",
            "items": where / "products_train.csv",
        },
    ):
        report, dataset = bench.prepare(
            reader="amazon_m2", locale="UK", negatives=3, min_history=2, **paths
        )
        tests = {case.query.id: case for case in dataset.cases("test")}
        assert set(tests) == {"test/0/2", "test/1/4"}
        assert [i.id for i in tests["test/1/4"].query.history.items] == [
            "B001",
            "B002",
            "B003",
            "B004",
        ]
        assert tests["test/1/4"].relevant == {"B005"}
        assert fields(dataset, "B003") == {
            "title": "UK thing, number 3",
            "price": "3.99",
            "brand": "Acme",
            "desc": 'A "good" thing\nin two lines',
        }
        assert report.counts["other_locale"] == 1
    with pytest.raises(DataError, match=r"no session of data\.locale = 'US', but of DE, UK"):
        bench.prepare(reader="amazon_m2", locale="US", interactions=where)


def reviews_2018() -> tuple[str, str]:
    reviews = [
        {
            "overall": 5.0,
            "verified": True,
            "reviewTime": "01 1, 2018",
            "reviewerID": "A1",
            "asin": f"B{k}",
            "style": {"Size:": " L"},
            "reviewText": "good",
            "unixReviewTime": 1514764800 + k,
        }
        for k in range(5)
    ]
    meta: list[dict[str, object]] = [
        {
            "category": ["Tools", "Drills"],
            "description": ["One.", "Two."],
            "title": f"Drill {k}",
            "also_buy": ["B1"],
            "image": [],
            "brand": "Acme",
            "rank": ">#1 in Tools",
            "details": {"Weight": "1 kg"},
            "asin": f"B{k}",
        }
        for k in range(30)
    ]
    meta[1]["description"] = []
    meta[2]["rank"] = [">#1 in Tools"]
    return jsonl(reviews), jsonl(meta)


def reviews_2023() -> tuple[str, str]:
    reviews = [
        {
            "rating": 5.0,
            "title": "Nice",
            "text": "good",
            "images": [],
            "asin": f"V{k}",
            "parent_asin": f"B{k}",
            "user_id": "A1",
            "timestamp": 1514764800000 + k,
            "verified_purchase": True,
        }
        for k in range(5)
    ]
    meta = [
        {
            "main_category": "Tools",
            "title": f"Drill {k}",
            "average_rating": 4.5,
            "features": ["Strong"],
            "description": ["One.", "Two."],
            "price": None,
            "images": [{"thumb": "x"}],
            "store": "Acme",
            "categories": ["Tools", "Drills"],
            "details": {},
            "parent_asin": f"B{k}",
        }
        for k in range(30)
    ]
    return jsonl(reviews), jsonl(meta)


def jsonl(rows: list[dict[str, Any]]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


@pytest.mark.parametrize("packed", [False, True], ids=["plain", "gzip"])
@pytest.mark.parametrize("year", [2018, 2023])
def test_amazon_reviews_of_both_years(bench: Any, year: int, packed: bool) -> None:
    reviews, meta = reviews_2018() if year == 2018 else reviews_2023()
    if packed:
        where = bench.folder()
        paths = where / "Tools.json.gz", where / "meta_Tools.json.gz"
        for path, text in zip(paths, (reviews, meta), strict=True):
            path.write_bytes(gzip.compress(text.encode()))
    else:
        paths = bench.raw("Tools.jsonl", reviews), bench.raw("meta.jsonl", meta)
    _, dataset = bench.prepare(
        reader="amazon_reviews", interactions=paths[0], items=paths[1], min_rating=4
    )
    assert history(dataset) == ["B0", "B1", "B2", "B3"]
    shown = fields(dataset, "B3")
    assert shown["title"] == "Drill 3"
    assert shown["description"] == "One., Two."
    assert shown["category" if year == 2018 else "categories"] == "Tools, Drills"
    assert shown["brand" if year == 2018 else "store"] == "Acme"
    assert not {"details", "images", "image", "rank", "also_buy"} & set(shown)


def test_amazon_reviews_say_what_keys_are_missing(bench: Any) -> None:
    path = bench.lines("r.jsonl", [{"user": "a", "thing": "b"}])
    with pytest.raises(DataError, match=r"parent_asin.*reviewerID.*here are user, thing"):
        bench.prepare(reader="amazon_reviews", interactions=path, items=path)
