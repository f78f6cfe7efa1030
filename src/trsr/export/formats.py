"""Writes a model in each format."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trsr.errors import ModelError
from trsr.models.settings import ModelSettings
from trsr.models.weights import local_weights
from trsr.registry import optional
from trsr.storage import files

SEQUENCE = 2048
"""Most tokens of a prompt in the graphs that fix it."""


@dataclass(frozen=True, slots=True)
class Source:
    """What is exported.

    Attributes:
        model: The ranking model's settings.
        adapter: Its LoRA adapter; None: the model as it came.
        base: Name and revision of the base model on a hub, for the adapter's configuration.
    """

    model: ModelSettings
    adapter: Path | None
    base: tuple[str, str | None]

    @property
    def folder(self) -> Path:
        """The base model's weights on this machine."""
        return local_weights(self.model.name, revision=self.model.revision)


def write_peft(source: Source, out: Path) -> None:
    """The adapter in PEFT's format, named after its base model, with the tokenizer.

    Raises:
        ModelError: If the run has no adapter.
    """
    if source.adapter is None:
        raise ModelError(
            "this run has no trained adapter, and the format peft holds nothing else; run `trsr "
            "train`, or export the model as it came with --to merged"
        )
    for path in (source.adapter / "adapter_model.safetensors",):
        files.copy(path, out / path.name)
    config = files.read_json(source.adapter / "adapter_config.json")
    config["base_model_name_or_path"], config["revision"] = source.base
    files.write_json(out / "adapter_config.json", config)
    copy_tokenizer(source.folder, out)


def copy_tokenizer(model: Path, out: Path) -> None:
    """The tokenizer's files as they are, so that texts become the same tokens."""
    from trsr.models.hf.load import TOKENIZER

    for path in files.listed(model):
        if path.name.startswith(TOKENIZER):
            files.copy(path, out / path.name)


def write_merged(source: Source, out: Path) -> None:
    """A checkpoint of transformers in fp32, the adapter added to the weights."""
    from trsr.models.hf.load import write_merged as write

    write(source.model, source.adapter, out)


def write_gguf(source: Source, out: Path) -> None:
    """`model.gguf`, F16, for llama.cpp.

    Raises:
        ModelError: If the model is no plain Llama with a byte-level BPE tokenizer.
    """
    from trsr.models.openvino.gguf import write_f16

    with _merged(source, out) as checkpoint:
        write_f16(checkpoint, out / "model.gguf", chat=True)


def write_onnx(source: Source, out: Path) -> None:
    """`model.onnx`: `input_ids`, `attention_mask` → `logits`, fp32, any batch and length."""
    optional("onnxscript", "onnx", "the format onnx")
    import torch

    with _graph(source) as (network, example), _quiet():
        batch = torch.export.Dim("batch", min=1, max=1024)
        length = torch.export.Dim("sequence", min=2, max=SEQUENCE)
        axes = {name: {0: batch, 1: length} for name in example}
        torch.onnx.export(
            network,
            tuple(example.values()),
            str(out / "model.onnx"),
            input_names=list(example),
            output_names=["logits"],
            dynamic_shapes=axes,
            dynamo=True,
            verbose=False,
        )
    copy_tokenizer(source.folder, out)


def write_openvino(source: Source, out: Path) -> None:
    """`openvino_model.xml`: `input_ids`, `attention_mask` → `logits`; and the tokenizer."""
    openvino = optional("openvino", "openvino", "the format openvino")
    tokenizers = optional("openvino_tokenizers", "openvino", "the format openvino")
    from trsr.models.hf.load import load_tokenizer

    with _graph(source) as (network, example), _quiet():
        model = openvino.convert_model(network, example_input=example)
        model.outputs[0].get_tensor().set_names({"logits"})
        openvino.save_model(model, out / "openvino_model.xml", compress_to_fp16=False)
        known = load_tokenizer(source.folder)
        made = tokenizers.convert_tokenizer(known, add_special_tokens=False)
        openvino.save_model(made, out / "openvino_tokenizer.xml")
    copy_tokenizer(source.folder, out)


@contextlib.contextmanager
def _merged(source: Source, out: Path) -> Iterator[Path]:
    with files.temporary_folder(out) as folder:
        write_merged(source, folder)
        yield folder


@contextlib.contextmanager
def _graph(source: Source) -> Iterator[tuple[Any, dict[str, Any]]]:
    """The network as a function of tokens and mask to logits, and an example of both."""
    import torch

    from trsr.models.hf.load import load_network

    plain = source.model.model_copy(update={"dtype": "float32", "quantize": "none"})
    cpu = torch.device("cpu")
    network = load_network(plain, source.folder, source.adapter, cpu)

    class Graph(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def forward(self, input_ids: Any, attention_mask: Any) -> Any:
            asked = {"input_ids": input_ids, "attention_mask": attention_mask}
            return self.network(**asked, use_cache=False).logits

    ids = torch.arange(14).reshape(2, 7)
    with torch.no_grad():
        yield Graph().eval(), {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Hides what the converters say of their own insides."""
    loud = [logging.getLogger(name) for name in ("torch.onnx", "torch", "openvino", "onnxscript")]
    levels = [one.level for one in loud]
    with warnings.catch_warnings(), contextlib.redirect_stdout(None):
        warnings.simplefilter("ignore")
        for one in loud:
            one.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for one, level in zip(loud, levels, strict=True):
                one.setLevel(level)
