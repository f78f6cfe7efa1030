"""The packed pass of the token tree as an OpenVINO graph: scoring on CPUs, no gradients.

What `packed.run_packed` does in torch, operation by operation, is here one compiled graph: its
matrix products run on packed tokens, without padding; only queries, keys and values are laid out
as rows for attention, each run behind the prefix that it shares with its siblings. Weights come
from the loaded network, adapters stay beside them as in `load.load_network`.

With 8 bits each row of a weight is rounded to integers with one scale, and OpenVINO rounds the
products' inputs in groups of `GROUP` as they come; attention, norms and adapters keep bfloat16.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from trsr.errors import ConfigError
from trsr.llm.kept import decoder_of
from trsr.llm.packed import Prefix
from trsr.llm.tokens import Tokens
from trsr.plugins import optional

KINDS = frozenset({"llama", "mistral", "qwen2", "qwen3"})
"""Architectures that the graph can be built for."""
GROUP = 64
"""Inputs of a product that share one scale when they are rounded to 8 bits."""
MOST_PADDING = 2.0
"""Runs attend side by side when none is padded to more than this times its length."""
SMALL = 256
"""Fewer tokens than this are not worth a pass of their own, however they are padded."""

_MASKED = -1e30

Array = npt.NDArray[Any]
Segment = tuple[Tokens, Prefix | None]


class CompiledPass:
    """A decoder's packed forward pass, compiled once; a drop-in for `packed.run_packed`.

    Args:
        network: A causal language model of transformers, plain or wrapped by PEFT, on the CPU. Its
            weights are copied: later changes are not seen.
        eight_bits: Whether products are of 8-bit integers.

    Raises:
        ConfigError: If openvino is missing, or the graph cannot be built for this model.
    """

    def __init__(self, network: Any, *, eight_bits: bool = False) -> None:
        ov = optional("openvino", "openvino", "model.scorer = openvino")
        decoder = decoder_of(network)
        _check(decoder)
        self._decoder = decoder
        self._heads = _Heads.of(decoder)
        graph = _Graph(ov, decoder, self._heads, eight_bits=eight_bits)
        exact = next(decoder.parameters()).dtype == torch.float32 and not eight_bits
        properties = {
            "INFERENCE_PRECISION_HINT": "f32" if exact else "bf16",
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
            "DYNAMIC_QUANTIZATION_GROUP_SIZE": GROUP if eight_bits else 0,
        }
        self._request = (
            ov.Core().compile_model(graph.model, "CPU", properties).create_infer_request()
        )

    def __call__(
        self, segments: Sequence[Segment], keep: Sequence[bool]
    ) -> tuple[Tensor, list[int], list[Prefix | None]]:
        """One pass over runs, each behind its prefix; arguments and result as `run_packed`'s.

        Hidden states and kept prefixes are fp32, whatever is computed with.
        """
        starts = [0, *itertools.accumulate(len(tokens) for tokens, _ in segments)]
        hidden = torch.empty(starts[-1], self._heads.width)
        kept: list[Prefix | None] = [None] * len(segments)
        for rows in _together(segments):
            prefix = segments[rows[0]][1]
            wanted = [keep[row] for row in rows]
            states, layers = self._infer([segments[row][0] for row in rows], prefix, wanted)
            places = [place for row in rows for place in range(starts[row], starts[row + 1])]
            hidden[places] = torch.from_numpy(states)
            end = 0
            for row in itertools.compress(rows, wanted):
                first, end = end, end + len(segments[row][0])
                kept[row] = _longer(prefix, segments[row][0], [one[first:end] for one in layers])
        return hidden, starts, kept

    def _infer(
        self, runs: list[Tokens], prefix: Prefix | None, keep: list[bool]
    ) -> tuple[Array, list[Array]]:
        """The pass over runs of one prefix, of which some are to be kept.

        Returns:
            States, [tokens, width]; and the kept runs' keys and values, layer by layer, [tokens of
            these runs, key heads, size]. All in the request's memory: read before the next pass.
        """
        lengths = [len(run) for run in runs]
        start, width = len(prefix.tokens) if prefix else 0, max(lengths)
        within = np.minimum(np.arange(width)[None], np.array(lengths)[:, None] - 1)
        first = np.array([0, *itertools.accumulate(lengths)][:-1])
        real = [row * width + np.arange(length) for row, length in enumerate(lengths)]
        positions = [place for length in lengths for place in range(start, start + length)]
        cos, sin = self._decoder.rotary_emb(
            torch.empty(0, dtype=torch.float32), torch.tensor([positions])
        )
        later = np.triu(np.full((width, width), _MASKED, np.float32), 1)
        seen = np.concatenate([np.zeros((width, start), np.float32), later], 1)
        feed: dict[str, Array] = {
            "ids": np.array([token for run in runs for token in run], np.int64),
            "cos": cos[0][:, None].float().numpy(),
            "sin": sin[0][:, None].float().numpy(),
            "laid": first[:, None] + within,
            "real": np.concatenate(real),
            "kept": np.flatnonzero(np.repeat(keep, lengths)),
            "mask": np.tile(seen, (self._heads.group, 1))[None, None],
        }
        for layer in range(self._heads.layers):
            for number, kind in enumerate(("keys", "values")):
                feed[f"{kind}.{layer}"] = (
                    prefix.layers[layer][number][None].numpy()
                    if prefix
                    else np.zeros((1, self._heads.shared, 0, self._heads.size), np.float32)
                )
        self._request.infer(feed, share_inputs=True)
        states, *layers = (output.data for output in self._request.output_tensors)
        return states, layers


def _together(segments: Sequence[Segment]) -> Iterator[list[int]]:
    """Rows of one prefix and like length, which run in one pass."""
    for _, group in itertools.groupby(range(len(segments)), lambda row: id(segments[row][1])):
        ordered = sorted(group, key=lambda row: len(segments[row][0]))
        while ordered:
            longest, tokens = len(segments[ordered[-1]][0]), 0
            rows: list[int] = []
            while ordered:
                length = len(segments[ordered[-1]][0])
                if length * MOST_PADDING < longest and tokens >= SMALL:
                    break
                tokens += length
                rows.append(ordered.pop())
            yield rows


def _longer(prefix: Prefix | None, tokens: Tokens, new: list[Array]) -> Prefix:
    """A run with the prefix before it, as a prefix; a copy."""
    fresh = [torch.from_numpy(one.swapaxes(0, 1).copy()) for one in new]
    pairs = list(zip(fresh[::2], fresh[1::2], strict=True))
    if prefix is None:
        return Prefix(tuple(pairs), tokens)
    layers = tuple(
        (torch.cat([old[0], pair[0]], 1), torch.cat([old[1], pair[1]], 1))
        for old, pair in zip(prefix.layers, pairs, strict=True)
    )
    return Prefix(layers, prefix.tokens + tokens)


def _check(decoder: Any) -> None:
    config = decoder.config
    parameter = next(decoder.parameters())
    problems = {
        f"its kind is {config.model_type}, not one of {', '.join(sorted(KINDS))}": (
            config.model_type not in KINDS
        ),
        "its attention slides": not (
            set(getattr(config, "layer_types", None) or ()) <= {"full_attention"}
        )
        or bool(config.model_type == "mistral" and getattr(config, "sliding_window", None)),
        f"its activation is {getattr(config, 'hidden_act', '')}, not silu": (
            getattr(config, "hidden_act", "") != "silu"
        ),
        f"it is on {parameter.device.type}, not on the CPU": parameter.device.type != "cpu",
        "its weights are quantized": not parameter.is_floating_point(),
    }
    for problem, there in problems.items():
        if there:
            raise ConfigError(
                f"model.scorer: openvino cannot score with this model ({problem}): set it to torch"
            )


@dataclass(frozen=True)
class _Heads:
    """The sizes of a decoder: heads, heads that share a key, size of a head, width, layers."""

    heads: int
    shared: int
    size: int
    width: int
    layers: int

    @property
    def group(self) -> int:
        return self.heads // self.shared

    @classmethod
    def of(cls, decoder: Any) -> _Heads:
        config = decoder.config
        size = getattr(config, "head_dim", None)
        size = size or config.hidden_size // config.num_attention_heads
        shared = config.num_key_value_heads
        return cls(
            config.num_attention_heads, shared, size, config.hidden_size, len(decoder.layers)
        )


class _Graph:
    """Builds the graph of one pass.

    Inputs: `ids`, `cos` and `sin` of each token; `laid` [runs, longest], the token at each place of
    the rows of attention; `real`, the place of each token in them; `kept`, the tokens whose keys
    and values are wanted (to give all costs time); `mask`, added to scores; and the shared prefix's
    keys and values. Outputs: the states, then keys and values.
    """

    def __init__(self, ov: Any, decoder: Any, heads: _Heads, *, eight_bits: bool) -> None:
        self.ov, self.op = ov, ov.opset13
        self.heads, self.eight_bits = heads, eight_bits
        self.inputs: list[Any] = []
        size = heads.size
        ids = self._input("ids", [-1], np.int64)
        self.cos = self._input("cos", [-1, 1, size], np.float32)
        self.sin = self._input("sin", [-1, 1, size], np.float32)
        self.laid = self._input("laid", [-1, -1], np.int64)
        self.real = self._input("real", [-1], np.int64)
        kept = self._input("kept", [-1], np.int64)
        self.mask = self._input("mask", [1, 1, -1, -1], np.float32)
        shape = self.op.shape_of(self.laid)
        self.runs = self.op.gather(shape, self._ints(0), self._axis(0))
        self.longest = self.op.gather(shape, self._ints(1), self._axis(0))
        # a table is read row by row: rounding it saves no time
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
        query = self._turned(self._split(h, attention.q_proj, self.heads.heads), attention, "q")
        keys = self._turned(self._split(h, attention.k_proj, self.heads.shared), attention, "k")
        values = self._split(h, attention.v_proj, self.heads.shared)
        attended = self._attend(query, keys, values, number, attention.scaling)
        x = op.add(x, self._linear(attended, attention.o_proj))
        h = self._norm(x, layer.post_attention_layernorm)
        gate = op.swish(self._linear(h, mlp.gate_proj))
        inner = op.multiply(gate, self._linear(h, mlp.up_proj))
        return op.add(x, self._linear(inner, mlp.down_proj)), keys, values

    def _attend(self, query: Any, keys: Any, values: Any, number: int, scale: float) -> Any:
        """Runs attend to the prefix, whole, and to themselves, causally."""
        op, heads = self.op, self.heads
        whole = [
            op.concat([self._before(kind, number), self._rows(one)], 2)
            for kind, one in (("keys", keys), ("values", values))
        ]
        shape = [self.runs, self.longest, self._ints(heads.shared, heads.group, heads.size)]
        laid = op.reshape(op.gather(query, self.laid, self._axis(0)), op.concat(shape, 0), False)
        # heads that share a key stand one after the other as its queries
        laid = op.transpose(laid, self._ints(0, 2, 3, 1, 4))
        shape = [self.runs, self._ints(heads.shared, -1, heads.size)]
        laid = op.reshape(laid, op.concat(shape, 0), False)
        out = op.scaled_dot_product_attention(
            laid, *whole, self.mask, op.constant(np.float32(scale)), causal=False
        )
        shape = [self.runs, self._ints(heads.shared, heads.group), self.longest]
        shape += [self._ints(heads.size)]
        out = op.transpose(op.reshape(out, op.concat(shape, 0), False), self._ints(0, 3, 1, 2, 4))
        out = op.reshape(out, self._ints(-1, heads.heads * heads.size), False)
        return op.gather(out, self.real, self._axis(0))

    def _before(self, kind: str, number: int) -> Any:
        """The shared prefix's keys or values, one copy a run: [runs, key heads, tokens, size]."""
        shape = [1, self.heads.shared, -1, self.heads.size]
        one = self._input(f"{kind}.{number}", shape, np.float32)
        runs = self.op.concat([self.runs, self._ints(1, 1, 1)], 0)
        return self.op.broadcast(one, runs, broadcast_spec="BIDIRECTIONAL")

    def _rows(self, tokens: Any) -> Any:
        """[tokens, heads, size] → [runs, heads, longest, size]."""
        laid = self.op.gather(tokens, self.laid, self._axis(0))
        return self.op.transpose(laid, self._ints(0, 2, 1, 3))

    def _split(self, x: Any, module: Any, heads: int) -> Any:
        shape = self._ints(0, heads, self.heads.size)
        return self.op.reshape(self._linear(x, module), shape, True)

    def _turned(self, x: Any, attention: Any, which: str) -> Any:
        """Queries or keys with their positions (rotary embedding), normed where the model does."""
        op = self.op
        norm = getattr(attention, f"{which}_norm", None)
        x = x if norm is None else self._norm(x, norm)
        low, high = op.split(x, self._axis(-1), 2).outputs()
        across = op.concat([op.negative(high), low], -1)
        return op.add(op.multiply(x, self.cos), op.multiply(across, self.sin))

    def _norm(self, x: Any, module: Any) -> Any:
        op = self.op
        square = op.power(x, op.constant(np.float32(2)))
        mean = op.reduce_mean(square, self._ints(-1), True)
        root = op.sqrt(op.add(mean, op.constant(np.float32(module.variance_epsilon))))
        normed = op.multiply(x, op.divide(op.constant(np.float32(1)), root))
        return op.multiply(normed, op.constant(_matrix(module.weight)))

    def _linear(self, x: Any, module: Any) -> Any:
        op = self.op
        base = getattr(module, "base_layer", module)
        out = op.matmul(x, self._weight(base), False, True)
        if base.bias is not None:
            out = op.add(out, op.constant(_matrix(base.bias)))
        for down, up in _adapters(module):
            low = op.matmul(x, op.constant(down), False, True)
            out = op.add(out, op.matmul(low, op.constant(up), False, True))
        return out

    def _weight(self, base: Any) -> Any:
        op, weight = self.op, _matrix(base.weight)
        if not self.eight_bits or weight.shape[1] % GROUP:
            return op.constant(weight)
        scale = np.maximum(np.abs(weight).max(1, keepdims=True) / 127, np.float32(1e-12))
        whole = np.round(weight / scale).astype(np.int8)
        return op.multiply(op.convert(op.constant(whole), "f32"), op.constant(scale))

    def _input(self, name: str, shape: list[int], kind: Any) -> Any:
        one = self.op.parameter(shape, kind, name=name)
        one.output(0).set_names({name})
        self.inputs.append(one)
        return one

    def _ints(self, *values: int) -> Any:
        return self.op.constant(np.array(values, np.int64))

    def _axis(self, value: int) -> Any:
        return self.op.constant(np.array(value, np.int64))


def _matrix(tensor: Tensor) -> Array:
    found: Array = tensor.detach().float().numpy()
    return found


def _adapters(module: Any) -> Iterator[tuple[Array, Array]]:
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
