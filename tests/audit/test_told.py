"""What the told texts give away: numbers, words of the target, items that read alike."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from planted import CONFIG, change, check, write

from trsr.audit.shortcuts import to_last
from trsr.config import load_config
from trsr.pipeline import run

NUMBERS = "numbers in the told texts give the target away"
IN_SUMMARY = "words of the target in the summary"
IN_PROMPT = "words of the target in the prompt"


@pytest.fixture(scope="module")
def dated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Users who take neighbouring ids, and titles that hold the neighbourhood as a year."""
    folder = tmp_path_factory.mktemp("dated")
    write(folder, near=True)
    (folder / "mine.toml").write_text(CONFIG)
    settings = ["summarize.strategy=none", 'rank.rankers=["popular"]']
    list(run(load_config(folder / "mine.toml", [f"run.folder={folder / 'run'}", *settings])))
    places = pl.col("id").cast(pl.Int64).rank("ordinal")
    # A year of the title's own, behind which stands that of its making.
    years = pl.format("1984 {} ({})", "title", (1900 + places).cast(pl.Int64))
    change(folder / "run", "items.parquet", years.alias("title"))
    return folder / "run"


def test_a_year_in_the_titles_that_tells_the_target_is_a_warning(dated: Path) -> None:
    found = check(dated, NUMBERS)
    assert found.state == "warning", found
    assert found.numbers["feature"] == "nearest year of title to the last 3 items"
    assert found.numbers["shown"]
    assert float(str(found.numbers["auc"])) > 0.8
    assert "the prompts tell it" in found.seen


def test_a_number_that_is_cut_off_is_not_told(dated: Path) -> None:
    settings = (dated / "config.toml").read_text("utf-8")
    try:
        (dated / "config.toml").write_text(settings.replace("words = 40", "words = 5"), "utf-8")
        found = check(dated, NUMBERS)
    finally:
        (dated / "config.toml").write_text(settings, "utf-8")
    # 1984 alone is left, which all titles have.
    assert found.numbers["auc"] == 0.5


def test_numbers_that_only_some_items_have_are_not_looked_at(clean: Path, faulty: Path) -> None:
    assert check(clean, NUMBERS).state == "skipped"
    some = pl.col("id").cast(pl.Int64) % 5 > 0
    sized = pl.when(some).then(pl.format("{} 3.5 inch", "title")).otherwise("title")
    change(faulty, "items.parquet", sized.alias("title"))
    assert check(faulty, NUMBERS).state == "skipped"
    draw = random.Random(1)
    sizes = pl.Series([f"{draw.randint(1, 99)}.5 inch" for _ in range(90)])
    change(faulty, "items.parquet", pl.format("{} {}", "title", sizes).alias("title"))
    found = check(faulty, NUMBERS)
    assert found.state == "ok"
    assert "not shown to differ from chance" in found.seen


def test_what_has_no_number_scores_as_the_middle_does() -> None:
    history = np.array([9.0, 1.0, np.nan, 5.0])
    scores = to_last(2)(np.array([5.0, np.nan, 8.0, 1.0]), history)
    assert scores.tolist() == [0.0, -3.0, -3.0, -4.0]
    unknown = to_last(1)(np.array([1.0, 2.0]), np.array([np.nan]))
    assert unknown.tolist() == [0.0, 0.0]


def told(folder: Path, share: float) -> None:
    """Adds one word of the target's title, that no other has, to summaries of test queries."""
    titles = dict(pl.read_parquet(folder / "items.parquet").select("id", "title").iter_rows())
    cases = pl.read_parquet(folder / "cases.test.parquet")
    pairs = list(zip(cases["query"], cases["relevant"].list.first(), strict=True))
    more = {query: titles[item].split()[-1] for query, item in pairs[: int(share * len(pairs))]}
    word = pl.col("query").replace_strict(more, default="")
    change(folder, "summaries.test.parquet", pl.format("{} {}", "text", word).alias("text"))


def test_a_word_of_the_target_in_summaries_is_found(clean: Path, faulty: Path) -> None:
    for name in (IN_SUMMARY, IN_PROMPT):
        assert check(clean, name).state == "ok"
        assert abs(float(str(check(clean, name).numbers["test"])) - 0.5) < 0.02
    told(faulty, 1)
    for name in (IN_SUMMARY, IN_PROMPT):
        assert check(faulty, name).state == "finding"
        assert float(str(check(faulty, name).numbers["test"])) > 0.95
    # The whole title stands nowhere.
    assert check(faulty, "target in the summary").state == "ok"


def test_a_few_words_of_targets_are_a_warning(faulty: Path) -> None:
    told(faulty, 0.15)
    found = check(faulty, IN_SUMMARY)
    assert found.state == "warning", found
    assert "may guess" in found.seen


def test_words_of_the_history_are_no_leak(faulty: Path) -> None:
    """A summary says what was taken; that targets are of the same words is taste."""
    titles = dict(pl.read_parquet(faulty / "items.parquet").select("id", "title").iter_rows())
    cases = pl.read_parquet(faulty / "cases.test.parquet")
    own = {
        query: " ".join(titles[item] for item in items)
        for query, items in cases.select("query", "items").iter_rows()
    }
    text = pl.col("query").replace_strict(own, default=pl.col("text"))
    change(faulty, "summaries.test.parquet", text.alias("text"))
    assert check(faulty, IN_SUMMARY).numbers["test"] == 0.5


def test_targets_that_read_as_an_item_of_their_history_are_a_warning(faulty: Path) -> None:
    name = "target in the history"
    titles = dict(pl.read_parquet(faulty / "items.parquet").select("id", "title").iter_rows())
    case = pl.read_parquet(faulty / "cases.test.parquet").row(0, named=True)
    twin = {case["relevant"][0]: titles[case["items"][0]].upper() + "!"}
    title = pl.col("id").replace_strict(twin, default=pl.col("title"))
    change(faulty, "items.parquet", title.alias("title"))
    found = check(faulty, name)
    assert found.state == "warning"
    assert int(str(found.numbers["twins of targets"])) >= 1
    assert "of 120 test targets" in found.seen
    assert "of 1,080 negatives" in found.seen
    assert (
        "2 of 90 items (2.2 %) read as another one"
        in check(faulty, "candidates that read alike").seen
    )
