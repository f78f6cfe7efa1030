#!/bin/sh
# transformers 5.23.0, 2026-11-29: what is assigned to a tokenizer works, and some of it is not saved.
#
# Expected: `tokenizer.padding_side = "left"`, then `save_pretrained`: the folder says so. `model_max_length`,
# assigned likewise, is written.
# Found: padding_side, truncation_side and split_special_tokens act at once, and are left out of
# tokenizer_config.json. Loaded again, the tokenizer pads and cuts on the right, and a mark in a text is a
# special token again. Nothing is said of it. Given to `from_pretrained` instead, all are saved.
#
# Output seen:
#   assigned:         ['lamp', '<', 'end', '>'], pads left, cuts left, at most 7
#   saved and loaded: ['lamp', '<end>'], pads right, cuts right, at most 7
#   given on loading, saved and loaded: ['lamp', '<', 'end', '>'], pads left, cuts left, at most 7
set -eu
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
python3 -m venv "$tmp/venv"
"$tmp/venv/bin/pip" install --quiet transformers==5.23.0
cd "$tmp"
HF_HUB_OFFLINE=1 "$tmp/venv/bin/python" - 2>"$tmp/log" <<'PY' || { cat "$tmp/log"; exit 1; }
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

words = ["<pad>", "<", "end", ">", "lamp"]
inner = Tokenizer(models.WordLevel({word: n for n, word in enumerate(words)}, "<pad>"))
inner.pre_tokenizer = pre_tokenizers.Punctuation()


def seen(tokenizer):
    tokens = tokenizer.convert_ids_to_tokens(tokenizer("lamp<end>")["input_ids"])
    sides = f"pads {tokenizer.padding_side}, cuts {tokenizer.truncation_side}"
    return f"{tokens}, {sides}, at most {tokenizer.model_max_length}"


tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, pad_token="<pad>", eos_token="<end>")
chosen = {"padding_side": "left", "truncation_side": "left", "split_special_tokens": True}
for name, value in chosen.items():
    setattr(tokenizer, name, value)
tokenizer.model_max_length = 7
assigned = seen(tokenizer)
tokenizer.save_pretrained("assigned")
loaded = seen(AutoTokenizer.from_pretrained("assigned"))
AutoTokenizer.from_pretrained("assigned", **chosen).save_pretrained("given")
given = seen(AutoTokenizer.from_pretrained("given"))
print(f"assigned:         {assigned}")
print(f"saved and loaded: {loaded}")
print(f"given on loading, saved and loaded: {given}")
assert assigned == given == "['lamp', '<', 'end', '>'], pads left, cuts left, at most 7"
assert loaded == "['lamp', '<end>'], pads right, cuts right, at most 7"
PY
