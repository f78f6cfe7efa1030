"""Rankers that read nothing of the user but the summary."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from fitting import given

from trsr.config import load_config
from trsr.data import Catalog
from trsr.errors import ConfigError
from trsr.pipeline import run
from trsr.rankers import FitData, FitOptions
from trsr.rankers.baselines.text_knn import Bm25SummaryRanker, TextSummaryRanker
from trsr.rankers.item_text import TextEmbedder
from trsr.types import Item, Query, Summary, UserHistory

ITEMS = tuple(
    Item(name, (("title", title),))
    for name, title in [
        ("a", "steel bolt"),
        ("b", "copper wire"),
        ("c", "steel wire"),
        ("d", "lamp"),
        ("e", ""),
    ]
)


class Letters:
    """An encoder of the tests' own: how often each letter stands in a text."""

    identity = "letters"

    def encode(self, texts: list[str]) -> np.ndarray:
        return np.array([[text.count(chr(97 + n)) + 0.01 for n in range(26)] for text in texts])


def asked(text: str | None, name: str = "q") -> Query:
    summary = None if text is None else Summary("u", text, 0, ())
    return Query(name, UserHistory("u", ()), ITEMS, summary)


@pytest.fixture(params=["words", "meaning"])
def ranker(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Bm25SummaryRanker | TextSummaryRanker:
    monkeypatch.setenv("TRSR_CACHE", str(tmp_path))
    rows = [(one.id, *(text for _, text in one.fields)) for one in ITEMS]
    catalog = Catalog(pl.DataFrame(rows, schema=["id", "title"], orient="row"))
    log = pl.DataFrame(schema={"user": pl.String, "item": pl.String, "time": pl.Float64})
    made = Bm25SummaryRanker if request.param == "words" else TextSummaryRanker
    ranker = made(None, given(catalog), "ranker")
    ranker.embed = TextEmbedder(Letters)
    ranker.fit(FitData(catalog, log), FitOptions())
    return ranker


def test_what_the_summary_speaks_of_comes_first(
    ranker: Bm25SummaryRanker | TextSummaryRanker,
) -> None:
    steel, lamp = ranker.rank(
        [asked("The user likes steel bolts, a bolt of steel", "q1"), asked("lamp", "q2")]
    )
    assert (steel.query, lamp.query) == ("q1", "q2")
    assert steel.entries[0].item == "a"
    assert lamp.entries[0].item == "d"


@pytest.mark.parametrize("text", [None, ""])
def test_without_a_summary_all_tie(
    ranker: Bm25SummaryRanker | TextSummaryRanker, text: str | None
) -> None:
    (ranked,) = ranker.rank([asked(text)])
    assert {entry.score for entry in ranked} == {0.0}


def test_an_item_without_text_scores_nothing(
    ranker: Bm25SummaryRanker | TextSummaryRanker,
) -> None:
    (ranked,) = ranker.rank([asked("steel wire")])
    assert {entry.item: entry.score for entry in ranked}["e"] == 0.0


def test_the_history_is_not_read(ranker: Bm25SummaryRanker | TextSummaryRanker) -> None:
    from trsr.types import Interaction

    history = UserHistory("u", (Interaction(ITEMS[3], 1.0),))
    told = Query("q", history, ITEMS, Summary("u", "copper wire", 1, ()))
    (with_history,) = ranker.rank([told])
    (without,) = ranker.rank([asked("copper wire")])
    assert with_history.entries == without.entries


CONFIG = """
[data]
interactions = "clicks.csv"
items = "products.jsonl"
min_history = 3
negatives = 5
valid_cases = 30

[prompts]
domain = "products"
fields = ["title"]
recent = 1

[model]
backend = "scripted"
name = "scripted"

[summarize]
strategy = "keywords"
block_items = 2

[rank]
rankers = ["bm25_summary", "random"]
"""
WORDS = ["steel", "bolt", "drill", "tape", "lamp", "mask", "glove", "pump"]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Users who take the products of one word."""
    with (tmp_path / "products.jsonl").open("w") as file:
        for n in range(80):
            file.write(json.dumps({"sku": f"p{n}", "title": f"{WORDS[n % 8]} no{n}"}) + "\n")
    with (tmp_path / "clicks.csv").open("w") as file:
        file.write("customer,sku,when\n")
        for user in range(40):
            for step in range(6):
                file.write(f"u{user},p{(user % 8 + 8 * (step + user)) % 80},{step}\n")
    (tmp_path / "mine.toml").write_text(CONFIG)
    return tmp_path


def made(data: Path, *settings: str) -> Path:
    folder = data / "run"
    list(run(load_config(data / "mine.toml", [f"run.folder={folder}", *settings])))
    return folder


def auc(folder: Path, ranker: str) -> float:
    rows = pl.read_parquet(folder / "per_query.parquet").filter(pl.col("ranker") == ranker)
    return float(rows["auc"].mean())  # type: ignore[arg-type]


def test_a_run_says_what_its_summaries_tell(data: Path) -> None:
    folder = made(data)
    assert auc(folder, "bm25_summary") > 0.9
    page = (folder / "report.md").read_text("utf-8")
    assert "no ranker reads" not in page


def test_a_blend_reads_the_summaries_of_validation_cases(data: Path) -> None:
    blend = 'rank.blend.members=["bm25_summary", "popular"]'
    folder = made(data, 'rank.rankers=["blend"]', blend)
    assert auc(folder, "blend") > 0.9


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (["summarize.strategy=none"], "bm25_summary reads summaries"),
        (["rank.retriever=bm25_summary"], "rank.retriever"),
    ],
)
def test_where_it_cannot_be_it_is_refused(data: Path, settings: list[str], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        load_config(data / "mine.toml", settings)
