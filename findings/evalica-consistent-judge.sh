#!/bin/sh
# evalica 0.4.2, 2026-12-01: pairwise judgements without a contradiction give no ranking: all scores are equal.
#
# Expected: a language model compares four candidates of a user, each pair once, and says a > b > c > d. The
# Bradley-Terry model has no finite optimum then; its scores grow apart, or the function says so, as choix does
# (ValueError). Any score that is returned sorts a before b before c before d.
# Found: bradley_terry and newman give 1e-06 to each of the four, and eigen 0.0, without a warning; sorted, the
# candidates stand as they came in. With one contradiction (d > a) Bradley-Terry gives a, b, c, d. So of two
# judges the consistent one looks like one without opinions. counting and pagerank do rank.
#
# Output seen:
#   a > b > c > d, no contradiction:
#     bradley_terry 1 distinct score    newman 1 distinct score    eigen 1 distinct score
#     counting abcd    pagerank abcd
#   the same and d > a: bradley_terry abcd
set -eu
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
python3 -m venv "$tmp/venv"
"$tmp/venv/bin/pip" install --quiet evalica==0.4.2
"$tmp/venv/bin/python" -W error - <<'PY'
from itertools import combinations

import evalica

pairs = list(combinations("abcd", 2))  # the first of each wins


def scores(method, pairs):
    winners, losers = zip(*pairs)
    return getattr(evalica, method)(winners, losers, [evalica.Winner.X] * len(pairs)).scores


def order(found):
    return "".join(found.sort_values(ascending=False).index)


print("a > b > c > d, no contradiction:")
silent = {method: scores(method, pairs).nunique() for method in ("bradley_terry", "newman", "eigen")}
print("  " + "    ".join(f"{method} {n} distinct score" for method, n in silent.items()))
ranked = {method: order(scores(method, pairs)) for method in ("counting", "pagerank")}
print("  " + "    ".join(f"{method} {found}" for method, found in ranked.items()))
contradicted = order(scores("bradley_terry", [*pairs, ("d", "a")]))
print("the same and d > a: bradley_terry", contradicted)
assert set(silent.values()) == {1}, "the candidates have scores of their own"
assert set(ranked.values()) == {"abcd"} and contradicted == "abcd"
PY
