"""The token tree in one forward pass: all its runs end to end, under a mask of who follows whom.

A row holds whole trees, depth first, so that what follows a token is one stretch behind it: a
token is seen by itself and by the tokens from there to the last that follows it, and by no other.
No keys and values are kept, and gradients are autograd's own. Two kernels mean the same:
FlexAttention (Dong et al. 2024), which on CUDA leaves out the blocks in which nothing is seen, and
torch's own attention with the mask spelled out, tokens × tokens, which runs everywhere.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention
from transformers import AttentionInterface

from trsr.llm.attention import attending
from trsr.llm.kept import can_keep, decoder_of
from trsr.llm.packed import is_plain
from trsr.llm.tokens import Node, Tokens, filled, grow

NAME = "trsr_masked"
BLOCK = 128
"""FlexAttention gets rows of whole blocks: fewer shapes to compile for, and never so few tokens
that it takes its kernel for decoding, which cannot take every number of heads."""

MOST_REPEATED = 1.25
"""A tree that does not fit one pass goes level by level where passes under a mask, which repeat
what stands above their part of it, would compute more than so many times its tokens."""

Kernel = Literal["flex", "dense"]


@dataclass
class Row:
    """Trees laid out for one pass.

    Attributes:
        ids: The tokens.
        positions: How many tokens stand before each in its sequences.
        last: For each the place of the last token that follows it; its own where none does.
        ends: (place, sequence) of the sequences whose last token stands there.
    """

    ids: list[int] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)
    last: list[int] = field(default_factory=list)
    ends: list[tuple[int, int]] = field(default_factory=list)


@dataclass(frozen=True, eq=False)
class Plan:
    """Who sees whom in one pass, for one of the kernels.

    Attributes:
        mask: [tokens, tokens], true where the row's token sees the column's; None: `blocks` says.
        blocks: The same by blocks.
    """

    mask: Tensor | None = None
    blocks: BlockMask | None = None


@contextlib.contextmanager
def masking(network: Any, wanted: bool) -> Iterator[None]:
    """Within it the network's trees are computed under a mask, or are not; see `set_masking`."""
    before = wants_mask(network)
    set_masking(network, wanted)
    try:
        yield
    finally:
        set_masking(network, before)


def set_masking(network: Any, wanted: bool) -> None:
    """Whether trees are to be computed under a mask wherever `can_mask` allows it.

    The wish goes with the network, since losses are given no settings beside it.
    """
    decoder_of(network).trsr_masking = wanted


def wants_mask(network: Any) -> bool:
    """Whether `set_masking` asks for the mask; False where it was never called."""
    return bool(getattr(decoder_of(network), "trsr_masking", False))


def can_mask(network: Any) -> bool:
    """Whether a tree can be computed under a mask: a plain decoder, gradients not checkpointed.

    A checkpointed layer is computed a second time when the pass, and its attention, are over.
    """
    return is_plain(decoder_of(network)) and can_keep(network)


def rows_of(ordered: Sequence[Tokens], batch_tokens: int) -> list[list[Node]] | None:
    """The trees of each pass: as many whole ones as the budget holds.

    A tree that is larger comes as several, each with a copy of the runs above its part; a single
    sequence that is larger is a tree of its own.

    Args:
        ordered: Distinct, sorted, non-empty sequences; positions in it name them in `Node.ends`.
        batch_tokens: The most tokens of a pass.

    Returns:
        None where the copies would be too much to compute (`MOST_REPEATED`).
    """
    top = grow(ordered, 1)  # a split costs no pass here: it pays whatever it saves
    parts = [part for node in top for part in _cut(node, batch_tokens)]
    if sum(part.size for part in parts) > MOST_REPEATED * sum(node.size for node in top):
        return None
    return list(filled(parts, batch_tokens, _size))


def run_masked(
    decoder: Any, trees: Sequence[Node], kernel: Kernel | None = None
) -> tuple[list[int], Tensor]:
    """One forward pass over whole trees.

    Args:
        decoder: A decoder that `can_mask` accepts.
        trees: Their topmost runs; the pass is as long as all their runs together.
        kernel: None: flex on CUDA, else dense. On a CPU flex gives no gradients.

    Returns:
        The sequences that end in the trees; and the last norm's output at their last tokens, in
        the same order, [sequences, hidden].
    """
    device = next(decoder.parameters()).device
    kernel = kernel or ("flex" if device.type == "cuda" else "dense")
    row = _laid(trees, BLOCK if kernel == "flex" else 1)
    with attending(decoder.config, NAME):
        output = decoder(
            input_ids=torch.tensor([row.ids], device=device),
            position_ids=torch.tensor([row.positions], device=device),
            use_cache=False,
            token_tree=_plan(torch.tensor(row.last, device=device), kernel),
        )
    states: Tensor = output.last_hidden_state[0]
    places = torch.tensor([place for place, _ in row.ends], device=device)
    return [sequence for _, sequence in row.ends], states.index_select(0, places)


def _cut(node: Node, room: int) -> list[Node]:
    """A tree as trees of at most so many tokens, see `rows_of`."""
    if not node.children or node.size <= room:
        return [node]
    room -= len(node.tokens)
    parts = [part for child in node.children for part in _cut(child, room)]
    return [
        Node(node.tokens, [] if number else node.ends, group)
        for number, group in enumerate(filled(parts, room, _size))
    ]


def _size(node: Node) -> int:
    return node.size


def _laid(trees: Sequence[Node], block: int) -> Row:
    """The trees depth first, end to end, filled up to whole blocks."""
    row = Row()
    todo = [(node, 0) for node in reversed(trees)]
    while todo:
        node, start = todo.pop()
        here, length = len(row.ids), len(node.tokens)
        row.ends += [(here + offset, sequence) for offset, sequence in node.ends]
        row.ids += node.tokens
        row.positions += range(start, start + length)
        row.last += [here + node.size - 1] * length
        todo += [(child, start + length) for child in reversed(node.children)]
    spare = range(len(row.ids), len(row.ids) + -len(row.ids) % block)
    row.ids += [0] * len(spare)
    row.positions += [0] * len(spare)
    row.last += spare  # each sees itself alone, and nobody sees it
    return row


def _plan(last: Tensor, kernel: Kernel) -> Plan:
    """From the place of the last token that follows each token, [tokens]."""
    count = len(last)
    if kernel == "dense":
        place = torch.arange(count, device=last.device)
        return Plan(mask=(place[None, :] <= place[:, None]) & (last[None, :] >= place[:, None]))

    def sees(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return (key <= query) & (last[key] >= query)

    blocks = create_block_mask(sees, None, None, count, count, last.device, BLOCK_SIZE=BLOCK)
    return Plan(blocks=blocks)


def attend(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    token_tree: Plan,
    scaling: float,
    dropout: float = 0.0,
    **others: Any,
) -> tuple[Tensor, None]:
    """The attention of one layer, in the signature of transformers' `AttentionInterface`.

    Args:
        module: The layer's attention module.
        query: [1, heads, tokens, head size], positions already in it.
        key: [1, key heads, tokens, head size].
        value: As `key`.
        attention_mask: None.
        token_tree: Who sees whom.
        scaling: What scores are multiplied by.
        dropout: 0.
        others: What other kinds of attention need.

    Returns:
        [1, tokens, heads, head size].
    """
    if token_tree.blocks is not None:
        out = _flex(query.is_cuda)(
            query, key, value, block_mask=token_tree.blocks, scale=scaling, enable_gqa=True
        )
    else:
        # not every kernel that takes a mask takes grouped heads
        shared = query.shape[1] // key.shape[1]
        keys, values = (one.repeat_interleave(shared, dim=1) for one in (key, value))
        out = F.scaled_dot_product_attention(
            query, keys, values, attn_mask=token_tree.mask, scale=scaling
        )
    return out.transpose(1, 2), None


AttentionInterface.register(NAME, attend)


@functools.cache
def _flex(compiled: bool) -> Any:
    """FlexAttention: only compiled, which takes Triton on CUDA, does it leave out blocks."""
    return torch.compile(flex_attention) if compiled else flex_attention
