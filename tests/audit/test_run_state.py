"""What an audit says of the files of a run, of what was counted, and of what a model shows."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import tomli_w
from planted import CONFIG, change, check, write

from trsr.audit import audit
from trsr.audit.model import _compared
from trsr.config import load_config
from trsr.errors import StoreError
from trsr.pipeline import run
from trsr.results.keep import keep_runs
from trsr.store.rundir import hash_file

FILES = "files as their stages wrote them"
POPULARITY = "popularity that saw later events"


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


def test_recent_popularity_and_that_of_a_blend_are_looked_at(tmp_path: Path) -> None:
    pytest.importorskip("scipy", reason="scipy is not installed")
    write(tmp_path)
    (tmp_path / "mine.toml").write_text(CONFIG)
    folder = tmp_path / "run"
    rankers = ['rank.rankers=["popular_recent","blend"]', 'rank.blend.members=["random","popular"]']
    list(run(load_config(tmp_path / "mine.toml", [f"run.folder={folder}", *rankers])))
    found = check(folder, POPULARITY)
    assert found.state == "ok", found
    assert "all 1,200 scores of popular_recent are counts" in found.seen
    assert "the blend's popular counted interactions.parquet as it is" in found.seen
    path = folder / "interactions.parquet"
    pl.read_parquet(path).head(-200).write_parquet(path)
    found = check(folder, POPULARITY)
    assert found.state == "finding"
    assert "scores of popular_recent (86.6 %) are not the counts" in found.seen
    assert "the blend's popular counted another interactions.parquet" in found.seen


def test_rankers_that_add_popularity_are_asked_what_they_counted(tmp_path: Path) -> None:
    pytest.importorskip("scipy", reason="scipy is not installed")
    write(tmp_path)
    (tmp_path / "mine.toml").write_text(CONFIG)
    folder = tmp_path / "run"
    told = [f"run.folder={folder}", "rank.rankers=['random', 'item_knn', 'ease']"]
    list(run(load_config(tmp_path / "mine.toml", told)))
    found = check(folder, POPULARITY)
    assert (found.state, found.seen) == (
        "ok",
        "item_knn, ease counted interactions.parquet as it is",
    )
    path = folder / "interactions.parquet"
    pl.read_parquet(path).head(-200).write_parquet(path)
    assert check(folder, POPULARITY).state == "finding"


def test_without_test_queries_nothing_is_called_ok_for_them(faulty: Path) -> None:
    for name in ("cases.test.parquet", "rankings.parquet"):
        path = faulty / name
        pl.read_parquet(path).head(0).write_parquet(path)
    assert check(faulty, POPULARITY).state == "skipped"
    for split in ("train", "valid"):
        path = faulty / f"cases.{split}.parquet"
        pl.read_parquet(path).head(0).write_parquet(path)
    found = {one.name: one for one in audit(faulty).checks}
    for name in ("target in the history", "candidates, each once", "negatives in the history"):
        assert (found[name].state, found[name].seen) == ("skipped", "there are no cases")


def test_a_kept_copy_is_told_apart_from_no_run(clean: Path, tmp_path: Path) -> None:
    (kept,) = keep_runs([clean], tmp_path, lambda path, why: None)
    with pytest.raises(StoreError, match=r"a kept copy \(`trsr keep`\) holds a run's figures"):
        audit(kept)


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
    settings["rank"] |= {"rankers": [*rankers], "blend": ["popular", "untuned"]}
    (folder / "config.toml").write_text(tomli_w.dumps(settings), "utf-8")


@pytest.mark.parametrize("queries", [0, 20])
def test_a_model_that_the_run_never_asked_is_not_asked_by_the_audit(
    faulty: Path, monkeypatch: pytest.MonkeyPatch, queries: int
) -> None:
    def opened(*_: object) -> None:
        raise AssertionError("the audit opened a model")

    monkeypatch.setattr("trsr.audit.model.judge", opened)
    with_rankers(faulty, "random", "popular")
    found = {one.name: one for one in audit(faulty, queries).checks}
    said = "no ranker of the run asks a language model (random, popular)"
    for name in MODEL_CHECKS:
        assert (found[name].state, found[name].seen) == ("skipped", said)


def test_a_model_that_is_asked_by_a_blend_alone_is_looked_at(faulty: Path) -> None:
    with_rankers(faulty, "popular", "blend")
    found = {one.name: one for one in audit(faulty, 20).checks}
    assert {found[name].state for name in MODEL_CHECKS} <= {"ok", "warning"}


def test_nothing_is_shown_before_the_correction_for_two_metrics() -> None:
    draw = np.random.default_rng(3)
    noise = draw.normal(size=(200, 2))
    noise -= noise.mean(axis=0)
    users = [f"u{n}" for n in range(200)]

    def said(auc: float, ndcg: float) -> tuple[str, str]:
        """Differences so many standard errors from 0."""
        error = noise.std(axis=0, ddof=1) / np.sqrt(200)
        found = _compared("x", "none", "llm", noise + error * [auc, ndcg], users, "own")
        return found.state, found.seen

    # p = .035 of one metric alone would be below .05
    assert said(2.1, 0.1)[0] == said(-2.1, 0.1)[0] == "warning"
    assert said(2.1, 0.1)[1].endswith("no gain is shown, and no loss")
    assert said(-2.1, 0.1)[1].endswith("no gain is shown, and no loss")
    assert said(3.0, 0.1)[0] == "ok"
    assert said(-3.0, 0.1)[1].endswith("own summary ranks lower")
    assert said(-4.0, 4.0)[1].endswith("higher by one metric and lower by the other")
