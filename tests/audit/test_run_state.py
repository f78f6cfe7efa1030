"""What an audit says of the files of a run, of what was counted, and of what a model shows."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import polars as pl
import pytest
import tomli_w
from planted import change, check

from trsr.experiments.audit import audit
from trsr.storage.run_directory import hash_file

FILES = "files as their stages wrote them"


@pytest.mark.parametrize(
    "name",
    ["summaries.test.parquet", "cases.test.parquet", "rankings.parquet", "per_query.parquet"],
)
def test_a_changed_file_is_found_and_named(clean: Path, faulty: Path, name: str) -> None:
    assert check(clean, FILES).state == "ok"
    change(faulty, name, pl.col("query").alias("once more"))
    if name == "summaries.test.parquet":
        path = faulty / name
        pl.read_parquet(path).drop("once more").head(-1).write_parquet(path)
    found = check(faulty, FILES)
    assert found.state == "finding"
    assert found.seen.startswith(f"{name} changed since ")


def test_summaries_from_elsewhere_that_were_ranked_with_are_told(faulty: Path) -> None:
    """They may be written by hand, and the stages below then read them."""
    name = "summaries.test.parquet"
    change(faulty, name, pl.lit("The user likes tape.").alias("text"))
    assert "(rank, evaluate read what was there before)" in check(faulty, FILES).seen
    manifest = json.loads((faulty / "manifest.json").read_text("utf-8"))
    for record in manifest["stages"].values():
        if name in record["parents"]:
            record["parents"][name] = hash_file(faulty / name)
    (faulty / "manifest.json").write_text(json.dumps(manifest), "utf-8")
    found = check(faulty, FILES)
    assert found.state == "warning"
    assert f"{name} is not what summarize wrote" in found.seen


def test_a_file_that_is_gone_is_told(faulty: Path) -> None:
    (faulty / "report.md").unlink()
    found = check(faulty, FILES)
    assert (found.state, found.seen) == ("warning", "report.md of evaluate is gone")
    (faulty / "manifest.json").unlink()
    assert check(faulty, FILES).state == "skipped"


def test_rankings_of_other_cases_are_found(faulty: Path) -> None:
    manifest = json.loads((faulty / "manifest.json").read_text("utf-8"))
    manifest["stages"]["rank"]["parents"]["cases.test.parquet"] = "0" * 64
    (faulty / "manifest.json").write_text(json.dumps(manifest), "utf-8")
    found = check(faulty, FILES)
    assert found.state == "finding"
    assert "cases.test.parquet was made anew (rank read what was there before)" in found.seen


def test_without_test_queries_nothing_is_called_ok_for_them(faulty: Path) -> None:
    for name in ("cases.test.parquet", "rankings.parquet"):
        path = faulty / name
        pl.read_parquet(path).head(0).write_parquet(path)
    for split in ("train", "valid"):
        path = faulty / f"cases.{split}.parquet"
        pl.read_parquet(path).head(0).write_parquet(path)
    found = {one.name: one for one in audit(faulty).checks}
    for name in ("target in the history", "candidates, each once", "negatives in the history"):
        assert (found[name].state, found[name].seen) == ("skipped", "there are no cases")


def test_a_summary_that_ranks_lower_is_told_as_such(faulty: Path) -> None:
    """The scripted model counts common words: these summaries hold the negatives' alone."""
    titles = dict(pl.read_parquet(faulty / "items.parquet").select("id", "title").iter_rows())
    cases = pl.read_parquet(faulty / "cases.test.parquet")
    against = {
        query: " ".join(
            {word for item in candidates for word in titles[item].split()}
            - set(titles[relevant[0]].split())
        )
        for query, candidates, relevant in cases.select(
            "query", "candidates", "relevant"
        ).iter_rows()
    }
    text = pl.col("query").replace_strict(against, default=pl.col("text"))
    change(faulty, "summaries.test.parquet", text.alias("text"))
    found = check(faulty, "does the user's own summary matter", 60)
    assert found.state == "warning"
    assert found.seen.endswith("; own summary ranks lower")


MODEL_CHECKS = (
    "does the order of the history matter",
    "does the user's own summary matter",
    "does a summary matter",
)


def with_rankers(folder: Path, *rankers: str) -> None:
    """Writes other rankers, and a blend of two, into a run's settings."""
    settings = tomllib.loads((folder / "config.toml").read_text("utf-8"))
    settings["rank"] |= {"rankers": [*rankers], "blend": ["popular", "llm_zero_shot"]}
    (folder / "config.toml").write_text(tomli_w.dumps(settings), "utf-8")


@pytest.mark.parametrize("queries", [0, 20])
def test_a_model_that_the_run_never_asked_is_not_asked_by_the_audit(
    faulty: Path, monkeypatch: pytest.MonkeyPatch, queries: int
) -> None:
    def opened(*_: object) -> None:
        raise AssertionError("the audit opened a model")

    monkeypatch.setattr("trsr.experiments.audit.model.open_ranking_model", opened)
    with_rankers(faulty, "random", "popular")
    found = {one.name: one for one in audit(faulty, queries).checks}
    said = "no ranker of the run asks a language model (random, popular)"
    for name in MODEL_CHECKS:
        assert (found[name].state, found[name].seen) == ("skipped", said)


def test_a_model_that_is_asked_by_a_blend_alone_is_looked_at(faulty: Path) -> None:
    with_rankers(faulty, "popular", "blend")
    found = {one.name: one for one in audit(faulty, 20).checks}
    assert {found[name].state for name in MODEL_CHECKS} <= {"ok", "warning"}
