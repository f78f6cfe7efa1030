"""A method is a name for stages and settings; a configuration's own settings win."""

from __future__ import annotations

import json

import pytest
from command_line import trsr
from pipeline_data import configured, write_data

from trsr.config import check_config, load_config
from trsr.errors import ConfigError
from trsr.methods import METHODS, Method
from trsr.pipeline import is_finished, run, run_stage, stage_names

CONFIG = 'method = "tallrec"\n' + configured(rank={"rankers": ["popular", "llm_zero_shot"]})


@pytest.fixture
def made(tmp_path):
    write_data(tmp_path, users=12, items=30)
    (tmp_path / "base.toml").write_text(CONFIG)

    def load(*overrides):
        return load_config(tmp_path / "base.toml", [f"run.folder={tmp_path / 'run'}", *overrides])

    return load


def test_a_methods_settings_stand_where_a_configuration_says_nothing(made):
    config = made("prompts.recent=4")
    assert (config.summarize.strategy, config.prompts.recent) == ("none", 4)
    assert config.train.targets == ("q_proj", "v_proj")
    assert config.rank.rankers == ("popular", "llm_zero_shot")
    # what it replaces is said: a base of many methods may set what one of them has otherwise
    said = "the method tallrec has other settings here: prompts.recent = 4 (of the method: 10)"
    assert config.replaced == said
    assert not made().replaced
    assert not made("method=llm_trsr", "prompts.recent=4").replaced
    list(run(config))
    assert f"Settings: {said}" in (config.run.folder / "report.md").read_text("utf-8")
    found = trsr("check", "base.toml", "prompts.recent=4", cwd=config.run.folder.parent)
    assert said in " ".join(found.stdout.split())
    resolved = config.to_toml()
    assert resolved.startswith('method = "tallrec"\n')


def test_a_run_has_the_stages_of_its_method_and_no_others(made):
    config = made()
    assert [one.stage for one in run(config)] == ["prepare", "train", "rank", "evaluate"]
    assert is_finished(config)
    assert list(json.loads((config.run.folder / "manifest.json").read_text())["stages"]) == [
        *("prepare", "train", "rank", "evaluate")
    ]
    assert not list(config.run.folder.glob("summaries*"))
    with pytest.raises(ConfigError, match="the method tallrec has no stage summarize: there are"):
        run_stage(config, "summarize")
    again = load_config(config.run.folder)  # as it was resolved
    assert not any(one.made for one in run(again))


def test_what_no_stage_of_a_method_makes_is_a_mistake(made):
    with pytest.raises(
        ConfigError, match="the method tallrec writes no summaries; set it to 'none'"
    ):
        made("summarize.strategy=recurrent")
    with pytest.raises(ConfigError, match="the method llm_seq_sim trains no language model"):
        made("method=llm_seq_sim", "train.epochs=1", "rank.rankers=['llm']")


def test_an_unknown_method_is_told_with_near_names(made):
    with pytest.raises(ConfigError, match="there is no method 'tall_rec': did you mean tallrec"):
        made("method=tall_rec")


@pytest.mark.parametrize("name", METHODS.names())
def test_each_method_is_a_configuration_without_mistakes(name):
    method = METHODS.load(name)
    images = {"images": "photo"} if "describe" in method.stages else {}
    config = check_config({"method": name, "data": {"interactions": "clicks.csv", **images}})
    assert method.name == name
    assert stage_names(config) == method.stages
    assert "arXiv" in method.source


def test_another_package_adds_a_method(made, monkeypatch):
    mine = Method("mine", "popular items", "–", ("prepare", "rank", "evaluate"), {})
    monkeypatch.setattr("trsr.methods.published.LLM_TRSR", mine)
    monkeypatch.setitem(METHODS._own, "mine", "trsr.methods.published:LLM_TRSR")
    config = made("method=mine", "rank.rankers=['popular']")
    assert [one.stage for one in run(config) if one.made] == ["prepare", "rank", "evaluate"]
