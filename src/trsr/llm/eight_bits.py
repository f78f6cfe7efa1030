"""A Llama checkpoint as an OpenVINO model that multiplies 8-bit integers."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from trsr.errors import ModelError
from trsr.llm.gguf_file import write_f16

Array = npt.NDArray[Any]

EXPORTED = "openvino_model.xml"
"""The file that makes a folder an OpenVINO model."""

ROUNDING = "i8"
"""In the identity of whatever answers with these integers: another way to round, another word."""

WIDEST = 4.0
"""A rotated, normed residual stream is cut off here when it is rounded. Its numbers have a mean
square of 1 and are spread much as normal ones, so that hardly any is as large."""


def write_eight_bits(folder: Path, path: Path) -> None:
    """Writes a Llama checkpoint as a folder for openvino-genai, its products in 8 bits.

    These are the products that read the residual stream within a layer, as in the scorer
    `openvino_8bit`: the stream is rotated (see `turned`), normed and rounded with one scale (see
    `normed`), weights with one scale a row. What writes to the stream, whose inputs no rotation
    reaches, and the head, whose outputs are told apart by little, stay F16.

    Args:
        folder: The checkpoint's (safetensors, config.json, tokenizer.json).
        path: The folder to write; it is whole or not there.

    Raises:
        ModelError: If the model is not a plain Llama, or OpenVINO cannot read it.
    """
    part = path.with_name(f".{path.name}.part")  # one writer at a time: the caller holds a lock
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    try:
        write_f16(folder, part / "turned.gguf", turn=True)
        _read_gguf(part / "turned.gguf")
        whole = part / "whole"
        whole.mkdir()
        config = json.loads((folder / "config.json").read_text("utf-8"))
        _save_rounded(part / EXPORTED, whole / EXPORTED, config)
        eos = config.get("eos_token_id")
        eos = eos[0] if isinstance(eos, list) else eos
        (whole / "generation_config.json").write_text(json.dumps({"eos_token_id": eos or 0}))
        whole.replace(path)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _read_gguf(path: Path) -> None:
    """Has openvino-genai write the graph that it makes of a GGUF file beside it."""
    import openvino_genai as genai

    scheduler = genai.SchedulerConfig()
    scheduler.cache_size = 1
    try:
        genai.ContinuousBatchingPipeline(
            str(path), scheduler, "CPU", {"enable_save_ov_model": True}, {}
        )
    except RuntimeError as error:
        raise ModelError(f"openvino cannot read {path}: {error}") from error
    if not path.with_name(EXPORTED).is_file():
        raise ModelError(
            "this version of openvino-genai does not write what it reads of a GGUF file: set "
            "quantize to none"
        )


def _save_rounded(source: Path, target: Path, config: Mapping[str, Any]) -> None:
    """Writes a graph, its products that read the residual stream in a layer rounded."""
    import openvino as ov

    op, width, epsilon = ov.opset13, config["hidden_size"], config["rms_norm_eps"]
    model = ov.Core().read_model(source)
    streams: dict[str, Any] = {}
    for node in model.get_ordered_ops():
        if node.get_type_name() != "MatMul":
            continue
        weight = _constant(node.input_value(1).get_node())
        stream = _normed_stream(node.input_value(0).get_node())
        if weight is None or weight.shape[0] == config["vocab_size"] or stream is None:
            continue
        name = node.input_value(0).get_node().get_friendly_name()
        if name not in streams:
            streams[name] = normed(op, stream, width, epsilon)[1]
        node.input(0).replace_source_output(streams[name].output(0))
        node.input(1).replace_source_output(rounded(op, weight).output(0))
    if len(streams) != 2 * config["num_hidden_layers"]:
        raise ModelError(
            "this version of openvino-genai lays the model out in a way that trsr does not know: "
            "set quantize to none"
        )
    ov.save_model(model, target, compress_to_fp16=False)


def _normed_stream(node: Any) -> Any:
    """What a node norms, where it is an RMS norm without a gain: x · (1 / root)."""
    if node.get_type_name() != "Multiply":
        return None
    scale, stream = (value.get_node() for value in node.input_values())
    return stream if scale.get_type_name() == "Divide" else None


def _constant(node: Any) -> Array | None:
    """The matrix that a node gives, where it is a constant or one converted."""
    while node.get_type_name() == "Convert":
        node = node.input_value(0).get_node()
    return node.data.astype(np.float32) if node.get_type_name() == "Constant" else None


def rounded(op: Any, weight: Array) -> Any:
    """A matrix [n, width] in 8 bits, one scale a row, as OpenVINO knows it.

    Args:
        op: OpenVINO's operations.
        weight: The matrix.
    """
    scale = np.maximum(np.abs(weight).max(1, keepdims=True) / 127, np.float32(1e-12))
    whole = np.round(weight / scale).astype(np.int8)
    return op.multiply(op.convert(op.constant(whole), "f32"), op.constant(scale))


def normed(op: Any, x: Any, width: int, epsilon: float) -> tuple[Any, Any]:
    """An RMS norm of a rotated residual stream, and the same rounded to 8 bits.

    One scale does for all tokens and layers, and no data has to be seen to know it (`WIDEST`): so
    OpenVINO multiplies integers, which it does not where each token has a scale of its own.

    Args:
        op: OpenVINO's operations.
        x: The stream, [..., width].
        width: Its numbers of one token.
        epsilon: Added to their mean square.
    """

    def number(value: float) -> Any:
        return op.constant(np.float32(value))

    # not as OpenVINO knows a norm: of its own operation it could not make one with the rounding
    length = op.reduce_l2(x, op.constant(np.array([-1], np.int64)), True)
    mean = op.multiply(op.multiply(length, length), number(1 / width))
    root = op.sqrt(op.add(mean, number(epsilon)))
    exact = op.multiply(x, op.divide(number(1), root))
    low, high = number(-WIDEST), number(WIDEST * 127 / 128)
    return exact, op.fake_quantize(exact, low, high, low, high, 256)
