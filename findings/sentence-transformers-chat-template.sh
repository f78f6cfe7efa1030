#!/bin/sh
# sentence-transformers 6.2.0, transformers 5.23.0, 2026-11-29: an encoder made of a chat model reads each
# plain text inside a turn of a chat.
#
# Expected: `encode("a lamp")` reads the tokens of "a lamp", as `encode` always did; a chat template in the
# tokenizer's folder is for lists of messages.
# Found: if the tokenizer has a chat template, a plain string is wrapped in it as a user's turn ("modality":
# "message"). With mean pooling, the marks of the chat are part of every vector. Nothing is said of it.
# The same folder without `chat_template` gives other vectors.
#
# Output seen:
#   with a chat template: tokens ['<user>', 'a', 'lamp', '<end>'], modality message
#   without a chat template: tokens ['a', 'lamp'], modality text
#   cosine of both vectors of one text: 0.70
set -eu
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
python3 -m venv "$tmp/venv"
"$tmp/venv/bin/pip" install --quiet torch==2.13.0 transformers==5.23.0 sentence-transformers==6.2.0
cd "$tmp"
HF_HUB_OFFLINE=1 "$tmp/venv/bin/python" - <<'PY' 2>"$tmp/log" || { cat "$tmp/log"; exit 1; }
import shutil

import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaModel, PreTrainedTokenizerFast

words = ["<pad>", "<user>", "<end>", "a", "lamp"]
inner = Tokenizer(models.WordLevel({word: n for n, word in enumerate(words)}, "<pad>"))
inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
torch.manual_seed(0)
network = LlamaModel(
    LlamaConfig(
        vocab_size=len(words), hidden_size=16, intermediate_size=32, num_hidden_layers=1,
        num_attention_heads=2, num_key_value_heads=2, pad_token_id=0, initializer_range=0.3,
    )
)
vectors = {}
for template in (True, False):
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, pad_token="<pad>")
    if template:
        tokenizer.chat_template = (
            "{% for m in messages %}{{ '<user> ' + m['content'] + ' <end>' }}{% endfor %}"
        )
    network.save_pretrained("encoder")
    tokenizer.save_pretrained("encoder")
    made = SentenceTransformer(modules=[Transformer("encoder"), Pooling(16, "mean")])
    made.save_pretrained(f"saved-{template}", create_model_card=False)
    opened = SentenceTransformer(f"saved-{template}", device="cpu")
    read = opened.preprocess(["a lamp"])
    tokens = [words[n] for n in read["input_ids"][0].tolist()]
    print(f"{'with' if template else 'without'} a chat template: tokens {tokens}, modality {read.get('modality')}")
    assert tokens == (["<user>", "a", "lamp", "<end>"] if template else ["a", "lamp"])
    vectors[template] = torch.nn.functional.normalize(
        opened.encode(["a lamp"], convert_to_tensor=True), dim=1
    )
    shutil.rmtree("encoder")
cosine = float((vectors[True] * vectors[False]).sum())
print(f"cosine of both vectors of one text: {cosine:.2f}")
assert cosine < 0.95
PY
