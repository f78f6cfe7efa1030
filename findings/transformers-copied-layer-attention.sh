#!/bin/sh
# transformers 5.23.0, torch 2.13.0, Python 3.11, 2026-11-29: a decoder layer that was copied does not
# follow the model's choice of attention, and its attention weights are missing.
#
# Expected: model.set_attn_implementation("eager") holds for every layer of the model, a copied one too
# (layers are copied to be compressed, repeated or edited); output_attentions gives one entry a layer.
# Found: layers look the attention up in a settings object that all share. copy.deepcopy of a layer
# copies that object too, so the layer keeps the attention of before. Of three layers
# output_attentions gives two entries: those of the layers 0 and 2 stand at the places 0 and 1. An
# attention registered with AttentionInterface passes by the copied layer as well. Copy with
# copy.deepcopy(layer, {id(config): config}), config being the decoder's.
#
# Output seen:
#   attention of the layers: ['eager', 'sdpa', 'eager']
#   attentions given: 2 for 3 layers
#   with the settings shared: ['eager', 'eager', 'eager'] 3
set -eu
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
python3 -m venv "$tmp/venv"
"$tmp/venv/bin/pip" install --quiet torch==2.13.0 transformers==5.23.0
"$tmp/venv/bin/python" - <<'PY'
import copy

import torch
import transformers

config = transformers.LlamaConfig(
    vocab_size=50, hidden_size=16, intermediate_size=32, num_hidden_layers=3, num_attention_heads=2
)


def tried(memo):
    torch.manual_seed(0)
    model = transformers.LlamaForCausalLM(config).eval()
    layers = model.model.layers
    layers[1] = copy.deepcopy(layers[1], {id(model.config): model.config} if memo else None)
    model.set_attn_implementation("eager")
    found = [one.self_attn.config._attn_implementation for one in layers]
    return found, len(model(torch.tensor([[1, 2, 3]]), output_attentions=True).attentions)


kinds, given = tried(False)
print("attention of the layers:", kinds)
print("attentions given:", given, "for 3 layers")
shared = tried(True)
print("with the settings shared:", *shared)
assert kinds == ["eager", "sdpa", "eager"] and given == 2
assert shared == (["eager"] * 3, 3)
PY
