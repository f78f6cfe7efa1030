"""The method llm_seq_prompt, whole runs: what is planted is learned, nothing is asked twice."""

from __future__ import annotations

import json

import numpy as np
import polars as pl
import pytest
import tomli_w
from chat_endpoint import Endpoint

from trsr.config import check_config, load_config
from trsr.errors import ConfigError
from trsr.pipeline import run, run_stage, stages_of
from trsr.recommender import Recommender

FIRST = ["steel", "bolts", "pack", "ten", "mm", "item"]
SECOND = ["quiet", "films", "sea", "loud", "user", "next"]


class SameVector:
    """An encoder to which all texts are alike."""

    identity = "same"

    def __init__(self, *_):
        pass

    def encode(self, texts):
        return np.ones((len(texts), 2), np.float32)


def write_planted(folder) -> None:
    """After the n-th first word always comes the n-th second one; all are equally popular."""
    with (folder / "items.jsonl").open("w") as file:
        for word in (*FIRST, *SECOND):
            file.write(json.dumps({"id": word, "title": word}) + "\n")
    with (folder / "clicks.csv").open("w") as file:
        file.write("user,item,time\n")
        for user in range(24):
            places = [(user + step) % len(FIRST) for step in range(3)]
            taken = [word for n in places for word in (FIRST[n], SECOND[n])]
            file.writelines(f"u{user},{word},{when}\n" for when, word in enumerate(taken))


def planted(folder, name, /, **tables):
    settings = {
        "method": "llm_seq_prompt",
        "run": {"folder": str(folder / "run")},
        "data": {
            "interactions": str(folder / "clicks.csv"),
            "items": str(folder / "items.jsonl"),
            "min_history": 1,
            "negatives": 5,
            # a user's last six items: the training target is the second word of the second pair
            "targets_per_user": 2,
        },
        "model": {"name": str(name), "dtype": "float32", "device": "cpu"},
        "prompts": {"recent": 1},
        "train": {
            "epochs": 12,
            "learning_rate": 2e-2,
            "rank": 16,
            "alpha": 32,
            "dropout": 0.0,
            "cases_per_step": 8,
            "targets": ["q_proj", "v_proj", "up_proj", "down_proj"],
        },
        "rank": {"rankers": ["popular", "title", "title_search"]},
    }
    for place, table in tables.items():
        settings[place] = settings.get(place, {}) | table
    path = folder / "planted.toml"
    path.write_text(tomli_w.dumps(settings))
    return load_config(path)


@pytest.fixture(scope="module")
def learned(tmp_path_factory, tiny_model, one_thread):
    folder = tmp_path_factory.mktemp("planted")
    write_planted(folder)
    config = planted(folder, tiny_model)
    return folder, config, list(run(config))


def means(config, metric="auc"):
    frame = pl.read_parquet(config.run.folder / "per_query.parquet")
    return dict(frame.group_by("ranker").agg(pl.col(metric).mean()).iter_rows())


def test_what_follows_what_is_learned_and_popularity_knows_nothing_of_it(learned):
    _, config, outcomes = learned
    assert [one.stage for one in outcomes][-3:] == ["train_title", "rank", "evaluate"]
    found = means(config)
    assert found["title"] > 0.9
    assert found["title_search"] > 0.95
    assert found["popular"] < 0.7
    info = outcomes[-3].info
    assert info["late_loss"] < info["first_loss"] / 3
    assert info["titles"]["without"] == info["cases_without_title"] == 0


def test_a_second_run_asks_nothing_and_a_longer_history_asks_anew(learned, tiny_model):
    folder, config, _ = learned
    assert not any(one.made for one in run(config))
    config = planted(folder, tiny_model, rank={"rankers": ["title"], "depth": 50})
    made = {one.stage: one for one in run(config)}
    assert not made["train_title"].made
    assert made["rank"].info["costs"]["title"]["from_store"] > 0
    stages = {stage.name: stage for stage in stages_of(config)}
    longer = planted(folder, tiny_model, prompts={"recent": 2})
    for name in ("train_title", "rank"):
        assert stages[name].settings(longer) != stages[name].settings(config)
    for name in ("prepare", "train"):
        assert stages[name].settings(longer) == stages[name].settings(config)


def test_the_search_proposes_to_the_yes_no_ranker_in_a_full_catalog(tmp_path, tiny_model):
    write_planted(tmp_path)
    config = planted(
        tmp_path,
        tiny_model,
        data={"candidates": "full", "test_cases": 4},
        train={"epochs": 0},
        rank={
            "rankers": ["title_search", "llm_zero_shot"],
            "retriever": "title_search",
            "retrieve_k": 3,
            "title_search": {"beams": 4},
        },
        evaluate={"metrics": ["recall@3"]},
    )
    list(run(config))
    lists = pl.read_parquet(config.run.folder / "rankings.parquet")
    by_name = lists.partition_by("ranker", as_dict=True)
    proposed, ordered = by_name[("title_search",)], by_name[("llm_zero_shot",)]
    for one, other in zip(proposed["items"], ordered["items"], strict=True):
        assert len(other) == 3
        assert set(one[:3]) == set(other)


def test_when_its_users_are_deleted_the_service_keeps_no_written_title(
    tmp_path, tiny_model, monkeypatch
):
    from trsr.serve.service import Service
    from trsr.serve.settings import ServeSettings
    from trsr.serve.store import Store
    from trsr.storage.response_cache import ResponseCache

    monkeypatch.setattr("trsr.rankers.item_text.SentenceEncoder", SameVector)
    # the other scores also ask about titles alone, which says nothing of a user and may stay
    monkeypatch.setattr("trsr.rankers.titles.TitleRanker.SCORES", ("total",))
    write_planted(tmp_path)
    config = planted(
        tmp_path,
        tiny_model,
        run={"folder": str(tmp_path / "run"), "cache": str(tmp_path / "own.sqlite")},
        data={"test_cases": 3},
        train={"epochs": 0},
        rank={
            "rankers": ["title", "title_search", "title_sampled"],
            "title_sampled": {"samples": 2},
        },
    )
    list(run(config))
    cache = ResponseCache(config.run.cache)
    assert len(cache) > 0
    store = Store(f"sqlite:///{tmp_path / 'state.sqlite'}")
    service = Service(config.run.folder, store, ServeSettings(ranker="title_sampled"))
    removed = [service.delete_user(row.user).outputs for row in store.users(limit=1000)]
    assert sum(removed) > 0
    assert len(cache) == 0
    cache.close()
    service.close()
    store.close()


def test_the_recommender_loads_titles_and_saves_their_adapter(learned, tmp_path):
    _, config, _ = learned
    loaded = Recommender.load(config.run.folder, "title")
    first = loaded.recommend("u0", 3)
    loaded.save(tmp_path / "saved")
    assert (tmp_path / "saved" / "adapter_title").is_dir()
    again = Recommender.load(tmp_path / "saved").recommend("u0", 3)
    assert again["item"].to_list() == first["item"].to_list()
    assert again["score"].to_list() == pytest.approx(first["score"].to_list(), abs=1e-4)


def test_the_method_has_a_history_and_a_rate_of_its_own():
    values = {"method": "llm_seq_prompt", "data": {"interactions": "x.csv"}}
    config = check_config(values)
    assert (config.prompts.recent, config.train.learning_rate) == (10, 1e-3)
    config = check_config(values | {"prompts": {"recent": 4}, "train": {"learning_rate": 2e-4}})
    assert (config.prompts.recent, config.train.learning_rate) == (4, 2e-4)


@pytest.mark.parametrize(
    ("tables", "message"),
    [
        (
            {"method": "tallrec", "rank": {"rankers": ["title"]}},
            "the method tallrec trains no model to write titles; leave out title",
        ),
        (
            {"rank": {"rankers": ["popular"], "retriever": "title_search"}},
            "50 proposals are asked for, and title_search finds 20 titles; raise",
        ),
        ({"rank": {"retriever": "title"}}, "popular, or title_search"),
        ({"model": {"backend": "openai"}}, "gives no log-probabilities"),
        (
            {"model": {"backend": "openai"}, "rank": {"rankers": ["title_sampled"]}},
            "openai cannot be trained here; set it to 0",
        ),
        ({"rank": {"title_sampled": {"temperature": 0}}}, "greater than 0"),
        ({"prompts": {"recent": 0}}, "title asks for the title after recent ones; show 1 or more"),
        ({"train_title": {"epochs": 2}}, "train_title: unknown setting"),
    ],
)
def test_settings_that_cannot_work_are_refused(tables, message):
    values = {"method": "llm_seq_prompt", "data": {"interactions": "x.csv"}} | tables
    with pytest.raises(ConfigError, match=message):
        check_config(values)


def test_an_endpoint_may_write_titles():
    check_config(
        {
            "method": "llm_seq_prompt",
            "data": {"interactions": "x.csv"},
            "model": {"backend": "openai"},
            "train": {"epochs": 0},
            "rank": {"rankers": ["popular", "title_sampled"]},
        }
    )


def test_an_endpoint_writes_titles_and_a_second_run_asks_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr("trsr.rankers.item_text.SentenceEncoder", SameVector)
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    write_planted(tmp_path)
    endpoint = Endpoint(lambda call: call.answer(" Quiet\n"))
    asked = {
        "model": {"backend": "openai", "name": "author", "base_url": endpoint.url},
        "train": {"epochs": 0},
        "data": {"test_cases": 4},
        "rank": {"rankers": ["title_sampled"], "title_sampled": {"samples": 3}},
    }
    try:
        config = planted(tmp_path, "author", **asked)
        made = {one.stage: one for one in run(config)}
        # users with the same last title share their answers
        count = len(endpoint.bodies)
        assert 3 <= count <= 4 * 3
        asked["rank"]["title_sampled"]["samples"] = 2
        list(run(planted(tmp_path, "author", **asked)))
        assert len(endpoint.bodies) == count
    finally:
        endpoint.close()
    found = made["rank"].info["notes"]["title_sampled"]
    assert (found["written"], found["exact"], found["lost"]) == (12, 1.0, 0.0)
    assert "100% are titles of the catalog" in (config.run.folder / "report.md").read_text()


def test_a_training_that_is_stopped_goes_on_to_the_same_adapter(tmp_path, tiny_model):
    write_planted(tmp_path)
    own = {"train": {"epochs": 1, "checkpoint_steps": 2, "targets": ["q_proj"]}}
    config = planted(tmp_path, tiny_model, **own)
    whole = planted(tmp_path, tiny_model, **own, run={"folder": str(tmp_path / "whole")})

    class Stop:
        def __init__(self):
            self.steps = 0

        def begin(self, total, unit):
            pass

        def advance(self, n=1, note=""):
            self.steps += n
            if self.steps == 5:
                raise KeyboardInterrupt

    for name in ("prepare", "summarize", "train"):
        run_stage(config, name)
        run_stage(whole, name)
    with pytest.raises(KeyboardInterrupt):
        run_stage(config, "train_title", Stop())
    run_stage(config, "train_title")
    run_stage(whole, "train_title")
    name = "adapter_title/adapter_model.safetensors"
    broken, unbroken = (one.run.folder / name for one in (config, whole))
    assert broken.read_bytes() == unbroken.read_bytes()
