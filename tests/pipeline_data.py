"""Made-up data for whole runs: users who take things, in a CSV and a JSON-lines file."""

from __future__ import annotations

import json
import random

import tomli_w

WORDS = "steel copper bolt drill glove tape lamp valve brush cable mask hinge".split()

CHEAP = """
[data]
interactions = "clicks.csv"
items = "products.jsonl"
min_history = 4
negatives = 6

[summarize]
strategy = "none"

[train]
epochs = 0

[rank]
rankers = ["random", "popular"]
"""
"""A configuration over that data which asks no language model."""

SMALL = """
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
"""One that trains a tiny model, `./tiny`, beside it."""

FEW = """
[data]
interactions = "clicks.csv"
items = "products.jsonl"
min_history = 4
negatives = 6
train_users = 6
valid_cases = 4
test_cases = 4

[model]
dtype = "float32"
device = "cpu"
"""
"""A few cases for a local model in fp32, to be continued with more tables."""

SCRIPTED = f"""{CHEAP}
[model]
backend = "scripted"
name = "scripted"
"""
"""The same with a language model that answers by a script, for rankers that ask one."""


BASE = {
    "data": {
        "interactions": "clicks.csv",
        "items": "products.jsonl",
        "min_history": 4,
        "negatives": 6,
    },
    "model": {"backend": "scripted", "name": "scripted"},
    "train": {"epochs": 0},
}


def configured(**tables):
    """A configuration over that data, which a scripted model answers and nothing trains.

    Args:
        tables: More settings of each table.
    """
    return tomli_w.dumps({k: BASE.get(k, {}) | tables.get(k, {}) for k in {**BASE, **tables}})


def write_data(folder, users=14, items=30, seed=3):
    """Writes clicks.csv (customer, sku, when) and products.jsonl (sku, title, brand)."""
    draw = random.Random(seed)
    with (folder / "products.jsonl").open("w") as file:
        for item in range(items):
            title = f"{WORDS[item % len(WORDS)]} {draw.choice(WORDS)} no. {item}"
            row = {"sku": f"p{item}", "title": title, "brand": draw.choice(["Ajax", "Bolt & Co"])}
            file.write(json.dumps(row) + "\n")
    with (folder / "clicks.csv").open("w") as file:
        file.write("customer,sku,when\n")
        for user in range(users):
            for when, item in enumerate(draw.sample(range(items), draw.randint(8, 14))):
                file.write(f"u{user},p{item},{1000 * user + when}\n")
