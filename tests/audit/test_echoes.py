"""The audit tells summaries that repeat the examples of their own prompts."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest
from planted import change, check

from trsr.experiments.audit.echoes import NAME, example_words
from trsr.prompts import load_domain
from trsr.prompts.templates import domains


@pytest.fixture
def worked(faulty: Path) -> Path:
    """The run, as if its summaries had been asked with worked examples."""
    path = faulty / "config.toml"
    text = path.read_text("utf-8")
    assert 'style = "instruct"' in text
    path.write_text(text.replace('style = "instruct"', 'style = "worked"'), "utf-8")
    return faulty


def of_example() -> str:
    style = load_domain("products").worked
    assert style is not None
    return " and ".join(sorted(example_words(style))[:3])


def test_words_of_the_examples_are_found(worked: Path) -> None:
    said = of_example()
    rows = pl.read_parquet(worked / "summaries.test.parquet")
    some = rows["query"].to_list()[::2]
    text = pl.when(pl.col("query").is_in(some)).then(pl.lit(f"The user likes {said}"))
    change(worked, "summaries.test.parquet", text.otherwise(pl.col("text")).alias("text"))
    found = check(worked, NAME)
    assert found.state == "warning"
    assert found.numbers["share"] == len(some) / found.numbers["summaries"]  # type: ignore[operator]
    assert said.split()[0] in found.seen


def test_what_an_item_says_is_not_of_the_example(worked: Path) -> None:
    change(worked, "items.parquet", (pl.col("title") + f" {of_example()}s").alias("title"))
    said = pl.lit(f"The user likes {of_example()}")
    change(worked, "summaries.test.parquet", said.alias("text"))
    assert check(worked, NAME).state == "ok"


def test_summaries_of_their_own_words_are_fine(worked: Path) -> None:
    found = check(worked, NAME)
    assert (found.state, found.numbers["share"]) == ("ok", 0.0)


def test_where_there_are_no_examples_nothing_is_repeated(faulty: Path) -> None:
    assert "show none" in check(faulty, NAME).seen


@pytest.mark.parametrize("domain", domains())
@pytest.mark.parametrize("name", ["worked", "profile"])
def test_examples_are_told_from_their_form(domain: str, name: str) -> None:
    style = getattr(load_domain(domain), name)
    own = example_words(style)
    assert len(own) > 10
    assert not own & {"the", "user", "and"}
