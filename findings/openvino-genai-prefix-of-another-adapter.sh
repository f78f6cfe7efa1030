#!/bin/sh
# openvino-genai 2026.4.1.0, openvino 2026.4.1, 2026-11-30: what a LoRA adapter answers depends on
# which adapter read the same prompt before.
#
# Expected: an adapter is chosen for each call of generate() ("Change adapters between generation calls
# without pipeline reconstruction", says its documentation, and shows one prompt under two choices). Greedy
# decoding gives one answer for a prompt and an adapter, whatever was asked before.
# Found: LLMPipeline keeps the keys and values of prompts, block by block, and knows them by their tokens
# alone. The second call with the same beginning, by another adapter, another weight of it or none, goes on
# from the keys and values of the first: neither choice's answer, without a word. That is the default on an
# x86 CPU. A comparison of a tuned model with its base on the same prompts does just this.
# ATTENTION_BACKEND "SDPA", or a scheduler_config with enable_prefix_caching = False, answers right.
#
# Output seen (tokens; the adapter changes keys and values):
#   first call of a pipeline: base [96, 256, 207, 110], adapter [88, 214, 86, 150]
#   by default, second call:  base [147, 34, 189, 189], adapter [147, 181, 106, 98]
#   SDPA, second call:        base [96, 256, 207, 110], adapter [88, 214, 86, 150]
#   no prefixes, second call: base [96, 256, 207, 110], adapter [88, 214, 86, 150]
set -eu
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
python3 -m venv "$tmp/venv"
"$tmp/venv/bin/pip" install --quiet openvino-genai==2026.4.1.0 openvino==2026.4.1 \
  gguf==0.19.0 safetensors==0.8.0 numpy==2.4.6
cd "$tmp"
"$tmp/venv/bin/python" - <<'PY'
import os
import re

import gguf
import numpy as np
import openvino
import openvino_genai as genai
from safetensors.numpy import save_file

WIDTH, LAYERS = 64, 2
rng = np.random.default_rng(0)


def byte_tokens():
    """The 256 letters by which byte-level BPE writes bytes."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    letters, extra = {byte: chr(byte) for byte in plain}, 0
    for byte in range(256):
        if byte not in letters:
            letters[byte], extra = chr(256 + extra), extra + 1
    return [letters[byte] for byte in range(256)]


def write_gguf(path):
    """A random Llama over 256 bytes."""
    vocab = 259
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    writer.add_context_length(512)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(2 * WIDTH)
    writer.add_head_count(2)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(WIDTH // 2)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(vocab)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("default")
    writer.add_token_list([*byte_tokens(), "Ab", "<s>", "</s>"])
    writer.add_token_types([1] * 257 + [3, 3])
    writer.add_token_merges(["A b"])
    writer.add_bos_token_id(257)
    writer.add_eos_token_id(258)
    matrices = {"token_embd": (vocab, WIDTH), "output": (vocab, WIDTH)}
    norms = ["output_norm"]
    for layer in range(LAYERS):
        for name in ("attn_q", "attn_k", "attn_v", "attn_output"):
            matrices[f"blk.{layer}.{name}"] = (WIDTH, WIDTH)
        for name in ("ffn_gate", "ffn_up"):
            matrices[f"blk.{layer}.{name}"] = (2 * WIDTH, WIDTH)
        matrices[f"blk.{layer}.ffn_down"] = (WIDTH, 2 * WIDTH)
        norms += [f"blk.{layer}.attn_norm", f"blk.{layer}.ffn_norm"]
    for name, shape in matrices.items():
        large = 1 if name == "token_embd" else 3 / np.sqrt(shape[1])
        values = large * rng.normal(size=shape)
        writer.add_tensor(f"{name}.weight", values.astype(np.float16))
    for name in norms:
        writer.add_tensor(f"{name}.weight", np.ones(WIDTH, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def write_model(folder):
    """The model as OpenVINO's files, its layers named as an export from PyTorch names them.

    Adapters find their layers by these names; the reader of GGUF leaves numbers.
    """
    os.makedirs(folder)
    write_gguf(f"{folder}/model.gguf")
    genai.LLMPipeline(f"{folder}/model.gguf", "CPU", enable_save_ov_model=True)
    model = openvino.Core().read_model(f"{folder}/openvino_model.xml")
    for node in model.get_ordered_ops():
        if node.get_type_name() == "MatMul":
            weight = node.input_value(1).get_node()
            while weight.get_type_name() == "Convert":
                weight = weight.input_value(0).get_node()
            name = re.sub(r"\[(\d+)\]", r".\1", weight.get_friendly_name())
            if name.startswith("model.layers"):
                name = name.removesuffix(".weight")
                node.set_friendly_name(f"__module.{name}/ov_ext::linear/MatMul")
    openvino.save_model(model, "named.xml", compress_to_fp16=False)
    del model  # the files are not in use any more
    for kind in ("xml", "bin"):
        os.replace(f"named.{kind}", f"{folder}/openvino_model.{kind}")
    os.remove(f"{folder}/model.gguf")


def write_adapter(path):
    """As peft writes it: LoRA of rank 4 for queries, keys and values."""
    tensors = {}
    for layer in range(LAYERS):
        for name in ("q_proj", "k_proj", "v_proj"):
            stem = f"base_model.model.model.layers.{layer}.self_attn.{name}"
            down, up = rng.normal(size=(4, WIDTH)) / 8, rng.normal(size=(WIDTH, 4))
            tensors[f"{stem}.lora_A.weight"] = down.astype(np.float32)
            tensors[f"{stem}.lora_B.weight"] = up.astype(np.float32)
    save_file(tensors, path)


write_model("model")
write_adapter("adapter.safetensors")
adapter = genai.Adapter("adapter.safetensors")
choices = {"base": genai.AdapterConfig(), "adapter": genai.AdapterConfig(adapter, 1.0)}
prompt = openvino.Tensor(np.array([[65 + i % 26 for i in range(100)]], dtype=np.int64))


def answers(order, **settings):
    """The answers of one pipeline to one prompt, by each choice in turn."""
    precise = {"INFERENCE_PRECISION_HINT": "f32", "KV_CACHE_PRECISION": "f32"}
    pipeline = genai.LLMPipeline(
        "model", "CPU", adapters=genai.AdapterConfig(adapter), **precise, **settings
    )
    found = {}
    for name in order:
        config = genai.GenerationConfig()
        config.adapters = choices[name]
        config.max_new_tokens, config.ignore_eos, config.do_sample = 4, True, False
        found[name] = pipeline.generate(prompt, config).tokens[0]
    return found


def of_calls(place, **settings):
    orders = {"base": ["base", "adapter"], "adapter": ["adapter", "base"]}
    if place == 1:  # each in the second call
        orders = {"base": orders["adapter"], "adapter": orders["base"]}
    return {name: list(answers(order, **settings)[name]) for name, order in orders.items()}


no_prefixes = genai.SchedulerConfig()
no_prefixes.enable_prefix_caching, no_prefixes.cache_size = False, 1
found = {
    "first call of a pipeline:": of_calls(0),
    "by default, second call:": of_calls(1),
    "SDPA, second call:": of_calls(1, ATTENTION_BACKEND="SDPA"),
    "no prefixes, second call:": of_calls(1, scheduler_config=no_prefixes),
}
for name, one in found.items():
    print(f"{name:<25} base {one['base']}, adapter {one['adapter']}")
first, second, *others = found.values()
assert first["base"] != first["adapter"]
assert second["base"] not in first.values() and second["adapter"] not in first.values()
assert others == [first, first]
PY
