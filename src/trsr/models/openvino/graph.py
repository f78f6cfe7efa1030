"""A decoder's packed pass as an OpenVINO graph: built from a loaded network, weights copied."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor, nn

from trsr.errors import ConfigError
from trsr.models.hf.low_rank import is_factorised

Array = npt.NDArray[Any]
Pair = tuple[Array, Array]


@dataclass(frozen=True)
class Heads:
    """The sizes of a decoder.

    Attributes:
        heads: Heads that ask.
        shared: Heads of keys and values.
        size: Numbers of one head.
        width: Numbers of a hidden state.
        layers: How many layers there are.
    """

    heads: int
    shared: int
    size: int
    width: int
    layers: int

    @property
    def group(self) -> int:
        """Heads that share a key."""
        return self.heads // self.shared

    @property
    def order(self) -> Array:
        """Where the numbers of all asking heads come from: of each group the first, and so on."""
        every = np.arange(self.heads * self.size).reshape(self.shared, self.group, self.size)
        return every.swapaxes(0, 1).reshape(-1)

    @classmethod
    def of(cls, decoder: Any) -> Heads:
        """A decoder's sizes."""
        config = decoder.config
        size = getattr(config, "head_dim", None)
        size = size or config.hidden_size // config.num_attention_heads
        shared = config.num_key_value_heads
        return cls(
            config.num_attention_heads, shared, size, config.hidden_size, len(decoder.layers)
        )


class Graph:
    """Builds the graph of one pass.

    Inputs: `ids`, `cos` and `sin` of each token; `laid` [runs, longest], the token at each place of
    the rows of attention; `seen` [runs, prefix + longest], the keys that each run sees, counted
    through the prefixes and then all tokens; `real`, the place of each token in the rows; `kept`,
    the tokens whose keys and values are wanted (to give all costs time); `asked`, the tokens whose
    states are; `mask` [runs or 1, 1, …], added to scores; and the prefixes' keys and values, end to
    end. Outputs: the states, then keys and values. What of the last layer comes after attention is
    computed for the asked tokens alone. Numbers in the layers' matrices have `bits`, 8 or 4
    (embeddings and norms stay as they are); 0: as they are.
    """

    def __init__(self, ov: Any, decoder: Any, heads: Heads, bits: int = 0) -> None:
        self.ov, self.op = ov, ov.opset13
        self.bits = bits
        self.heads = heads
        self.inputs: list[Any] = []
        size = heads.size
        ids = self._input("ids", [-1], np.int64)
        self.cos = self._input("cos", [1, -1, 1, size], np.float32)
        self.sin = self._input("sin", [1, -1, 1, size], np.float32)
        self.laid = self._input("laid", [-1, -1], np.int64)
        self.seen = self._input("seen", [-1, -1], np.int64)
        self.real = self._input("real", [-1], np.int64)
        kept = self._input("kept", [-1], np.int64)
        self.asked = self._input("asked", [-1], np.int64)
        self.mask = self._input("mask", [-1, 1, -1, -1], np.float32)
        shape = self.op.shape_of(self.laid)
        self.runs = self.op.gather(shape, self._ints(0), self._axis(0))
        table = self.op.constant(_matrix(decoder.embed_tokens.weight))
        x = self.op.gather(table, ids, self._axis(0))
        made = []
        for number, layer in enumerate(decoder.layers):
            x, keys, values = self._layer(x, number, layer)
            made += [self.op.gather(one, kept, self._axis(0)) for one in (keys, values)]
        x = self._norm(x, decoder.norm)
        results = [self.op.result(one) for one in (x, *made)]
        self.model = ov.Model(results, self.inputs, "token tree")

    def _layer(self, x: Any, number: int, layer: Any) -> tuple[Any, Any, Any]:
        op, attention, mlp = self.op, layer.self_attn, layer.mlp
        h = self._norm(x, layer.input_layernorm)
        own = map(_Linear.of, (attention.k_proj, attention.v_proj))
        asking = _Linear.of(attention.q_proj).rows(self.heads.order)
        query, keys, values = (self._split(self._linear(h, one)) for one in (asking, *own))
        keys = self._placed(keys, getattr(attention, "k_norm", None))
        query = self._placed(query, getattr(attention, "q_norm", None))
        attended = self._attend(query, keys, values, number, attention.scaling)
        if number == self.heads.layers - 1:
            attended, x = (op.gather(one, self.asked, self._axis(0)) for one in (attended, x))
        telling = _Linear.of(attention.o_proj).columns(self.heads.order)
        x = op.add(x, self._linear(attended, telling))
        h = self._norm(x, layer.post_attention_layernorm)
        gate = op.swish(self._linear(h, _Linear.of(mlp.gate_proj)))
        inner = op.multiply(gate, self._linear(h, _Linear.of(mlp.up_proj)))
        return op.add(x, self._linear(inner, _Linear.of(mlp.down_proj))), keys, values

    def _attend(self, query: Any, keys: Any, values: Any, number: int, scale: float) -> Any:
        """Runs attend to their prefixes, whole, and to themselves, causally."""
        op, heads = self.op, self.heads
        # heads that share a key stand one after the other as its queries, token by token; all is
        # laid out so that OpenVINO takes these transpositions into the one operation of attention
        shape = [self.runs, self._ints(-1, heads.shared, heads.size)]
        laid = op.reshape(op.gather(query, self.laid, self._axis(0)), op.concat(shape, 0), False)
        rows = [laid, self._seen(keys, "keys", number), self._seen(values, "values", number)]
        out = op.scaled_dot_product_attention(
            *(op.transpose(one, self._ints(0, 2, 1, 3)) for one in rows),
            self.mask,
            op.constant(np.float32(scale)),
            causal=False,
        )
        out = op.transpose(out, self._ints(0, 2, 1, 3))
        out = op.reshape(out, self._ints(-1, heads.heads * heads.size), False)
        return op.gather(out, self.real, self._axis(0))

    def _seen(self, own: Any, kind: str, number: int) -> Any:
        """The prefix's keys or values and its own, for each run: [runs, seen, key heads, size]."""
        shape = [self.heads.shared, -1, self.heads.size]
        before = self._input(f"{kind}.{number}", shape, np.float32)
        before = self.op.transpose(before, self._ints(1, 0, 2))
        return self.op.gather(self.op.concat([before, own], 0), self.seen, self._axis(0))

    def _split(self, x: Any) -> Any:
        return self.op.reshape(x, self._ints(0, -1, self.heads.size), True)

    def _placed(self, x: Any, norm: Any) -> Any:
        """Queries or keys with their positions (rotary embedding), normed where the model does."""
        op = self.op
        x = x if norm is None else self._norm(x, norm)
        # laid out as OpenVINO knows it: four axes, halves split off; it makes one operation of it
        x, half = op.unsqueeze(x, self._axis(0)), self.heads.size // 2
        low, high = op.variadic_split(x, self._axis(3), self._ints(half, half)).outputs()
        across = op.concat([op.multiply(high, op.constant(np.float32(-1))), low], -1)
        placed = op.add(op.multiply(x, self.cos), op.multiply(across, self.sin))
        return op.squeeze(placed, self._ints(0))

    def _norm(self, x: Any, norm: Any) -> Any:
        op = self.op
        square = op.power(x, op.constant(np.float32(2)))
        mean = op.reduce_mean(square, self._ints(-1), True)
        root = op.sqrt(op.add(mean, op.constant(np.float32(norm.variance_epsilon))))
        normed = op.multiply(x, op.divide(op.constant(np.float32(1)), root))
        return op.multiply(normed, op.constant(_matrix(norm.weight)))

    def _linear(self, x: Any, parts: _Linear) -> Any:
        """A linear layer with its adapters."""
        op = self.op
        if parts.first is not None:
            x = op.matmul(x, self._weight(parts.first), False, True)
        out = op.matmul(x, self._weight(parts.weight), False, True)
        if parts.bias is not None:
            out = op.add(out, op.constant(parts.bias))
        for down, up in parts.adapters:
            low = op.matmul(x, op.constant(down), False, True)
            out = op.add(out, op.matmul(low, op.constant(up), False, True))
        return out

    def _weight(self, weight: Array) -> Any:
        """A matrix [out, in]; OpenVINO keeps rounded ones so, and multiplies them as they are."""
        op = self.op
        if not self.bits:
            return op.constant(weight)
        codes, scales = rounded(weight, self.bits)
        kind = {8: self.ov.Type.i8, 4: self.ov.Type.i4}[self.bits]
        whole = op.multiply(
            op.convert(op.constant(codes, dtype=kind), np.float32), op.constant(scales)
        )
        return op.reshape(whole, self._ints(*weight.shape), False)

    def _input(self, name: str, shape: list[int], kind: Any) -> Any:
        one = self.op.parameter(shape, kind, name=name)
        one.output(0).set_names({name})
        self.inputs.append(one)
        return one

    def _ints(self, *values: int) -> Any:
        return self.op.constant(np.array(values, np.int64))

    def _axis(self, value: int) -> Any:
        return self.op.constant(np.array(value, np.int64))


def rounded(weight: Array, bits: int) -> Pair:
    """Integers of so many bits, [out, groups, size], and their scales, [out, groups, 1].

    A group is a row in 8 bits and 32 of its numbers in 4 (16 or 8 where that divides the row).
    """
    into = weight.shape[1]
    size = into if bits == 8 else next((n for n in (32, 16, 8) if into % n == 0), into)
    groups = weight.reshape(len(weight), -1, size)
    most = 2 ** (bits - 1) - 1
    scales = np.abs(groups).max(2, keepdims=True) / most
    codes = np.rint(groups / np.maximum(scales, np.finfo(np.float32).tiny))
    return codes.astype(np.int8), scales.astype(np.float32)


def _matrix(tensor: Tensor) -> Array:
    found: Array = tensor.detach().float().numpy()
    return found


@dataclass(frozen=True)
class _Linear:
    """A linear layer's parts: weight [out, in], bias, and LoRA's pairs with their scale.

    Of a factorised layer `first` is the factor [rank, in] before the weight [out, rank].
    """

    weight: Array
    bias: Array | None
    adapters: list[Pair]
    first: Array | None = None

    @classmethod
    def of(cls, module: Any) -> _Linear:
        if is_factorised(module):
            bias = None if module[1].bias is None else _matrix(module[1].bias)
            return cls(_matrix(module[1].weight), bias, [], _matrix(module[0].weight))
        base = getattr(module, "base_layer", module)
        bias = None if base.bias is None else _matrix(base.bias)
        return cls(_matrix(base.weight), bias, list(_adapters(module)))

    def rows(self, order: Array) -> _Linear:
        """The same layer, what it gives in another order."""
        bias = None if self.bias is None else self.bias[order]
        pairs = [(down, up[order]) for down, up in self.adapters]
        return _Linear(self.weight[order], bias, pairs, self.first)

    def columns(self, order: Array) -> _Linear:
        """The same layer, for what it takes in another order."""
        if self.first is not None:
            return _Linear(self.weight, self.bias, self.adapters, self.first[:, order])
        pairs = [(down[:, order], up) for down, up in self.adapters]
        return _Linear(self.weight[:, order], self.bias, pairs)


def _adapters(module: Any) -> Iterator[Pair]:
    """A LoRA layer's two matrices, the scale in the second, for each active adapter."""
    if type(module) is nn.Linear:
        return
    if not _is_plain(module):
        raise ConfigError(
            "model.scorer: openvino cannot score with layers of the kind "
            f"{type(module).__name__}: set it to torch"
        )
    if module.disable_adapters:
        return
    for name in module.active_adapters:
        if name in module.lora_A:
            up = module.lora_B[name].weight * module.scaling[name]
            yield _matrix(module.lora_A[name].weight), _matrix(up)


def _is_plain(module: Any) -> bool:
    """Whether a layer is LoRA's two matrices beside a linear layer, and nothing more."""
    return (
        hasattr(module, "lora_A")
        and type(module.base_layer) is nn.Linear
        and not (module.merged or module.lora_variant)
        and all(one.bias is None for one in module.lora_B.values())
    )
