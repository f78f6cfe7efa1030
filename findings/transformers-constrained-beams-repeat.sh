#!/bin/sh
# transformers 5.23.0, torch 2.13.0, Python 3.11, 2026-11-29: constrained beam search gives a title twice,
# with a finite score, in the place of another one.
#
# Expected: three titles may be written (prefix_allowed_tokens_fn), there are three beams, and three results
# are asked for: the three titles, or fewer. Beams are distinct, and what is forbidden scores -inf.
# Found: with early_stopping=True the third title does not come. In its place one of the two others stands
# again, with a finite score of its own (-1e9, divided by a power of the length). Looking for invalid titles or
# for -inf finds nothing. With more beams than titles, early_stopping=False does the same.
#
# Output seen:
#   early_stopping=True, 3 beams: [9, 2] -12.2, [5, 6, 2] -15.4, [9, 2] -1000000000.0
#   early_stopping=False, 6 beams: 6 results, 3 distinct; finite scores down to -1000000000.0
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 transformers==5.23.0
"$folder/venv/bin/python" - <<'PYTHON'
import math

import torch
from transformers import LlamaConfig, LlamaForCausalLM

torch.manual_seed(0)
config = LlamaConfig(
    vocab_size=40, hidden_size=16, intermediate_size=32, num_hidden_layers=1,
    num_attention_heads=2, eos_token_id=2, pad_token_id=0, bos_token_id=1, initializer_range=0.5,
)
model = LlamaForCausalLM(config).eval()
titles, prompt = [[5, 6, 2], [5, 7, 8, 2], [9, 2]], [1, 11, 12]


def allowed(batch, ids):
    written = ids.tolist()[len(prompt):]
    nexts = {t[len(written)] for t in titles if t[: len(written)] == written and len(t) > len(written)}
    return sorted(nexts) or [2]


def found(beams, early):
    out = model.generate(
        torch.tensor([prompt]), attention_mask=torch.ones(1, 3, dtype=torch.long),
        num_beams=beams, num_return_sequences=beams, max_new_tokens=6, length_penalty=0.0,
        early_stopping=early, prefix_allowed_tokens_fn=allowed, do_sample=False,
        return_dict_in_generate=True, output_scores=True,
    )
    rows = [row.tolist()[len(prompt):] for row in out.sequences]
    rows = [row[: row.index(2) + 1] for row in rows]  # what follows the end is filling
    return rows, out.sequences_scores.tolist()


rows, scores = found(3, True)
print("early_stopping=True, 3 beams:", ", ".join(f"{r} {s:.1f}" for r, s in zip(rows, scores)))
assert all(row in titles for row in rows), "an invalid title is returned"
assert len({tuple(row) for row in rows}) == 2, "no title stands twice"
assert all(map(math.isfinite, scores)), "the repeat has an infinite score"
rows, scores = found(6, False)
distinct = len({tuple(row) for row in rows})
print(f"early_stopping=False, 6 beams: {len(rows)} results, {distinct} distinct; finite scores down to {min(scores)}")
assert (len(rows), distinct) == (6, 3) and all(map(math.isfinite, scores)), "no repeats"
PYTHON
