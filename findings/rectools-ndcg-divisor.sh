#!/bin/sh
# RecTools 0.19.0, 2026-11-28: by default the NDCG of a perfect ranking is far below 1.
#
# Expected: NDCG divides by the best DCG that the user's relevant items allow, so a list with the one
# relevant item in the first place has NDCG@10 = 1.
# Found: the divisor is the DCG of ten relevant items, whatever the user has: 0.22. With one held-out
# item the values are 4.5 times smaller than other evaluators'. divide_by_achievable=True gives 1.
#
# Output seen:
#   NDCG@10 of a perfect list: 0.2201, with divide_by_achievable: 1.0
set -eu
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
python3 -m venv "$tmp/venv"
"$tmp/venv/bin/pip" install --quiet rectools==0.19.0
"$tmp/venv/bin/python" - <<'PY'
import math

import pandas as pd
from rectools.metrics import NDCG

ranking = pd.DataFrame([(1, "a", 1), (1, "b", 2)], columns=["user_id", "item_id", "rank"])
truth = pd.DataFrame([(1, "a")], columns=["user_id", "item_id"])
default = NDCG(k=10).calc(ranking, truth)
achievable = NDCG(k=10, divide_by_achievable=True).calc(ranking, truth)
print(f"NDCG@10 of a perfect list: {default:.4f}, with divide_by_achievable: {achievable}")
assert math.isclose(default, 1 / sum(1 / math.log2(place + 1) for place in range(1, 11)))
assert achievable == 1.0
PY
