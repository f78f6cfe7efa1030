"""How much a model's tokens compute, and how fast machines compute it."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from trsr.errors import ConfigError
from trsr.machine import memory
from trsr.models import ModelSettings
from trsr.registry import near
from trsr.storage import files

KINDS = (
    *("prefill", "generation", "training", "training_cached", "training_forward"),
    *("scoring", "scoring_tuned"),
)
"""What is computed: reading and writing summaries, LoRA's steps (`cached`: from the second epoch
on, where lower layers' outputs are stored; `forward`: passes without gradients between them), and
answers' scores, without and with an adapter."""


@dataclass(frozen=True)
class Gpu:
    """A GPU's published figures.

    Attributes:
        peak: Floating-point operations a second: dense bfloat16 products of the tensor cores.
        bandwidth: Of its memory, bytes a second.
        memory: Bytes.
        source: Where the figures stand.
    """

    peak: float
    bandwidth: float
    memory: float
    source: str


GPUS: Mapping[str, Gpu] = {
    "A10G": Gpu(70e12, 600e9, 24e9, "NVIDIA A10G data sheet, as AWS publishes it for G5"),
    "L4": Gpu(121e12, 300e9, 24e9, "NVIDIA L4 data sheet; half of what is given with sparsity"),
    "A100": Gpu(312e12, 2039e9, 80e9, "NVIDIA A100 80 GB SXM data sheet"),
    "H100": Gpu(989e12, 3350e9, 80e9, "NVIDIA H100 SXM data sheet; half of that with sparsity"),
    "H200": Gpu(989e12, 4800e9, 141e9, "NVIDIA H200 SXM data sheet; half of that with sparsity"),
}
UTILISATION = {"prefill": 0.4, "generation": 0.4, "training": 0.35, "scoring": 0.3}
"""The share of the peak that we count on; an assumption, stated beside each figure made with it."""
BANDWIDTH = 0.6
"""The share of the memory's bandwidth that we count on while tokens are generated."""
LOADING = 1e9
"""Bytes of weights loaded in a second; an assumption."""


_SIZES = (
    *("num_hidden_layers", "hidden_size", "num_attention_heads", "intermediate_size"),
    "vocab_size",
)


@dataclass(frozen=True)
class Shape:
    """A decoder's sizes.

    Attributes:
        linear: Parameters of the layers' matrices, embeddings and head left out.
        layers: How many layers.
        hidden: The hidden size.
        width: Query heads times their size.
        shared: Key heads times their size.
        inner: The width within an MLP, mean over the layers.
        vocabulary: Rows of the head.
        bytes_each: Bytes a parameter.
        context: Most tokens that it was made for; 0: not known.
        guessed: Whether all this is guessed from the parameters that the name speaks of.
    """

    linear: float
    layers: int
    hidden: int
    width: int
    shared: int
    inner: float
    vocabulary: int
    bytes_each: float
    context: int = 0
    guessed: bool = False

    @classmethod
    def read(cls, folder: Path, bytes_each: float) -> Shape | None:
        """The sizes in a folder's `config.json`; None where it names them in another way."""
        every: dict[str, Any] = files.read_json(folder / "config.json")
        one = every.get("text_config", every)
        if any(key not in one for key in _SIZES):
            return None
        layers, hidden = int(one["num_hidden_layers"]), int(one["hidden_size"])
        heads = int(one["num_attention_heads"])
        size = int(one.get("head_dim") or hidden // heads)
        width, shared = heads * size, int(one.get("num_key_value_heads") or heads) * size
        products = 2 if one.get("model_type") == "gpt_neox" else 3  # up and down; or with a gate
        inner = float(np.mean(one["intermediate_size"]))  # some name one a layer
        linear = layers * hidden * (2 * width + 2 * shared + products * inner)
        vocabulary = int(one["vocab_size"])
        context = int(one.get("max_position_embeddings") or 0)
        return cls(linear, layers, hidden, width, shared, inner, vocabulary, bytes_each, context)

    @classmethod
    def guess(cls, name: str, bytes_each: float) -> Shape | None:
        """From a name such as `Llama-2-7b`; None where it speaks of no size.

        Decoders of a usual make have 12 · hidden² parameters a layer, and a layer for each 128
        of the hidden size.
        """
        found = re.findall(r"(?<![\w.])(\d+(?:\.\d+)?)([bm])(?![a-z])", name.lower())
        if not found:
            return None
        count = float(found[-1][0]) * (1e9 if found[-1][1] == "b" else 1e6)
        hidden = round((count * 128 / 12) ** (1 / 3))
        layers = max(1, round(count / (12 * hidden**2)))
        rest = (hidden, hidden, hidden, 8 * hidden // 3, 32_000, bytes_each)
        return cls(count, layers, *rest, guessed=True)

    @property
    def weights(self) -> float:
        """Bytes of all parameters; head and embeddings counted as one matrix."""
        return self.bytes_each * (self.linear + self.hidden * self.vocabulary)

    @property
    def head(self) -> float:
        """Operations of the head at one token."""
        return 2.0 * self.hidden * self.vocabulary

    def forward(self, tokens: float, context: float) -> float:
        """Operations of a forward pass, a multiply-add counted as two; norms are left out.

        Each token looks at `context` others, in the mean.
        """
        return tokens * (2 * self.linear + 4 * self.layers * self.width * context)

    def activations(self, tokens: float) -> float:
        """Bytes that a pass keeps for gradients: 34 a number (Korthikanti et al. 2022, eq. 1)."""
        return 34.0 * self.hidden * self.layers * tokens

    def cache(self, tokens: float) -> float:
        """Bytes of so many tokens' keys and values, in two bytes a number."""
        return 4.0 * self.layers * self.shared * tokens


def bytes_each(settings: ModelSettings) -> float:
    """Bytes a parameter, as a model is loaded."""
    quantized = {"8bit": 1.0, "4bit": 0.5}.get(settings.quantize)
    return quantized or (4.0 if settings.dtype == "float32" else 2.0)


@dataclass(frozen=True)
class Work:
    """One kind of computing that a stage does.

    Attributes:
        kind: One of `KINDS`.
        tokens: How many tokens are computed.
        operations: Their floating-point operations.
        read: Bytes that are read from memory meanwhile; 0: computing decides.
    """

    kind: str
    tokens: float
    operations: float
    read: float = 0.0

    def times(self, factor: float) -> Work:
        """So many times as much."""
        return Work(self.kind, *(one * factor for one in (self.tokens, self.operations, self.read)))


@dataclass
class Speeds:
    """How fast a machine computes each kind of work.

    Attributes:
        name: The machine, in words.
        operations: By kind: floating-point operations a second that were reached.
        tokens: By kind: tokens a second that this was, for people.
        opening: By stage: seconds until the model is ready.
        memory: By stage: bytes of memory at its most.
        gpu: A named GPU's figures, in place of what was measured.
    """

    name: str
    operations: dict[str, float] = field(default_factory=dict)
    tokens: dict[str, float] = field(default_factory=dict)
    opening: dict[str, float] = field(default_factory=dict)
    memory: dict[str, float] = field(default_factory=dict)
    gpu: Gpu | None = None

    def seconds(self, work: Work) -> float | None:
        """What some work takes; None where it is not known."""
        if not work.tokens:
            return 0.0
        if self.gpu is not None:
            share = UTILISATION[work.kind.partition("_")[0]]
            computing = work.operations / (self.gpu.peak * share)
            return max(computing, work.read / (self.gpu.bandwidth * BANDWIDTH))
        rate = self.operations.get(work.kind) or self.operations.get(work.kind.partition("_")[0])
        return work.operations / rate if rate else None

    def opens(self, stage: str, shape: Shape | None) -> float:
        """Seconds until the stage's model is ready."""
        if self.gpu is not None:
            return shape.weights / LOADING if shape else 0.0
        return self.opening.get(stage, 0.0)

    def note(self, kind: str, work: Work, seconds: float) -> None:
        """Takes down what some work took."""
        self.operations[kind] = work.operations / max(seconds, 1e-9)
        self.tokens[kind] = work.tokens / max(seconds, 1e-9)

    def to_json(self) -> dict[str, Any]:
        """What `trsr plan --like` reads."""
        return {
            "machine": self.name,
            "operations_per_second": self.operations,
            "tokens_per_second": self.tokens,
            "opening_seconds": self.opening,
            "peak_memory_bytes": self.memory,
        }


def named(machine: str) -> Speeds:
    """A machine of the table, by its published figures.

    Raises:
        ConfigError: If it is not in the table.
    """
    name = machine.upper()
    if name not in GPUS:
        raise ConfigError(
            f"--machine: {machine} is not in the table{near(name, list(GPUS))}. It has "
            f"{', '.join(GPUS)}; for another machine, give `trsr plan` there, and its plan.json "
            "here with --like"
        )
    return Speeds(name, gpu=GPUS[name])


def own_machine() -> Gpu:
    """This machine's processor in the table's terms, from a tenth of a second of products.

    The fastest product counts: on a busy machine others waited for a core.
    """
    one = np.ones((768, 768), np.float32)
    one @ one
    begun, took = time.perf_counter(), list[float]()
    while time.perf_counter() - begun < 0.1 or len(took) < 3:
        started = time.perf_counter()
        one @ one
        took.append(time.perf_counter() - started)
    peak = 2 * 768**3 / min(took)
    return Gpu(peak, 20e9, memory(), "measured")


def like(path: Path) -> Speeds:
    """The speeds of a machine where `trsr plan` measured them.

    Raises:
        ConfigError: If the file cannot be read, or holds no such speeds.
    """
    try:
        found = files.read_json(path)
    except (OSError, ValueError) as error:
        raise ConfigError(f"--like: {path} cannot be read as JSON ({error})") from error
    bench: dict[str, Any] = (found.get("bench") if isinstance(found, dict) else None) or {}
    keys = list(Speeds("").to_json())
    missing = [f"bench.{key}" for key in keys if key not in bench]
    if missing:
        raise ConfigError(
            f"--like: {path} lacks {', '.join(missing)}; give the plan.json that `trsr plan "
            "CONFIG` writes on that machine"
        )
    tables = {key: bench[key] for key in keys[1:]}
    wrong = [
        f"bench.{key}"
        for key, one in tables.items()
        if not isinstance(one, dict) or not all(map(_is_size, one.values()))
    ]
    if wrong:
        raise ConfigError(f"--like: {path}: {', '.join(wrong)} must hold numbers above 0 by name")
    operations, tokens, opening, room = (dict(one) for one in tables.values())
    if not operations:
        raise ConfigError(f"--like: {path} holds no speed: no model was measured for that plan")
    return Speeds(str(bench["machine"]), operations, tokens, opening, room)


def _is_size(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value) and value > 0
