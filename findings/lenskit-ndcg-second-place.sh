#!/bin/sh
# LensKit 2025.8.1, 2026-11-28: NDCG of the relevant item in second place is 1, as in first place.
#
# Expected: the discount that evaluators of this field share, 1 / log2(place + 1): second place 0.6309.
# Found: the divisor is log2(place), and 1 up to place 2: places 1 and 2 count alike, place 3 already
# 0.6309. The formula is that of the first DCG papers; with one held-out item the values are higher
# than anybody else's, and do not tell a first place from a second.
#
# Output seen:
#   place 1: 1.0    place 2: 1.0    place 3: 0.6309    place 4: 0.5
set -eu
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
python3 -m venv "$tmp/venv"
"$tmp/venv/bin/pip" install --quiet torch==2.13.0 lenskit==2025.8.1
"$tmp/venv/bin/python" - <<'PY'
import math

from lenskit.data import ItemList
from lenskit.metrics import NDCG

ranking = ItemList(item_ids=["a", "b", "c", "d"], ordered=True)
values = [float(NDCG(4).measure_list(ranking, ItemList(item_ids=[item]))) for item in "abcd"]
print("    ".join(f"place {i}: {round(value, 4)}" for i, value in enumerate(values, 1)))
assert all(map(math.isclose, values, [1.0, 1.0, 1 / math.log2(3), 0.5]))
PY
