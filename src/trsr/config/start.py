"""The settings of a first run, for `trsr init` and `trsr.fit`."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any

import tomli_w

from trsr.data import Guess

HEAD = """# Written by trsr init; every setting: docs/configuration.md
# A first run of minutes on two cores. For a real one raise max_history, train_users and
# test_cases: 0 takes all.
"""

REST = """
# The language model. smollm2-135m is small and runs on a laptop; name a folder or a hub id for a
# larger one, and set style = "instruct" in [prompts] for it.
[model]
name = "smollm2-135m"
scorer = "auto" # ranks through openvino on a CPU, where it is installed

[summarize]
strategy = "hierarchical" # or recurrent, or none
block_items = 5
last_block = false # true: also summarize a last block that is not full

[summarize.sampling]
max_tokens = 60
repetition_penalty = 1.05
no_repeat_ngram = 4

[train]
loss = "listwise"
learning_rate = 1e-3 # what works for a small model; 1e-4 is the paper's, for 7 billion parameters
dropout = 0 # one pass over few cases does not overfit, and dropout costs time
epochs = 1
"""

RANK = """
# What the language model has to beat is cheap: popularity, words, items clicked together. Networks
# over sequences and blends take minutes more: docs/rankers.md.
[rank]
rankers = ["random", "popular", {words}"item_knn", "llm_zero_shot", "llm"]
"""

FAST = """
# The same model writes summaries faster through openvino on a CPU.
[summarize.model]
name = "smollm2-135m"
backend = "openvino"
"""


def first_settings(found: Guess, paths: Mapping[str, str]) -> str:
    """A configuration for files that nobody described, as TOML with comments.

    Args:
        found: How to read the files.
        paths: The settings of `[data]` that name them.
    """
    data = found.settings.model_dump(mode="json", exclude_defaults=True) | dict(paths)
    # a first run of minutes; the head of the file explains how to enlarge it
    data |= {"max_history": 20, "train_users": 80, "test_cases": 40, "train_negatives": 4}
    # training and test share users and blocks, and so most summaries
    data |= {"same_users": True, "history_step": 5}
    prompts: dict[str, Any] = {
        "domain": found.domain,
        "style": "worked",
        "fields": list(found.fields),
    }
    prompts |= {"words": 20, "summary_item_words": 20}
    fast = FAST if find_spec("openvino_genai") else ""
    rank = RANK.format(words='"bm25", ' if find_spec("bm25s") else "")
    return tomli_w.dumps({"data": data, "prompts": prompts}) + REST + rank + fast


def blended_settings(found: Guess, paths: Mapping[str, str]) -> dict[str, Any]:
    """The same for `trsr.fit`: a ranker worth having, after as few minutes.

    The language model, trained on few cases, is blended with what learns from all users' items.
    """
    values = tomllib.loads(first_settings(found, paths))
    values["data"] |= {"train_users": 40, "valid_cases": 40}  # the blend's weights need the latter
    values["summarize"]["sampling"]["max_tokens"] = 32
    values["train"]["upper_layers"] = 15  # of 30: the gradient goes back through these alone
    network = "sasrec_text" if find_spec("sentence_transformers") else "sasrec"
    values["rank"] = {
        "rankers": ["popular", "item_knn", network, "llm", "blend"],
        "retriever": "item_knn",
        "blend": {"members": [network, "item_knn", "llm"]},
        # too few validation cases to stop by: an average of the weights is kept
        "sequential": {
            **{"average_decay": 0.8, "learning_rate": 3e-3, "batch_size": 64},
            **{"max_epochs": 12, "patience": 12},
        },
    }
    return values
