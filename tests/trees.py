"""Random sequences that share beginnings, and each computed alone: what the tree must equal."""

from __future__ import annotations

import random
from typing import Any

import torch


def forest(rng: random.Random, depth: int, stem: tuple[int, ...] = ()) -> list[tuple[int, ...]]:
    """Random sequences that share beginnings: some end where others go on, some stand twice."""
    sequences = [stem] if stem and rng.random() < 0.4 else []
    for _ in range(rng.choice([1, 2, 3, 5])):
        run = tuple(rng.randrange(3, 300) for _ in range(rng.choice([1, 1, 2, 9, 17, 40])))
        if depth and rng.random() < 0.8:
            sequences += forest(rng, depth - 1, stem + run)
        else:
            sequences += [stem + run] * rng.choice([1, 1, 1, 2])
    return sequences


def pairwise(network: Any, sequences: list[tuple[int, ...]]) -> torch.Tensor:
    """Whole-vocabulary logits at the last token, each sequence alone, by the model's own head."""
    return torch.stack(
        [network(input_ids=torch.tensor([s]), use_cache=False).logits[0, -1] for s in sequences]
    )
