"""What the texts give away: words of the target, items that read alike."""

from __future__ import annotations

from pathlib import Path

import polars as pl
from planted import change, check

IN_SUMMARY = "words of the target in the summary"
IN_PROMPT = "words of the target in the prompt"


def add_target_words(folder: Path, share: float) -> None:
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
    add_target_words(faulty, 1)
    for name in (IN_SUMMARY, IN_PROMPT):
        assert check(faulty, name).state == "finding"
        assert float(str(check(faulty, name).numbers["test"])) > 0.95


def test_a_few_words_of_targets_are_a_warning(faulty: Path) -> None:
    add_target_words(faulty, 0.15)
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
