"""`trsr.fit`: from tables of any library to a recommender, and tables out of it."""

from __future__ import annotations

import contextlib
import json
import shutil
from pathlib import Path

import datasets
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from pipeline_data import write_data
from typer.testing import CliRunner

import trsr
from trsr.cli.app import app
from trsr.errors import ConfigError, DataError, StoreError
from trsr.types import Interaction, Item, UserHistory

CHEAP = {
    "summarize.strategy": "none",
    "train": {"epochs": 0},
    "rank.rankers": ["popular", "item_knn"],
    "data": {"min_history": 4, "negatives": 6},
}
ASKED = {
    "model": {"backend": "scripted", "name": "scripted"},
    "summarize.model": {"backend": "scripted", "name": "scripted"},
    "summarize.block_items": 3,
    "train.epochs": 0,
    "rank.rankers": ["popular", "blend"],
    "rank.blend.members": ["item_knn", "llm_zero_shot"],
    "data": {"min_history": 4, "negatives": 6},
}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("door")
    write_data(folder)
    with contextlib.chdir(folder):
        yield folder


@pytest.fixture(scope="module")
def clicks(place) -> pl.DataFrame:
    return pl.read_csv("clicks.csv")


@pytest.fixture(scope="module")
def products(place) -> pl.DataFrame:
    return pl.read_ndjson("products.jsonl")


@pytest.fixture(scope="module")
def made(clicks, products):
    """A recommender whose rankers ask no model."""
    return trsr.fit(clicks, products, **CHEAP)


@pytest.fixture(scope="module")
def asked(clicks, products):
    """A recommender whose ranker reads summaries that a language model wrote."""
    return trsr.fit(clicks, products, **ASKED)


def rows(table) -> list[tuple]:
    return pl.DataFrame(table).rows()


def test_every_kind_of_table_gives_the_same_and_gets_its_own_kind_back(place, clicks, products):
    given = {
        "polars": (clicks, products),
        "lazy": (clicks.lazy(), products.lazy()),
        "pandas": (clicks.to_pandas(), products.to_pandas()),
        "arrow": (clicks.to_arrow(), products.to_arrow()),
        "datasets": (datasets.Dataset.from_polars(clicks), datasets.Dataset.from_polars(products)),
        "paths": ("clicks.csv", Path("products.jsonl")),
        "mixed": (clicks.to_pandas(), "products.jsonl"),
    }
    made = {name: trsr.fit(*pair, **CHEAP) for name, pair in given.items()}
    found = {name: one.recommend(["u3", "u1"], k=4) for name, one in made.items()}
    assert {name: rows(one) for name, one in found.items()} == dict.fromkeys(
        given, rows(found["polars"])
    )
    assert [row[0] for row in rows(found["polars"])] == ["u3"] * 4 + ["u1"] * 4
    kinds = {name: type(one) for name, one in found.items()}
    assert kinds == {
        **dict.fromkeys(("polars", "lazy", "paths"), pl.DataFrame),
        **dict.fromkeys(("pandas", "mixed"), pd.DataFrame),
        **dict.fromkeys(("arrow", "datasets"), pa.Table),
    }
    # the same table is the same run, whichever library holds it
    folders = {made[name].config.run.folder for name in ("polars", "lazy", "pandas", "arrow")}
    assert len(folders) == 1
    assert folders != {made["paths"].config.run.folder}


def test_what_was_met_is_not_recommended_and_k_may_exceed_what_is_left(clicks, products, made):
    met = set(clicks.filter(customer="u0")["sku"])
    found = made.recommend("u0", k=10_000)
    assert found["rank"].to_list() == list(range(1, len(found) + 1))
    assert set(found["item"]) == set(products["sku"]) - met
    assert found["score"].is_sorted(descending=True)


def test_items_met_before_a_cut_history_are_not_recommended(clicks, products):
    cut = CHEAP | {"data": {"min_history": 4, "negatives": 6, "max_history": 9}}
    made = trsr.fit(clicks, products, **cut)
    longer = 0
    for user, own in clicks.group_by("customer"):
        met = set(own["sku"])
        longer += len(met) > len(made.dataset.history(*user))
        assert not met & set(made.recommend(user[0], k=30)["item"])
    assert longer > 3


def test_users_come_as_one_several_a_column_or_a_table(made):
    wanted = rows(made.recommend(["u1", "u2"], k=2))
    column = pl.Series("whoever", ["u1", "u2", "u1"])
    for users in (
        *(("u1", "u2"), column, column.to_pandas(), column.to_arrow().to_pylist()),
        *(column.to_frame(), pd.DataFrame({"user": ["u1", "u2"], "age": [1, 2]})),
        pl.LazyFrame({"user": ["u1", "u2"]}),
    ):
        assert rows(made.recommend(users, k=2)) == wanted


def test_users_by_number_are_found_however_they_are_written(clicks, products):
    numbered = clicks.with_columns(pl.col("customer").str.strip_prefix("u").cast(pl.Int64) + 100)
    made = trsr.fit(numbered, products, **CHEAP)
    wanted = rows(made.recommend("101", k=2))
    for users in (101, [101.0], pd.Series([101]), pl.Series([101], dtype=pl.UInt8)):
        assert rows(made.recommend(users, k=2)) == wanted


def test_users_that_cannot_be_ranked_are_named(made):
    with pytest.raises(DataError, match=r"2 of 3 users are not in this run's data: 'x', 'y'; .*u"):
        made.recommend(["x", "u1", "y"])
    for users, message in (
        ([], "the users: no id"),
        (None, "the users: 1 of 1 ids are missing"),
        (["u1", None], "1 of 2 ids are missing"),
        ([["u1"]], "a single value is needed"),
        (["u1", 2], "give ids of one type"),
        *((["u1", 2**200], "give ids of one type"), (["u1", float("nan")], "1 of 2 ids are miss")),
        *((pd.Series(["u1", empty]), "1 of 2 ids are missing") for empty in (None, pd.NA, pd.NaT)),
        (pl.DataFrame({"a": ["u1"], "b": [1]}), "which column\\? The columns are a, b"),
    ):
        with pytest.raises(DataError, match=message):
            made.recommend(users)
    for k in (0, -1, 1.5, "3", None):
        for asked in (made.recommend, made.explain):
            with pytest.raises(DataError, match=f"k = {k!r}: ask for at least one item"):
                asked("u1", k=k)
    for queries in ("u1", ["u1"], None):
        with pytest.raises(DataError, match=r"is no trsr.Query: .*recommend gives items to users"):
            list(made.rank(queries))
    assert rows(made.recommend(b"u1", k=np.int64(2))) == rows(made.recommend("u1", k=2))
    for folder in (None, made):
        with pytest.raises(StoreError, match="is no run directory: give its path"):
            trsr.load(folder)


def test_a_tilde_is_the_home(clicks, products, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    made = trsr.fit(clicks, products, run_directory="~/mine", **CHEAP)
    assert (tmp_path / "mine" / "report.json").is_file()
    assert made.save("~/saved") == tmp_path / "saved"
    assert trsr.load("~/saved").catalog.ids == made.catalog.ids
    with pytest.raises(ConfigError, match="there is no such home"):
        trsr.fit("~nobody-there/clicks.csv", products, **CHEAP)


def test_who_has_met_everything_gets_nothing(asked, caplog):
    history = history_of(asked, asked.catalog.ids)
    assert list(asked.rank_unseen([history], 3)) == []
    assert "seen all items" in caplog.text
    with pytest.raises(DataError, match="has met all items"):
        asked.explain(history)


def history_of(made, ids, *more) -> UserHistory:
    items = [*(made.catalog[one] for one in ids), *more]
    return UserHistory("new", tuple(Interaction(item, n) for n, item in enumerate(items)))


def test_a_table_equals_the_command_lines_list(asked, monkeypatch):
    for user in ("u1", "u4"):
        outcome = CliRunner().invoke(
            app, ["recommend", str(asked.config.run.folder), user, "--top", "7", "--json"]
        )
        ranked = json.loads(outcome.stdout)["ranked"]
        found = asked.recommend(user, k=7)
        assert [one["item"] for one in ranked] == found["item"].to_list()
        assert [one["score"] for one in ranked] == found["score"].to_list()


def test_the_columns_that_people_name_are_not_guessed(clicks, products):
    # nothing tells which of two columns is the user
    hidden = clicks.rename({"customer": "a"}).with_columns(b=pl.col("a").str.slice(1))
    with pytest.raises(DataError, match="is 'a' or 'b' the user\\? Set data.columns.user"):
        trsr.fit(hidden, products, **CHEAP)
    made = trsr.fit(hidden, products, **CHEAP, **{"data.columns.user": "b"})
    assert made.config.data.columns.user == "b"
    assert len(made.recommend("1", k=2)) == 2
    with pytest.raises(DataError, match="there is no column 'c' \\(data.columns.user\\)"):
        trsr.fit(hidden, products, **CHEAP, **{"data.columns.user": "c"})


def test_settings_go_by_dotted_keys_and_by_tables(clicks, products):
    made = trsr.fit(
        clicks,
        products,
        **{"rank.rankers": ["popular"], "data.min_rating": None, "data.negatives": 6},
        train={"epochs": 0},
        summarize={"strategy": "none"},
        run_directory="mine",
    )
    config = made.config
    assert (made.name, config.train.epochs, config.data.negatives) == ("popular", 0, 6)
    assert config.run.folder == Path("mine").resolve()
    assert (config.run.folder / "report.html").is_file()


def test_wrong_settings_are_all_named(clicks, products):
    with pytest.raises(ConfigError) as error:
        trsr.fit(clicks, products, **{"rank.rankes": ["popular"]}, train={"epochs": -1})
    assert "rank.rankes: unknown setting: did you mean rankers" in str(error.value)
    assert "train.epochs" in str(error.value)
    with pytest.raises(ConfigError, match="data.interactions: what is read is"):
        trsr.fit(clicks, products, data={"interactions": "x.csv"})


def test_a_published_method_keeps_its_own_defaults(clicks, products):
    made = trsr.fit(
        clicks,
        products,
        method="llm_seq_sim",
        **{"rank.rankers": ["popular"], "data.min_history": 4, "data.negatives": 6},
    )
    assert made.config.method == "llm_seq_sim"
    assert len(made.recommend("u1", k=3)) == 3


def test_one_table_is_enough(clicks, products):
    orders = clicks.join(products, on="sku").drop("sku").sort("when")
    made = trsr.fit(orders, **CHEAP)
    found = made.recommend("u1", k=3)
    assert len(found) == 3
    assert set(found["item"]) <= set(products["title"])


def test_a_named_index_is_a_column_and_a_bare_one_is_none(clicks, products, made):
    wanted = rows(made.recommend("u1", k=3))
    table = clicks.to_pandas()
    indexed = table.set_index(["customer", "when"])
    shuffled = table.set_index(pd.Index(range(500, 500 + len(table))))
    for given in (indexed, shuffled):
        again = trsr.fit(given, products.to_pandas().set_index("sku"), **CHEAP)
        assert rows(again.recommend("u1", k=3)) == wanted


def test_categories_lists_and_nulls(clicks, products, made):
    wanted = rows(made.recommend("u1", k=3))
    arrow = clicks.to_arrow()
    for name in ("customer", "sku"):
        at = arrow.schema.get_field_index(name)
        arrow = arrow.set_column(at, name, arrow[name].combine_chunks().dictionary_encode())
    nested = products.with_columns(
        tags=pl.concat_list(pl.lit("a"), pl.col("brand")),
        maker=pl.struct(name="brand", since=pl.lit(1990)),
    )
    made = trsr.fit(arrow, nested.to_arrow(), **CHEAP)
    assert rows(made.recommend("u1", k=3)) == wanted
    fields = dict(made.catalog["p1"].fields)
    brand = products.filter(sku="p1")["brand"].item()
    assert fields["tags"] == f"a, {brand}"
    assert brand in fields["maker"]
    holes = pl.DataFrame(
        {"customer": [None, "u1", "u2"], "sku": ["p1", None, "p2"], "when": [1, 2, None]}
    )
    made = trsr.fit(pl.concat([clicks, holes]), products, **CHEAP)
    counts = json.loads((made.config.run.folder / "prepare.json").read_text())
    assert "1" in json.dumps(counts)
    assert len(made.recommend("u1", k=3)) == 3


def test_a_row_a_user_with_a_list(clicks, products):
    listed = clicks.sort("when").group_by("customer", maintain_order=True).agg("sku")
    made = trsr.fit(listed, products, **CHEAP)
    assert len(made.recommend("u1", k=3)) == 3


BAD = {
    "the interactions have no rows; the columns are a": pl.DataFrame({"a": []}),
    "the interactions have no columns": pl.DataFrame(),
    "the interactions are a builtins.list: give a polars": [{"a": 1}],
    "the interactions are a builtins.int": 3,
    "the interactions are a numpy.ndarray": pl.Series([1]).to_numpy(),
    "the interactions are a dictionary of datasets \\(train\\); choose one, such as": (
        datasets.DatasetDict({"train": datasets.Dataset.from_dict({"a": [1]})})
    ),
    "the interactions are streamed": datasets.Dataset.from_dict({"a": [1]}).to_iterable_dataset(),
    "two columns 'a'": pd.DataFrame([[1, 2]], columns=["a", "a"]),
    "column 'sku' mixes int and str": pd.DataFrame({"sku": [1, "p2"], "customer": ["a", "b"]}),
    "column 'o' holds Object, which cannot be written": pl.DataFrame(
        {"sku": ["p1"], "o": pl.Series([object()], dtype=pl.Object)}
    ),
    "^the interactions table: no column's values are ids of the items table": pl.DataFrame(
        {"x": ["q"], "y": ["r"]}
    ),
    "nowhere.csv: there is no such file": "nowhere.csv",
    "the interactions are None: give a table, or the path of a file": None,
}


@pytest.mark.parametrize("message", BAD)
def test_what_cannot_be_read_is_said(message, products):
    with pytest.raises(DataError, match=message):
        trsr.fit(BAD[message], products, **CHEAP)


def test_a_table_is_not_called_by_a_file_that_nobody_gave(clicks, products, capsys):
    trsr.fit(clicks, products, **CHEAP)
    said = capsys.readouterr().err
    assert "are values of 'sku' in the items table" in said
    assert ".parquet" not in said
    late = clicks.with_columns(when=pl.lit("yesterday"))
    with pytest.raises(DataError, match="^the interactions table: the time 'yesterday'"):
        trsr.fit(late, products, **CHEAP, **{"data.columns.time": "when"})


def test_an_explanation_shows_blocks_summaries_prompt_and_every_score(asked):
    found = asked.explain("u1", k=5)
    table = asked.recommend("u1", k=5)
    assert found.scores.columns == ["rank", "item", "title", "blend", "item_knn", "llm_zero_shot"]
    assert found.scores["item"].to_list() == table["item"].to_list()
    assert found.scores["blend"].to_list() == table["score"].to_list()
    shown = [item.id for items, _ in found.blocks for item in items]
    history = [item.id for item in asked.dataset.history("u1").items]
    assert shown + [item.id for item in found.recent] == history
    assert len(found.blocks) == len(history) // 3
    assert all(text for _, text in found.blocks)
    assert found.summaries[-1] == found.summary.text
    asks = "\n".join(message.content for message in found.prompt.messages)
    assert found.summary.text in asks
    for text in (repr(found), found._repr_html_()):
        assert found.summary.text in text
        assert found.scores["title"][0] in text


def test_a_user_who_is_new_is_explained_by_the_history(asked):
    history = history_of(asked, [f"p{n}" for n in range(4)])
    found = asked.explain(history, k=3)
    assert found.history == history
    assert not {"p0", "p1", "p2", "p3"} & set(found.scores["item"])


def test_titles_are_text_in_a_notebook_and_harmless_in_a_terminal(asked):
    evil = Item("x", (("title", "<script>alert(1)</script> \x1b[31m"),))
    found = asked.explain(history_of(asked, ["p1", "p2"], evil), k=2)
    assert "<script>" not in found._repr_html_()
    assert "&lt;script&gt;" in found._repr_html_()
    assert "\x1b" not in repr(found)
    assert "\\u001b" in repr(found)


def test_the_report_shows_itself(asked):
    assert "<table>" in asked.report._repr_html_()
    assert "ndcg@10" in repr(asked.report)


def test_what_is_saved_recommends_the_same_without_the_run(asked, tmp_path, clicks, products):
    made = trsr.fit(clicks, products, **ASKED, run_directory=tmp_path / "run")
    before, explained = made.recommend(["u1", "u2"], k=4), made.explain("u3")
    figures = repr(made.report)
    folder = made.save(tmp_path / "saved")
    names = {path.relative_to(folder).as_posix() for path in folder.rglob("*")}
    assert {"rankers/blend", "rankers/item_knn"} <= names
    assert not {"rankers/popular", "given", "rankings.parquet", "report.html"} & names
    shutil.rmtree(tmp_path / "run")
    (tmp_path / "responses.sqlite").unlink()
    moved = folder.rename(tmp_path / "moved")
    again = trsr.load(moved)
    assert again.recommend(["u1", "u2"], k=4).equals(before)
    assert repr(again.explain("u3")) == repr(explained)
    assert repr(again.report) == figures
    assert not (tmp_path / "run").exists()
    assert str(tmp_path) not in (moved / "config.toml").read_text()
    with pytest.raises(StoreError, match="there is something in it"):
        again.save(moved)


def test_what_is_left_out_of_the_tables_is_said_and_stands_in_the_report(
    clicks, products, capsys, tmp_path
):
    row = pl.int_range(pl.len())
    torn = clicks.with_columns(
        customer=pl.when(row % 20 != 7).then("customer"),
        when=pl.when(row % 20 != 3).then(pl.col("when") // 1000),
    )
    made = trsr.fit(torn, products, run_directory=tmp_path / "run", **CHEAP)
    printed = " ".join(capsys.readouterr().err.split())
    assert "left out: 8 rows without a user or an item; 8 rows without a time" in printed
    assert printed.count("warning: the interactions table: ") == 1
    assert "have the same time" in printed
    report = (made.config.run.folder / "report.md").read_text()
    assert "Data: left out: 8 rows without a user or an item; 8 rows without a time" in report
    assert "have the same time" in report
