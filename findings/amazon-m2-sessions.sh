#!/bin/sh
# Amazon-M2's sessions (CSV column prev_items) and Python 3.11, numpy 2.4.6, 2026-11-28: a session
# read with ast.literal_eval becomes one item.
#
# Expected: a column that looks like a Python list and parses as one gives the session's items, or fails.
# Found: the column is what numpy prints for an array of strings, ['A' 'B'], without commas. Python
# joins neighbouring strings, so literal_eval gives ['AB'] without a word: each history is one unknown
# item. That holds over the line breaks that numpy puts into long sessions. Read the ids by pattern.
# (The ids below are made up.)
#
# Output seen:
#   column: ['B000000001' 'B000000002' 'B000000003']
#   literal_eval: ['B000000001B000000002B000000003']
#   by pattern: ['B000000001', 'B000000002', 'B000000003']
#   a session of 12 over 2 lines or more: 1 item
set -eu
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
python3 -m venv "$tmp/venv"
"$tmp/venv/bin/pip" install --quiet numpy==2.4.6
"$tmp/venv/bin/python" - <<'PY'
import ast
import csv
import io
import re

import numpy as np

sessions = [[f"B{i:09d}" for i in range(1, n + 1)] for n in (3, 12)]
file = io.StringIO()
csv.writer(file).writerows([["prev_items"], *([str(np.array(s))] for s in sessions)])
file.seek(0)
short, long_ = (row["prev_items"] for row in csv.DictReader(file))
print("column:", short)
print("literal_eval:", ast.literal_eval(short))
print("by pattern:", re.findall(r"'([^']*)'", short))
items = ast.literal_eval(long_)
print("a session of 12 over 2 lines or more:", len(items), "item")
assert ast.literal_eval(short) == ["".join(sessions[0])]
assert re.findall(r"'([^']*)'", short) == sessions[0]
assert "\n" in long_ and items == ["".join(sessions[1])]
PY
