"""A Llama checkpoint with its residual stream rotated: the same model, easier to round."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from trsr.errors import ModelError

Array = npt.NDArray[Any]
Tensors = Callable[[], Iterator[tuple[str, Array]]]
"""A checkpoint's tensors, from the first, as often as it is called."""

_NORM = {
    "self_attn.q_proj": "input_layernorm",
    "self_attn.k_proj": "input_layernorm",
    "self_attn.v_proj": "input_layernorm",
    "mlp.gate_proj": "post_attention_layernorm",
    "mlp.up_proj": "post_attention_layernorm",
}
"""What reads the stream in a layer, and the norm that it reads it behind."""
_WRITERS = ("self_attn.o_proj", "mlp.down_proj")


def rotation(width: int) -> Array:
    """A random rotation [width, width], always the same."""
    drawn = np.random.default_rng(0).normal(size=(width, width))
    turned: Array = np.linalg.qr(drawn)[0].astype(np.float32)
    return turned


def turned(tensors: Tensors, width: int, *, tied: bool) -> Iterator[tuple[str, Array]]:
    """The checkpoint's tensors for a rotated residual stream, in transformers' names.

    A few channels of the residual stream are large, and spoil the rounding of all others with them.
    An RMS norm without its gain keeps a rotation, so gains and rotations go into the weights on
    either side, and the model says the same (QuaRot: Ashkboos et al. 2024, section 4).

    Args:
        tensors: The checkpoint's, fp32.
        width: Numbers of a hidden state.
        tied: Whether the head is the table of embeddings; here it becomes a matrix of its own, as
            it takes the last norm's gain.

    Yields:
        (name, tensor). One that no Llama has comes as it is.

    Raises:
        ModelError: If a norm is missing.
    """
    gains = {name: tensor for name, tensor in tensors() if tensor.ndim == 1}

    def behind(norm: str) -> Array:
        if f"{norm}.weight" not in gains:
            raise ModelError(f"the checkpoint has no tensor {norm}.weight: is it whole?")
        return gains[f"{norm}.weight"]

    turn = rotation(width)
    for name, tensor in tensors():
        stem = name.removesuffix(".weight")
        if name in gains:
            yield name, np.ones_like(tensor)
        elif stem == "model.embed_tokens":
            yield name, tensor @ turn
            if tied:
                yield "lm_head.weight", (tensor * behind("model.norm")) @ turn
        elif stem == "lm_head":
            if not tied:
                yield name, (tensor * behind("model.norm")) @ turn
        elif stem.endswith(_WRITERS):
            yield name, turn.T @ tensor
        else:
            layer, *part = stem.rsplit(".", 2)
            norm = _NORM.get(".".join(part))
            yield name, (tensor * behind(f"{layer}.{norm}")) @ turn if norm else tensor
