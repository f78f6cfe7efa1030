#!/bin/sh
# openvino-genai 2026.4.1.0, Python 3.11, 2026-11-30: while ContinuousBatchingPipeline.step() computes, no
# other Python thread runs.
#
# Expected: step() computes in C++ for seconds, as generate() does, and releases Python's global lock, as
# generate() does. add_request() and step() are the calls for a server that takes requests as they come.
# Found: generate() releases the lock, step() keeps it to its end. With room for a whole prompt in a step
# (scheduler.max_num_batched_tokens, as below) the threads that take requests, or say that the service is
# alive, stand still while a prompt is read, and in smaller steps they run only between two of them. Run
# the pipeline in a process of its own.
#
# Output seen (the share of a call's time in which another thread had its longest wait):
#   generate: 0.01
#   add_request and step: 1.00
set -eu
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
python3 -m venv "$tmp/venv"
"$tmp/venv/bin/pip" install --quiet openvino-genai==2026.4.1.0 openvino==2026.4.1 gguf==0.19.0 numpy==2.4.6
cd "$tmp"
"$tmp/venv/bin/python" - <<'PY'
import threading
import time

import gguf
import numpy as np
import openvino
import openvino_genai as genai


def byte_tokens():
    """The 256 letters by which byte-level BPE writes bytes."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    letters, extra = {byte: chr(byte) for byte in plain}, 0
    for byte in range(256):
        if byte not in letters:
            letters[byte], extra = chr(256 + extra), extra + 1
    return [letters[byte] for byte in range(256)]


def write_model(path, width=512, layers=4):
    """A random Llama over 256 bytes."""
    vocab = 259
    rng = np.random.default_rng(0)
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    writer.add_context_length(4096)
    writer.add_embedding_length(width)
    writer.add_block_count(layers)
    writer.add_feed_forward_length(4 * width)
    writer.add_head_count(4)
    writer.add_head_count_kv(4)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(width // 4)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(vocab)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("default")
    writer.add_token_list([*byte_tokens(), "Ab", "<s>", "</s>"])
    writer.add_token_types([1] * 257 + [3, 3])
    writer.add_token_merges(["A b"])
    writer.add_bos_token_id(257)
    writer.add_eos_token_id(258)
    matrices = {"token_embd": (vocab, width), "output": (vocab, width)}
    norms = ["output_norm"]
    for layer in range(layers):
        for name in ("attn_q", "attn_k", "attn_v", "attn_output"):
            matrices[f"blk.{layer}.{name}"] = (width, width)
        for name in ("ffn_gate", "ffn_up"):
            matrices[f"blk.{layer}.{name}"] = (4 * width, width)
        matrices[f"blk.{layer}.ffn_down"] = (width, 4 * width)
        norms += [f"blk.{layer}.attn_norm", f"blk.{layer}.ffn_norm"]
    for name, shape in matrices.items():
        values = rng.normal(size=shape) / np.sqrt(shape[1])
        writer.add_tensor(f"{name}.weight", values.astype(np.float16))
    for name in norms:
        writer.add_tensor(f"{name}.weight", np.ones(width, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


write_model("model.gguf")
scheduler = genai.SchedulerConfig()
scheduler.cache_size = 1
scheduler.max_num_batched_tokens = 4096
pipeline = genai.ContinuousBatchingPipeline("model.gguf", scheduler, "CPU", {}, {})
config = genai.GenerationConfig()
config.max_new_tokens, config.do_sample, config.apply_chat_template = 1, False, False
tokens = np.array([[257] + [65 + i % 26 for i in range(2000)]], dtype=np.int64)
prompt = openvino.Tensor(tokens)


def generate():
    pipeline.generate([prompt], [config])


def step():
    pipeline.add_request(1, prompt, config)
    while pipeline.has_non_finished_requests():
        pipeline.step()


def longest_wait(work):
    """The longest time in which another thread did not run, as a share of the work's."""
    ran, done = [], threading.Event()

    def other():
        while not done.is_set():
            ran.append(time.perf_counter())
            time.sleep(0.005)

    thread = threading.Thread(target=other)
    thread.start()
    start = time.perf_counter()
    work()
    end = time.perf_counter()
    done.set()
    thread.join()
    between = [start, *(at for at in ran if start < at < end), end]
    return float(np.diff(between).max() / (end - start))


generate()  # what is made once, is made here
released, kept = longest_wait(generate), longest_wait(step)
print(f"generate: {released:.2f}")
print(f"add_request and step: {kept:.2f}")
assert released < 0.5 and kept > 0.8
PY
