"""Models whose linear layers are two thin ones: ranks, the swap, the checkpoint.

A layer y = Wx + b, W [out, in], becomes y = U(Ax) + b with A [rank, in] and U [out, rank]. The
checkpoint holds both as plain tensors, and `low_rank.json` the rank of each such layer.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import transformers
from accelerate import init_empty_weights
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from trsr.errors import ModelError
from trsr.storage import files

LOW_RANK = "low_rank.json"
"""In a model's folder: the rank of each factorised layer, by the layer's name."""
WEIGHTS = "low_rank.safetensors"
"""By the usual name, transformers would fill the layers that it misses with random numbers, and
only print it; so it finds no weights.
"""


def factorised(linear: nn.Linear, down: Tensor, up: Tensor) -> nn.Sequential:
    """Two layers in one's place, in its number format.

    Of the layer y = Wx + b, `down` is A, [rank, in], and `up` is U, [out, rank].
    """
    pair = _empty(linear, len(down))
    state = {"0.weight": down, "1.weight": up}
    pair.load_state_dict(state if linear.bias is None else {**state, "1.bias": linear.bias})
    return pair.requires_grad_(False).eval()


def _empty(linear: nn.Linear, rank: int) -> nn.Sequential:
    like = {"device": linear.weight.device, "dtype": linear.weight.dtype}
    return nn.Sequential(
        nn.Linear(linear.in_features, rank, bias=False, **like),
        nn.Linear(rank, linear.out_features, bias=linear.bias is not None, **like),
    )


def is_factorised(module: Any) -> bool:
    """Whether a module is a pair that `factorised` made."""
    return (
        type(module) is nn.Sequential
        and len(module) == 2
        and all(type(one) is nn.Linear for one in module)
    )


def ranks_of(network: nn.Module) -> dict[str, int]:
    """The rank of each factorised layer, by its name."""
    return {
        name: module[0].out_features
        for name, module in network.named_modules()
        if is_factorised(module)
    }


def multiplied(network: Any) -> Any:
    """The same function in the architecture's own layers: each pair multiplied, in place."""
    for name in ranks_of(network):
        pair: Any = network.get_submodule(name)
        down, up = pair[0], pair[1]
        whole = nn.Linear(
            down.in_features, up.out_features, up.bias is not None, dtype=up.weight.dtype
        )
        with torch.no_grad():
            whole.weight.copy_(up.weight @ down.weight)
            if up.bias is not None:
                whole.bias.copy_(up.bias)
        network.set_submodule(name, whole.requires_grad_(False))
    return network


def save(network: Any, folder: Path) -> None:
    """Writes weights, `config.json` and `low_rank.json` into a folder.

    A tensor that head and embeddings share is written once.
    """
    state = network.state_dict()
    tied = network.get_output_embeddings().weight is network.get_input_embeddings().weight
    if tied:
        state.pop(next(name for name in state if name.endswith("lm_head.weight")), None)
    save_file({name: one.contiguous() for name, one in state.items()}, folder / WEIGHTS)
    network.config.save_pretrained(folder)
    network.generation_config.save_pretrained(folder)
    files.write_json(folder / LOW_RANK, ranks_of(network))


def load(folder: Path, dtype: torch.dtype) -> Any:
    """Opens what `save` wrote, in evaluation mode.

    Raises:
        ModelError: If a tensor is missing, surplus or of another shape, or a name is of no layer.
    """
    config = transformers.AutoConfig.from_pretrained(folder, trust_remote_code=False)
    with init_empty_weights(include_buffers=False):  # buffers are computed, not stored
        network = transformers.AutoModelForCausalLM.from_config(config, dtype=dtype)
        for name, rank in _ranks(folder).items():
            try:
                linear = network.get_submodule(name)
            except AttributeError:
                linear = None
            if type(linear) is not nn.Linear:
                raise ModelError(f"{folder / LOW_RANK}: the model has no linear layer {name}")
            network.set_submodule(name, _empty(linear, rank))
    state = {name: one.to(dtype) for name, one in load_file(folder / WEIGHTS).items()}
    try:
        wrong = network.load_state_dict(state, strict=False, assign=True)
    except RuntimeError as error:  # shapes
        raise ModelError(f"{folder / WEIGHTS}: {error}") from error
    network.tie_weights()
    network.config.dtype = dtype
    missing = [name for name, one in network.named_parameters() if one.is_meta]
    for names, side in ((missing, "lacks"), (wrong.unexpected_keys, "has no place for")):
        if names:
            raise ModelError(
                f"{folder / WEIGHTS}: the model {side} {len(names)} tensors, such as "
                f"{', '.join(sorted(names)[:3])}; compress the run again"
            )
    if files.is_file(folder / "generation_config.json"):
        network.generation_config = transformers.GenerationConfig.from_pretrained(folder)
    return network.eval()


def _ranks(folder: Path) -> Mapping[str, int]:
    found = files.read_json(folder / LOW_RANK)
    usable = isinstance(found, dict) and all(
        type(rank) is int and rank > 0 for rank in found.values()
    )
    if not usable:
        raise ModelError(f"{folder / LOW_RANK}: not ranks by layer; compress the run again")
    return dict(found)
