"""Attention of runs laid end to end: each to itself, and all that share a prefix to it together.

A run attends to itself, and all runs that follow one prefix attend to it as one long list of
questions; the two results are joined by their log-sum-exps, as FlashAttention joins blocks (Dao et
al. 2022, section 3.1). Nothing of the prefix is copied for the runs that follow it, and grouped
heads share their keys in place.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface

from trsr.models.token_tree.prefix_cache import Prefix
from trsr.models.token_tree.tokens import Tokens

NAME = "trsr_packed"

_flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_flash_back = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward


@dataclass(eq=False)
class Runs:
    """Runs of like length, which attend to themselves together.

    Attributes:
        places: Their tokens' places, [runs, longest], with a run's last token where it is shorter.
        real: Which places are real; None: all, and they follow each other without a gap.
    """

    places: Tensor
    real: Tensor | None

    def rows(self, tokens: Tensor) -> Tensor:
        """[tokens, heads, size] → [runs, heads, longest, size]."""
        if self.real is None:
            return self._block(tokens).transpose(1, 2)
        return tokens[self.places].transpose(1, 2)

    def put(self, rows: Tensor, into: Tensor) -> None:
        """Writes what `rows` reads."""
        if self.real is None:
            self._block(into).copy_(rows.transpose(1, 2))
        else:
            into[self.places[self.real]] = rows.transpose(1, 2)[self.real].to(into.dtype)

    def _block(self, tokens: Tensor) -> Tensor:
        first, count = int(self.places[0, 0]), self.places.numel()
        return tokens[first : first + count].view(*self.places.shape, *tokens.shape[1:])


@dataclass(eq=False)
class Plan:
    """Who attends to whom in one pass.

    Attributes:
        segments: The runs, each with the prefix before it.
        starts: The first token of each run, and the end of the last.
        prefixes: The prefixes attended to, with the tokens (from, to) that follow each.
        alike: All runs, those of like length together.
        filler: Tokens behind the last run, of which nothing is wanted.
        kept: The layers' keys and values, where some run is to be a prefix.
    """

    segments: Sequence[tuple[Tokens, Prefix | None]]
    starts: list[int]
    prefixes: list[tuple[Prefix, int, int]]
    alike: list[Runs]
    keep: bool
    filler: int = 0
    kept: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)

    def paths(self) -> Iterator[tuple[int, Tokens]]:
        """Of each run, where it begins in its sequence, and the sequence from its first token."""
        for tokens, prefix in self.segments:
            before = prefix.tokens if prefix else ()
            yield len(before), before + tokens


@contextlib.contextmanager
def attending(config: Any, name: str) -> Iterator[None]:
    """A decoder's layers call the registered attention of this name in place of their own."""
    own = config._attn_implementation_internal
    config._attn_implementation_internal = name
    try:
        yield
    finally:
        config._attn_implementation_internal = own


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

    Queries are [1, heads, tokens, head size], keys and values [1, key heads, tokens, head size],
    positions already in them. There is no mask and no dropout.

    Returns:
        [1, tokens, heads, head size].
    """
    lent = [of.layers[module.layer_idx] for of, _, _ in token_tree.prefixes]
    if token_tree.keep:
        token_tree.kept[module.layer_idx] = (key[0], value[0])
    out: Tensor = _Attention.apply(  # type: ignore[no-untyped-call]
        query[0].transpose(0, 1),
        key[0].transpose(0, 1),
        value[0].transpose(0, 1),
        token_tree,
        scaling,
        *(part for pair in lent for part in pair),
    )
    return out[None], None


AttentionInterface.register(NAME, attend)


def _working(dtype: torch.dtype) -> torch.dtype:
    """The format of scores and sums; without AMX a CPU's fp32 kernel beats its bf16 one."""
    amx = torch.cpu._is_amx_tile_supported()
    return dtype if amx else torch.float32


class _Attention(torch.autograd.Function):
    """Runs attend to themselves, causally, and to their prefixes, whole."""

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, plan: Plan, scale: float, *lent: Tensor
    ) -> Tensor:
        """Query [tokens, heads, size]; key, value [tokens, key heads, size]; gives query's."""
        kind = _working(query.dtype)
        queries, keys, values = query.to(kind), key.to(kind), value.to(kind)
        # zeros: filler belongs to no run
        out = torch.zeros(query.shape, dtype=kind)
        sums = torch.zeros(query.shape[:2])
        for runs in plan.alike:
            part, total = _flash(
                runs.rows(queries),
                _spread(runs.rows(keys), query.shape[1]),
                _spread(runs.rows(values), query.shape[1]),
                0.0,
                True,
                scale=scale,
            )
            runs.put(part, out)
            runs.put(total, sums)
        for number, (_, first, last) in enumerate(plan.prefixes):
            keys, values = (one[None].to(kind) for one in lent[2 * number : 2 * number + 2])
            part, total = _flash(
                _folded(queries[first:last], keys.shape[1]), keys, values, 0.0, False, scale=scale
            )
            part, total = _unfolded(part, last - first), _unfolded(total[..., None], last - first)
            here = sums[first:last]
            share = torch.sigmoid(total[..., 0].float() - here)[..., None].to(kind)
            out[first:last] = torch.lerp(out[first:last], part, share)
            sums[first:last] = torch.logaddexp(here, total[..., 0].float())
        ctx.plan, ctx.scale, ctx.kind = plan, scale, kind
        result = out.to(query.dtype)
        ctx.save_for_backward(query, key, value, result, sums, *lent)
        return result

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Each part's own gradient, taken with the joined output and log-sum-exp."""
        query, key, value, out, sums, *lent = ctx.saved_tensors
        kind, plan = ctx.kind, ctx.plan
        heads, shared = query.shape[1], key.shape[1]
        query_, key_, value_, out_, slope = (one.to(kind) for one in (query, key, value, out, grad))
        of_query, of_key, of_value = (torch.zeros_like(one) for one in (query_, key_, value_))
        for runs in plan.alike:
            steep = runs.rows(slope)
            back = _flash_back(
                steep if runs.real is None else steep * runs.real[:, None, :, None],
                runs.rows(query_),
                _spread(runs.rows(key_), heads),
                _spread(runs.rows(value_), heads),
                runs.rows(out_),
                runs.rows(sums[..., None])[..., 0],
                0.0,
                True,
                scale=ctx.scale,
            )
            runs.put(back[0], of_query)
            runs.put(_gathered(back[1], shared), of_key)
            runs.put(_gathered(back[2], shared), of_value)
        of_lent: list[Tensor] = []
        for number, (_, first, last) in enumerate(plan.prefixes):
            keys, values = lent[2 * number : 2 * number + 2]
            back = _flash_back(
                _folded(slope[first:last], shared),
                _folded(query_[first:last], shared),
                keys[None].to(kind),
                values[None].to(kind),
                _folded(out_[first:last], shared),
                _folded(sums[first:last, :, None], shared)[..., 0],
                0.0,
                False,
                scale=ctx.scale,
            )
            of_query[first:last] += _unfolded(back[0], last - first)
            of_lent += [back[1][0].to(keys.dtype), back[2][0].to(values.dtype)]
        own = (of_query.to(query.dtype), of_key.to(key.dtype), of_value.to(value.dtype))
        return (*own, None, None, *of_lent)


def _spread(rows: Tensor, heads: int) -> Tensor:
    """[runs, key heads, width, size] → one for each of the heads that share it."""
    return rows.repeat_interleave(heads // rows.shape[1], dim=1)


def _gathered(rows: Tensor, shared: int) -> Tensor:
    """[runs, heads, width, size] → summed over the heads that share a key."""
    runs, heads, width, size = rows.shape
    return rows.view(runs, shared, heads // shared, width, size).sum(2)


def _folded(tokens: Tensor, shared: int) -> Tensor:
    """[tokens, heads, size] → [1, key heads, heads of each × tokens, size]."""
    count, heads, size = tokens.shape
    parts = tokens.view(count, shared, heads // shared, size).permute(1, 2, 0, 3)
    return parts.reshape(1, shared, -1, size)


def _unfolded(rows: Tensor, count: int) -> Tensor:
    """The way back: [1, key heads, heads of each × tokens, size] → [tokens, heads, size]."""
    _, shared, _, size = rows.shape
    return rows.reshape(shared, -1, count, size).permute(2, 0, 1, 3).reshape(count, -1, size)
