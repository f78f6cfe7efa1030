#!/bin/sh
# implicit 0.7.3, 2026-11-28: precision_at_k divides by the number of relevant items where that is below K.
#
# Expected: precision@4 of a list of four with one relevant item is 1/4, whatever the truth's size.
# Found: 1.0. The divisor is the smaller of K and the user's relevant items, so with one held-out item
# (leave-one-out, the usual split here) "precision" is the hit rate, K times the textbook value.
#
# Output seen:
#   four recommended, one relevant: precision_at_k(K=4) = 1.0, by hand 0.25
set -eu
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
python3 -m venv "$tmp/venv"
"$tmp/venv/bin/pip" install --quiet implicit==0.7.3
"$tmp/venv/bin/python" - <<'PY'
import numpy as np
import scipy.sparse as sp
from implicit.evaluation import precision_at_k
from implicit.nearest_neighbours import CosineRecommender

owned = sp.csr_matrix(
    np.array([[1, 0, 0, 0, 0], [1, 1, 1, 1, 1], [1, 0, 0, 1, 1]], dtype=np.float32)
)
model = CosineRecommender(K=5)
model.fit(owned, show_progress=False)
items, _ = model.recommend(0, owned[0], N=4)
assert len(items) == 4
held_out = sp.csr_matrix(([1.0], ([0], [items[0]])), shape=owned.shape)
theirs = precision_at_k(model, owned, held_out, K=4, show_progress=False)
by_hand = sum(item == items[0] for item in items) / 4
print(f"four recommended, one relevant: precision_at_k(K=4) = {theirs}, by hand {by_hand}")
assert theirs == 1.0 and by_hand == 0.25
PY
