"""A small run for the tests of the audit, and ways to plant faults in it."""

from __future__ import annotations

import json
import random
from pathlib import Path

import polars as pl

from trsr.experiments.audit import Check, audit

CONFIG = """
[data]
interactions = "clicks.csv"
items = "products.jsonl"
min_history = 4
negatives = 9
train_negatives = 2

[prompts]
domain = "products"
fields = ["title"]
recent = 2

[model]
backend = "scripted"
name = "scripted"

[summarize]
block_items = 3

[train]
epochs = 0

[rank]
rankers = ["random", "popular", "llm_zero_shot"]
"""
WORDS = [a + b for a in ("steel", "bolt", "drill", "tape", "lamp", "mask") for b in "abcdefg"]


def _name(n: int) -> str:
    """A word for a number: prompts must not show ids."""
    return "no" + "".join("abcdefghij"[int(digit)] for digit in str(n))


def write(folder: Path, *, users: int = 120, items: int = 90, near: bool = False) -> None:
    """Users whose taste is a word of the title; with `near`, neighbouring ids instead."""
    draw = random.Random(8)
    order = draw.sample(range(1000, 9999), items)
    # Long titles of few words: the scripted model counts common words, and few of them tie.
    titles = {n: " ".join([*draw.sample(WORDS, draw.randint(9, 34)), _name(n)]) for n in order}
    with (folder / "products.jsonl").open("w") as file:
        for n in order:
            file.write(json.dumps({"sku": str(n), "title": titles[n]}) + "\n")
    ranked = sorted(order)
    with (folder / "clicks.csv").open("w") as file:
        file.write("customer,sku,when\n")
        for user in range(users):
            at = draw.randrange(items - 12)
            taken = draw.sample(ranked[at : at + 12] if near else ranked, 8)
            for step, n in enumerate(taken):
                file.write(f"u{user},{n},{draw.randint(0, 99) + 100 * step}\n")


def states(folder: Path, llm_queries: int = 0) -> dict[str, str]:
    return {check.name: check.state for check in audit(folder, llm_queries).checks}


def change(folder: Path, name: str, *columns: pl.Expr) -> None:
    path = folder / name
    pl.read_parquet(path).with_columns(*columns).write_parquet(path)


def check(folder: Path, name: str, llm_queries: int = 0) -> Check:
    """The check of this name."""
    (found,) = [one for one in audit(folder, llm_queries).checks if one.name == name]
    return found
