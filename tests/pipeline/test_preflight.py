"""What prepared data cannot do is told by the first stage after it, not by the last."""

from __future__ import annotations

import pytest
from pipeline_data import write_data

from trsr.config import load_config
from trsr.errors import ConfigError
from trsr.pipeline import run_prepare, run_rank, run_summarize, run_train

CONFIG = """
[data]
interactions = "clicks.csv"
items = "products.jsonl"
min_history = 4
negatives = 6

[model]
backend = "scripted"
name = "scripted"

[rank]
rankers = ["popular", "llm"]
"""

NO_CASES = ("data.split=global_time", "data.valid_share=0")
BLEND = "rank.rankers=['popular', 'blend', 'llm']"


@pytest.fixture
def prepared(tmp_path):
    """Prepares the data with these settings; gives the configuration."""
    write_data(tmp_path, users=20, items=40)
    (tmp_path / "mine.toml").write_text(CONFIG)

    def make(*changes):
        told = [f"run.folder={tmp_path / 'run'}", *changes]
        config = load_config(tmp_path / "mine.toml", told)
        run_prepare(config)
        return config

    return make


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ((*NO_CASES, BLEND), "the ranker blend learns its weights on validation cases"),
        ((*NO_CASES, "rank.split=valid"), "rank.split is valid, but there are no"),
        (
            ("rank.rankers=['ease', 'llm']",),
            r"all \d+ items .* and this machine has 0\.0 GiB",
        ),
        (
            (BLEND, "rank.blend.members=['popular', 'ease']"),
            "ease inverts",
        ),
        (
            ("rank.retriever=ease",),  # it proposes to `recommend`
            "ease inverts",
        ),
    ],
)
def test_it_is_said_before_anything_is_asked_or_trained(prepared, changes, said, monkeypatch):
    monkeypatch.setattr("trsr.rankers.baselines.item_knn.memory", lambda: 1000)
    config = prepared(*changes)
    with pytest.raises(ConfigError, match=said):
        run_summarize(config)
    assert not list(config.run.folder.glob("summaries.*"))


@pytest.mark.parametrize(
    "changes",
    [
        (*NO_CASES, "rank.blend.members=['popular']"),  # of a blend that is not used
    ],
)
def test_what_is_not_used_is_not_refused(prepared, changes):
    assert run_summarize(prepared(*changes)).made


@pytest.mark.parametrize(("rankers", "last"), [(["ease", "llm"], run_train), (["ease"], run_rank)])
def test_a_stage_that_is_reached_later_says_it_too(prepared, rankers, last, monkeypatch):
    settings = ("summarize.strategy=none", f"rank.rankers={rankers}")
    run_summarize(prepared(*settings))
    config = prepared(*settings)
    monkeypatch.setattr("trsr.rankers.baselines.item_knn.memory", lambda: 1000)
    assert not run_summarize(config).made
    if last is run_rank:
        run_train(config)  # nothing to train
    with pytest.raises(ConfigError, match="ease inverts"):
        last(config)
