"""A run whose tuning can succeed: a model that writes in two ways, and a judge that likes one."""

from __future__ import annotations

import json
import random

import pytest
from tune_judge import likes_gold, teach_both_ways

from trsr.config import load_config
from trsr.models.scripted import ScriptedModel
from trsr.pipeline import run_prepare
from trsr.recommender import ranking_writer

CONFIG = """
[data]
interactions = "clicks.csv"
items = "products.jsonl"
min_history = 4
max_history = 5
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
block_items = 5

[summarize.sampling]
max_tokens = 16

[tune_summarizer]
users = 12
samples = 6
epochs = 6
learning_rate = 1e-2

[train]
alpha = 32
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


@pytest.fixture(scope="session")
def taught_model(tmp_path_factory):
    """The folder of a tiny model that writes in two ways, which no test changes."""
    import torch
    from tiny import tiny_model_folder

    folder = tmp_path_factory.mktemp("taught")
    write_data(folder)
    tiny_model_folder(folder / "tiny")
    (folder / "small.toml").write_text(CONFIG)
    config = load_config(folder / "small.toml", [f"run.folder={folder / 'run'}"])
    run_prepare(config)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield teach_both_ways(config, folder)
    torch.set_num_threads(threads)


@pytest.fixture
def prepared(tmp_path, taught_model):
    """A prepared run's configuration, made with settings of one's own; the folder is `tmp_path`."""
    write_data(tmp_path)
    (tmp_path / "small.toml").write_text(CONFIG.replace("./tiny", str(taught_model)))

    def make(*settings):
        own = [f"run.folder={tmp_path / 'run'}", *settings]
        config = load_config(tmp_path / "small.toml", own)
        run_prepare(config)
        return config

    return make


@pytest.fixture
def gold_judge(monkeypatch):
    """The judge that likes gold."""

    def rank(config, adapter):
        model = ScriptedModel(scores=likes_gold, context_tokens=10**6)
        return model, ranking_writer(config, model)

    monkeypatch.setattr("trsr.experiments.tune_summarizer.open_ranking_model", rank)
    monkeypatch.setattr("trsr.experiments.tune_summarizer.TEMPERATURE", 0.6)
