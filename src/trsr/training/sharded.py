"""Frozen layers whose weights are sharded over the workers, for models too large for one GPU.

FSDP2 (`torch.distributed.fsdp.fully_shard`; Zhao et al. 2023) gathers a layer's weights when the
layer is called, and again on the way back. Gathering takes all workers at once, so all must make
equally many passes through the layers. They agree on each one: a worker that has nothing left to
compute makes empty passes until none has.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from trsr.errors import ConfigError, ModelError
from trsr.models.hf.load import numbers_stored, pick_device, pick_dtype
from trsr.models.settings import ModelSettings
from trsr.models.token_tree.kv_cache import SHARDED, decoder_of, run
from trsr.models.weights import local_weights, sees
from trsr.training.group import LOST, Group

T = TypeVar("T")

SHARE = 0.6
"""Of a GPU's memory; larger weights leave too little room for activations beside them."""


def too_large(weights: int, memory: int, workers: int) -> bool:
    """Whether workers must share a model's weights.

    Sizes are in bytes, the weights in the format that they run in; without a GPU the memory is 0.
    """
    return workers > 1 and memory > 0 and weights > SHARE * memory


def must_shard(model: ModelSettings, group: Group | None) -> bool:
    """Whether a group's workers must share the weights of a model: all, once one of them must.

    Quantized weights are never shared, nor those of a model that sees: what its decoder is given
    for an image is found by a pass that ends before the layers.

    Raises:
        ConfigError: If the machine lacks the device that is asked for.
        ModelError: If the model's weights cannot be found or read.
    """
    if group is None or group.size == 1:
        return False
    own = False
    if model.backend == "transformers" and model.quantize == "none":
        device = pick_device(model)
        if device.type == "cuda":
            folder = local_weights(model.name, revision=model.revision)
            weights = numbers_stored(folder) * pick_dtype(model, device).itemsize
            memory = torch.cuda.get_device_properties(device).total_memory
            own = not sees(folder) and too_large(weights, memory, group.size)
    return group.any(own)


class ShardedLayers:
    """A network's layers, whose weights are sharded; all else stays whole on each worker.

    Whole are LoRA's weights, embeddings, the last norm and the head. Between passes a worker holds
    its part of each layer's weights, and within one those of a layer or two. While training, the
    token tree is flat: on the way back a layer is gathered for its output, which kept keys and
    values are not. The network, with its adapter, is changed in place; each worker makes this from
    equal weights.

    Raises:
        ConfigError: If the network does not keep its layers in one list.
    """

    def __init__(self, network: Any, group: Group, device: torch.device) -> None:
        # here, as a build of torch without `distributed` has neither
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard

        self._decoder = decoder_of(network)
        self._group = group
        self._empty = False
        layers = _layers(network, self._decoder)
        mesh = init_device_mesh(device.type, (group.size,))
        trained = {one for one in network.parameters() if one.requires_grad}
        for layer in layers:
            fully_shard(layer, mesh=mesh, reshard_after_forward=True, ignored_params=trained)
        # the root holds no weights itself; by it the layers share streams, and are freed at the end
        fully_shard(self._decoder, mesh=mesh, ignored_params=set(network.parameters()))
        network.to(device)
        setattr(self._decoder, SHARDED, True)
        self._decoder.register_forward_pre_hook(self._announce)

    def _announce(self, *_: Any) -> None:
        if not self._empty:
            self._group.any(True)

    def finish(self) -> Tensor | float:
        """Makes empty passes for as long as another worker makes passes.

        Returns:
            A zero that goes back through them: to be added to what this worker's passes gave.
        """
        zero: Tensor | float = 0.0
        while self._group.any(False):
            self._empty = True
            try:
                states, _ = run(self._decoder, [(0,)])
            finally:
                self._empty = False
            # 0 times the sum might be NaN, as the sum may overflow
            zero = zero + (states * 0).float().sum()
        return zero

    def led(self, make: Callable[[], T]) -> T:
        """As `Group.led`, where the leading worker makes passes without gradients."""
        made = make() if self._group.rank == 0 else None
        with torch.no_grad():
            self.finish()
        return self._group.led(lambda: made)  # type: ignore[return-value]


@contextlib.contextmanager
def lost_explained() -> Iterator[None]:
    """Says so where weights cannot be gathered, as another worker was lost.

    Raises:
        ModelError: In that case.
    """
    try:
        yield
    except RuntimeError as error:
        # gloo has no errors of its own kind
        if isinstance(error, dist.DistError) or "gloo" in str(error):
            raise ModelError(f"{LOST}: {error}") from error
        raise


def _layers(network: Any, decoder: Any) -> nn.ModuleList:
    count = decoder.config.num_hidden_layers
    for module in decoder.children():
        if isinstance(module, nn.ModuleList) and len(module) == count:
            return module
    raise ConfigError(
        f"model.name: the weights of {type(network).__name__} are too large for one GPU, and its "
        "layers are not known: name a smaller model, or set model.quantize"
    )
