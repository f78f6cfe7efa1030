"""The packed pass of the token tree as an OpenVINO graph: scoring on CPUs, no gradients.

What `packed.run_packed` does in torch, operation by operation, is here one compiled graph: its
matrix products run on packed tokens, without padding; only queries, keys and values are laid out
as rows for attention, each run behind the prefix that it shares with its siblings. Weights come
from the loaded network, adapters stay beside them as in `load.load_network`.
"""

from __future__ import annotations

import importlib.util
import itertools
import logging
import math
import weakref
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from trsr.errors import ConfigError
from trsr.models.openvino.graph import Array, Graph, Heads, Pair
from trsr.models.token_tree.kv_cache import decoder_of
from trsr.models.token_tree.prefix_cache import Prefix
from trsr.models.token_tree.tokens import Tokens
from trsr.registry import optional

_log = logging.getLogger(__name__)

KINDS = frozenset({"llama", "mistral", "qwen2", "qwen3"})
"""Architectures that the graph can be built for."""
MOST_PADDING = 2.0
"""Runs attend side by side when none is padded to more than this times its length."""
SMALL = 256
"""Fewer tokens than this are not worth a pass of their own."""
LARGE = 2048
"""Runs behind different prefixes share a pass up to so many tokens: a larger one is not faster."""

DYNAMIC = frozenset({"dynamic", "longrope"})
"""Rotary embeddings whose angles depend on how long the longest sequence is."""

MOST_FREE = 16
"""Most free buffers; the oldest are released."""

MOST_PARAMETERS = 2e9
"""`auto` does not compile larger models: their weights would be copied in fp32."""

BITS = {"none": 0, "8bit": 8, "4bit": 4}
"""By `model.quantize`."""

_MASKED = -1e30

Segment = tuple[Tokens, Prefix | None]


class CompiledPass:
    """A decoder's packed forward pass, compiled once; a drop-in for `packed.run_packed`.

    Args:
        network: A causal language model of transformers, plain or wrapped by PEFT, on the CPU. Its
            weights are copied: later changes are not seen.
        bits: Of each number in the layers' matrices, 8 or 4; 0: as they are.

    Raises:
        ConfigError: If openvino is missing, or the graph cannot be built for this model.
    """

    def __init__(self, network: Any, bits: int = 0) -> None:
        ov = optional("openvino", "openvino", "model.scorer = openvino")
        decoder = decoder_of(network)
        _check(decoder)
        self._decoder = decoder
        self._heads = Heads.of(decoder)
        graph = Graph(ov, decoder, self._heads, bits)
        exact = next(decoder.parameters()).dtype == torch.float32
        properties = {
            "INFERENCE_PRECISION_HINT": "f32" if exact else "bf16",
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
            "DYNAMIC_QUANTIZATION_GROUP_SIZE": 0,
        }
        compiled = ov.Core().compile_model(graph.model, "CPU", properties)
        self._request = compiled.create_infer_request()
        self.infer = self._request.infer
        self._pool = BufferPool()
        self._table: Pair = (np.empty((0, self._heads.size)),) * 2

    def __call__(
        self,
        segments: Sequence[Segment],
        keep: Sequence[bool],
        asked: Sequence[tuple[int, int]],
    ) -> tuple[Tensor, list[Prefix | None]]:
        """One pass over runs, each behind its prefix; arguments and result as `run_packed`'s.

        Hidden states and kept prefixes are fp32, whatever is computed with.
        """
        found = torch.empty(len(asked), self._heads.width)
        kept: list[Prefix | None] = [None] * len(segments)
        for rows in _together(segments):
            wanted = [keep[row] for row in rows]
            starts = dict(
                zip(
                    rows,
                    itertools.accumulate((len(segments[row][0]) for row in rows), initial=0),
                    strict=False,  # the last sum is the end
                )
            )
            here = [place for place, (row, _) in enumerate(asked) if row in starts]
            places = [starts[asked[place][0]] + asked[place][1] for place in here]
            states, layers = self._infer([segments[row] for row in rows], wanted, places)
            found[here] = torch.from_numpy(states[: len(here)])
            end = 0
            for row in itertools.compress(rows, wanted):
                first, end = end, end + len(segments[row][0])
                added = [one[first:end] for one in layers]
                kept[row] = _longer(*segments[row], added, self._pool)
        return found, kept

    def _infer(
        self, segments: list[Segment], keep: list[bool], asked: list[int]
    ) -> tuple[Array, list[Array]]:
        """The pass over runs behind their prefixes, of which some are to be kept.

        Returns:
            States of the asked tokens, [asked, width] (of one token where none is); and the kept
            runs' keys and values, layer by layer, [tokens of these runs, key heads, size]. All in
            the request's memory: read before the next pass.
        """
        lengths = [len(run) for run, _ in segments]
        prefixes = list({id(one): one for _, one in segments if one is not None}.values())
        ends = dict(
            zip(map(id, prefixes), itertools.accumulate(map(_length, prefixes)), strict=True)
        )
        before = [_length(prefix) for _, prefix in segments]
        begins = [ends.get(id(prefix), 0) - _length(prefix) for _, prefix in segments]
        own, start, width = sum(map(_length, prefixes)), max(before), max(lengths)
        within = np.minimum(np.arange(width)[None], np.array(lengths)[:, None] - 1)
        laid = np.array([0, *itertools.accumulate(lengths)][:-1])[:, None] + within
        real = [row * width + np.arange(length) for row, length in enumerate(lengths)]
        pairs = zip(before, lengths, strict=True)
        positions = [place for first, length in pairs for place in range(first, first + length)]
        cos, sin = self._angles(positions)
        # behind the end of a shorter prefix any key stands in, and is masked
        there = np.arange(start)[None] < np.array(before)[:, None]
        lent = np.where(there, np.array(begins)[:, None] + np.arange(start)[None], 0)
        feed: dict[str, Array] = {
            "ids": np.array([token for run, _ in segments for token in run], np.int64),
            "cos": cos[None, :, None],
            "sin": sin[None, :, None],
            "laid": laid,
            "seen": np.concatenate([lent, own + laid], 1),
            "real": np.concatenate(real),
            "kept": np.flatnonzero(np.repeat(keep, lengths)),
            "asked": np.array(asked or [0], np.int64),
            "mask": self._mask(there[:1] if there.all() else there, width),
        }
        for layer in range(self._heads.layers):
            for number, kind in enumerate(("keys", "values")):
                feed[f"{kind}.{layer}"] = self._lent(prefixes, layer, number)
        self.infer(feed, share_inputs=True)
        states, *layers = (output.data for output in self._request.output_tensors)
        return states, layers

    def _mask(self, there: npt.NDArray[np.bool_], width: int) -> Array:
        """[rows of `there`, 1, width · group, prefix + width]: what a run's token may attend to."""
        later = np.triu(np.full((width, width), _MASKED, np.float32), 1)
        prefix = np.where(there, np.float32(0), np.float32(_MASKED))[:, None]
        whole = np.concatenate(
            [
                np.broadcast_to(prefix, (len(there), width, there.shape[1])),
                np.broadcast_to(later, (len(there), width, width)),
            ],
            2,
        )
        return np.repeat(whole, self._heads.group, 1)[:, None]

    def _lent(self, prefixes: list[Prefix], layer: int, number: int) -> Array:
        """Keys or values of the prefixes end to end, [key heads, tokens, size]."""
        parts = [one.layers[layer][number].numpy() for one in prefixes]
        if len(parts) == 1:
            return parts[0]
        none = np.zeros((self._heads.shared, 0, self._heads.size), np.float32)
        return np.concatenate(parts, 1) if parts else none

    def _angles(self, positions: list[int]) -> tuple[Array, Array]:
        """Cosines and sines of the rotary embedding at these positions, [tokens, head size]."""
        rotary, ends = self._decoder.rotary_emb, max(positions) + 1
        if getattr(rotary, "rope_type", "default") in DYNAMIC:
            return _compute_angles(rotary, positions)
        if ends > len(self._table[0]):
            self._table = _compute_angles(rotary, list(range(2 * ends)))
        cos, sin = self._table
        return cos[positions], sin[positions]


def _compute_angles(rotary: Any, positions: list[int]) -> tuple[Array, Array]:
    cos, sin = rotary(torch.empty(0, dtype=torch.float32), torch.tensor([positions]))
    return cos[0].float().numpy(), sin[0].float().numpy()


def resolve(network: Any, scorer: str) -> str:
    """The scorer that `model.scorer` means for this model on this machine."""
    if scorer != "auto":
        return scorer
    if importlib.util.find_spec("openvino") is None:
        return "torch"
    if sum(parameter.numel() for parameter in network.parameters()) > MOST_PARAMETERS:
        return "torch"
    try:
        _check(decoder_of(network))
    except ConfigError:
        return "torch"
    return "openvino"


def compiled_pass(network: Any, scorer: str, quantize: str = "none") -> CompiledPass | None:
    """The pass that a resolved setting asks for; None: torch's.

    Raises:
        ConfigError: If it cannot be had.
    """
    if scorer == "torch":
        return None
    _log.info("compiling its scoring pass (openvino)")
    return CompiledPass(network, BITS[quantize])


def _length(prefix: Prefix | None) -> int:
    return len(prefix.tokens) if prefix else 0


def _together(segments: Sequence[Segment]) -> Iterator[list[int]]:
    """Rows that run in one pass: of one prefix and like length, and of others as long and small."""
    rows: list[int] = []
    for more in _alike(segments):
        if rows and not _may_join(segments, rows, more):
            yield rows
            rows = []
        rows = rows + more
    if rows:
        yield rows


def _may_join(segments: Sequence[Segment], rows: list[int], more: list[int]) -> bool:
    """Whether few enough tokens are together, and neither runs nor prefixes are padded much.

    Attention alone is padded, so that it matters on the whole, not for each run.
    """
    joined = [segments[row] for row in rows + more]
    runs, prefixes = [len(run) for run, _ in joined], [_length(one) for _, one in joined]
    return sum(runs) <= LARGE and all(
        max(lengths) * len(lengths) <= MOST_PADDING * sum(lengths) for lengths in (runs, prefixes)
    )


def _alike(segments: Sequence[Segment]) -> Iterator[list[int]]:
    """Rows of one prefix and like length."""
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


class BufferPool:
    """Reuses the memory of cached keys and values that nobody holds any more.

    A prefix takes tens of megabytes, which the system allocates more slowly than they are filled.
    """

    def __init__(self) -> None:
        self._free: list[Array] = []

    def array(self, *shape: int) -> Array:
        """An uninitialized fp32 array of this shape."""
        size = math.prod(shape)
        fitting = [one for one in self._free if size <= one.size <= 2 * size]
        if fitting:
            buffer = min(fitting, key=len)
            self._free = [one for one in self._free if one is not buffer]
        else:
            buffer = np.empty(size + size // 8, np.float32)
        found = buffer[:size].reshape(shape)
        # torch's views of it hold it for as long as there is one
        weakref.finalize(found, self._release, buffer).atexit = False
        return found

    def _release(self, buffer: Array) -> None:
        self._free = [*self._free[-MOST_FREE + 1 :], buffer]


def _longer(tokens: Tokens, prefix: Prefix | None, new: list[Array], pool: BufferPool) -> Prefix:
    """A run and the prefix before it, copied into one prefix."""
    start, (_, heads, size) = len(prefix.tokens) if prefix else 0, new[0].shape
    block = pool.array(len(new), heads, start + len(tokens), size)
    for number, one in enumerate(new):
        if prefix:
            block[number, :, :start] = prefix.layers[number // 2][number % 2].numpy()
        block[number, :, start:] = one.swapaxes(0, 1)
    kept = torch.from_numpy(block)
    layers = {number: (kept[2 * number], kept[2 * number + 1]) for number in range(len(kept) // 2)}
    return Prefix(layers, prefix.tokens + tokens if prefix else tokens)


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
        "its embeddings are adapted": hasattr(decoder.get_input_embeddings(), "base_layer"),
        "its weights are quantized": not parameter.is_floating_point(),
    }
    for problem, there in problems.items():
        if there:
            raise ConfigError(
                f"model.scorer: openvino cannot score with this model ({problem}): set it to torch"
            )
