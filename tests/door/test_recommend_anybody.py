"""`recommend` for histories of anybody, and among items that a program names."""

from __future__ import annotations

import contextlib
import re

import datasets
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from pipeline_data import write_data

import trsr
from trsr.data.requests import given_items
from trsr.errors import DataError
from trsr.types import Interaction, Item, Query, UserHistory

SETTINGS = {
    "summarize.strategy": "none",
    "train": {"epochs": 0},
    "rank.rankers": ["popular", "item_knn"],
    "rank.retrieve_k": 5,
    "data": {"min_history": 4, "negatives": 6},
}


@pytest.fixture(scope="module")
def products(tmp_path_factory) -> pl.DataFrame:
    write_data(folder := tmp_path_factory.mktemp("anybody"))
    return pl.read_ndjson(folder / "products.jsonl")


@pytest.fixture(scope="module")
def made(tmp_path_factory, products):
    write_data(folder := tmp_path_factory.mktemp("anybody"))
    with contextlib.chdir(folder):
        return trsr.fit("clicks.csv", products, **SETTINGS)


def rows(table) -> list[tuple]:
    return pl.DataFrame(table).rows()


def test_a_history_given_by_ids_ranks_as_the_same_history_of_the_run(made) -> None:
    own = made.dataset.history("u3")
    ids = [one.item.id for one in own.interactions]
    wanted = rows(made.recommend("u3", k=4))
    series = pl.Series(ids)
    for items in (ids, tuple(ids), series, series.to_pandas(), iter(ids), list(own.items)):
        assert rows(made.recommend({"u3": items}, k=4)) == wanted
    assert rows(made.recommend([own], k=4)) == wanted
    assert made.explain({"u3": ids}, k=4).scores["item"].to_list() == [row[1] for row in wanted]
    # whoever has done the same gets the same, also among items that tie
    for few in (ids, ids[:1], []):
        same = made.recommend(dict.fromkeys(("a", "b"), few), k=6)
        assert rows(same.filter(user="a").drop("user")) == rows(same.filter(user="b").drop("user"))
    # what the run alone has seen of that user is no longer met
    shorter = made.recommend({"u3": ids[:2]}, k=30)
    assert {*shorter["item"]} == {*made.catalog.ids} - {*ids[:2]}
    # somebody whom the run does not know: nothing but the history counts
    several = made.recommend({"a": ids[:3], "b": ids[3:], "nobody": []}, k=30)
    assert several["user"].unique(maintain_order=True).to_list() == ["a", "b", "nobody"]
    assert set(several.filter(user="a")["item"]) == {*made.catalog.ids} - {*ids[:3]}
    history = UserHistory("a", tuple(Interaction(made.catalog[i], n) for n, i in enumerate(ids)))
    shown = {row[1]: row[2] for row in rows(made.recommend({"a": ids}, k=30))}
    (ranked,) = made.rank([Query("q", history, tuple(made.catalog[one] for one in shown))])
    assert {one.item: one.score for one in ranked} == shown


def test_those_named_are_the_only_items_to_choose_from(made, products) -> None:
    every = made.recommend("u1", k=30)
    assert rows(made.recommend("u1", k=30, among=made.catalog.ids)) == rows(every)
    stocked = products.filter(pl.col("sku").is_in([*every["item"][::3], "p0"]))
    ids = stocked["sku"].to_list()
    wanted = [row[1:3] for row in rows(every) if row[1] in ids]
    assert 5 < len(wanted) < len(every)
    for given in (
        *(ids, ids * 2, set(ids), stocked["sku"], stocked["sku"].to_pandas(), stocked),
        *(stocked.to_pandas(), pl.LazyFrame({"item": ids}), [made.catalog[one] for one in ids]),
    ):
        found = made.recommend(["u1", "u2"], k=30, among=given)
        assert [row[1:3] for row in rows(found.filter(user="u1"))] == wanted
        assert {*found["item"]} <= {*ids}
    # what the retriever puts first of them is ranked, as of the catalog
    assert [row[1:3] for row in rows(made.recommend("u1", k=2, among=ids))] == wanted[:2]
    assert made.recommend("u1", among=[*made.dataset.history("u1").items]).is_empty()


def test_new_items_come_with_their_texts(made, products, caplog) -> None:
    texts = products.row(by_predicate=pl.col("sku") == "p28", named=True)
    own = {name: texts[name] for name in made.catalog.columns}
    table = pl.concat([products, products.filter(sku="p28").with_columns(sku=pl.lit("like p28"))])
    like, few = Item("like p28", tuple(own.items())), ["p28", "p29", "p27"]
    scores = []
    for new in (like, {"id": "like p28", **own, "extra": float("nan")}):
        scores.append(made.recommend("u1", among=[*few, new]))
    rest = table.filter(pl.col("sku").is_in([*few, "like p28"]))
    scores += [made.recommend("u1", among=given) for given in (rest, rest.to_pandas())]
    by_item = [{row[1]: row[2] for row in rows(one)} for one in scores]
    assert by_item[1:] == by_item[:1] * 3
    assert {*by_item[0]} == {"like p28", *few} - {i.id for i in made.dataset.history("u1").items}
    assert "new items: 1, such as 'like p28'" in caplog.text
    # the retriever chooses among new items too
    found = made.recommend("u1", k=30, among=table)
    assert by_item[0].items() <= {row[1]: row[2] for row in rows(found)}.items()
    # a history of a new item is read by the item that is like it
    alone = [made.recommend({"a": [one]}, k=3, among=["p1", "p2", "p3"]) for one in (like, "p28")]
    assert rows(alone[0]) == rows(alone[1])


def test_tables_and_columns_of_any_library_hold_ids(made, products) -> None:
    ids = made.recommend("u1", k=30)["item"].to_list()[::2]
    rest = products.filter(pl.col("sku").is_in(ids))
    wanted = rows(made.recommend("u1", k=30, among=ids))
    hub = datasets.Dataset.from_list(rest.to_dicts())
    for given in (
        *(hub, hub["sku"], rest.to_dicts(), rest.to_arrow(), rest.to_pandas().set_index("sku")),
        *(pa.chunked_array([ids[:2], ids[2:]]), pa.array(ids).dictionary_encode()),
        *(pd.Series(ids, dtype="category"), made.catalog.frame.filter(pl.col("id").is_in(ids))),
        rest.rename({"sku": "Product_ID"}),  # as files' columns are guessed
    ):
        assert rows(made.recommend("u1", k=30, among=given)) == wanted
    every = rows(made.recommend("u1", k=30))
    assert rows(made.recommend("u1", k=30, among=made.catalog)) == every
    # what a user has met comes as rows of the interactions too
    history = made.dataset.history("u1")
    met = pd.DataFrame({"sku": [one.id for one in history.items], "stars": 5})
    for users in (
        *({"u1": met}, {"u1": datasets.Dataset.from_pandas(met)}, {"u1": history}),
        *(iter([history]), {history}, pd.DataFrame({"User ID": ["u1"], "age": [3]})),
    ):
        assert rows(made.recommend(users, k=30)) == every


def test_a_new_item_of_the_same_text_ranks_as_its_twin(made) -> None:
    unseen = made.recommend("u1", k=30)["item"].to_list()
    twins = [Item(f"twin {one}", made.catalog[one].fields) for one in unseen]
    shown = made.recommend("u1", k=99, among=[*unseen, *twins])
    score = dict(shown.select("item", "score").rows())
    assert all(score[f"twin {one}"] == score[one] for one in unseen)
    # beside the whole catalog they are proposed as among all that is named
    history = made.dataset.history("u1")
    named = made.recommend("u1", k=99, among=[*made.catalog.ids, *twins])
    proposed = made.propose(history, 99, twins)
    assert {item.id for item in proposed} == {*named["item"]}
    assert not {item.id for item in made.propose(history, 99, twins, {"p0"})} & {"p0"}
    first = [item.id.removeprefix("twin ") for item in made.propose(history, 6, twins)]
    assert {*first} <= {item.id for item in made.propose(history, 6)}
    # and the retriever chooses both
    found = made.recommend("u1", k=5, among=[*unseen, *twins])["item"]
    best = made.recommend("u1", k=5, among=unseen)["item"]
    assert {one.removeprefix("twin ") for one in found} <= {*best}


@pytest.mark.parametrize(
    "retriever", ["popular", "item_knn", "ease", "bm25", "text_knn", "sasrec", "blend"]
)
def test_who_has_met_all_gets_nothing_and_others_their_own(
    retriever, tmp_path_factory, products, caplog
) -> None:
    write_data(folder := tmp_path_factory.mktemp(retriever))
    own = {"rank.rankers": ["popular"], "rank.retriever": retriever}
    own["rank.blend.members"] = ["popular", "item_knn"]
    with contextlib.chdir(folder):
        found = trsr.fit("clicks.csv", products, **SETTINGS | own)
    some = found.catalog.ids[:3]
    shown = found.recommend({"all": found.catalog.ids, "some": some}, k=4)
    assert shown["user"].unique().to_list() == ["some"]
    assert rows(shown) == rows(found.recommend({"some": some}, k=4))
    assert "user 'all' has seen all items" in caplog.text
    assert found.recommend({"all": found.catalog.ids}, k=4).is_empty()


def test_an_item_of_the_run_with_another_text_is_that_item_to_who_knows_ids_alone(made) -> None:
    every = {row[1]: row[2] for row in rows(made.recommend("u1", k=30))}
    name, *rest = every
    other = Item(name, (("title", "another title"),))
    assert {row[1]: row[2] for row in rows(made.recommend("u1", among=[other, *rest[:3]]))} == {
        one: every[one] for one in (name, *rest[:3])
    }


def test_texts_of_an_item_are_text_or_a_mapping_of_it(made) -> None:
    pairs = Item("new", (("title", "a brush"),))
    assert Item("new", {"title": "a brush"}) == Item("new", [["title", "a brush"]]) == pairs
    assert rows(made.recommend("u1", among=[pairs, "p1"]))
    for wrong in (None, 3, float("nan"), ["a brush"]):
        with pytest.raises(DataError, match=r"item 'new': the value of 'title' is"):
            Item("new", (("title", wrong),))
    assert Item("new", (["title", "a brush"],)) == pairs
    for wrong in (None, "a brush", [("title",)], (("title",),)):
        with pytest.raises(DataError, match=r"item 'new': its texts are .*; give a mapping"):
            Item("new", wrong)
    with pytest.raises(DataError, match="an item's id is 5, which is no text"):
        Item(5, {"title": "a brush"})


def test_a_network_of_ids_and_words_of_bm25_judge_new_items_too(
    tmp_path_factory, products, caplog
) -> None:
    write_data(folder := tmp_path_factory.mktemp("networks"))
    tiny = {"hidden": 8, "max_epochs": 2, "dropout": 0.1, "learning_rate": 0.01}
    rankers = {"rank.rankers": ["bm25", "gru4rec"], "rank.sequential": tiny}
    with contextlib.chdir(folder):
        run = trsr.fit("clicks.csv", products, **SETTINGS | rankers).dataset.folder
        opened = [trsr.load(run, one) for one in ("bm25", "gru4rec")]
    for one in opened:
        unseen = one.recommend("u1", k=30)["item"].to_list()
        twins = [Item(f"twin {name}", one.catalog[name].fields) for name in unseen]
        score = dict(
            one.recommend("u1", 99, among=[*unseen, *twins]).select("item", "score").rows()
        )
        assert [score[f"twin {name}"] for name in unseen] == [score[name] for name in unseen]
        assert len({*score.values()}) > 3
    assert "their scores by gru4rec come from" in caplog.text
    assert "by bm25" not in caplog.text


def test_many_users_choose_among_new_items_as_each_does_alone(made) -> None:
    own = dict(made.catalog["p28"].fields)
    new = [{"id": f"new {n}", **own, "title": f"{own['title']} {n}"} for n in range(9)]
    among = [*made.catalog.ids[::2], *new]
    users = [f"u{n}" for n in range(1, 8)]
    together = made.recommend(users, k=4, among=among)
    assert rows(together) == [
        row for one in users for row in rows(made.recommend(one, 4, among=among))
    ]
    seen = {(one, item.id) for one in users for item in made.dataset.history(one).items}
    assert not seen & {row[:2] for row in rows(together)}


def test_items_with_a_value_alone_are_chosen_and_as_many_as_are_wanted(made) -> None:
    frame = made.catalog.frame
    brand, other = frame["brand"].drop_nulls().value_counts(sort=True)["brand"][:2]
    own = frame.filter(pl.col("brand") == brand, pl.col("id") != "p1")["id"].to_list()
    assert len(own) > 5  # more than the retriever proposes without a filter
    found = made.recommend({"a": ["p1"]}, k=99, where={"brand": f" {brand.upper()}"})
    assert set(found["item"]) == set(own)
    assert rows(found) == rows(made.recommend({"a": ["p1"]}, k=99, among=own))
    both = made.recommend({"a": ["p1"]}, k=99, where={"brand": [brand, other]})
    assert set(both["item"]) > set(own)
    new = [
        {"id": f"n{n}", "title": "Brush", "brand": f"{brand}{end}"} for n, end in enumerate("|;x")
    ]
    new[0]["brand"] += f" {other}"
    several = made.recommend({"a": ["p1"]}, 9, among=new, where={"brand": other, "title": "brush"})
    assert several["item"].to_list() == ["n0"]
    several = made.recommend({"a": ["p1"]}, 9, among=new, where={"brand": brand})
    assert set(several["item"]) == {"n0", "n1"}
    with pytest.raises(
        DataError, match="where: the run's items have no field 'brnd': did you mean"
    ):
        made.recommend("u1", where={"brnd": brand})
    with pytest.raises(
        DataError, match="no item has brand = 'nobody' or 'none' and title = 'x'; b"
    ):
        made.recommend("u1", where={"brand": ["nobody", "none"], "title": "x"})


def test_a_number_asks_for_its_text(made) -> None:
    new = [{"id": f"n{year}", "title": "Brush", "brand": year} for year in (1998, 1999.5)]
    for year in (1998, 1998.0, [np.int64(1998)], np.array([7, 1998.0]), {1998}):
        found = made.recommend("u1", 9, among=new, where={"brand": year})
        assert found["item"].to_list() == ["n1998"]
    assert len(made.recommend("u1", 9, among=new, where={"brand": 1999.5})) == 1


@pytest.mark.parametrize(
    ("where", "message"),
    [
        *((one, "is no mapping such as {") for one in ("Ajax", ["brand"], [], "", 5, b"x")),
        ({"brand": []}, "where: brand has no value; give one, or leave brand out"),
        *(
            ({"brand": one}, "is neither text nor a number; write such as {")
            for one in (None, [None], b"x", ["Ajax", {}], True, {"a": "b"}, [["x"]])
        ),
        ({7: "x"}, "the run's items have no field '7'"),
        ({"brand": [5]}, "no item has brand = '5'; brand is, say"),
    ],
)
def test_a_filter_that_is_none_is_refused(made, where, message) -> None:
    for among in (None, ["p1", "p2"]):
        with pytest.raises(DataError, match=re.escape(message)):
            made.recommend("u1", where=where, among=among)


def test_texts_of_new_items_are_written_as_the_catalogs(made) -> None:
    values = {"title": ["red", "shirt"], "size": 42.0, "kinds": np.array(["a", "b"]), "none": None}
    (item,) = given_items([{"id": 7, **values}], made.catalog, "the items")
    assert item == Item("7", (("title", "red, shirt"), ("size", "42"), ("kinds", "a, b")))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"users": {}}, "the users: no id"),
        ({"users": {"a": ["nope"]}}, "the history of user 'a': there is no item 'nope' in the cat"),
        ({"users": {"a": None}}, "the history of user 'a': 1 of 1 ids are missing"),
        (
            {"users": {"a": [{"title": "x"}]}},
            'the history of user \'a\': an item without an id; write {"id": …, "title": …} \\(its',
        ),
        (
            {"users": ["u1", UserHistory("a", ())]},
            "the users: 'u1' is no UserHistory; give histories alone, or ids",
        ),
        (
            {"among": [{"id": "z", "title": "x"}, {"id": "z", "title": "y"}]},
            "the items to choose from: 'z' comes with two texts; leave one out",
        ),
        ({"users": {1: ["p1"], 1.5: ["p1"], "1": []}}, "give ids of one type"),
        ({"users": {" a": ["p1"], "a": ["p2"]}}, "2 histories, but 1 ids; give each once"),
        ({"among": []}, "there is no item to choose from; leave among out for the catalog"),
        ({"among": None, "users": "x"}, "A new user's history is given with the id: {'new'"),
        ({"among": ["p1", "nope"]}, "the items to choose from: there is no item 'nope'"),
        ({"among": 7}, "the items to choose from: there is no item '7'"),
        ({"among": object()}, "the items to choose from: 'object' object is not iterable"),
        ({"among": pd.DataFrame({"a": ["p1"], "b": [1]})}, "which column\\? The columns are"),
    ],
)
def test_what_cannot_be_read_is_named(made, given, message) -> None:
    users = given.pop("users", "u1")
    with pytest.raises(DataError, match=message):
        made.recommend(users, **given)
