"""Writes a Llama checkpoint as one F16 GGUF file, which OpenVINO and llama.cpp read."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from trsr.errors import ModelError
from trsr.storage import files

Array = npt.NDArray[Any]

# Our tensor names → GGUF's, inside layer n and outside of layers.
_IN_LAYER = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}
_OUTSIDE = {"embed_tokens": "token_embd", "norm": "output_norm", "lm_head": "output"}
_NORMAL, _CONTROL, _USER_DEFINED = 1, 3, 4  # GGUF's kinds of tokens


def write_f16(folder: Path, path: Path, *, chat: bool = False) -> None:
    """Writes the checkpoint of a folder (safetensors, config.json, tokenizer.json) as F16 GGUF.

    Matrices are rounded to F16, norms stay F32. The file is whole or not there. With `chat`,
    readers can encode text by it: it has the kind of tokenizer and its chat template.

    Raises:
        ModelError: If the model is not a plain Llama with a byte-level BPE tokenizer.
    """
    config = files.read_json(folder / "config.json")
    _check(config, folder)
    kind = _text_splitter(folder) if chat else "default"
    with files.writing_path(path) as part:
        _write(folder, config, part, kind)


def _check(config: dict[str, Any], folder: Path) -> None:
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    problems = {
        "it is not a LlamaForCausalLM": config.get("architectures") != ["LlamaForCausalLM"],
        "its projections have biases": config.get("attention_bias") or config.get("mlp_bias"),
        "its positions are scaled": rope.get("rope_type", "default") != "default",
        "it has no tokenizer.json": not files.is_file(folder / "tokenizer.json"),
    }
    for problem, there in problems.items():
        if there:
            raise ModelError(
                f"the model in {folder} cannot be written for openvino ({problem}): use the "
                "transformers backend, or export it with optimum-intel and name that folder"
            )


def _text_splitter(folder: Path) -> str:
    """What llama.cpp calls the way in which the tokenizer splits text before BPE."""
    splitter = files.read_json(folder / "tokenizer.json").get("pre_tokenizer") or {}
    parts = splitter.get("pretokenizers", [splitter])
    digits = [part for part in parts if part["type"] == "Digits" and part["individual_digits"]]
    last = parts[-1]
    plain = last["type"] == "ByteLevel" and last.get("use_regex", True)
    if not plain or last.get("add_prefix_space") or len(parts) != 1 + len(digits):
        raise ModelError(
            f"the tokenizer in {folder} splits text in a way that trsr cannot name for llama.cpp: "
            "export with --to merged, and convert that folder with llama.cpp's own script"
        )
    return "smollm" if digits else "gpt-2"


def _write(folder: Path, config: dict[str, Any], path: Path, kind: str) -> None:
    import gguf

    writer = gguf.GGUFWriter(path, "llama")
    heads = int(config["num_attention_heads"])
    key_heads = int(config.get("num_key_value_heads") or heads)
    head_size = int(config.get("head_dim") or config["hidden_size"] // heads)
    theta = (config.get("rope_parameters") or config).get("rope_theta", 10000.0)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(key_heads)
    writer.add_rope_dimension_count(head_size)
    writer.add_rope_freq_base(float(theta))
    writer.add_layer_norm_rms_eps(float(config["rms_norm_eps"]))
    writer.add_vocab_size(config["vocab_size"])
    _add_tokenizer(writer, folder, config, kind)
    tied = bool(config.get("tie_word_embeddings"))
    for name, tensor in _tensors(folder):
        target = _target(name)
        if target == "output.weight" and tied:
            continue
        if target.endswith("attn_q.weight"):
            tensor = _interleaved(tensor, heads)  # noqa: PLW2901  (the same tensor, its rows moved)
        if target.endswith("attn_k.weight"):
            tensor = _interleaved(tensor, key_heads)  # noqa: PLW2901  (as above)
        kept = np.float16 if tensor.ndim > 1 else np.float32
        writer.add_tensor(target, np.ascontiguousarray(tensor, dtype=kept))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _tensors(folder: Path) -> Iterator[tuple[str, Array]]:
    from safetensors import safe_open

    found = files.listed(folder, "*.safetensors")
    if not found:
        raise ModelError(f"{folder} holds no safetensors")
    for file in found:
        # torch, not numpy: numpy has no bfloat16
        with safe_open(file, framework="pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118  (it is not a mapping)
                yield name, tensors.get_tensor(name).float().numpy()


def _target(name: str) -> str:
    parts = name.removeprefix("model.").removesuffix(".weight").split(".")
    if parts[0] == "layers":
        inside = _IN_LAYER.get(".".join(parts[2:]))
        found = f"blk.{parts[1]}.{inside}" if inside else None
    else:
        found = _OUTSIDE.get(".".join(parts))
    if found is None or not name.endswith(".weight"):
        raise ModelError(f"a Llama has no tensor {name}: use the transformers backend")
    return f"{found}.weight"


def _interleaved(rows: Array, heads: int) -> Array:
    """Rotary pairs side by side, as GGUF has them; our checkpoints hold halves of a head."""
    halves = rows.reshape(heads, 2, rows.shape[0] // heads // 2, rows.shape[1])
    return halves.swapaxes(1, 2).reshape(rows.shape)


def _add_tokenizer(writer: Any, folder: Path, config: dict[str, Any], kind: str) -> None:
    """The tokenizer, which the reader insists on; trsr itself hands it tokens."""
    content = files.read_json(folder / "tokenizer.json")
    model = content["model"]
    if model.get("type") != "BPE":
        raise ModelError(f"the tokenizer in {folder} is not BPE: use the transformers backend")
    by_id = {number: token for token, number in model["vocab"].items()}
    kinds = dict.fromkeys(by_id, _NORMAL)
    for added in content.get("added_tokens", []):
        by_id[added["id"]] = added["content"]
        kinds[added["id"]] = _CONTROL if added["special"] else _USER_DEFINED
    numbers = range(max(int(config["vocab_size"]), max(by_id) + 1))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(kind)
    if kind != "default":  # readers that encode text themselves
        writer.add_add_bos_token(False)
        template = folder / "chat_template.jinja"
        if files.is_file(template):
            writer.add_chat_template(files.read_text(template))
    writer.add_token_list([by_id.get(n, f"[PAD{n}]") for n in numbers])
    writer.add_token_types([kinds.get(n, _USER_DEFINED) for n in numbers])
    writer.add_token_merges(
        [pair if isinstance(pair, str) else " ".join(pair) for pair in model["merges"]]
    )
    for end in ("bos", "eos"):
        number = config.get(f"{end}_token_id")
        number = number[0] if isinstance(number, list) else number
        if number is not None:
            getattr(writer, f"add_{end}_token_id")(number)
