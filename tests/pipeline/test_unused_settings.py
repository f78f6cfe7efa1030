"""Settings that a run does not use make none of its stages again."""

from __future__ import annotations

import pytest

from trsr.config import load_config
from trsr.pipeline import STAGES

# a setting, settings where it may be used, and its use
SOMETIMES = [
    ("samples", ["summarize.sampling.temperature=0.7"], ["summarize.samples=3"]),
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
