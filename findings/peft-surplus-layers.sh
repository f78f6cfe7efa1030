#!/bin/sh
# peft 0.21.2 (torch 2.13.0, transformers 5.23.0), 2026-11-28: a LoRA adapter of a
# deeper model of the same widths loads into a shallower one without a word.
#
# Expected: half of the adapter's tensors have no place in the model; loading fails, or warns as it
# does where the adapter lacks tensors.
# Found: PeftModel.from_pretrained drops the surplus tensors with neither error nor warning, and the
# model scores with the rest. So an adapter put on the wrong base (a pruned one, or the small sister
# of a family with equal widths) passes for loaded. Compare the file's keys with the model's.
#
# Output seen:
#   adapter tensors saved: 8, loaded: 4, warnings about keys: 0
set -eu
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
python3 -m venv "$tmp/venv"
"$tmp/venv/bin/pip" install --quiet torch==2.13.0 transformers==5.23.0 peft==0.21.2
cd "$tmp"
"$tmp/venv/bin/python" - <<'PY'
import logging
import warnings

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors import safe_open
from transformers import LlamaConfig, LlamaForCausalLM

logged = []
handler = logging.Handler()
handler.emit = lambda record: logged.append(record.getMessage())
logging.getLogger().addHandler(handler)


def llama(layers):
    """A random model: only the number of layers changes, never a width."""
    torch.manual_seed(0)
    sizes = {"vocab_size": 40, "hidden_size": 16, "intermediate_size": 16}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2}
    return LlamaForCausalLM(LlamaConfig(num_hidden_layers=layers, **sizes, **heads))


lora = LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False)
get_peft_model(llama(4), lora).save_pretrained("adapter")
with safe_open("adapter/adapter_model.safetensors", framework="pt") as file:
    saved = len(list(file.keys()))
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    model = PeftModel.from_pretrained(llama(2), "adapter")
loaded = sum("lora_" in name for name, _ in model.named_parameters())
said = [str(w.message) for w in caught if "key" in str(w.message)] + logged
print(f"adapter tensors saved: {saved}, loaded: {loaded}, warnings about keys: {len(said)}")
assert (saved, loaded, said) == (8, 4, [])
PY
