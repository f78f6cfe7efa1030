"""The token tree: from plain token sequences, each distinct token computed once.

Sequences with a common prefix (instruction, then user, then candidate) share its work: a shared run
of tokens is computed once, and the runs that follow it attend to its keys and values, level by
level. Scoring and training both use `answer_states`.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from trsr.models.hf.fused import head_rows
from trsr.models.token_tree.kv_cache import Bank, can_keep, decoder_of, run, select
from trsr.models.token_tree.packed import can_pack, run_packed
from trsr.models.token_tree.prefix_cache import Prefix, PrefixCache
from trsr.models.token_tree.tokens import (
    MIN_SAVED,
    Node,
    Tokens,
    TreeStats,
    distinct_tokens,
    filled,
    grow,
    spread,
    tree_stats,
)

__all__ = [
    "Node",
    "TreeStats",
    "all_logits",
    "answer_logits",
    "answer_states",
    "distinct_tokens",
    "grow",
    "log_normalizer",
    "token_states",
    "tree_stats",
]

HEAD_ROWS = 256
"""Positions whose logits over the whole vocabulary are held at once."""

PackedPass = Callable[
    [Sequence[tuple[Tokens, Prefix | None]], Sequence[bool], Sequence[tuple[int, int]]],
    tuple[Tensor, list[Prefix | None]],
]
"""A forward pass without padding: `run_packed` of a decoder, or a `CompiledPass`."""


def answer_states(
    network: Any,
    sequences: Sequence[Sequence[int]],
    *,
    batch_tokens: int,
    prefix_cache: PrefixCache | None = None,
    packed: PackedPass | None = None,
) -> Tensor:
    """The final hidden state at each sequence's last token, each distinct token computed once.

    Differentiable where gradients are enabled: those of a shared prefix are the sum over all that
    follows it, as if each sequence had been computed alone. Any order, repeated sequences,
    and sequences that begin others are fine.

    Args:
        network: A causal language model of transformers, plain or wrapped by PEFT.
        sequences: Token ids, each at least one long.
        batch_tokens: About how many tokens one forward pass may hold (a kept token counts for a
            quarter); a single longer sequence is a pass of its own.
        prefix_cache: Prefixes of earlier calls with the same weights, for passes without gradients
            that are packed (see `can_pack`).
        packed: The pass to make instead of the network's own; it gives no gradients.

    Returns:
        Shape (sequences, hidden), after the last norm and before the head, in the model's dtype, or
        in that of the pass that is given.

    Raises:
        ValueError: If a sequence is empty.
    """
    distinct = _distinct(sequences)
    tree = _tree(network, distinct)
    every, places = _compute(network, tree, batch_tokens, prefix_cache, packed)
    order = {tokens: places[index] for index, tokens in enumerate(distinct)}
    wanted = [order[tuple(sequence)] for sequence in sequences]
    return every.index_select(0, torch.tensor(wanted, dtype=torch.long, device=every.device))


def token_states(
    network: Any, sequences: Sequence[Sequence[int]], *, batch_tokens: int
) -> tuple[Tensor, list[list[int]]]:
    """The final hidden state at every token of some sequences, shared as in `answer_states`.

    Returns:
        The states, [tokens computed, hidden], as those of `answer_states`; and for each sequence
        the places of its tokens among them, of which what sequences share has one.

    Raises:
        ValueError: If a sequence is empty.
    """
    distinct = _distinct(sequences)
    tree, paths = spread(_tree(network, distinct))
    every, places = _compute(network, tree, batch_tokens)
    order = {tokens: index for index, tokens in enumerate(distinct)}
    return every, [
        [places[number] for number in paths[order[tuple(sequence)]]] for sequence in sequences
    ]


def answer_logits(network: Any, states: Tensor, token_ids: Sequence[int]) -> Tensor:
    """Some rows of the head, computed in fp32.

    In bf16 many candidates' scores would tie. Final hidden states are [n, hidden].

    Returns:
        Logits, [n, len(token_ids)], fp32, scaled and capped as the model does.
    """
    head = network.get_output_embeddings()
    rows = torch.tensor(token_ids, device=states.device)
    logits = head_rows(head, rows, states)
    if logits is None:  # a quantized head
        logits = head(states).index_select(-1, rows).float()
    return _scaled(network, logits)


def log_normalizer(network: Any, states: Tensor) -> Tensor:
    """The logarithm of the softmax's denominator over the whole vocabulary.

    The head runs in the model's dtype and the sum in fp32: all answers at one position share the
    result, so its rounding moves none past another. Final hidden states are [n, hidden].

    Returns:
        Shape (n), fp32.
    """
    # few rows at a time stay in a CPU's cache while they are summed
    rows = 8 if states.device.type == "cpu" else HEAD_ROWS
    return torch.cat(
        [
            _scaled(network, logits.float()).logsumexp(-1)
            for part in torch.split(states, HEAD_ROWS)
            for logits in torch.split(_head(network, part), rows)
        ]
    )


def all_logits(network: Any, states: Tensor) -> Tensor:
    """Every row of the head, computed in the model's dtype: [n, vocabulary], fp32."""
    return _scaled(network, _head(network, states).float())


def _head(network: Any, states: Tensor) -> Tensor:
    logits: Tensor = network.get_output_embeddings()(
        states.to(next(decoder_of(network).parameters()).dtype)
    )
    return logits


def _scaled(network: Any, logits: Tensor) -> Tensor:
    """What some models do between head and softmax (Cohere, Granite, Gemma)."""
    config = decoder_of(network).config
    if scale := getattr(config, "logit_scale", None):
        logits = logits * scale
    if divisor := getattr(config, "logits_scaling", None):
        logits = logits / divisor
    if cap := getattr(config, "final_logit_softcapping", None):
        logits = cap * torch.tanh(logits / cap)
    return logits


def _distinct(sequences: Sequence[Sequence[int]]) -> list[Tokens]:
    distinct = sorted({tuple(sequence) for sequence in sequences})
    if distinct and not distinct[0]:
        raise ValueError("a sequence of tokens is empty")
    return distinct


def _tree(network: Any, distinct: Sequence[Tokens]) -> list[Node]:
    """The tree of some sequences; flat where the network keeps no keys and values."""
    return grow(distinct, MIN_SAVED if can_keep(network) else math.inf)


def _compute(
    network: Any,
    top: list[Node],
    batch_tokens: int,
    prefix_cache: PrefixCache | None = None,
    packed: PackedPass | None = None,
) -> tuple[Tensor, dict[int, int]]:
    """The states where something ends, in the order of computing; and the row of each end."""
    decoder = decoder_of(network)
    places: dict[int, int] = {}
    states: list[Tensor] = []
    for found, state in _visit_levels(network, top, batch_tokens, prefix_cache, packed):
        for end in found:
            places[end] = len(places)
        states.append(state)
    if not states:
        parameter: Tensor = next(decoder.parameters())
        return parameter.new_zeros(0, decoder.config.hidden_size), places
    return torch.cat(states), places


def _visit_levels(
    network: Any,
    top: list[Node],
    batch_tokens: int,
    prefix_cache: PrefixCache | None,
    packed: PackedPass | None,
) -> Iterator[tuple[list[int], Tensor]]:
    """Computes a tree level by level, packed where that can be; yields as `_visit` does."""
    decoder = decoder_of(network)
    if packed is None and can_pack(decoder) and can_keep(network):
        packed = functools.partial(run_packed, decoder)
    if packed is None:
        return _visit(decoder, top, None, [0] * len(top), batch_tokens)
    rooted = [pair for node in top for pair in _behind_cached(node, prefix_cache)]
    return _visit_packed(packed, rooted, batch_tokens, prefix_cache)


def _visit(
    decoder: Any, nodes: list[Node], bank: Bank | None, rows: list[int], batch_tokens: int
) -> Iterator[tuple[list[int], Tensor]]:
    """Computes runs whose prefixes stand in the bank, then, batch by batch, what follows them.

    Depth first: only the prefixes between the root and the present batch are held.

    Yields:
        Sequences, and their final states in the same order.
    """
    for batch in _batches(nodes, bank, rows, batch_tokens):
        members = [nodes[i] for i in batch]
        parents = [index for index, node in enumerate(members) if node.children]
        hidden, kept = run(
            decoder,
            [node.tokens for node in members],
            bank,
            [rows[i] for i in batch] if bank else (),
            keep=bool(parents),
        )
        ends = [(row, *end) for row, node in enumerate(members) for end in node.ends]
        if ends:
            at, offsets, found = zip(*ends, strict=True)
            yield list(found), hidden[list(at), list(offsets)]
        if not parents:
            continue
        del hidden
        following = [child for index in parents for child in members[index].children]
        places = [row for row, index in enumerate(parents) for _ in members[index].children]
        kept = select(kept, parents)
        yield from _visit(decoder, following, kept, places, batch_tokens)


def _behind_cached(
    node: Node, prefix_cache: PrefixCache | None, above: Tokens = ()
) -> Iterator[tuple[Node, Prefix | None]]:
    """A run without its cached prefix, and that prefix; before it the runs below with longer ones.

    So users who come back together each go on behind their own prefix.
    """
    if prefix_cache is None:
        yield node, None
        return
    path = above + node.tokens
    rest = []
    for child in node.children:
        if prefix_cache.goes_on(path, child.tokens[0]):
            yield from _behind_cached(child, prefix_cache, path)
        else:
            rest.append(child)
    if not (rest or node.ends):
        return
    last = len(above) + min((offset for offset, _ in node.ends), default=len(node.tokens))
    found = prefix_cache.find(path, last)
    start = len(found.tokens) if found else 0
    if start == len(path):  # nothing of the run is left to compute
        yield from ((child, found) for child in rest)
        return
    ends = [(len(above) + offset - start, sequence) for offset, sequence in node.ends]
    yield Node(path[start:], ends, rest), found


def _visit_packed(
    packed: PackedPass,
    nodes: list[tuple[Node, Prefix | None]],
    batch_tokens: int,
    prefix_cache: PrefixCache | None = None,
) -> Iterator[tuple[list[int], Tensor]]:
    """The same as `_visit`, without padding; siblings stand together in `nodes`."""
    for batch in filled(nodes, batch_tokens, lambda node: len(node[0].tokens)):
        members = [node for node, _ in batch]
        segments = [(node.tokens, prefix) for node, prefix in batch]
        ends = [(row, *end) for row, node in enumerate(members) for end in node.ends]
        asked = [(row, at) for row, at, _ in ends]
        states, kept = packed(segments, [bool(m.children) for m in members], asked)
        if ends:
            yield [of for _, _, of in ends], states
        if prefix_cache is not None:
            prefix_cache.add(kept)
        below = [(child, kept[row]) for row, node in enumerate(members) for child in node.children]
        del states, kept
        if below:
            yield from _visit_packed(packed, below, batch_tokens, prefix_cache)


def _batches(
    nodes: list[Node], bank: Bank | None, rows: list[int], batch_tokens: int
) -> Iterator[list[int]]:
    """Positions of the nodes that run together: of like length, within the budget."""

    def kept(index: int) -> int:
        return bank.lengths[rows[index]] if bank else 0

    batch: list[int] = []
    longest = width = 0
    for index in sorted(range(len(nodes)), key=lambda i: (len(nodes[i].tokens), kept(i), i)):
        new, old = max(longest, len(nodes[index].tokens)), max(width, kept(index))
        # a kept token costs a pass its keys and values, not its way through the layers
        if batch and (len(batch) + 1) * (new + old / 4) > batch_tokens:
            yield batch
            batch, new, old = [], len(nodes[index].tokens), kept(index)
        batch.append(index)
        longest, width = new, old
    yield batch
