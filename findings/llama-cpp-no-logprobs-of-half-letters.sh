#!/bin/sh
# llama.cpp's server (xllamacpp 2026.10.11549), 2026-11-29: an answer of /v1/completions has no
# log-probabilities where the chosen token is a part of a letter.
#
# Expected: a request with "logprobs" gets the log-probabilities of the likeliest next tokens,
# whichever token is chosen.
# Found: where the first token is the beginning of a longer UTF-8 sequence (of "é", of an emoji),
# "logprobs" is null (/completion: completion_probabilities is null), with HTTP 200. The text is
# held back until the letter is whole, and the numbers with it. A program that ranks by the next
# token's probabilities loses prompts that are no different from others. The model's numbers are there: the
# same prompt with a "logit_bias" that has another token chosen gives them, without the bias.
#
# Output seen:
#   prompt as it is: text '\ufffd', logprobs None
#   another token chosen by logit_bias: text '!', logprobs of 3 tokens, best byte [195]
set -eu
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
python3 -m venv "$tmp/venv"
"$tmp/venv/bin/pip" install --quiet xllamacpp==2026.10.11549 gguf==0.19.0 numpy
cd "$tmp"
"$tmp/venv/bin/python" - <<'PY'
import json
import urllib.request

import gguf
import numpy as np
import xllamacpp


def byte_tokens():
    """The 256 letters by which byte-level BPE writes bytes."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    letters, extra = {byte: chr(byte) for byte in plain}, 0
    for byte in range(256):
        if byte not in letters:
            letters[byte], extra = chr(256 + extra), extra + 1
    return [letters[byte] for byte in range(256)]


def write_model(path):
    """A random Llama of one layer over 256 bytes, whose head likes byte 195 (of "é") best."""
    width, vocab = 64, 259
    rng = np.random.default_rng(0)
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(256)
    writer.add_embedding_length(width)
    writer.add_block_count(1)
    writer.add_feed_forward_length(width)
    writer.add_head_count(2)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(width // 2)
    writer.add_vocab_size(vocab)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list([*byte_tokens(), "Ab", "<s>", "</s>"])
    writer.add_token_types([1] * 257 + [3, 3])
    writer.add_token_merges(["A b"])
    writer.add_bos_token_id(257)
    writer.add_eos_token_id(258)
    square = {"attn_q": width, "attn_k": width, "attn_v": width, "attn_output": width}
    square |= {"ffn_gate": width, "ffn_up": width, "ffn_down": width}
    embeddings = rng.normal(size=(vocab, width)).astype(np.float32)
    head = 0.01 * rng.normal(size=(vocab, width)).astype(np.float32)
    embeddings[:, 0] = 4.0  # every state points there
    head[195, 0] = 1.0
    writer.add_tensor("token_embd.weight", embeddings)
    writer.add_tensor("output.weight", head)
    writer.add_tensor("output_norm.weight", np.ones(width, np.float32))
    for name, rows in square.items():
        small = 0.01 * rng.normal(size=(rows, width)).astype(np.float32)
        writer.add_tensor(f"blk.0.{name}.weight", small)
    for name in ("attn_norm", "ffn_norm"):
        writer.add_tensor(f"blk.0.{name}.weight", np.ones(width, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


write_model("model.gguf")
params = xllamacpp.CommonParams()
params.model.path = "model.gguf"
params.n_ctx, params.n_parallel, params.port = 256, 1, 0
params.cpuparams.n_threads, params.warmup, params.verbosity = 1, False, 0
server = xllamacpp.Server(params)


def ask(**more):
    body = {"prompt": [65, 66, 67], "max_tokens": 1, "temperature": 0, "logprobs": 3} | more
    request = urllib.request.Request(
        f"{server.listening_address}/v1/completions",
        json.dumps(body).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        (choice,) = json.load(answer)["choices"]
    return choice


plain, biased = ask(), ask(logit_bias={"33": 100})
print(f"prompt as it is: text {plain['text']!a}, logprobs {plain.get('logprobs')}")
top = biased["logprobs"]["content"][0]["top_logprobs"]
print(
    f"another token chosen by logit_bias: text {biased['text']!a}, logprobs of {len(top)} tokens, "
    f"best byte {top[0]['bytes']}"
)
assert plain.get("logprobs") is None
assert top[0]["bytes"] == [195]
PY
