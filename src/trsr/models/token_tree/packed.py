"""The token tree's forward pass on a CPU: runs laid end to end, a prefix attended once for all.

No token is padding in the layers' matrix products; who attends to whom is `attention`'s.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from trsr.models.hf.low_rank import ranks_of
from trsr.models.token_tree.attention import NAME, Plan, Runs, attending
from trsr.models.token_tree.prefix_cache import Prefix
from trsr.models.token_tree.tokens import Tokens

KINDS = frozenset({"llama", "mistral", "qwen2", "qwen3", "gpt_neox"})
"""Architectures whose attention is known to be plain: others take the path of padded batches."""
ROWS = 64
"""A compressed model's pass in bf16 on AMX holds a multiple of so many tokens. oneDNN compiles a
matrix product for each number of rows and each rank, which takes longer than to multiply some
hundred rows; of a whole model all layers share a few.
"""
SLACK = 1.25
"""Runs of like length attend together, padded by no more than this."""


def can_pack(decoder: Any) -> bool:
    """Whether a decoder's pass can be packed: on a CPU, in fp32 or bf16, plain attention.

    Plain is attention of which all is known: full, without dropout, of `KINDS`.
    """
    parameter, config = next(decoder.parameters()), decoder.config
    return (
        parameter.device.type == "cpu"
        and parameter.dtype in (torch.float32, torch.bfloat16)
        and config.model_type in KINDS
        and set(getattr(config, "layer_types", None) or ()) <= {"full_attention"}
        and not (getattr(config, "sliding_window", None) and config.model_type == "mistral")
        and not (decoder.training and getattr(config, "attention_dropout", 0))
    )


def run_packed(
    decoder: Any,
    segments: Sequence[tuple[Tokens, Prefix | None]],
    keep: Sequence[bool],
    asked: Sequence[tuple[int, int]],
) -> tuple[Tensor, list[Prefix | None]]:
    """One forward pass over runs, each behind its prefix; runs with one prefix stand together.

    Args:
        decoder: A decoder that `can_pack` accepts.
        segments: (new tokens, at least one; the prefix before them).
        keep: Whether each run, with its prefix, is to be kept as a prefix.
        asked: The tokens whose states are wanted: (run, place in it).

    Returns:
        The last norm's output at the asked tokens, [asked, hidden]; and for each run the prefix
        that it is now.
    """
    plan = _plan(segments, any(keep))
    ids = [token for tokens, _ in segments for token in tokens]
    positions = [
        place
        for tokens, prefix in segments
        for place in range(_start(prefix), _start(prefix) + len(tokens))
    ]
    plan.filler = -len(ids) % ROWS if _is_compiled_often(decoder) else 0
    ids += [0] * plan.filler
    positions += [0] * plan.filler
    with attending(decoder.config, NAME):
        output = decoder(
            input_ids=torch.tensor([ids]),
            position_ids=torch.tensor([positions]),
            use_cache=False,
            token_tree=plan,
        )
    kept: list[Prefix | None] = [None] * len(segments)
    for row, wanted in enumerate(keep):
        if wanted:
            kept[row] = _longer(plan, row, *segments[row])
    # with gradients, a layer's keys know of the attention below, which knows of the plan: kept
    # there, they would keep each other, unseen by Python's collector
    plan.kept.clear()
    places = [plan.starts[row] + at for row, at in asked]
    return output.last_hidden_state[0][places], kept


def _is_compiled_often(decoder: Any) -> bool:
    dtype = next(decoder.parameters()).dtype
    amx = dtype == torch.bfloat16 and torch.cpu._is_amx_tile_supported()
    return amx and bool(ranks_of(decoder))


def _start(prefix: Prefix | None) -> int:
    return len(prefix.tokens) if prefix else 0


def _longer(plan: Plan, row: int, tokens: Tokens, prefix: Prefix | None) -> Prefix:
    first, last = plan.starts[row], plan.starts[row + 1]
    layers = {}
    for layer, (keys, values) in plan.kept.items():
        new = keys[:, first:last], values[:, first:last]
        if prefix is None:
            layers[layer] = new[0].contiguous(), new[1].contiguous()
        else:
            old = prefix.layers[layer]
            layers[layer] = torch.cat([old[0], new[0]], 1), torch.cat([old[1], new[1]], 1)
    return Prefix(layers, (prefix.tokens if prefix else ()) + tokens)


def _plan(segments: Sequence[tuple[Tokens, Prefix | None]], keep: bool) -> Plan:
    lengths = [len(tokens) for tokens, _ in segments]
    starts = [0, *itertools.accumulate(lengths)]
    prefixes: list[tuple[Prefix, int, int]] = []
    for row, (_, prefix) in enumerate(segments):
        if prefix is None:
            continue
        if prefixes and prefixes[-1][0] is prefix and prefixes[-1][2] == starts[row]:
            prefixes[-1] = (prefix, prefixes[-1][1], starts[row + 1])
        else:
            prefixes.append((prefix, starts[row], starts[row + 1]))
    return Plan(segments, starts, prefixes, list(_alike(lengths, starts)), keep)


def _alike(lengths: Sequence[int], starts: Sequence[int]) -> Iterator[Runs]:
    order = sorted(range(len(lengths)), key=lambda row: lengths[row])
    while order:
        # the longest run sets the width; those nearly as long join it
        width = lengths[order[-1]]
        rows: list[int] = []
        while order and lengths[order[-1]] * SLACK >= width:
            rows.append(order.pop())
        rows.sort()
        within = torch.arange(width)[None, :]
        length = torch.tensor([lengths[row] for row in rows])[:, None]
        start = torch.tensor([starts[row] for row in rows])[:, None]
        places, real = start + torch.minimum(within, length - 1), within < length
        gapless = bool(real.all()) and int(places[-1, -1] - places[0, 0]) == places.numel() - 1
        yield Runs(places, None if gapless else real)
