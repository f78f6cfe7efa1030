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


def write_eight_bits(folder: Path, path: Path) -> None:
    """Writes a Llama checkpoint as a folder for openvino-genai, its products in 8 bits.

    Weights are rounded with one scale a row, and OpenVINO rounds each token's inputs of a product
    as they come, where it is told a group of the hidden size. The residual stream is rotated first
    (see `turned`). The last product of a layer and the head, whose inputs no rotation reaches or
    whose outputs are told apart by little, stay F16: as the scorer `openvino_8bit` does it.

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
    """Writes a graph with its products rounded, but for the layers' last ones and the head."""
    import openvino as ov

    spared = (config["hidden_size"], config["intermediate_size"])
    model = ov.Core().read_model(source)
    for node in model.get_ordered_ops():
        if node.get_type_name() != "MatMul":
            continue
        weight = _constant(node.input_value(1).get_node())
        if weight is None or weight.shape == spared or weight.shape[0] == config["vocab_size"]:
            continue
        node.input(1).replace_source_output(rounded(ov.opset13, weight).output(0))
    ov.save_model(model, target, compress_to_fp16=False)


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
