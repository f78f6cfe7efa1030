"""What can score prompts given as tokens; a further engine is one more line in the table."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from trsr.models.hf.model import TransformersModel
from trsr.models.openvino.compiled import CompiledPass
from trsr.models.token_tree.kv_cache import decoder_of, run
from trsr.models.token_tree.tokens import Tokens
from trsr.models.token_tree.tree import PackedPass, answer_logits, answer_states
from trsr.settings import derive_seed


def shared_prefixes(
    queries: int, prefix: int, candidates: int, rest: int, *, vocabulary: int, seed: int = 0
) -> list[list[Tokens]]:
    """Random prompts: for each query, `candidates` that begin with its own prefix.

    They part exactly where the prefix ends, and queries part at once, so there are
    `queries * (prefix + candidates * rest)` distinct tokens.

    Raises:
        ValueError: If the vocabulary has too few tokens to begin with.
    """
    if vocabulary < max(queries, candidates):
        raise ValueError(f"{vocabulary} tokens cannot begin {max(queries, candidates)} prompts")
    starts = _rng(seed, "queries").permutation(vocabulary)[:queries]
    made = []
    for query, start in enumerate(starts.tolist()):
        draw = _rng(seed, str(query))
        head = (start, *draw.integers(vocabulary, size=prefix - 1).tolist())
        firsts = draw.permutation(vocabulary)[:candidates].tolist()
        made.append(
            [(*head, first, *draw.integers(vocabulary, size=rest - 1).tolist()) for first in firsts]
        )
    return made


def _rng(seed: int, name: str) -> np.random.Generator:
    return np.random.default_rng(derive_seed(seed, "bench", name))


def padded_states(network: Any, sequences: Sequence[Tokens], rows: int) -> Tensor:
    """The final hidden state at each sequence's last token, each sequence computed whole.

    The reference that sharing is compared with, at its best: sorted by length, so that little is
    padding, on the right, so that full causal attention needs no mask. Differentiable.

    Args:
        network: A causal language model.
        sequences: Tokens.
        rows: Sequences side by side.

    Returns:
        Shape (sequences, hidden), in the sequences' order.
    """
    order = sorted(range(len(sequences)), key=lambda index: len(sequences[index]))
    decoder = decoder_of(network)
    states = [_last(decoder, [sequences[i] for i in batch]) for batch in _cut(order, rows)]
    every = torch.cat(states)
    back = torch.tensor(np.argsort(order), device=every.device)
    return every.index_select(0, back)


def _last(decoder: Any, batch: Sequence[Tokens]) -> Tensor:
    hidden, _ = run(decoder, batch)
    ends = torch.tensor([len(tokens) - 1 for tokens in batch], device=hidden.device)
    return hidden[torch.arange(len(batch), device=hidden.device), ends]


def _cut(order: Sequence[int], rows: int) -> Iterator[Sequence[int]]:
    return (order[start : start + rows] for start in range(0, len(order), rows))


Calls = Sequence[Sequence[Tokens]]
"""Prompts in tokens, in the groups that go to the model in one call."""

Scores = npt.NDArray[np.float64]
"""[prompts, answers], in the calls' order; only differences along a row mean anything."""

Engine = Callable[[Calls, Sequence[int]], Scores]
"""(calls, the answers' tokens) → how likely each answer's token comes next."""

REFERENCE = "pairwise"
ROWS = 20
"""Prompts that the pairwise way computes side by side."""


def open_pairwise(model: TransformersModel) -> Engine:
    """Each prompt computed whole, sorted by length over all calls, `ROWS` side by side."""

    def score(calls: Calls, answers: Sequence[int]) -> Scores:
        with torch.no_grad():
            every = [tokens for call in calls for tokens in call]
            states = padded_states(model.network, every, ROWS)
            return answer_logits(model.network, states, answers).double().cpu().numpy()

    return score


def open_tree(model: TransformersModel) -> Engine:
    """What a call's prompts begin alike computed once, as trsr ranks."""
    return _tree(model, None)


def open_openvino(model: TransformersModel) -> Engine:
    """The same tree, its passes compiled (`model.scorer = openvino`)."""
    return _tree(model, CompiledPass(model.network))


def _tree(model: TransformersModel, packed: PackedPass | None) -> Engine:
    def score(calls: Calls, answers: Sequence[int]) -> Scores:
        budget = model.settings.batch_tokens
        with torch.no_grad():
            states = (
                answer_states(model.network, call, batch_tokens=budget, packed=packed)
                for call in calls
            )
            found = [answer_logits(model.network, one, answers) for one in states]
            return torch.cat(found).double().cpu().numpy()

    return score


ENGINES: dict[str, Callable[[TransformersModel], Engine]] = {
    REFERENCE: open_pairwise,
    "tree": open_tree,
    "openvino": open_openvino,
}
"""Each opener raises `ModelError` or `ConfigError` where its engine cannot run."""
