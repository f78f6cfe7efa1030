"""A small whole run: made-up data, a tiny random model."""

from __future__ import annotations

import pytest
from pipeline_data import write_data

CONFIG = """
[data]
interactions = "clicks.csv"
items = "products.jsonl"
min_history = 4
max_history = 12
train_negatives = 2
negatives = 6
targets_per_user = 2
valid_cases = 5

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
block_items = 3

[summarize.sampling]
max_tokens = 6

[train]
loss = "listwise"
learning_rate = 1e-2
epochs = 2
cases_per_step = 4
checkpoint_steps = 1
validate_steps = 5
warmup_steps = 2
"""


@pytest.fixture
def small_run():
    """Writes data, a tiny model and a configuration into a folder; returns the configuration."""

    def make(folder, text=CONFIG):
        from tiny import tiny_model_folder

        write_data(folder)
        tiny_model_folder(folder / "tiny")
        (folder / "small.toml").write_text(text)
        return folder / "small.toml"

    return make
