"""`rank.split = valid`: settings are chosen on validation cases, and the test cases stay unseen."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest
from pipeline_data import SCRIPTED, write_data

from trsr.config import load_config
from trsr.errors import ConfigError, DataError
from trsr.experiments.audit.evidence import Evidence
from trsr.experiments.compare import compare
from trsr.experiments.sweep import read_plan, sweep
from trsr.pipeline import run
from trsr.pipeline.artifacts import read_summaries

SETTINGS = [
    "summarize.strategy=recurrent",
    "summarize.block_items=2",
    'rank.rankers=["random", "popular", "bm25", "llm_zero_shot"]',
]


VALID = (
    "These are the validation cases (rank.split = valid): for choosing settings. What is chosen is "
    "to be reported by its values on the test cases."
)


@pytest.fixture
def made(tmp_path):
    write_data(tmp_path, users=30, items=60)
    (tmp_path / "mine.toml").write_text(SCRIPTED)

    def make(name: str, *changes: str) -> Path:
        config = load_config(
            tmp_path / "mine.toml",
            [
                *SETTINGS,
                f"run.folder={tmp_path / name}",
                f"run.cache={tmp_path / 'responses.sqlite'}",
                *changes,
            ],
        )
        list(run(config))
        return config.run.folder

    return make


def asked(folder: Path) -> set[str]:
    return set(pl.read_parquet(folder / "per_query.parquet")["query"])


def cases(folder: Path, split: str) -> set[str]:
    return set(pl.read_parquet(folder / f"cases.{split}.parquet")["query"])


def test_the_validation_cases_are_ranked_told_and_evaluated(made):
    folder = made("valid", "rank.split=valid", "evaluate.trec=true")
    assert asked(folder) == cases(folder, "valid")
    assert not asked(folder) & cases(folder, "test")
    summaries = set(read_summaries(folder))
    assert summaries
    assert summaries <= cases(folder, "valid")
    qrels = {line.split()[0] for line in (folder / "qrels.trec").read_text().splitlines()}
    assert len(qrels) == len(cases(folder, "valid"))
    for name in ("report.md", "report.html"):
        page = (folder / name).read_text("utf-8")
        assert "These are the validation cases" in page
        assert "bm25: settings, passes or weights are chosen on these very cases" in page
        assert page.index("Before you use these numbers") < page.index("These are the validation")
        assert page.count("These are the validation cases") == 1


def test_one_setting_parts_the_two_and_nothing_before_is_made_anew(made):
    test, valid = made("run"), made("run", "rank.split=valid")
    assert test == valid
    assert asked(valid) == cases(valid, "valid")
    assert asked(made("run")) == cases(test, "test")


def test_compare_says_that_the_cases_are_for_choosing(made):
    some = made("three", "rank.split=valid")
    other = made("one", "rank.split=valid", "prompts.recent=1")
    report = compare([str(some), str(other)], rankers=["llm_zero_shot"])
    assert report.queries == len(cases(some, "valid"))
    # Of the compared rankers none chose anything on them.
    assert [note for note in report.notes if "validation cases" in note] == [VALID]
    chosen = compare([f"{some}:llm_zero_shot", f"{some}:bm25"]).notes
    assert any("bm25: settings, passes or weights are chosen on" in note for note in chosen)
    with pytest.raises(DataError, match="queries"):
        compare([str(some), str(made("test"))], rankers=["llm_zero_shot"])


def test_no_validation_cases_are_an_error(made):
    with pytest.raises(ConfigError, match=r"data\.valid_cases"):
        made("none", "rank.split=valid", "data.split=global_time", "data.valid_share=0")


def test_an_audit_is_about_the_test_cases(made):
    with pytest.raises(ConfigError, match=r"rank\.split=test"):
        Evidence(made("valid", "rank.split=valid"))


def test_a_sweep_says_whose_cases_its_values_are_of(made, tmp_path):
    made("any")
    path = tmp_path / "sweep.toml"
    path.write_text(
        'base = "mine.toml"\n[set]\nrank.split = "valid"\nrank.rankers = ["popular"]\n'
        "[grid]\nprompts.recent = [1, 2]\n"
    )
    swept = sweep(read_plan(path))
    assert swept.notes().count(VALID) == 1
    assert VALID in (swept.plan.folder / "sweep.md").read_text("utf-8")
