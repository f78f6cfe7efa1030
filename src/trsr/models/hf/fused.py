"""LoRA layers without copies in fp32, and frozen norms and gates in fewer steps.

PEFT converts each input and output of an adapted bf16 layer to fp32 and back, and training keeps
those copies. Here the adapter's weights stay in fp32, but their product with the input is taken in
the input's format, summed in fp32. As transformers writes them, a norm keeps its input in fp32 and
a gated layer three tensors of its inner width. Here a norm keeps its input as it came, and a gate
its two factors; the rest is made again, which costs no matrix product.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor, nn


class _LoraProduct(torch.autograd.Function):
    """x Wᵀ + b + s (x Aᵀ) Bᵀ (Hu et al. 2021, equation 3); W and b are frozen."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, a: Tensor, b: Tensor, scale: float
    ) -> Tensor:
        rows = x.reshape(-1, x.shape[-1])
        down, up = a.to(x.dtype), (b * scale).to(x.dtype)
        low = rows @ down.T
        out = nn.functional.linear(rows, weight, bias).addmm_(low, up.T)
        ctx.save_for_backward(rows, low, weight, down, up)
        ctx.scale, ctx.kinds = scale, (a.dtype, b.dtype)
        return out.view(*x.shape[:-1], out.shape[-1])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        rows, low, weight, down, up = ctx.saved_tensors
        grown = grad.reshape(-1, grad.shape[-1])
        back = grown @ up
        into: Tensor | None = None
        if ctx.needs_input_grad[0]:
            into = (grown @ weight).addmm_(back, down).view(*grad.shape[:-1], rows.shape[-1])
        of_a = (back.T @ rows).to(ctx.kinds[0])
        of_b = (grown.T @ low).to(ctx.kinds[1]).mul_(ctx.scale)
        return into, None, None, of_a, of_b, None


def fuse_lora(network: Any) -> int:
    """Gives each plain LoRA layer of a PEFT model a forward pass without fp32 copies.

    Other layers (dropout while training, several adapters, merged, quantized) keep PEFT's pass,
    call by call. Equal to PEFT's in fp32 up to rounding; in bf16 the product is rounded, as every
    other product of the model is. Returns how many layers were changed.
    """
    from peft.tuners.lora import Linear

    layers = [module for module in network.modules() if type(module) is Linear]
    for layer in layers:
        layer.forward = _FusedLora(layer, layer.forward)
    return len(layers)


def head_rows(head: Any, rows: Tensor, states: Tensor) -> Tensor | None:
    """The logits of some rows of a head in fp32, its adapter's part with them.

    Final hidden states are [n, hidden].

    Returns:
        Logits, [n, rows]; None where the rows of this kind of head cannot be taken alone.
    """
    if not is_readable(head):
        return None
    head, states = _trained(head), states.float()
    base = getattr(head, "base_layer", head)
    bias = None if base.bias is None else base.bias[rows].float()
    logits = nn.functional.linear(states, base.weight[rows].float(), bias)
    if base is head or head.disable_adapters or head.merged:
        return logits
    for name in head.active_adapters:
        if name in head.lora_A:
            low = nn.functional.linear(states, head.lora_A[name].weight.float())
            up = head.lora_B[name].weight[rows].float() * head.scaling[name]
            logits = logits + nn.functional.linear(low, up)
    return logits


def is_readable(head: Any) -> bool:
    """Whether a head is a linear layer: plain, fully trained, or with plain LoRA beside it."""
    head = _trained(head)
    if type(head) is nn.Linear:
        return True
    return (
        hasattr(head, "lora_A")
        and type(head.base_layer) is nn.Linear
        and not head.lora_variant
        and not head.training
        and all(one.bias is None for one in head.lora_B.values())
    )


def _trained(head: Any) -> Any:
    """The trained copy of a fully trained head (PEFT's `modules_to_save`), else the head."""
    trained = getattr(head, "modules_to_save", None)
    if not trained or head.disable_adapters:
        return getattr(head, "original_module", head)
    return trained[head.active_adapters[0]]


class _FusedLora:
    """A LoRA layer's forward pass; PEFT's own where this one does not hold."""

    def __init__(self, layer: Any, own: Any) -> None:
        self.layer, self.own = layer, own

    def __call__(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        layer = self.layer
        names = [name for name in layer.active_adapters if name in layer.lora_A]
        if args or kwargs or len(names) != 1 or not self._plain(names[0], x):
            out: Tensor = self.own(x, *args, **kwargs)
            return out
        a, b = layer.lora_A[names[0]], layer.lora_B[names[0]]
        base, scale = layer.base_layer, layer.scaling[names[0]]
        product: Tensor = _LoraProduct.apply(  # type: ignore[no-untyped-call]
            x, base.weight, base.bias, a.weight, b.weight, scale
        )
        return product

    def _plain(self, name: str, x: Tensor) -> bool:
        layer = self.layer
        base, dropout = layer.base_layer, layer.lora_dropout[name]
        return (
            not (layer.disable_adapters or layer.merged or layer.lora_variant)
            and type(base) is nn.Linear
            and not base.weight.requires_grad
            and x.dtype == base.weight.dtype
            and layer.lora_B[name].bias is None
            and (isinstance(dropout, nn.Identity) or not layer.training)
        )


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
