#!/bin/sh
# ir-measures 0.4.3, 2026-11-28: ERR@k and nDCG with exponential gains fail on ids that are not numbers.
#
# Expected: a user id is a free string (Amazon's are letters and digits); a measure that takes the
# user "1" takes the user "A2X" too.
# Found: nDCG@10 does. ERR@10 and nDCG(dcg='exp-log2')@10 hand the lists to another program, which
# reads whole numbers only: it prints "format error on line 1" and the caller gets
# subprocess.CalledProcessError, which names neither the user nor the reason. Number the users first.
# (It needs perl, which ir-measures asks for with these two.)
#
# Output seen:
#   user 1: nDCG@10 1.0, ERR@10 0.0625, nDCG(dcg='exp-log2')@10 1.0
#   user A2X: nDCG@10 1.0, ERR@10 CalledProcessError, nDCG(dcg='exp-log2')@10 CalledProcessError
set -eu
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
python3 -m venv "$tmp/venv"
"$tmp/venv/bin/pip" install --quiet ir_measures==0.4.3
"$tmp/venv/bin/python" - <<'PY'
from subprocess import CalledProcessError

import ir_measures
from ir_measures import ERR, Qrel, ScoredDoc, nDCG

seen = {}
for user in ("1", "A2X"):
    for measure in (nDCG @ 10, ERR @ 10, nDCG(dcg="exp-log2") @ 10):
        truth = [Qrel(user, "item", 1)]
        ranking = [ScoredDoc(user, "item", 2.0), ScoredDoc(user, "other", 1.0)]
        try:
            value = str(ir_measures.calc_aggregate([measure], truth, ranking)[measure])
        except CalledProcessError:
            value = "CalledProcessError"
        seen.setdefault(user, []).append(f"{measure} {value}")
for user, values in seen.items():
    print(f"user {user}:", ", ".join(values))
assert not any("Error" in value for value in seen["1"])
assert [v.split()[-1] for v in seen["A2X"]] == ["1.0", "CalledProcessError", "CalledProcessError"]
PY
