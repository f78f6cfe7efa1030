"""Frozen norms and gates in fewer steps, which keep less for the way back.

As transformers writes them, a norm keeps its input in fp32 and a gated layer three tensors of its
inner width. Here a norm keeps its input as it came, and a gate its two factors; the rest is made
again, which costs no matrix product.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor, nn

_KINDS = ("Llama", "Mistral", "Qwen2", "Qwen3")


class _Norm(torch.autograd.Function):
    """w · x / √(mean x² + ε) (Zhang and Sennrich 2019, equation 4); w is frozen."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        inverse = x.float().pow(2).mean(-1, keepdim=True).add_(eps).rsqrt_()
        ctx.save_for_backward(x, weight, inverse)
        return (x * inverse).to(x.dtype) * weight

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, inverse = ctx.saved_tensors
        unit, grown = x * inverse, grad * weight
        along = (unit * grown).mean(-1, keepdim=True)
        return (grown - unit.mul_(along)).mul_(inverse).to(x.dtype), None, None


class _Gate(torch.autograd.Function):
    """silu(gate) · up (Shazeer 2020, equation 6)."""

    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor) -> Tensor:
        ctx.save_for_backward(gate, up)
        return nn.functional.silu(gate).mul_(up)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        gate, up = ctx.saved_tensors
        of_up = nn.functional.silu(gate).mul_(grad)
        return torch.ops.aten.silu_backward(grad * up, gate), of_up


def fuse_layers(network: Any) -> int:
    """Gives the norms and gated layers of known architectures a pass that keeps less.

    Their outputs are transformers' up to rounding. Returns how many modules were changed.
    """
    changed = 0
    for module in network.modules():
        name = type(module).__name__
        if name in {f"{kind}RMSNorm" for kind in _KINDS}:
            module.forward = functools.partial(_normed, module, module.forward)
        elif name in {f"{kind}MLP" for kind in _KINDS} and module.config.hidden_act == "silu":
            module.forward = functools.partial(_gated, module)
        else:
            continue
        changed += 1
    return changed


def _normed(norm: Any, own: Any, x: Tensor) -> Tensor:
    if norm.weight.requires_grad:
        return own(x)  # type: ignore[no-any-return]
    out: Tensor = _Norm.apply(x, norm.weight, norm.variance_epsilon)  # type: ignore[no-untyped-call]
    return out


def _gated(layer: Any, x: Tensor) -> Tensor:
    inner = _Gate.apply(layer.gate_proj(x), layer.up_proj(x))  # type: ignore[no-untyped-call]
    out: Tensor = layer.down_proj(inner)
    return out
