"""What prepared data cannot do is told by the first stage after it, not by the last."""

from __future__ import annotations

import pytest
from pipeline_data import configured, write_data

from trsr.config import load_config
from trsr.errors import ConfigError
from trsr.pipeline import (
    STAGES,
    run,
    run_prepare,
    run_rank,
    run_summarize,
    run_train,
)

CONFIG = configured(train={"epochs": 1}, rank={"rankers": ["popular", "llm"]})

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


# --- Settings that a run does not use make none of its stages again


# a setting, settings where it may be used, and its use
SOMETIMES = [
    ("clicked", ["data.candidates=given", "data.reader=mind"], ["data.columns.clicked=clicked"]),
]


@pytest.fixture
def told(tmp_path):
    """What the manifest would tell of all stages' settings, of a config with these settings."""

    def tell(*settings: str) -> dict[str, object]:
        path = tmp_path / "config.toml"
        path.write_text('[data]\ninteractions = "a.csv"\nitems = "b.csv"\n', "utf-8")
        config = load_config(path, list(settings))
        return {stage.name: stage.settings(config) for stage in STAGES}

    (tmp_path / "a.csv").write_text("", "utf-8")
    (tmp_path / "b.csv").write_text("", "utf-8")
    return tell


@pytest.mark.parametrize(("name", "base", "changed"), SOMETIMES)
def test_a_setting_is_told_only_where_it_is_used(told, name, base, changed):
    plain = told("prompts.domain=films")
    assert f"'{name}'" not in str(plain)
    used = told("prompts.domain=films", *base, *changed)
    assert f"'{name}'" in str(used)
    assert used != told("prompts.domain=films", *base)


def test_only_sampled_summaries_hang_on_the_runs_seed(told):
    def both(*settings):
        return [told(f"run.seed={seed}", *settings)["summarize"] for seed in (1, 2)]

    first, other = both()
    assert first == other
    first, other = both("summarize.sampling.temperature=0.7")
    assert first != other


PLAIN = ['rank.rankers=["popular", "blend"]', 'rank.blend.members=["popular", "item_knn"]']
FULL = ["data.candidates=full", "rank.retriever=gru4rec"]


@pytest.mark.parametrize(
    ("settings", "told_by"),
    [
        (PLAIN, set()),
        ([*PLAIN, "rank.retriever=gru4rec"], {"rank"}),  # it proposes to `recommend`
        ([*PLAIN, *FULL], {"rank"}),
        (['rank.rankers=["bert4rec_text"]'], {"rank"}),
        (['rank.rankers=["blend"]', 'rank.blend.members=["popular", "sasrec"]'], {"rank"}),
        (['rank.rankers=["llm"]', "train.epochs=1"], {"train"}),
    ],
)
def test_the_seed_of_training_is_told_where_something_is_trained(told, settings, told_by):
    plain, seeded = told(*settings), told(*settings, "train.seed=4")
    assert {stage for stage in plain if plain[stage] != seeded[stage]} == told_by
    # that of the run, named again, makes nothing anew: seeds = [0, …] begins with what is there
    assert told(*settings, "train.seed=0") == plain


def test_fields_that_no_item_has_are_told_before_a_prompt_is_written(prepared, caplog):
    for begin in (run_summarize, lambda config: list(run(config))):
        with pytest.raises(ConfigError, match=r"no column titel, .*texts: did you mean title\?"):
            begin(prepared("prompts.fields=['titel']"))
    # one that is there is enough, and who asks no model reads no prompt
    run_summarize(prepared("prompts.fields=['titel', 'title', 'vendor']"))
    assert not caplog.records  # nothing that is left out is like them
    for _ in range(2):
        run_summarize(prepared("prompts.fields=['title', 'brnad']"))
    assert caplog.text.count("the items have no column brnad: did you mean brand?") == 1
    run_summarize(prepared("prompts.fields=['titel']", "rank.rankers=['popular']"))
