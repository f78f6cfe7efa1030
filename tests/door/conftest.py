"""A finished run whose small random language model was trained."""

from __future__ import annotations

import contextlib

import pytest
from pipeline_data import write_data

TRAINED = """
[data]
interactions = "clicks.csv"
items = "products.jsonl"
min_history = 4
negatives = 6
train_users = 4
valid_cases = 4
test_cases = 4

[model]
name = "./tiny"
device = "cpu"
dtype = "float32"

[summarize]
strategy = "recurrent"
block_items = 3

[summarize.sampling]
max_tokens = 6

[train]
learning_rate = 3e-2

[rank]
rankers = ["popular", "llm"]
"""


@pytest.fixture(scope="session")
def trained_run(tmp_path_factory, tiny_model):
    from trsr.config import load_config
    from trsr.pipeline import run

    folder = tmp_path_factory.mktemp("trained")
    write_data(folder)
    (folder / "tiny").symlink_to(tiny_model)
    (folder / "mine.toml").write_text(TRAINED, "utf-8")
    with contextlib.chdir(folder):
        list(run(load_config("mine.toml")))
    return folder / "runs" / "mine"
