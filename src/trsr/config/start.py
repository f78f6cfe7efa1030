"""The settings of a first run, for `trsr init` and `trsr.fit`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import tomli_w

from trsr.data import Guess
from trsr.storage import files

HEAD = """# Written by trsr init; every setting: docs/configuration.md
# A first run of minutes on two cores. For a real one raise max_history, train_users,
# valid_cases and test_cases: 0 takes all.
"""

REST = """
# The language model. smollm2-135m is small and runs on a laptop; name a folder or a hub id for a
# larger one, and set style = "instruct" in [prompts] for it.
[model]
name = "smollm2-135m"
scorer = "auto" # ranks through openvino on a CPU, where it is installed

[summarize]
strategy = "hierarchical" # or recurrent, or none
block_items = {block_items}
last_block = false # true: also summarize a last block that is not full

[summarize.sampling]
max_tokens = 32
repetition_penalty = 1.05
no_repeat_ngram = 4

[train]
loss = "listwise"
learning_rate = 2e-3 # what works for a small model; 1e-4 is the paper's, for 7 billion parameters
dropout = 0 # one pass over few cases does not overfit, and dropout costs time
epochs = 1
upper_layers = 8 # of 30: the gradient goes back through these alone
"""

RANK = """
# {why}
# The blend weighs a network over everybody's items, the words of items, items clicked together, and
# the language model, which alone learns little from a few users: docs/rankers.md.
[rank]
rankers = ["popular", {words}"item_knn", "{network}", "llm", "blend"]
retriever = "item_knn"
blend.members = ["{network}", {words}"item_knn", "llm"]

[rank.sequential] # few validation cases cannot say when to stop: an average of the weights is kept
average_decay = 0.8
learning_rate = 3e-3
batch_size = 64
max_epochs = 12
patience = 12
"""

NETWORKS = {
    "sasrec_text": "sasrec_text reads the items' texts; where trsr[embeddings] is not installed, "
    "trsr init writes sasrec.",
    "sasrec": "sasrec knows items by ids alone; sasrec_text reads their texts too: it needs\n"
    "# pip install 'trsr[embeddings]', then trsr init again with --force.",
}
"""Why a network is written, for the configuration."""

FAST = """
# The same model writes summaries faster through openvino on a CPU.
[summarize.model]
name = "smollm2-135m"
backend = "openvino"
"""


def name_of(data: Path) -> str:
    """A name for what is made of the data at a path: `clicks` of `clicks-*.csv.gz`."""
    name = Path(files.absolute(data)).name.split(".")[0]
    return re.sub(r"[*?\[\]]", "", name).strip("-_ ") or "data"


def first_settings(found: Guess, paths: Mapping[str, str]) -> str:
    """A configuration for files that nobody described, as TOML with comments.

    Args:
        found: How to read the files.
        paths: The settings of `[data]` that name them.
    """
    data = found.settings.model_dump(mode="json", exclude_defaults=True, exclude_none=True)
    data |= dict(paths)
    # a first run of minutes; the head of the file explains how to enlarge it
    data |= {"max_history": 20, "train_users": 40, "valid_cases": 40, "test_cases": 40}
    data |= {"train_negatives": 4}
    # training and test share users and blocks, and so most summaries
    data |= {"same_users": True, "history_step": 5}
    prompts: dict[str, Any] = {
        "domain": found.domain,
        "style": "worked",
        "fields": list(found.fields),
    }
    prompts |= {"words": 20, "summary_item_words": 20}
    fast = FAST if find_spec("openvino_genai") else ""
    network = "sasrec_text" if find_spec("sentence_transformers") else "sasrec"
    words = '"bm25", ' if find_spec("bm25s") else ""
    rank = RANK.format(words=words, network=network, why=NETWORKS[network])
    rest = REST.format(block_items=found.block_items)
    return tomli_w.dumps({"data": data, "prompts": prompts}) + rest + rank + fast


def missing_packages() -> list[str]:
    """What `first_settings` leaves out for want of a package, and how to have it; a line each."""
    extras = {
        "sentence_transformers": ("embeddings", "sasrec, where sasrec_text reads items' texts too"),
        "bm25s": ("baselines", "no bm25, which ranks by the words of items"),
        "openvino_genai": ("openvino", "summaries by torch, where openvino is faster on a CPU"),
    }
    return [
        f"written without trsr[{extra}]: {what}; pip install 'trsr[{extra}]' and write it again"
        for module, (extra, what) in extras.items()
        if not find_spec(module)
    ]
