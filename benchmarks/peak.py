"""The machine's matrix-multiply peak, and how many operations a model's tokens need."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from benchmarks.timing import wait_for
from trsr.models.token_tree.kv_cache import decoder_of
from trsr.models.token_tree.tokens import Tokens, common

SQUARE = {"cuda": 8192, "mps": 4096, "cpu": 2048}
"""Side of the large square product."""
ROWS = {"cuda": 16384, "mps": 4096, "cpu": 2048}
"""Rows of the products of the model's own shapes."""


def matmul_peak(
    dtype: torch.dtype,
    device: str,
    shapes: Sequence[tuple[int, int]] = (),
    *,
    square: int = 0,
    rows: int = 0,
    seconds: float = 0.3,
) -> float:
    """The most floating-point operations a second that torch's matrix product reaches here.

    With as many threads as all else runs with. A multiply-add counts as two operations.

    Args:
        dtype: Of the factors.
        device: cpu, cuda or mps.
        shapes: (inputs, outputs) of layers to be tried beside the large square.
        square: The square's side; 0: what suits the device.
        rows: Rows of the layers' inputs; 0: what suits the device.
        seconds: How long each shape is tried, at least three products.
    """
    side = square or SQUARE[device]
    sizes = [(side, side, side)]
    sizes += [(rows or ROWS[device], inner, outer) for inner, outer in sorted(set(shapes))]
    return max(_rate(size, dtype, device, seconds) for size in sizes)


def _rate(size: tuple[int, int, int], dtype: torch.dtype, device: str, seconds: float) -> float:
    rows, inner, outer = size
    left = torch.ones(rows, inner, dtype=dtype, device=device)
    right = torch.ones(outer, inner, dtype=dtype, device=device)
    best, started, tries = float("inf"), time.perf_counter(), 0
    with torch.no_grad():
        torch.nn.functional.linear(left, right)
        while tries < 3 or time.perf_counter() - started < seconds:
            wait_for(device)
            begun = time.perf_counter()
            torch.nn.functional.linear(left, right)
            wait_for(device)
            best = min(best, time.perf_counter() - begun)
            tries += 1
    return 2 * rows * inner * outer / best


@dataclass(frozen=True)
class Cost:
    """What one model's tokens cost, in multiply-adds counted as two.

    Counts the layers' matrix products and attention over what stands before each token; norms,
    rotations and the like are left out, so a share of the peak is never flattered.

    Attributes:
        shapes: (inputs, outputs) of each linear layer below the head, adapters left out.
        adapters: Parameters of LoRA's own layers.
        width: Heads times their size.
        windows: For each layer, how far back it looks; 0: without bound.
        hidden: The hidden size.
        vocabulary: Rows of the head.
    """

    shapes: tuple[tuple[int, int], ...]
    adapters: int
    width: int
    windows: tuple[int, ...]
    hidden: int
    vocabulary: int

    @classmethod
    def of(cls, network: Any) -> Cost:
        """A causal language model's, plain or with LoRA layers."""
        decoder = decoder_of(network)
        config = decoder.config
        linear = [
            (name, module)
            for name, module in decoder.named_modules()
            if isinstance(module, torch.nn.Linear)
        ]
        plain = [module for name, module in linear if ".lora_" not in name]
        lora = [module for name, module in linear if ".lora_" in name]
        heads = config.num_attention_heads
        size = getattr(config, "head_dim", None) or config.hidden_size // heads
        kinds = getattr(config, "layer_types", None) or (
            ["sliding_attention" if getattr(config, "sliding_window", None) else "full_attention"]
            * config.num_hidden_layers
        )
        window = getattr(config, "sliding_window", None) or 0
        return cls(
            tuple((module.in_features, module.out_features) for module in plain),
            sum(module.in_features * module.out_features for module in lora),
            heads * size,
            tuple(window if kind == "sliding_attention" else 0 for kind in kinds),
            config.hidden_size,
            config.vocab_size,
        )

    def forward(self, sequences: Sequence[Tokens], head_rows: int = 0) -> float:
        """Operations of a forward pass over the sequences' distinct tokens.

        Args:
            sequences: Tokens; what they begin alike counts once.
            head_rows: How many rows of the head meet some token.
        """
        linear, attention = self._parts(sequences)
        return (
            linear
            + attention
            + 2 * self.adapters * self._distinct(sequences)
            + (2 * self.hidden * head_rows)
        )

    def training(self, sequences: Sequence[Tokens]) -> float:
        """Operations of a forward and a backward pass that train LoRA's layers only.

        Backward, a frozen layer's product is done once (for its input's gradient), attention's two
        products are four, and LoRA's own are done twice.
        """
        linear, attention = self._parts(sequences)
        return 2 * linear + 3 * attention + 6 * self.adapters * self._distinct(sequences)

    def _parts(self, sequences: Sequence[Tokens]) -> tuple[float, float]:
        linear = 2.0 * sum(inner * outer for inner, outer in self.shapes)
        seen = sum(
            _looked_at(len(own), window) - _looked_at(shared, window)
            for own, shared in _with_shared(sequences)
            for window in self.windows
        )
        return linear * self._distinct(sequences), 4.0 * self.width * seen

    def _distinct(self, sequences: Sequence[Tokens]) -> int:
        return sum(len(own) - shared for own, shared in _with_shared(sequences))


def _with_shared(sequences: Sequence[Tokens]) -> list[tuple[Tokens, int]]:
    """Each distinct sequence, with how many tokens it shares with those before it in order."""
    ordered = sorted(set(sequences))
    before = [(), *ordered[:-1]]
    return [(own, common(last, own)) for last, own in zip(before, ordered, strict=True)]


def _looked_at(length: int, window: int) -> int:
    """Tokens that the first `length` tokens look at, each at itself and all before it."""
    if not window or length <= window:
        return length * (length + 1) // 2
    return window * (window + 1) // 2 + (length - window) * window
