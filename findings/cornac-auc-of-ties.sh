#!/bin/sh
# cornac 3.0.1, 2026-11-28: AUC counts a tie as a loss, so a model without any opinion gets 0.
#
# Expected: where all items have one score, AUC is 0.5: a tie between the relevant item and another
# counts half, as in the Mann-Whitney statistic, which AUC is.
# Found: only a strictly higher score counts. Equal scores give 0.0, the value of a model that ranks
# every pair the wrong way round. Popularity and co-occurrence models tie often and lose by it.
#
# Output seen:
#   cornac, all scores equal: 0.0    Mann-Whitney: 0.5
#   cornac, relevant item first: 1.0    Mann-Whitney: 1.0
set -eu
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
python3 -m venv "$tmp/venv"
"$tmp/venv/bin/pip" install --quiet cornac==3.0.1
"$tmp/venv/bin/python" - <<'PY'
import numpy as np
from cornac.metrics import AUC
from scipy.stats import mannwhitneyu


def both(scores):
    """AUC of three items, item 0 the relevant one: by cornac, and as wins plus half the ties."""
    scores = np.array(scores)
    theirs = AUC().compute(item_indices=np.arange(3), pd_scores=scores, gt_pos=np.array([0]))
    pairs = 2
    return float(theirs), float(mannwhitneyu(scores[:1], scores[1:]).statistic) / pairs


tied, sorted_ = both([1.0, 1.0, 1.0]), both([3.0, 2.0, 1.0])
print("cornac, all scores equal:", tied[0], "   Mann-Whitney:", tied[1])
print("cornac, relevant item first:", sorted_[0], "   Mann-Whitney:", sorted_[1])
assert tied == (0.0, 0.5) and sorted_ == (1.0, 1.0)
PY
