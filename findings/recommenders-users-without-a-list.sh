#!/bin/sh
# recommenders 1.2.1 (pandas 2.3.3), 2026-12-01: a user who got no list counts as a zero in NDCG@k, and is left
# out of recall, precision and MAP.
#
# Expected: measures of one table and one truth are means over the same users, whichever these are.
# Found: recall_at_k, precision_at_k and map_at_k average over the users that occur in both tables. ndcg_at_k
# averages over all users of the truth. So of two models that are right for the same users, the one that stays
# silent for the others (cold users, histories too short) wins on recall, precision and MAP, and NDCG shows no
# difference. If half of the users have no list, recall@k can be 1.0 beside an NDCG@k of 0.5. Nothing warns.
#
# Output seen (two users with one held-out item each; the first is hit in the first place):
#   wrong list for the second user:  precision@1 0.5  recall@1 0.5  MAP@1 0.5  NDCG@1 0.5
#   no list for the second user:     precision@1 1.0  recall@1 1.0  MAP@1 1.0  NDCG@1 0.5
set -eu
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
python3 -m venv "$tmp/venv"
"$tmp/venv/bin/pip" install --quiet recommenders==1.2.1 pandas==2.3.3
"$tmp/venv/bin/python" - <<'PY'
import pandas as pd
from recommenders.evaluation import python_evaluation as evaluation

truth = pd.DataFrame({"userID": [1, 2], "itemID": [10, 20], "rating": 1.0})
wrong = pd.DataFrame({"userID": [1, 2], "itemID": [10, 30], "prediction": 1.0})
silent = wrong[wrong.userID == 1]
measures = {
    "precision": evaluation.precision_at_k,
    "recall": evaluation.recall_at_k,
    "MAP": evaluation.map_at_k,
    "NDCG": evaluation.ndcg_at_k,
}
seen = {}
for name, lists in (("wrong", wrong), ("no", silent)):
    seen[name] = {of: float(measure(truth, lists, k=1)) for of, measure in measures.items()}
    start = f"{name} list for the second user:"
    print(f"{start:31}", *(f" {of}@1 {value}" for of, value in seen[name].items()))
with_list, without = seen.values()
assert set(with_list.values()) == {0.5}
assert without == {"precision": 1.0, "recall": 1.0, "MAP": 1.0, "NDCG": 0.5}
PY
