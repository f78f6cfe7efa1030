"""A run whose tuning can succeed: a judge that a way of writing helps, and that can be learned."""

from __future__ import annotations

import json
import random

import pytest
from tune_judge import likes_gold

from trsr.config import load_config
from trsr.llm.scripted import ScriptedModel
from trsr.pipeline import run_prepare
from trsr.recommender import judge_writer

CONFIG = """
[data]
interactions = "clicks.csv"
items = "products.jsonl"
min_history = 4
max_history = 9
train_negatives = 3
negatives = 6
targets_per_user = 2
valid_cases = 12

[prompts]
domain = "products"
words = 6
summary_item_words = 6
recent = 2

[model]
name = "./tiny"
dtype = "float32"
context_tokens = 1024
batch_size = 4

[summarize]
strategy = "recurrent"
block_items = 4

[summarize.sampling]
max_tokens = 6

[tune_summarizer]
users = 12
samples = 4
temperature = 1.5
top_p = 1.0
margin = 0.0
epochs = 4
learning_rate = 3e-2
warmup_steps = 2
checkpoint_steps = 1
shown = 2
"""


def write_data(folder, users=14, seed=5):
    """Users who take gold things only, among as many grey ones."""
    draw = random.Random(seed)
    with (folder / "products.jsonl").open("w") as file:
        for item in range(48):
            title = f"{'gold' if item % 2 else 'grey'} {draw.choice(['bolt', 'lamp', 'hinge'])}"
            file.write(json.dumps({"sku": f"p{item}", "title": f"{title} no. {item}"}) + "\n")
    with (folder / "clicks.csv").open("w") as file:
        file.write("customer,sku,when\n")
        for user in range(users):
            gold = draw.sample(range(1, 48, 2), draw.randint(8, 12))
            for when, item in enumerate(gold):
                file.write(f"u{user},p{item},{1000 * user + when}\n")


@pytest.fixture
def prepared(tmp_path):
    """A prepared run's configuration, made with settings of one's own; the folder is `tmp_path`."""
    from tiny import tiny_model_folder

    def make(*settings):
        if not (tmp_path / "small.toml").exists():
            write_data(tmp_path)
            tiny_model_folder(tmp_path / "tiny")
            (tmp_path / "small.toml").write_text(CONFIG)
        config = load_config(
            tmp_path / "small.toml",
            [f"run.folder={tmp_path / 'run'}", *settings],
        )
        run_prepare(config)
        return config

    return make


@pytest.fixture
def gold_judge(monkeypatch):
    """The judge that likes gold."""

    def judge(config, adapter):
        model = ScriptedModel(scores=likes_gold, context_tokens=10**6)
        return model, judge_writer(config, model)

    monkeypatch.setattr("trsr.tune_summarizer.tuning.judge", judge)
