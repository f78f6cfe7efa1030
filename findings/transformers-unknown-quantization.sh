#!/bin/sh
# transformers 5.23.0, torch 2.13.0, Python 3.11, 2026-11-29: a checkpoint in a quantization that
# transformers does not know is opened without it, with random layers.
#
# Expected: config.json names the method by which the weights are stored (quantization_config.
# quant_method); a reader that lacks the method refuses, as it cannot read the tensors.
# Found: from_pretrained logs "Unknown quantization type … Hence, we will skip the quantization", then
# fills every layer whose tensors have other names with random numbers, and returns the model. Two
# openings give two different models. So a format of one's own (here: each matrix as two factors) is
# not protected by naming it there; a file name that transformers does not look for is.
#
# Output seen:
#   opened: LlamaForCausalLM
#   the same logits twice: False
#   with the weights under another name: OSError
set -eu
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
python3 -m venv "$tmp/venv"
"$tmp/venv/bin/pip" install --quiet torch==2.13.0 transformers==5.23.0 safetensors==0.8.0
"$tmp/venv/bin/python" - "$tmp/model" <<'PY'
import json
import os
import sys

import torch
import transformers
from safetensors.torch import load_file, save_file

folder = sys.argv[1]
config = transformers.LlamaConfig(
    vocab_size=50, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2
)
transformers.LlamaForCausalLM(config).save_pretrained(folder)
weights = f"{folder}/model.safetensors"
tensors = {}
for name, one in load_file(weights).items():
    if "_proj" in name:
        u, s, v = torch.linalg.svd(one, full_matrices=False)
        stem = name.removesuffix(".weight")
        tensors |= {f"{stem}.down": v[:4].contiguous(), f"{stem}.up": (u * s)[:, :4].contiguous()}
    else:
        tensors[name] = one
save_file(tensors, weights, {"format": "pt"})
stored = json.load(open(f"{folder}/config.json"))
stored["quantization_config"] = {"quant_method": "low_rank"}
json.dump(stored, open(f"{folder}/config.json", "w"))

transformers.logging.set_verbosity_error()
ids = torch.tensor([[1, 2, 3]])
both = [transformers.AutoModelForCausalLM.from_pretrained(folder).eval() for _ in "ab"]
same = torch.equal(*(model(ids).logits for model in both))
print("opened:", type(both[0]).__name__)
print("the same logits twice:", same)
os.rename(weights, f"{folder}/low_rank.safetensors")
try:
    transformers.AutoModelForCausalLM.from_pretrained(folder)
    refused = ""
except OSError as error:
    refused = type(error).__name__
print("with the weights under another name:", refused)
assert not same and refused == "OSError"
PY
