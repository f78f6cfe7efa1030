"""`trsr init`: a configuration guessed from the files."""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import tomli_w

from trsr.data import guess
from trsr.errors import ConfigError
from trsr.storage import files

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


def write_config(
    interactions: Path, items: Path | None, output: Path | None, force: bool
) -> tuple[Path, list[str]]:
    """Writes a configuration for a file of interactions and one of items, or for one that is both.

    Returns:
        The file written, and what was guessed and why, a line each.

    Raises:
        ConfigError: If the file exists and `force` is not set.
        DataError: If the files cannot be read, or a column cannot be guessed.
    """
    found = guess(interactions, items)
    path = output or Path(f"{interactions.name.split('.')[0]}.toml")
    if files.exists(path) and not force:
        raise ConfigError(f"{path} exists; give another name with --output, or --force")
    data = found.settings.model_dump(mode="json", exclude_defaults=True)
    for key, file in (("interactions", interactions), ("items", items)):
        if file is not None:
            data[key] = os.path.relpath(file, path.parent)
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
    values: dict[str, Any] = {"data": data, "prompts": prompts}
    head = f"# trsr run {path}\n{HEAD}\n"
    fast = FAST if find_spec("openvino_genai") else ""
    rank = RANK.format(words='"bm25", ' if find_spec("bm25s") else "")
    files.write_text(path, head + tomli_w.dumps(values) + REST + rank + fast, private=False)
    return path, found.reasons
