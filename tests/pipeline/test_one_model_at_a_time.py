"""Rankers that ask a language model hold it no longer than they need it."""

from __future__ import annotations

import gc
import weakref

import pytest

from trsr import recommender
from trsr.config import load_config
from trsr.pipeline import run
from trsr.storage.run_directory import RunDirectory

pytest.importorskip("torch", reason="the extra `local` is not installed")


def test_a_rankers_model_is_gone_before_the_next_one_comes(tmp_path, monkeypatch, small_run):
    monkeypatch.chdir(tmp_path)
    names = ["llm", "llm_item_only", "llm_zero_shot"]
    rankers = f"rank.rankers={names}".replace("'", '"')
    settings = [rankers, "summarize.strategy=none", "train.epochs=1"]
    config = load_config(small_run(tmp_path), settings)
    opened, there = [], []

    def watched(*args, **more):
        there.append(sum(one() is not None for one in opened))
        model = open_model(*args, **more)
        opened.append(weakref.ref(model))
        return model

    open_model = recommender.open_model
    monkeypatch.setattr(recommender, "open_model", watched)
    gc.disable()  # when rings are looked for is not to be counted on
    try:
        list(run(config))
    finally:
        gc.enable()
    assert there == [0, 0, 0]
    info = RunDirectory(config.run.folder).records()["rank"].info
    # what was written and asked is still counted, of two rankers that ask one model too
    prompts = {name: one["prompts"] for name, one in info["costs"].items()}
    assert min(prompts.values()) > 0
    written = sorted(one["written"] for one in info["models"].values())
    assert written == sorted([prompts["llm"] + prompts["llm_item_only"], prompts["llm_zero_shot"]])
