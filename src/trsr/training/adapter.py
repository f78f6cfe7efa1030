"""The LoRA adapter: put on a network, read out, put back, written in PEFT's own format."""

from __future__ import annotations

import difflib
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from peft import (
    LoraConfig,
    get_peft_model,
    get_peft_model_state_dict,
    set_peft_model_state_dict,
)
from safetensors.torch import save_file
from torch import Tensor, nn

from trsr.errors import ConfigError
from trsr.models.hf.fused import fuse_layers, fuse_lora
from trsr.models.token_tree.kv_cache import decoder_of
from trsr.settings import derive_seed
from trsr.storage import files
from trsr.training.settings import TrainSettings


class Adapter:
    """LoRA weights on a network, which is changed in place: its own forward pass has them.

    The weights are in fp32 whatever the network's dtype. A is seeded by the run and B is zero (Hu
    et al. 2021, section 4.1), so the network first answers as before.

    Raises:
        ConfigError: If a target is no linear layer of the network, or is its head, or the network
            has fewer layers than are asked for.
    """

    def __init__(self, network: Any, settings: TrainSettings, base: str, seed: int) -> None:
        check_targets(network, settings.targets)
        language = language_part(network)
        upper = upper_layers(network, settings.upper_layers)
        config = LoraConfig(
            r=settings.rank,
            lora_alpha=settings.alpha,
            lora_dropout=settings.dropout,
            target_modules=list(settings.targets),
            # a target is the end of a name, and the vision part has layers of the same names
            exclude_modules=rf"(?!{re.escape(language)}\.).*" if language else None,
            layers_to_transform=upper,
            bias="none",
            task_type="CAUSAL_LM",
        )
        # PEFT initializes on the CPU, so the device does not change the weights.
        with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            # peft 0.21 asks transformers 5.23 for something by its older name
            warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated")
            torch.manual_seed(derive_seed(seed, "adapter"))
            self._model = get_peft_model(network, config)
        fuse_lora(self._model)
        fuse_layers(self._model)
        self._base = base

    @property
    def parameters(self) -> dict[str, nn.Parameter]:
        """The trained parameters by name, in a fixed order."""
        named = self._model.named_parameters()
        return {name: parameter for name, parameter in named if parameter.requires_grad}

    def weights(self) -> dict[str, Tensor]:
        """A copy of the weights, on the CPU, under PEFT's names."""
        found = get_peft_model_state_dict(self._model)
        return {name: tensor.detach().cpu().clone() for name, tensor in found.items()}

    def restore(self, weights: Mapping[str, Tensor]) -> None:
        """Puts back weights that `weights()` gave."""
        set_peft_model_state_dict(self._model, dict(weights))

    def write(self, folder: Path, weights: Mapping[str, Tensor]) -> None:
        """Writes `adapter_model.safetensors` and `adapter_config.json`."""
        files.make_folder(folder)
        save_file(dict(weights), folder / "adapter_model.safetensors", {"format": "pt"})
        config = self._model.peft_config["default"]
        config.base_model_name_or_path = self._base
        training, config.inference_mode = config.inference_mode, True
        config.save_pretrained(str(folder))
        config.inference_mode = training


def language_part(network: Any) -> str:
    """The name of the language part in a model that sees; empty where there is no other part."""
    if not hasattr(network.config, "vision_config"):
        return ""
    decoder = decoder_of(network)
    return next(str(name) for name, module in network.named_modules() if module is decoder)


def upper_layers(network: Any, count: int) -> list[int] | None:
    """The numbers of the topmost layers; None for a count of 0: all.

    Raises:
        ConfigError: If there are not so many.
    """
    if not count:
        return None
    layers = int(network.config.get_text_config().num_hidden_layers)
    if count > layers:
        raise ConfigError(
            f"train.upper_layers: {count} are asked for, but this {type(network).__name__} has "
            f"{layers} layers"
        )
    return list(range(layers - count, layers))


def check_targets(network: Any, targets: tuple[str, ...]) -> None:
    """Checks that each target names linear layers of a network, the head not among them.

    Raises:
        ConfigError: With the near names of the network's linear layers.
    """
    layers = _linear(network)
    # `model.layers.0.self_attn.q_proj` may be named by any of its endings at a dot.
    last = {name.rpartition(".")[2] for name in layers}
    wrong = [
        target
        for target in targets
        if not any(name == target or name.endswith(f".{target}") for name in layers)
    ]
    if wrong or not targets:
        named = ", ".join(repr(target) for target in wrong) or "nothing"
        near = sorted({close for w in wrong for close in difflib.get_close_matches(w, last)})
        hint = f"; near names: {', '.join(near)}" if near else ""
        raise ConfigError(
            f"train.targets: {named} is no linear layer that LoRA can adapt in this "
            f"{type(network).__name__}{hint}; there are: {', '.join(sorted(last))}"
        )


def linear_layers(network: Any) -> tuple[str, ...]:
    """The last names of all linear layers of a causal language model, the head not among them."""
    return tuple(sorted({name.rpartition(".")[2] for name in _linear(network)}))


def _linear(network: Any) -> set[str]:
    head, language = network.get_output_embeddings(), language_part(network)
    return {
        name
        for name, module in network.named_modules()
        if name.startswith(language)
        and module is not head
        # GPT-2 keeps its linear layers as transposed `Conv1D`s, which PEFT adapts too
        and (isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D")
    }
