"""Random sequences that share beginnings, and each computed alone: what the tree must equal."""

from __future__ import annotations

import random
from typing import Any

import torch

from trsr.models.token_tree.tree import answer_logits, answer_states

ANSWERS = [5, 9, 11]
"""The rows of the head that are asked."""


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


def gradients(network: Any, loss: torch.Tensor) -> dict[str, torch.Tensor]:
    network.zero_grad()
    loss.backward()
    return {n: p.grad.clone() for n, p in network.named_parameters() if p.grad is not None}


def same_gradients(
    network: Any, sequences: list[tuple[int, ...]], budget: int, seed: int = 0
) -> None:
    """Checks that the tree's gradients are those of each sequence alone, to 1e-5."""
    weights = torch.randn(len(sequences), len(ANSWERS), generator=torch.manual_seed(seed % 2**31))
    states = answer_states(network, sequences, batch_tokens=budget)
    ours = gradients(network, (answer_logits(network, states, ANSWERS) * weights).sum())
    theirs = gradients(network, (pairwise(network, sequences)[:, ANSWERS] * weights).sum())
    assert ours.keys() == theirs.keys()
    for name, gradient in theirs.items():
        error = (ours[name] - gradient).norm() / gradient.norm().clamp_min(1e-12)
        assert error < 1e-5, name
