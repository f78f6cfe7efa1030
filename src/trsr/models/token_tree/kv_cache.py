"""Keys and values kept from shared prefixes, and the forward pass that goes on from them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor
from transformers.cache_utils import Cache, DynamicLayer

PLACES = "trsr_places"
"""An attribute of decoders whose positions are not places in the sequence.

From the position of each segment's first token it gives those of all, [axes, segments, longest],
and that of what follows each."""

SHARDED = "trsr_sharded"
"""An attribute of decoders whose layers' weights are shared among several workers."""

LayerKV = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Bank:
    """The keys and values of some prefixes, one row each, padded on the left.

    Padding stands on the left so that what follows a prefix stands right behind it: distances
    inside a row are then true ones, which sliding windows count on.

    Attributes:
        layers: Each layer's keys and values, [prefixes, heads, width, head size].
        lengths: Tokens of each prefix, from the sequence's first.
        nexts: The position of what follows each; empty: the lengths.
    """

    layers: tuple[LayerKV, ...]
    lengths: tuple[int, ...]
    nexts: tuple[int, ...] = ()


class LentLayer(DynamicLayer):  # type: ignore[misc]
    """One layer's kept prefixes, lent to the rows of a batch for one forward pass.

    The prefixes are repeated over their rows only while their own layer runs, so a batch holds one
    layer's copies at a time. `rows` is for each row of the batch its prefix's row in `past`, which
    is None at a tree's root.
    """

    def __init__(self, past: LayerKV | None, rows: Tensor, width: int, keep: bool) -> None:
        super().__init__()
        self.past, self.rows, self.width, self.keep = past, rows, width, keep

    def get_seq_length(self) -> int:
        """How many kept tokens stand before the batch's own."""
        return self.width

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: object, **kwargs: object
    ) -> LayerKV:
        """Joins the kept tokens to the new ones, both [rows, heads, tokens, head size]."""
        keys, values = key_states, value_states
        if self.past is not None:
            keys = torch.cat([self._lend(self.past[0]), keys], dim=-2)
            values = torch.cat([self._lend(self.past[1]), values], dim=-2)
        if self.keep:
            self.keys, self.values, self.is_initialized = keys, values, True
        return keys, values

    def _lend(self, past: Tensor) -> Tensor:
        past = past[:, :, past.shape[2] - self.width :]
        if past.shape[0] == 1:
            return past.expand(len(self.rows), -1, -1, -1)
        return past.index_select(0, self.rows)


def decoder_of(network: Any) -> Any:
    """The part of a causal language model below its head, also inside a PEFT wrapper."""
    inner = network.get_base_model() if hasattr(network, "get_base_model") else network
    return inner.get_decoder()


def can_keep(network: Any) -> bool:
    """Whether a prefix's keys and values can be kept and lent.

    Not with gradient checkpointing (transformers drops the cache there), nor in a training whose
    weights are sharded, and not in models whose layers hold a running state, or share keys and
    values across layers.
    """
    decoder = decoder_of(network)
    config = decoder.config
    kinds = set(getattr(config, "layer_types", None) or ())
    alone = network.training and any(
        getattr(module, "gradient_checkpointing", False) or getattr(module, SHARDED, False)
        for module in decoder.modules()
    )
    return (
        kinds <= {"full_attention", "sliding_attention"}
        and not getattr(config, "num_kv_shared_layers", 0)
        and not alone
    )


def run(
    decoder: Any,
    segments: Sequence[Sequence[int]],
    bank: Bank | None = None,
    rows: Sequence[int] = (),
    keep: bool = False,
) -> tuple[Tensor, Bank]:
    """One forward pass over segments that follow kept prefixes.

    `rows` is for each segment its prefix's row in the bank. Segments have a token at least, and are
    padded on the right here.

    Returns:
        The last norm's output, [segments, longest segment, hidden], meaningless on padding; and a
        bank with one row a segment, empty unless they are kept.
    """
    device = next(decoder.parameters()).device
    place = getattr(decoder, PLACES, None)
    lengths = [len(segment) for segment in segments]
    longest = max(lengths)
    starts = [bank.lengths[row] for row in rows] if bank else [0] * len(segments)
    width = max(starts)
    ids = torch.zeros(len(segments), longest, dtype=torch.long)
    for row, segment in enumerate(segments):
        ids[row, : len(segment)] = torch.tensor(segment)
    start, length = torch.tensor(starts)[:, None], torch.tensor(lengths)[:, None]
    # padding repeats the last position: a learned position table may end right behind it
    positions = start + torch.minimum(torch.arange(longest)[None, :], length - 1)
    nexts: list[int] = []
    if place is not None:
        before = (bank.nexts or bank.lengths) if bank else ()
        positions, nexts = place(segments, [before[row] for row in rows] if bank else starts)
    mask = None
    if min(starts) < width:
        behind = torch.arange(width)[None, :] >= width - start
        mask = F.pad(behind, (0, longest), value=True).long().to(device)
    cache = None
    if bank is not None or keep:
        indices = torch.tensor(rows, device=device) if bank else torch.arange(len(segments))
        pasts = bank.layers if bank else (None,) * decoder.config.num_hidden_layers
        cache = Cache(layers=[LentLayer(past, indices, width, keep) for past in pasts])
    output = decoder(
        input_ids=ids.to(device),
        attention_mask=mask,
        position_ids=positions.to(device),
        past_key_values=cache,
        use_cache=cache is not None,
    )
    if cache is None or not keep:
        return output.last_hidden_state, Bank((), ())
    layers = tuple((layer.keys, layer.values) for layer in cache.layers)
    return output.last_hidden_state, replace(_realign(layers, starts, lengths), nexts=tuple(nexts))


def select(bank: Bank, rows: Sequence[int]) -> Bank:
    """The bank of some of the prefixes, in this order."""
    if list(rows) == list(range(len(bank.lengths))):
        return bank
    lengths = tuple(bank.lengths[row] for row in rows)
    width = max(lengths)

    def pick(past: Tensor) -> Tensor:
        return past[list(rows)][:, :, past.shape[2] - width :]

    nexts = tuple(bank.nexts[row] for row in rows) if bank.nexts else ()
    return Bank(tuple((pick(keys), pick(values)) for keys, values in bank.layers), lengths, nexts)


def cut(decoder: Any, bank: Bank, tokens: Sequence[int]) -> Bank:
    """The first tokens of a bank's only prefix."""
    length, place = len(tokens), getattr(decoder, PLACES, None)
    layers = tuple((keys[:, :, :length], values[:, :, :length]) for keys, values in bank.layers)
    return Bank(layers, (length,), tuple(place([tokens], [0])[1]) if place else ())


def _realign(layers: tuple[LayerKV, ...], starts: Sequence[int], lengths: Sequence[int]) -> Bank:
    """Moves padding between and behind a row's tokens to the row's left."""
    width, longest = max(starts), max(lengths)
    totals = tuple(start + length for start, length in zip(starts, lengths, strict=True))
    widest = max(totals)

    def align(past: Tensor) -> Tensor:
        if min(starts) == width and min(lengths) == longest:
            return past
        parts = [
            F.pad(past[row, :, width - start : width + length], (0, 0, widest - total, 0))
            for row, (start, length, total) in enumerate(zip(starts, lengths, totals, strict=True))
        ]
        return torch.stack(parts)

    return Bank(tuple((align(keys), align(values)) for keys, values in layers), totals)
