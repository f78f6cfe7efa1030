#!/bin/sh
# RecTools 0.19.0, recommenders 1.2.1, replay-rec 0.22.0 (pandas 2.3.3), 2026-12-01: where a user of the test
# period took one item several times, a perfect list has three values in three libraries, none of them 1.
#
# Expected: a log has a row for each purchase, and splitting it by time leaves repeats in the test rows. The
# relevant items are a set: the list that names them first has MAP and NDCG 1, and precision is at most 1.
# Found: RecTools and recommenders count a hit once for each row of the truth, so precision, MAP and NDCG rise
# above 1, and a model that hits what people buy again looks best. replay-rec counts hits once and divides MAP
# and NDCG by the number of rows, so they fall. No library warns. With distinct pairs of user and item all are right.
#
# Output seen (the user took item 10 three times, item 11 once; the list is 10, 11, 12):
#   RecTools      precision 1.333   MAP 1.25    NDCG 1.704    of distinct pairs 0.667 1.0 1.0
#   recommenders  precision 1.333   MAP 2.667   NDCG 4.52     of distinct pairs 0.667 1.0 1.0
#   replay-rec    precision 0.667   MAP 0.667   NDCG 0.765    of distinct pairs 0.667 1.0 1.0
set -eu
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
python3 -m venv "$tmp/venv"
"$tmp/venv/bin/pip" install --quiet rectools==0.19.0 recommenders==1.2.1 replay-rec==0.22.0 pandas==2.3.3
"$tmp/venv/bin/python" - 2>"$tmp/warnings" <<'PY' || { cat "$tmp/warnings"; exit 1; }
import pandas as pd
import rectools.metrics
import replay.metrics
from recommenders.evaluation import python_evaluation

K = 3
truth = pd.DataFrame({"user_id": [1, 1, 1, 1], "item_id": [10, 10, 10, 11], "rating": 1.0})
shown = pd.DataFrame({"user_id": [1, 1, 1], "item_id": [10, 11, 12], "rank": [1, 2, 3], "score": [3.0, 2.0, 1.0]})


def by_rectools(truth):
    kinds = rectools.metrics
    metrics = kinds.Precision(K), kinds.MAP(K), kinds.NDCG(K, divide_by_achievable=True)
    return [metric.calc(shown, truth) for metric in metrics]


def by_recommenders(truth):
    columns = {"col_user": "user_id", "col_item": "item_id", "col_prediction": "score"}
    scored = shown.drop(columns="rank")
    return [
        python_evaluation.precision_at_k(truth, scored, k=K, **columns),
        python_evaluation.map_at_k(truth, scored, k=K, **columns),
        python_evaluation.ndcg_at_k(truth, scored, k=K, col_rating="rating", **columns),
    ]


def by_replay(truth):
    columns = {"query_column": "user_id", "rating_column": "score"}
    metrics = replay.metrics.Precision, replay.metrics.MAP, replay.metrics.NDCG
    return [next(iter(metric(K, **columns)(shown, truth).values())) for metric in metrics]


seen = {}
for name, values in (("RecTools", by_rectools), ("recommenders", by_recommenders), ("replay-rec", by_replay)):
    repeated = [round(float(value), 3) for value in values(truth)]
    distinct = [round(float(value), 3) for value in values(truth.drop_duplicates())]
    print(f"{name:13} precision {repeated[0]}   MAP {repeated[1]}   NDCG {repeated[2]}    of distinct pairs", *distinct)
    assert distinct == [0.667, 1.0, 1.0], distinct
    seen[name] = repeated
assert min(seen["RecTools"] + seen["recommenders"]) > 1, "values stay below 1"
assert max(seen["replay-rec"][1:]) < 1, "a perfect list is perfect"
PY
